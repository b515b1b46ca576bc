"""``rawws decode``: its input, its output, and its exit status."""

from __future__ import annotations

import argparse
import bz2
import gzip
import io
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

import rawws.cli
from rawws.cli import decode as decode_command
from rawws.cli import tap as tap_command
from rawws.inspection.observer import Observer
from rawws.inspection.records import frame_bytes, frame_record, from_line, head_record, to_line
from rawws.inspection.seen import Seen, SeenFrame
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.role import Role
from tests.forked import Forker
from tests.inspection.test_observer import HELLO, REQUEST, SWITCH
from tests.inspection.test_packets import packet
from tests.serving.machine import PATIENCE_S, need

RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nA"
BYE = encode_frame(Opcode.CLOSE, b"\x03\xe8")


def decode(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    status = rawws.cli.main(["decode", *arguments])
    return status, capsys.readouterr().out.splitlines()


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_hex_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = decode(capsys, "81", "85", "37fa213d", "7f9f4d5158")
    assert status == 0
    assert lines[0] == "client → server, byte 0: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'"
    assert len(lines) == 11


def test_hex_longer_than_any_file_name_is_decoded(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = decode(capsys, "--brief", encode_frame(Opcode.BINARY, bytes(1000)).hex())
    assert status == 0
    assert lines[0].startswith("server → client, byte 0: BINARY fin=1 rsv=000 mask=none len=1000")


def test_a_file_of_raw_bytes_with_a_handshake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(REQUEST + HELLO)
    status, lines = decode(capsys, "--brief", str(tmp_path / "said"))
    assert status == 0
    assert lines[1] == "    GET /room HTTP/1.1"
    assert "    = in base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert lines[-1].endswith(f"client → server, byte {len(REQUEST)}: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'")


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, SWITCH + b"\r\n" + BYE)
    status, lines = decode(capsys, "--brief", "-")
    assert status == 0
    assert lines[-2:] == [
        "HTTP ends, WebSocket begins",
        f"server → client, byte {len(SWITCH) + 2}: CLOSE fin=1 rsv=000 mask=none len=2 1000",
    ]


@pytest.mark.parametrize(
    "said", [RESPONSE * 1700, REQUEST + HELLO * 6000, encode_frame(Opcode.BINARY, bytes(200_000)) + BYE]
)
def test_a_long_input_gives_the_same_output_in_pieces(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    sizes = []

    class Spy(Observer):
        def receive(self, sender: Role, data: bytes) -> list[Seen]:
            sizes.append(len(data))
            return super().receive(sender, data)

    monkeypatch.setattr(decode_command, "Observer", Spy)
    (tmp_path / "said").write_bytes(said)
    in_pieces = decode(capsys, "--brief", str(tmp_path / "said"))
    assert max(sizes) == 64 * 1024
    monkeypatch.setattr(decode_command, "_AT_ONCE_BYTES", len(said))
    assert decode(capsys, "--brief", str(tmp_path / "said")) == in_pieces
    assert sizes[-1] == len(said)


def test_a_violation_is_reported_and_sets_the_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = decode(capsys, "--from", "client", "--brief", "810568656c6c6f")
    assert status == 1
    assert lines[1].startswith("    ! server received unexpected unmasked")
    assert lines[1].endswith("(RFC 6455 §5.1); the receiver fails with 1002")


def test_packets_of_tcpdump_are_decoded_in_both_directions(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = [packet(5000, 80, 1, REQUEST + HELLO), packet(80, 5000, 1, SWITCH + b"\r\n" + BYE)]
    (tmp_path / "packets").write_text("\n".join(said))
    status, lines = decode(capsys, "--brief", str(tmp_path / "packets"))
    assert status == 0
    assert lines[0] == "== 127.0.0.1:5000 and 127.0.0.1:80"
    began = [line.split(",")[0] for line in lines if line[:1] in "csH"]
    to_server, to_client = "client → server", "server → client"
    assert began == [to_server, to_client, "HTTP ends", to_server, to_client]


def test_packets_after_a_missing_beginning_are_not_decoded(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "dump").write_text(packet(5000, 80, 9, b"", syn=True) + "\n" + packet(5000, 80, 20, HELLO))
    status, lines = decode(capsys, str(tmp_path / "dump"))
    assert status == 0
    assert lines == [
        "== 127.0.0.1:5000 and 127.0.0.1:80",
        "! the beginning of the data from 127.0.0.1:5000 is not in the capture; none of it is read",
    ]


def test_control_characters_in_a_recording_are_escaped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [{"kind": kind, "told": "\x1b[2Jx"} for kind in ("end", "\x1b]0;y\x07", ["z"])]
    lines = [json.dumps({"at": 1, "connection": 1, **record}) for record in records]
    type_in(monkeypatch, "\n".join(lines).encode())
    assert decode(capsys) == (0, ["== connection 1", r"+0.000 s: end: \x1b[2Jx",
                                  r"+0.000 s: \x1b]0;y\x07: \x1b[2Jx", r"+0.000 s: ['z']: \x1b[2Jx"])  # fmt: skip


def test_a_recording(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    header = parse_header(HELLO)
    assert header is not None
    recorder = FrameRecorder(header)
    recorder.add(HELLO[6:])
    frame = recorder.frame()
    records = [
        {"kind": "open", "from": "127.0.0.1:5000"},
        head_record(Role.CLIENT, REQUEST.replace(b"Host", b"Cookie: secret\r\nHost")),
        head_record(Role.SERVER, SWITCH + b"\r\n"),
        {"kind": "switch"},
        frame_record(Role.CLIENT, frame),
        {"kind": "end", "told": "lost without a close (1006)"},
    ]
    lines = [to_line(record, at=100 + number / 8, connection=7) for number, record in enumerate(records)]
    assert "secret" not in "".join(lines)
    assert from_line(lines[4]).frame == frame
    assert frame_bytes(frame) == HELLO
    (tmp_path / "record.jsonl").write_text("".join(lines))
    status, shown = decode(capsys, "--brief", str(tmp_path / "record.jsonl"))
    assert status == 0
    assert shown[:2] == ["== connection 7", "+0.000 s: open: 127.0.0.1:5000"]
    assert "    Cookie: (masked, 6 bytes)" in shown
    assert shown[-2].endswith("TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'")
    assert shown[-1] == "+0.625 s: end: lost without a close (1006)"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("zz", "there is no file 'zz', and that is not bytes in hex: give bytes in hex, a file, or - for"),
        ("nosuch.hex", "there is no file 'nosuch.hex', and that is not bytes in hex"),
        ("81 05 4x", "'81 05 4x' is neither a file nor bytes in hex: line 1 has 'x' in it"),
        (".", ". is a directory: give a file"),
        ("818", "line 1 has an odd number of digits"),
        ("", "there is nothing to decode"),
    ],
)
def test_bad_input_is_reported_in_one_sentence(capsys: pytest.CaptureFixture[str], given: str, message: str) -> None:
    assert rawws.cli.main(["decode", given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rawws: {message}")
    assert error.count("\n") == 1


def test_a_recording_shows_only_the_heads_of_http(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    post = b"POST /room HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 30\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = [(Role.CLIENT, post), (Role.SERVER, answer), (Role.CLIENT, post), (Role.SERVER, chunked)]
    said += [(Role.CLIENT, REQUEST), (Role.SERVER, SWITCH + b"\r\n")]
    lines = [to_line(head_record(sender, head), at=0, connection=1) for sender, head in said]
    (tmp_path / "record.jsonl").write_text("".join(lines))
    status, shown = decode(capsys, str(tmp_path / "record.jsonl"))
    assert status == 0
    titles = [line.partition(": ")[2] for line in shown if line[:1] in "cs"]
    assert titles == ["HTTP request", "HTTP response"] * 3
    assert "HTTP ends, WebSocket begins" in shown


@pytest.mark.parametrize("line", ["{}", '{"kind":"frame","at":0,"connection":1,"sender":"x"}', '{"at"', "[]"])
def test_a_line_that_is_no_record_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    type_in(monkeypatch, b'{"kind":"switch","at":0,"connection":1}\n' + line.encode())
    assert rawws.cli.main(["decode"]) == 2
    assert "is not a record" in capsys.readouterr().err


def test_a_truncated_frame_is_shown_as_far_as_it_was_recorded() -> None:
    header = parse_header(encode_frame(Opcode.BINARY, bytes(1000)))
    assert header is not None
    recorder = FrameRecorder(header)
    recorder.add(bytes(1000))
    line = to_line(frame_record(Role.SERVER, recorder.frame()), at=0, connection=1)
    frame = from_line(line).frame
    assert frame == recorder.frame()
    assert frame_bytes(frame) is None
    assert SeenFrame(Role.SERVER, 0, frame)


@pytest.mark.parametrize(
    ("redirected", "status", "message"),
    [
        pytest.param(
            *("<&-", 2, "rawws: standard input is closed; </dev/null is an empty one\n"), marks=pytest.mark.thorough
        ),
        ("8100 >&-", 2, "rawws: standard output is closed; >/dev/null has it thrown away\n"),
        pytest.param(
            *("8100 >/dev/full", 1, "rawws: standard output can't be written: No space left on device\n"),
            marks=[
                pytest.mark.thorough,
                pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
            ],
        ),
    ],
)
def test_closed_or_full_streams_are_reported(redirected: str, status: int, message: str) -> None:
    command = f"{sys.executable} -m rawws decode {redirected}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", message)


# Input that isn't frames


def error_sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run the command with input that it can't explain, and return the one sentence of its error."""
    assert rawws.cli.main(["decode", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return said.err.removeprefix("rawws: ").removesuffix("\n")


def followed(forker: Forker, sentence: str, tool: str) -> str:
    """Follow a sentence's advice with a tool, and return the output."""
    match = re.search(rf"({tool} [^|]*)\| rawws decode", sentence)
    assert match is not None
    piped = subprocess.run(["sh", "-c", match[1]], capture_output=True, timeout=PATIENCE_S, check=False)
    return forker.run(["decode", "--brief"], piped.stdout, timeout=PATIENCE_S).stdout.decode()


def pcap(packet: bytes, *, order: Literal["little", "big"] = "little", magic: int = 0xA1B2C3D4) -> bytes:
    """A capture of one packet on Ethernet (draft-ietf-opsawg-pcap)."""
    header = [(magic, 4), (2, 2), (4, 2), (0, 4), (0, 4), (0x40000, 4), (1, 4)]
    record = [(0, 4), (0, 4), (len(packet), 4), (len(packet), 4)]
    return b"".join(number.to_bytes(size, order) for number, size in header + record) + packet


ORDERS: list[Literal["little", "big"]] = ["little", "big"]


NAMED = "is a capture (pcap): "


@pytest.fixture
def captured() -> bytes:
    """A packet of TCP on Ethernet, with a message."""
    lines = packet(5000, 80, 1, HELLO).splitlines()[1:]
    return bytes(12) + b"\x08\0" + bytes.fromhex("".join(line[10:].replace(" ", "") for line in lines))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D], ids=["microseconds", "nanoseconds"])
def test_a_capture_file_is_recognized(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, captured: bytes, order: Literal["little", "big"], magic: int
) -> None:
    (tmp_path / "a capture").write_bytes(pcap(captured, order=order, magic=magic))
    assert error_sentence(capsys, str(tmp_path / "a capture")).startswith(f"{tmp_path}/a capture {NAMED}")


@pytest.mark.parametrize("tool", ["tshark", "tcpdump"])
def test_the_advice_for_a_capture_works(
    forker: Forker, capsys: pytest.CaptureFixture[str], tmp_path: Path, captured: bytes, tool: str
) -> None:
    (tmp_path / "a capture").write_bytes(pcap(captured))
    sentence = error_sentence(capsys, str(tmp_path / "a capture"))
    assert NAMED in sentence
    need(shutil.which(tool), tool)
    assert "TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'" in followed(forker, sentence, tool)


@pytest.mark.parametrize(
    ("tool", "pack"),
    [("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)],
)
def test_a_compressed_file_is_recognized_and_the_advice_works(
    forker: Forker, capsys: pytest.CaptureFixture[str], tmp_path: Path, tool: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "x").write_bytes(pack(HELLO))
    sentence = error_sentence(capsys, str(tmp_path / "x"))
    assert (
        sentence
        == f"{tmp_path}/x is compressed with {tool}: decode its contents, with {tool} -dc {tmp_path}/x | rawws decode"
    )
    need(shutil.which(tool), tool)
    assert "'Hello'" in followed(forker, sentence, tool)


def test_a_har_is_recognized_and_the_advice_works(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x.har").write_text('{"log": {"version": "1.2", "creator": {"name": "WebInspector"}, "entries": []}}')
    sentence = error_sentence(capsys, str(tmp_path / "x.har"))
    assert "KeyError" not in sentence
    command = re.search("rawws (tap 8081 HOST:PORT --record RECORDING) ", sentence)
    assert command is not None
    parser = argparse.ArgumentParser()
    tap_command.add_arguments(parser)
    options = parser.parse_args(command[1].replace("PORT", "80").replace("HOST", "localhost").split()[1:])
    assert options.record == "RECORDING"


def test_tls_is_recognized_in_hex_and_in_packets(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    hello = bytes.fromhex("1603010200010001fc0303")
    assert error_sentence(capsys, hello.hex(" ")).startswith("this is TLS: frames in it are encrypted")
    (tmp_path / "one").write_text(packet(5000, 443, 1, hello))
    assert error_sentence(capsys, str(tmp_path / "one")).startswith("this is TLS: frames in it are encrypted")
    (tmp_path / "two").write_text(packet(5000, 443, 1, hello) + "\n" + packet(5001, 80, 1, HELLO))
    status, lines = decode(capsys, "--brief", str(tmp_path / "two"))
    assert status == 0
    assert lines[1].startswith("! this is TLS: frames in it are encrypted")
    assert lines[2:] == [
        "== 127.0.0.1:5001 and 127.0.0.1:80",
        "client → server, byte 0: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'",
    ]


def test_a_warning_precedes_the_explanation_of_noise(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xa7\x8d\r\n\0\0\0\0\xb7D\x0ck")
    status, lines = decode(capsys, "--brief", str(tmp_path / "x"))
    assert status == 1
    assert lines[0] == (
        "! these don't look like the bytes of a WebSocket: the first would have the reserved opcode 0x7 and RSV2 set, "
        "and 13 bytes of payload, of which 6 are there"
    )
    status, lines = decode(capsys, "--brief", "0581 6548 6c6c 006f")
    assert (status, lines[1][:54]) == (1, "! they do with the bytes of each 16-bit word swapped: ")


def test_both_directions_in_one_stream_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "stream").write_bytes(REQUEST + SWITCH + b"\r\n" + HELLO + BYE)
    assert error_sentence(capsys, str(tmp_path / "stream")).startswith("this has both directions of a connection")


def test_two_directions_of_a_followed_stream(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = [REQUEST, SWITCH + b"\r\n", HELLO, BYE]
    (tmp_path / "raw").write_text("\n".join("\t" * (number % 2) + piece.hex() for number, piece in enumerate(said)))
    status, lines = decode(capsys, "--brief", str(tmp_path / "raw"))
    assert status == 0
    assert [line[:6] for line in lines if "→" in line] == ["client", "server", "client", "server"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_an_unreadable_file_is_reported_in_one_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(HELLO)
    (tmp_path / "x").chmod(0)
    assert error_sentence(capsys, str(tmp_path / "x")) == f"{tmp_path}/x can't be read: Permission denied"


def test_missing_empty_and_several_files_are_reported_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert error_sentence(capsys, str(tmp_path / "empty")).startswith(
        "there is nothing to decode: give bytes in hex, a file,"
    )
    assert error_sentence(capsys, str(tmp_path / "gone")) == f"{tmp_path}/gone can't be read: No such file or directory"
    assert error_sentence(capsys, str(tmp_path)).startswith(f"{tmp_path} is a directory: give a file")
    assert error_sentence(capsys, *[str(tmp_path / "empty")] * 2) == "rawws decode takes one file at a time"
    assert error_sentence(capsys, f"{tmp_path}/nosuch.hex").startswith("there is no file '")


def test_a_pipe_is_read_like_a_file(forker: Forker) -> None:
    ran = forker.run(["decode", "--brief", "/dev/fd/0"], HELLO, timeout=PATIENCE_S)
    assert ran.stdout.decode().endswith("'Hello'\n")


def test_a_record_that_lacks_a_member_is_reported_in_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "x").write_text('{"at":1,"connection":1}\n')
    assert error_sentence(capsys, str(tmp_path / "x")).endswith(": it has no 'kind'")
    (tmp_path / "x").write_text('{"at":1,"connection":1,"kind":"frame","sender":"me"}\n')
    assert error_sentence(capsys, str(tmp_path / "x")).endswith(": its sender is 'me', and neither client nor server")
