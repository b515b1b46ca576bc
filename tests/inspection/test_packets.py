"""Both sides of a connection, as tcpdump, tshark, Wireshark, strace and curl print them."""

from __future__ import annotations

import time

import pytest

from rawws.errors import UsageError
from rawws.inspection import packets, spellings
from rawws.inspection.packets import TCPDUMP, Flow, Talk

HELLO = bytes.fromhex("818537fa213d7f9f4d5158")


def talk(text: str) -> Talk:
    said = TCPDUMP.read(text)
    assert said is not None
    return said


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
    pieces = talk(text)
    assert [data for _, data in pieces] == [b"abcdefgh", b"xy", b"z"]
    one, other = pieces[0][0], pieces[1][0]
    assert (one.source, one.destination, bytes(one.data)) == ("127.0.0.1:5000", "127.0.0.1:80", b"abcdefgh")
    assert (bytes(other.data), other.missing) == (b"xyz", False)


def test_a_hole_in_the_capture_is_reported() -> None:
    ((flow, data),) = talk(packet(1, 2, 100, b"abc") + "\n" + packet(1, 2, 200, b"late"))
    assert (data, flow.missing) == (b"abc", True)


def test_a_direction_without_its_beginning_has_an_empty_piece() -> None:
    ((flow, data),) = talk(packet(1, 2, 9, b"", syn=True) + "\n" + packet(1, 2, 20, b"def"))
    assert (data, bytes(flow.data), flow.missing) == (b"", b"", True)


def test_packets_that_only_open_a_connection_are_refused() -> None:
    with pytest.raises(UsageError, match="there is no TCP payload in these packets; capture all of them, with tcpdump"):
        TCPDUMP.read(packet(1, 2, 9, b"", syn=True) + "\n" + packet(2, 1, 7, b"", syn=True))


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
    assert TCPDUMP.read("\t0x0000:  8185 37fa 213d 7f9f 4d51 58              ..7.!=..MQX") is None


def printed(raw: bytes) -> str:
    return "\n".join(f"\t0x{at:04x}:  {raw[at : at + 16].hex(' ', -2)}" for at in range(0, len(raw), 16))


def over_ipv6(payload: bytes, *, protocol: int = 6) -> str:
    """A segment from [::1]:5000 to [2001:db8::1]:80 (RFC 8200 §3), with one byte after it that isn't of the packet."""
    tcp = (5000).to_bytes(2, "big") + (80).to_bytes(2, "big") + (7).to_bytes(4, "big") + bytes(4)
    tcp += bytes((0x50, 24)) + bytes(6)
    ends = bytes(15) + b"\x01" + bytes.fromhex("20010db8") + bytes(11) + b"\x01"
    length = (len(tcp) + len(payload)).to_bytes(2, "big")
    return printed(b"\x60" + bytes(3) + length + bytes((protocol, 64)) + ends + tcp + payload + b"\xee")


def test_packets_of_ipv6_are_taken_apart_too() -> None:
    text = over_ipv6(HELLO)
    ((flow, data),) = talk(text)
    assert data == flow.data == HELLO
    assert flow.source == "[0000:0000:0000:0000:0000:0000:0000:0001]:5000"
    assert flow.destination == "[2001:0db8:0000:0000:0000:0000:0000:0001]:80"


def test_packets_without_tcp_are_skipped() -> None:
    udp = over_ipv6(b"not ours", protocol=17)
    arp = printed(b"\x00\x01\x08\x00\x06\x04" + bytes(50))
    short = printed(b"\x45\x00\x00\x1c" + bytes(20))
    assert [TCPDUMP.read(each) for each in (udp, arp, short)] == [None] * 3
    text = "\n".join([over_ipv6(b"abc"), udp, arp, short, packet(1, 2, 100, b"def")])
    assert [data for _, data in talk(text)] == [b"abc", b"def"]


@pytest.mark.parametrize("text", ["", "no dump at all", "81 85 37", "\t0x0010:  4500 0034 0000 0000"])
def test_a_text_that_does_not_begin_with_a_packet_is_not_tcpdump_s(text: str) -> None:
    assert TCPDUMP.read(text) is None


SEGMENT = (
    "15:33:49.463489 IP 127.0.0.1.37602 > 127.0.0.1.18655: Flags [P.], seq 1:12, ack 1, win 64, length 11\n"
    "\t0x0000:  0000 0000 0000 0000 0000 0000 0800 4500  ..............E.\n"
    "\t0x0010:  003f 9958 4000 4006 a35e 7f00 0001 7f00  .?.X@.@..^......\n"
    "\t0x0020:  0001 92e2 48df e3c6 5acf a3a6 26c2 8018  ....H...Z...&...\n"
    "\t0x0030:  0040 fe33 0000 0101 080a 74f5 0908 78b5  .@.3......t...x.\n"
    "\t0x0040:  d981 8185 bcd6 e608 f4b3 8a64 d3         ...........d.\n"
)
FRAME = bytes.fromhex("8185bcd6e608f4b38a64d3")
ANSWER = b"\x81\x05Hello"


def said(text: str) -> list[tuple[str, bytes]]:
    """Return the data of each piece, after its sender's name."""
    found = spellings.read(text)
    assert not isinstance(found, bytes)
    return [(flow.source, data) for flow, data in found]


def with_link(header: str) -> str:
    """The segment as tcpdump -xx prints it, with another header in place of Ethernet's."""
    raw = bytes.fromhex("".join(line[10:50].replace(" ", "") for line in SEGMENT.splitlines()[1:]))
    return printed(bytes.fromhex(header) + raw[14:])


@pytest.mark.parametrize(
    "text",
    [
        SEGMENT,
        with_link("00" * 12 + "8100 0001 0800"),
        with_link("00" * 14 + "0800"),
        with_link("0800" + "00" * 18),
        with_link("02000000"),
        "0000  00 00 00 00 00 00 00 00 00 00 00 00 08 00 45 00   ..............E.\n"
        "0010  00 3f 99 58 40 00 40 06 a3 5e 7f 00 00 01 7f 00   .?.X@.@..^......\n"
        "0020  00 01 92 e2 48 df e3 c6 5a cf a3 a6 26 c2 80 18   ....H...Z...&...\n"
        "0030  00 40 fe 33 00 00 01 01 08 0a 74 f5 09 08 78 b5   .@.3......t...x.\n"
        "0040  d9 81 81 85 bc d6 e6 08 f4 b3 8a 64 d3            ...........d.\n"
        "Unmasked data (5 bytes):\n0000  48 65 6c 6c 6f                                    Hello\n",
    ],
    ids=["Ethernet", "VLAN", "SLL", "SLL2", "BSD's loopback", "tshark -x"],
)
def test_the_header_of_the_link_is_taken_off(text: str) -> None:
    assert said(text) == [("127.0.0.1:37602", FRAME)]


def test_packets_of_other_protocols_may_come_before_the_first_of_tcp() -> None:
    assert said(over_ipv6(b"a name", protocol=17) + "\n" + SEGMENT) == [("127.0.0.1:37602", FRAME)]


FOLLOWED = {
    "hex": "00000000  81 85 bc d6 e6 08 f4 b3  8a 64 d3                 ........ .d.\n"
    "\t00000000  81 05 48 65 6c 6c 6f                              ..Hello\n",
    "hex of the window": "00000000  81 85 bc d6 e6 08 f4 b3  8a 64 d3                  ........ .d.\n"
    "    00000000  81 05 48 65 6c 6c 6f                               ..Hello\n",
    "raw": "8185bcd6e608f4b38a64d3\n\t810548656c6c6f\n",
    "yaml": "peers:\n  - peer: 0\n    host: 127.0.0.1\n    port: 5\n  - peer: 1\n    host: 127.0.0.1\n    port: 80\n"
    "packets:\n  - packet: 1\n    peer: 0\n    timestamp: 1795966429.463489056\n    data: !!binary |\n"
    "      gYW81uYI\n      9LOKZNM=\n  - packet: 3\n    peer: 1\n    timestamp: 1795966430.0\n    data: !!binary |\n"
    "      gQVIZWxsbw==\n",
    "older yaml": "# Packet 1\npeer0_0: !!binary |\n  gYW81uYI9LOKZNM=\n"
    "# Packet 3\npeer1_0: !!binary |\n  gQVIZWxsbw==\n",
    "arrays": "char peer0_0[] = { /* Packet 1 */\n0x81, 0x85, 0xbc, 0xd6, 0xe6, 0x08, 0xf4, 0xb3, \n"
    "0x8a, 0x64, 0xd3 };\n"
    "char peer1_0[] = { /* Packet 3 */\n0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f };\n",
}
HEAD = "\n" + "=" * 67 + "\nFollow: tcp,{}\nFilter: tcp.stream eq 0\nNode 0: 127.0.0.1:5\nNode 1: 127.0.0.1:80\n"


@pytest.mark.parametrize("form", FOLLOWED)
def test_a_stream_that_wireshark_followed_is_two_directions(form: str) -> None:
    assert said(FOLLOWED[form]) == [("the one side", FRAME), ("the other", ANSWER)]
    if form in ("hex", "raw"):
        whole = HEAD.format(form) + FOLLOWED[form] + "=" * 67
        assert said(whole) == [("127.0.0.1:5", FRAME), ("127.0.0.1:80", ANSWER)]


def test_half_a_byte_in_a_followed_stream_makes_it_another_form() -> None:
    assert packets.FollowHex().read("00000000  81 0\n\t00000000  81 05 48\n") is None


def test_an_offset_without_bytes_is_no_piece() -> None:
    text = "00000000  81 00\n00000002    \n\t00000000  89 00\n"
    assert said(text) == [("the one side", b"\x81\0"), ("the other", b"\x89\0")]


def test_a_truncated_piece_is_refused() -> None:
    with pytest.raises(UsageError, match="a piece of base64 in this stream that Wireshark has followed is cut off"):
        spellings.read("peer0_0: !!binary |\n  gYW81\n")


STRACE = r"""
12 read(3, "\177ELF\2\1\1"..., 832) = 832
12 close(3)                             = 0
12 sendto(3, "\201\205\274\326\346\10\364\263\212d\323", 11, 0, NULL, 0) = 11
12 recvfrom(3,  <unfinished ...>
13 write(4, "\0", 1) = 1
12 <... recvfrom resumed>"\201\5Hello", 65536, 0, NULL, NULL) = 7
12 sendto(3, "\211\0\212\0", 4, 0, NULL, 0) = 2
12 recvfrom(3, 0x55, 65536, 0, NULL, NULL) = -1 EAGAIN (Resource temporarily unavailable)
12 writev(3, [{iov_base="\212", iov_len=1}, {iov_base="\0", iov_len=1}], 2) = 2
"""


def test_the_calls_of_strace_are_two_directions_of_a_descriptor() -> None:
    us, peer = "the process", "the peer at descriptor 3, opened 2 times"
    assert said(STRACE) == [(us, FRAME), (peer, ANSWER), (us, b"\x89\0"), (us, b"\x8a\0")]


@pytest.mark.parametrize(
    "piece",
    ["char peer0_0[] = {", 'read(3, "a" <unfinished ...>\n', "<... read resumed>" + 40 * "x" + " <unfinished ...>\n"],
    ids=["arrays", "calls", "resumed calls"],
)
def test_no_part_of_a_text_is_looked_at_for_each_other_part(piece: str) -> None:
    text = 'read(3, "a" <unfinished ...>\n' + piece * (1_000_000 // len(piece))
    began = time.process_time()
    for form in (packets.FollowArrays(), packets.Strace()):
        assert form.read(text) is None
    assert time.process_time() - began < 10  # 0.3 s; a minute where the rest is looked at from each piece on


@pytest.mark.parametrize("result", ["9" * 5000, "-" + "9" * 5000])
def test_a_result_that_no_call_returns_is_none(result: str) -> None:
    with pytest.raises(UsageError, match="is not bytes in hex"):
        spellings.read(f'read(3, "a", 1) = {result}')


def test_a_call_that_strace_truncated_is_refused() -> None:
    with pytest.raises(UsageError, match="strace has truncated the data of these calls: run it with -s"):
        spellings.read(r'write(3, "\201\205\274"..., 11) = 11')


def test_calls_without_a_websocket_are_refused() -> None:
    with pytest.raises(UsageError, match="these calls read and write no WebSocket's bytes"):
        spellings.read('write(1, "Hello\\n", 6) = 6\nwrite(2, "World\\n", 6) = 6\n')


def test_the_trace_of_curl_is_two_directions() -> None:
    trace = (
        "== Info:   Trying 127.0.0.1:80...\n=> Send header, 16 bytes (0x10)\n"
        "0000: 47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a GET / HTTP/1.1..\n"
        "<= Recv data, 7 bytes (0x7)\n0000: 81 05 48 65 6c 6c 6f                            ..Hello\n"
        "== Info: Closing connection 0\n"
    )
    assert said(trace) == [("curl", b"GET / HTTP/1.1\r\n"), ("the server", ANSWER)]


def test_the_tls_records_in_a_trace_of_curl_are_of_no_direction() -> None:
    trace = (
        "=> Send SSL data, 5 bytes (0x5)\n0000: 17 03 03 00 18                                  .....\n"
        "=> Send data, 2 bytes (0x2)\n0000: 81 00                                           ..\n"
    )
    assert said(trace) == [("curl", b"\x81\0")]


def test_an_array_of_one_byte_is_a_piece_of_a_followed_stream() -> None:
    text = "char peer0_0[] = { /* Packet 1 */\n0x81 };\nchar peer0_1[] = { /* Packet 2 */\n0x80, 0x01 };\n"
    talk = packets.FollowArrays().read(text)
    assert talk is not None
    assert [piece for _, piece in talk] == [b"\x81", b"\x80\x01"]
