"""``rawws decode``: what it takes, what it prints, and its exit status."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rawws.cli
from rawws.cli import decode as decode_command
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.observer import Observer, Seen, SeenFrame
from rawws.wire.records import frame_bytes, frame_record, from_line, head_record, to_line
from rawws.wire.role import Role
from rawws.wire.trace import FrameRecorder
from tests.serving import PATIENCE_S
from tests.wire.test_dumps import packet
from tests.wire.test_observer import HELLO, REQUEST, SWITCH

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
    assert lines[0] == "→ byte 0 from the client: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'"
    assert len(lines) == 11


def test_hex_that_would_be_too_long_for_the_name_of_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = decode(capsys, "--brief", encode_frame(Opcode.BINARY, bytes(1000)).hex())
    assert status == 0
    assert lines[0].startswith("← byte 0 from the server: BINARY fin=1 rsv=000 mask=none len=1000")


def test_a_file_of_raw_bytes_with_a_handshake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "said").write_bytes(REQUEST + HELLO)
    status, lines = decode(capsys, "--brief", str(tmp_path / "said"))
    assert status == 0
    assert lines[1] == "    GET /room HTTP/1.1"
    assert "    = in base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in lines
    assert lines[-1].endswith(f"byte {len(REQUEST)} from the client: TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'")


def test_standard_input(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    type_in(monkeypatch, SWITCH + b"\r\n" + BYE)
    status, lines = decode(capsys, "--brief", "-")
    assert status == 0
    assert lines[-2:] == [
        "HTTP ends, WebSocket begins",
        f"← byte {len(SWITCH) + 2} from the server: CLOSE fin=1 rsv=000 mask=none len=2 1000",
    ]


@pytest.mark.parametrize(
    "said", [RESPONSE * 5000, REQUEST + HELLO * 30_000, encode_frame(Opcode.BINARY, bytes(200_000)) + BYE]
)
def test_a_long_input_is_explained_piece_by_piece_and_not_otherwise(
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


def test_what_is_wrong_is_told_and_counts(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = decode(capsys, "--from", "client", "--brief", "810568656c6c6f")
    assert status == 1
    assert lines[1].startswith("    ! server received unexpected unmasked")
    assert lines[1].endswith("(RFC 6455 §5.1); the receiver fails with 1002")


def test_packets_of_tcpdump(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    said = [packet(5000, 80, 1, REQUEST + HELLO), packet(80, 5000, 1, SWITCH + b"\r\n" + BYE)]
    (tmp_path / "packets").write_text("\n".join(said))
    status, lines = decode(capsys, "--brief", str(tmp_path / "packets"))
    assert status == 0
    assert lines[0] == "== 127.0.0.1:5000 and 127.0.0.1:80"
    assert [line[:1] for line in lines if line[:1] in "→←H"] == ["→", "←", "H", "→", "←"]


def test_packets_without_their_beginning(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "dump").write_text(packet(5000, 80, 9, b"", syn=True) + "\n" + packet(5000, 80, 20, HELLO))
    status, lines = decode(capsys, str(tmp_path / "dump"))
    assert status == 0
    assert lines == [
        "== 127.0.0.1:5000 and 127.0.0.1:80",
        "! the beginning of what 127.0.0.1:5000 sent is not in the capture; none is read",
    ]


def test_what_a_recording_tells_is_no_command_to_the_terminal(
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
    ("given", "told"),
    [
        ("zz", "'zz' is neither a file nor bytes in hex"),
        ("818", "line 1 has an odd number of digits"),
        ("", "there is nothing to decode"),
    ],
)
def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str], given: str, told: str) -> None:
    assert rawws.cli.main(["decode", given]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"rawws: {told}")
    assert error.count("\n") == 1


def test_of_what_is_http_a_recording_has_the_heads_alone(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    post = b"POST /room HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    answer = b"HTTP/1.1 202 Accepted\r\nContent-Length: 30\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    said = [(Role.CLIENT, post), (Role.SERVER, answer), (Role.CLIENT, post), (Role.SERVER, chunked)]
    said += [(Role.CLIENT, REQUEST), (Role.SERVER, SWITCH + b"\r\n")]
    lines = [to_line(head_record(sender, head), at=0, connection=1) for sender, head in said]
    (tmp_path / "record.jsonl").write_text("".join(lines))
    status, shown = decode(capsys, str(tmp_path / "record.jsonl"))
    assert status == 0
    titles = [line.partition(": ")[2] for line in shown if line[:1] in "→←"]
    assert titles == ["HTTP request", "HTTP response"] * 3
    assert "HTTP ends, WebSocket begins" in shown


@pytest.mark.parametrize("line", ["{}", '{"kind":"frame","at":0,"connection":1,"sender":"x"}', '{"at"', "[]"])
def test_a_line_that_is_no_record_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    type_in(monkeypatch, b'{"kind":"switch","at":0,"connection":1}\n' + line.encode())
    assert rawws.cli.main(["decode"]) == 2
    assert "is not a record" in capsys.readouterr().err


def test_a_frame_of_which_a_part_is_left_out_is_shown_as_far_as_it_goes() -> None:
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
    ("redirected", "status", "told"),
    [
        ("<&-", 2, "rawws: standard input is closed; </dev/null is an empty one\n"),
        ("8100 >&-", 2, "rawws: standard output is closed; >/dev/null has it thrown away\n"),
        pytest.param(
            *("8100 >/dev/full", 1, "rawws: standard output can't be written: No space left on device\n"),
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
        ),
    ],
)
def test_streams_that_are_closed_or_full(redirected: str, status: int, told: str) -> None:
    command = f"{sys.executable} -m rawws decode {redirected}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", told)
