"""Files and texts that aren't bytes of a WebSocket are named, and frames never are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import UsageError
from rawws.inspection import spellings
from rawws.inspection.file_kinds import are_swapped_words, begins_with_whole, binary_kind, text_kind, why_no_frames
from rawws.wire.frames import RSV1, Opcode, encode_frame


@pytest.mark.parametrize(
    ("begins", "name"),
    [
        ("d4c3b2a1 02000400", "a capture (pcap)"),
        ("a1b2c3d4 00020004", "a capture (pcap)"),
        ("4d3cb2a1 02000400", "a capture (pcap)"),
        ("a1b23c4d 00020004", "a capture (pcap)"),
        ("0a0d0d0a 6c000000 4d3c2b1a 0100", "a capture (pcapng)"),
        ("1f8b0808", "compressed with gzip"),
        ("28b52ffd 2400", "compressed with zstd"),
        ("fd377a585a0000", "compressed with xz"),
        ("425a6839 314159265359", "compressed with bzip2"),
        ("504b0304 1400", "a zip archive"),
        ("7f454c46 0201", "a program (ELF)"),
        ("89504e47 0d0a1a0a 0000", "a picture (PNG)"),
        ("ffd8ffe0 0010", "a picture (JPEG)"),
        ("255044462d312e37", "a PDF"),
        ("1603010200 010001fc0303", "TLS"),
        ("1703030013 00", "TLS"),
        ("505249202a20485454502f322e300d0a0d0a534d0d0a0d0a", "HTTP/2"),
        ("000012 04 00 00000000 000300000064", "HTTP/2"),
        ("524544495330303131fa", "a dump of Redis (RDB)"),
        ("53514c69746520666f726d6174203300", "an SQLite database"),
        ("0d0a0d0a000d0a515549540a 21110c00", "the PROXY protocol's header"),
    ],
)
def test_a_file_is_named_by_its_first_bytes(begins: str, name: str) -> None:
    kind = binary_kind(bytes.fromhex(begins))
    assert kind is not None
    assert kind.name == name
    assert kind.sentence("a file").startswith(f"a file is {name}: ")
    assert kind.sentence().startswith(f"this is {name}: ")


def test_the_advice_has_the_name_of_the_file_quoted_for_a_shell() -> None:
    kind = binary_kind(b"\x1f\x8b\x08")
    assert kind is not None
    assert (
        kind.sentence("it's")
        == """it's is compressed with gzip: decode its contents, with gzip -dc 'it'"'"'s' | rawws decode"""
    )
    assert kind.sentence() == "this is compressed with gzip: decode its contents, with gzip -dc FILE | rawws decode"


frames = st.builds(
    lambda opcode, payload, key, rsv: encode_frame(opcode, payload, mask_key=key, rsv=rsv if opcode < 8 else 0),
    st.sampled_from(Opcode),
    st.binary(max_size=125) | st.sampled_from([b"NG\r\n\x1a\n" + bytes(70), b"\x04\x01" * 60]),
    st.none() | st.binary(min_size=4, max_size=4),
    st.sampled_from([0, RSV1]),
)


@given(st.lists(frames, min_size=1, max_size=3).map(b"".join))
def test_frames_that_a_receiver_takes_are_never_something_else(data: bytes) -> None:
    assert why_no_frames(data) == ""
    assert binary_kind(data) is None or data[:4] in (b"\x89PNG", b"\0\0")  # whole, each could be both


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (
            bytes.fromhex("d7f0b4b0 98000000"),
            "the first would have the reserved opcode 0x7 and RSV3 set, and 112 bytes",
        ),
        (
            b"#!/bin/sh\nexit 0\n",
            "the first would have the reserved opcode 0x3 and RSV2 set, and 33 bytes of payload, of",
        ),
        (b"\x82\x7f" + b"\x10" * 8, "the first would have an absurd length, and 1,157,442,765,409,226,768 bytes"),
        (b"\x82\x7e\0\x05Hello\x8f\x07", "the first would have a length that isn't in its shortest form"),
        (b"\x8b\x02ab\x17\0", "the first would have the reserved opcode 0xb"),
        (b"\x09\x70ab", "the first would have a PING that is in fragments, and 112 bytes of payload, of which 2 are"),
    ],
)
def test_noise_is_recognized(data: bytes, why: str) -> None:
    assert why_no_frames(data).startswith(why)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x81", b"\x83\0", b"\x89\x7e\0\x7e" + bytes(126), b"\x83\x05Hello\x81\0", b"\x81\x7f\0\0\0\0\0\x10\0\0abc"],
)
def test_a_broken_frame_alone_is_left_to_the_explanation(data: bytes) -> None:
    assert why_no_frames(data) == ""


@pytest.mark.parametrize(
    ("data", "begins"),
    [
        (b"GET /room HTTP/1.1\r\n", True),
        (b"HTTP/1.1 101 Switching Protocols\r\n", True),
        (b"\x81\x05Hello", True),
        (b"\x81\x05Hello\x81", True),
        (b"\x81\x05Hell", False),
        (b"\x83\x05Hello", False),
        (b"\x81", False),
    ],
    ids=["a request", "an answer", "a frame", "a frame and more", "a part of a frame", "a reserved opcode", "one byte"],
)
def test_a_head_begins_with_its_first_line_and_a_valid_frame_with_all_of_it(data: bytes, begins: bool) -> None:
    assert begins_with_whole(data) is begins


def test_swapped_words_are_recognized() -> None:
    assert are_swapped_words(bytes.fromhex("0581 6548 6c6c 006f"))
    assert are_swapped_words(bytes.fromhex("0581 6548 6c6c 896f 0000"))
    assert not are_swapped_words(bytes.fromhex("8105 4865 6c6c 6f89 00"))
    assert not are_swapped_words(b"")


TEXTS = {
    '{\n  "log": {\n    "version": "1.2",': "a HAR: it has a browser's messages, and no bytes; rawws tap 8081",
    '{"constants":{"activeFieldTrialGroups":[]': "Chromium's net log: it has",
    '[\n  {\n    "_index": "packets-2026-11-29",': "tshark's JSON: tshark -r CAPTURE -x | rawws decode",
    '{"level":30,"msg":"listening"}\n': "JSON, and no recording of rawws: rawws tap 8081",
    "[]": "JSON, and no recording of rawws",
    "15:33:49.46 IP 127.0.0.1.1 > 127.0.0.1.2: Flags [P.], length 1\nE..?.X@": "tcpdump's output without the bytes: ",
    "2026-11-29 15:33:49.46 lo In  IP6 ::1.1 > ::1.2: Flags [S]": "tcpdump's output without the bytes: tcpdump -X",
    "15:33:49.459536 IP (tos 0x0, ttl 64, id 39251, offset 0": "tcpdump's output without the bytes",
    "\n====\nFollow: tcp,ascii\nFilter: tcp.stream eq 0\nGET / HTTP/1.1": "a stream that Wireshark has followed",
    "    1   0.000000    127.0.0.1 → 127.0.0.1    TCP 77 37602 → 18655": "tshark's output without the bytes",
    "Frame 1: 77 bytes on wire (616 bits)": "tshark's output without the bytes",
    "0000000 soh enq   7   z   !   = del  us   M   Q   X  bs enq\n0000015\n": "the output of od -a, which shows seven",
    '<?xml version="1.0"?>': "XML or HTML",
    "-----BEGIN CERTIFICATE-----\nMIID": "PEM",
    "*   Trying 127.0.0.1:80...\n> GET / HTTP/1.1\n": "curl -v's output, which has no bytes of frames: curl --trace -",
    '127.0.0.1 - - [29/Nov/2026:15:33:49 +0000] "GET /x HTTP/1.1" 101 30': "a log of HTTP requests: it has no bytes",
    "2026 DEBUG rawws #1 < TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'": "rawws's own output: with --record",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_without_bytes_is_named_with_advice(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        spellings.read(text, "it")
    assert str(raised.value).startswith(f"it is {TEXTS[text]}")
    assert text_kind(text) is not None


def test_the_error_for_an_unknown_text_names_the_first_line_that_is_not_hex() -> None:
    with pytest.raises(
        spellings.NoForm, match=r"line 2 has 'w' in it, .*: 'world'; give hex, or the output of xxd, hexdump, od,"
    ):
        spellings.read("81 05\nworld")
