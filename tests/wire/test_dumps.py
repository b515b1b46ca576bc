"""Hex in all the forms in which people have it, and TCP's payload out of captured packets."""

from __future__ import annotations

import random
import shutil
import subprocess
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import UsageError
from rawws.wire.dumps import Flow, is_tcpdump, read_hex, read_packets

HELLO = bytes.fromhex("818537fa213d7f9f4d5158")


@pytest.mark.parametrize(
    "text",
    [
        "818537fa213d7f9f4d5158",
        "81 85 37 FA 21 3d 7f 9f 4d 51 58",
        "81:85:37:fa:21:3d:7f:9f:4d:51:58",
        "0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58",
        r"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58",
        "81 85 | 37 fa 21 3d | 7f 9f 4d 51 58",  # as our own log prints it
        "8185 37fa\n213d 7f9f\n\n4d51 58\n",
        "00000000: 8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX",
        "00000000  81 85 37 fa 21 3d 7f 9f  4d 51 58                 |..7.!=..MQX|\n0000000b",
        "0000000 81 85 37 fa 21 3d 7f 9f 4d 51 58\n0000013",
        "000000 81 85 37 fa 21 3d 7f 9f 4d 51 58                 >..7.!=..MQX<\n00000b",
        "\t0x0000:  8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX",
    ],
    ids=["plain", "spaced", "colons", "C", "escapes", "log", "lines", "xxd", "hexdump", "od", "od -A x", "tcpdump"],
)  # fmt: skip
def test_the_same_bytes_in_every_form(text: str) -> None:
    assert read_hex(text) == HELLO


PRINTERS = (["xxd"], ["xxd", "-p"], ["xxd", "-c", "8"], ["hexdump", "-C", "-v"], ["od", "-v", "-t", "x1"],
            ["od", "-v", "-A", "x", "-t", "x1z"])  # fmt: skip


@pytest.mark.parametrize("printer", PRINTERS, ids=" ".join)
def test_what_the_tools_print_comes_back(printer: list[str]) -> None:
    if shutil.which(printer[0]) is None:
        pytest.skip(f"{printer[0]} is not installed")  # the forms themselves are in the test above
    chance = random.Random(6455)
    for size in (1, 2, 7, 8, 9, 15, 16, 17, 31, 200, 5000):
        # Much of it text, so that the characters' column is full of what could be hex.
        data = bytes(chance.choice(b"abcdef 0123456789|>.\x00\xff") for _ in range(size))
        printed = subprocess.run(printer, input=data, capture_output=True, check=True).stdout.decode()
        assert read_hex(printed) == data, printed


@given(st.binary(min_size=1, max_size=100))
def test_hex_comes_back(data: bytes) -> None:
    assert read_hex(data.hex()) == read_hex(data.hex(" ")) == data


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("81 8", "line 1 has an odd number of digits"),
        ("81\n8g", "line 2 has 'g' in it"),
        ("00000000: 8185  ..\n*\n00000020: 8185  ..", "lines that repeat were left out of the dump"),
    ],
)
def test_what_is_no_hex_is_named(text: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        read_hex(text)


def packet(source: int, destination: int, sequence: int, payload: bytes, *, syn: bool = False) -> str:
    """A TCP segment from 127.0.0.1 to itself, as tcpdump -x prints it."""
    tcp = b"".join(number.to_bytes(2, "big") for number in (source, destination))
    tcp += sequence.to_bytes(4, "big") + bytes(4) + bytes((0x80, 2 if syn else 24)) + bytes(6) + b"\x01" * 12
    total = 20 + len(tcp) + len(payload)
    ip = b"\x45\x00" + total.to_bytes(2, "big") + bytes(4) + b"\x40\x06" + bytes(2) + b"\x7f\x00\x00\x01" * 2
    raw = ip + tcp + payload
    lines = ["12:00:00.000000 IP localhost.1 > localhost.2: Flags [P.], length 1"]
    for at in range(0, len(raw), 16):
        lines.append(f"\t0x{at:04x}:  {raw[at : at + 16].hex(' ', -2)}")
    return "\n".join(lines)


def test_packets_in_order_each_byte_once() -> None:
    text = "\n".join(
        [
            packet(5000, 80, 99, b"", syn=True),
            packet(80, 5000, 0xFFFFFFFE, b"", syn=True),
            packet(5000, 80, 104, b"efgh"),  # early
            packet(5000, 80, 100, b"abcd"),
            packet(5000, 80, 102, b"cdef"),  # sent again, cut otherwise
            packet(80, 5000, 0xFFFFFFFF, b"xy"),  # the numbers go round
            packet(80, 5000, 1, b"z"),
        ]
    )
    assert is_tcpdump(text)
    pieces = read_packets(text)
    assert [data for _, data in pieces] == [b"abcdefgh", b"xy", b"z"]
    one, other = pieces[0][0], pieces[1][0]
    assert (one.source, one.destination, bytes(one.data)) == ("127.0.0.1:5000", "127.0.0.1:80", b"abcdefgh")
    assert (bytes(other.data), other.missing) == (b"xyz", False)


def test_a_hole_in_the_capture_is_told() -> None:
    ((flow, data),) = read_packets(packet(1, 2, 100, b"abc") + "\n" + packet(1, 2, 200, b"late"))
    assert (data, flow.missing) == (b"abc", True)


def test_what_begins_behind_what_is_missing_has_an_empty_piece() -> None:
    ((flow, data),) = read_packets(packet(1, 2, 9, b"", syn=True) + "\n" + packet(1, 2, 20, b"def"))
    assert (data, bytes(flow.data), flow.missing) == (b"", b"", True)


@pytest.mark.parametrize("first", [1, 11], ids=["in order", "all of it early"])
def test_many_segments_take_no_longer_than_their_number(first: int) -> None:
    flow = Flow("a", "b")
    began = time.process_time()
    flow.add(0, b"", opens=True)
    for number in range(50_000):
        flow.add(first + number * 100, bytes(100), opens=False)
    assert time.process_time() - began < 3  # 0.1 s; minutes where each looks at all before it
    assert flow.missing is (first > 1)
    assert len(flow.add(1, bytes(10), opens=False)) == (0 if first == 1 else 5_000_010)


def test_a_frame_in_tcpdumps_form_is_not_a_packet() -> None:
    assert not is_tcpdump("\t0x0000:  8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX")


def printed(raw: bytes) -> str:
    return "\n".join(f"\t0x{at:04x}:  {raw[at : at + 16].hex(' ', -2)}" for at in range(0, len(raw), 16))


def over_ipv6(payload: bytes, *, protocol: int = 6) -> str:
    """A segment from [::1]:5000 to [2001:db8::1]:80 (RFC 8200 §3), with one byte behind it that isn't of the packet."""
    tcp = (5000).to_bytes(2, "big") + (80).to_bytes(2, "big") + (7).to_bytes(4, "big") + bytes(4)
    tcp += bytes((0x50, 24)) + bytes(6)
    ends = bytes(15) + b"\x01" + bytes.fromhex("20010db8") + bytes(11) + b"\x01"
    length = (len(tcp) + len(payload)).to_bytes(2, "big")
    return printed(b"\x60" + bytes(3) + length + bytes((protocol, 64)) + ends + tcp + payload + b"\xee")


def test_packets_of_ipv6_are_taken_apart_too() -> None:
    text = over_ipv6(HELLO)
    assert is_tcpdump(text)
    ((flow, data),) = read_packets(text)
    assert data == flow.data == HELLO
    assert flow.source == "[0000:0000:0000:0000:0000:0000:0000:0001]:5000"
    assert flow.destination == "[2001:0db8:0000:0000:0000:0000:0000:0001]:80"


def test_what_is_not_tcp_between_the_packets_is_passed_over() -> None:
    udp = over_ipv6(b"not ours", protocol=17)
    arp = printed(b"\x00\x01\x08\x00\x06\x04" + bytes(50))
    short = printed(b"\x45\x00\x00\x1c" + bytes(20))
    assert not any(map(is_tcpdump, (udp, arp, short)))
    text = "\n".join([over_ipv6(b"abc"), udp, arp, short, packet(1, 2, 100, b"def")])
    assert [data for _, data in read_packets(text)] == [b"abc", b"def"]


@pytest.mark.parametrize("text", ["", "no dump at all", "81 85 37", "\t0x0010:  4500 0034 0000 0000"])
def test_what_does_not_begin_with_a_packet_is_not_tcpdumps(text: str) -> None:
    assert not is_tcpdump(text)
    assert read_packets(text) == []
