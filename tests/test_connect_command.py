"""``rawws connect``: in a pipe, and in a terminal."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rawws.cli.connect import complete_url
from rawws.limits import MIB
from rawws.terminal import Close, Command, Ping, Pong, Raw, Say, Tell, parse_command
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.handshake import Accept
from tests.serving import PATIENCE_S, Program, StartProgram

CONNECT = (sys.executable, "-m", "rawws", "connect")


@pytest.fixture(scope="module")
def server() -> Iterator[Program]:
    program = StartProgram()("--hello", "", "--subprotocol", "chat", "--max-size", "1000", "-v")
    yield program
    program.end()


def piped(server: Program, *arguments: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [*CONNECT, f"{server.address}/room", *arguments]
    return subprocess.run(command, input=said, capture_output=True, timeout=PATIENCE_S, check=False)


# In a pipe


def test_lines_in_and_lines_out(server: Program) -> None:
    ran = piped(server, said="one\nzwei ü\n/ping is a text here\nwithout an end".encode())
    assert ran.stdout.decode() == "one\nzwei ü\n/ping is a text here\nwithout an end\n"
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_nothing_is_lost_at_the_end_of_the_input(server: Program) -> None:
    said = b"".join(b"%d\n" % number for number in range(10_000))
    assert piped(server, said=said).stdout == said


def test_bytes(server: Program) -> None:
    ran = piped(server, "-b", said=b"\xff\x00\n\xfe")
    assert (ran.returncode, ran.stdout) == (0, b"\xff\x00\n\xfe\n")


def test_text_that_is_none(server: Program) -> None:
    ran = piped(server, said=b"fine\n\xff\n")
    assert ran.returncode == 2
    assert ran.stderr == b"rawws: line 2 of the input is not UTF-8, as text has to be; use -b to send bytes\n"


def test_execute_and_leave(server: Program) -> None:
    began = time.monotonic()
    ran = piped(server, "-x", "one", "-x", "two", "-w", "0.2")
    assert (ran.returncode, ran.stdout) == (0, b"one\ntwo\n")
    assert time.monotonic() - began > 0.2


def test_what_the_handshake_carries(server: Program) -> None:
    origin = f"http://{server.address}"
    assert piped(server, "-H", "X-Day: Monday", "-s", "news", "-s", "chat", "-o", origin).returncode == 0
    for line in (
        "X-Day: Monday",
        "Sec-WebSocket-Protocol: news, chat",
        f"Origin: {origin}",
        "Sec-WebSocket-Protocol: chat",
    ):
        if not any(known.rstrip().endswith(line) for known in server.lines):
            server.wait_for_line(line)


def test_the_story_on_standard_error(server: Program) -> None:
    ran = piped(server, "-v", said=b"hello\n")
    assert ran.stdout == b"hello\n"
    assert b"#1 > GET /room HTTP/1.1" in ran.stderr
    assert b"Sec-WebSocket-Accept belongs to our key? yes" in ran.stderr
    assert b"#1 < TEXT fin=1 rsv=000 mask=none len=5 'hello'" in ran.stderr


def test_a_refusal(server: Program) -> None:
    ran = piped(server, "-o", "http://elsewhere.example", said=b"hello\n")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"answered 403 Forbidden instead of 101: 'Pages from http://elsewhere.example may not connect" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


def test_a_server_that_closes(server: Program) -> None:
    ran = piped(server, "-w", "-1", said=b"x" * 2000)
    assert ran.returncode == 1
    assert b"1009 (message too big)" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["ws://127.0.0.1:1/"], 1, "rawws: can't connect to 127.0.0.1:1: Connection refused\n"),
        (["ftp://host/"], 2, "ftp"),
        (["ws://host/", "-H", "nonsense"], 2, "'nonsense' is not a header; give 'Name: value'"),
        (["ws://host/", "-H", "Upgrade: h2c"], 2, "rawws: the Upgrade header is set by the handshake\n"),
        (["ws://host/", "-w", "x"], 2, "'x' is not a number of seconds"),
        ([], 2, "URL"),
    ],
)
def test_what_can_not_be_done(arguments: list[str], status: int, told: str) -> None:
    command = [*CONNECT, *arguments]
    ran = subprocess.run(command, input="", capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert ran.returncode == status
    assert told in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_reader_that_has_seen_enough(server: Program) -> None:
    command = f"(seq 1 100; sleep 0.3; seq 1 100) | {' '.join(CONNECT)} {server.address} | head -1"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, timeout=PATIENCE_S, check=False)
    assert (ran.stdout, ran.stderr) == (b"1\n", b"")


@pytest.mark.parametrize(
    ("redirected", "status", "told"),
    [
        ("<&-", 2, "rawws: standard input is closed; </dev/null is an empty one\n"),
        (">&-", 2, "rawws: standard output is closed; >/dev/null has it thrown away\n"),
        pytest.param(
            *(">/dev/full", 1, "rawws: standard output can't be written: No space left on device\n"),
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
        ),
        ("-x two <&- >/dev/null", 0, ""),
    ],
)
def test_streams_that_are_closed_or_full(server: Program, redirected: str, status: int, told: str) -> None:
    command = f"echo one | {' '.join(CONNECT)} -w 0.2 {server.address} {redirected}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", told)


def test_an_error_has_nowhere_else_to_go_than_standard_error() -> None:
    command = f"{' '.join(CONNECT)} 127.0.0.1:1 2>&-"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "")


@pytest.mark.parametrize(
    ("typed", "url"),
    [
        ("localhost:8080/room", "ws://localhost:8080/room"),
        (":8080/room", "ws://localhost:8080/room"),
        ("8080", "ws://localhost:8080"),
        ("example.org", "ws://example.org"),
        ("https://example.org/x", "wss://example.org/x"),
        ("http://example.org/x", "ws://example.org/x"),
        ("wss://example.org/x", "wss://example.org/x"),
        ("ws+unix:///run/app.sock:/room", "ws+unix:///run/app.sock:/room"),
    ],
)
def test_addresses_for_short(typed: str, url: str) -> None:
    assert complete_url(typed) == url


# What is typed


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hello", Say("hello")),
        ("", Say("")),
        ("//hello", Say("/hello")),
        ("/ping", Ping(b"")),
        ("/ping ü", Ping("ü".encode())),
        ("/pong x", Pong(b"x")),
        ("/binary 00 ff", Say(b"\x00\xff")),
        ("/close", Close()),
        ("/close 4000 good bye", Close(4000, "good bye")),
        ("/raw 81 05 | 68", Raw(b"\x81\x05\x68")),
        ("/raw 0x81:05", Raw(b"\x81\x05")),
    ],
)
def test_what_a_line_means(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/pign", "there is no /pign; /help lists what there is, and //pign sends that text"),
        ("/ping " + "x" * 126, "a control frame holds 125 bytes, not 126 (RFC 6455 §5.5)"),
        ("/close 999", "'999' is not a close code; give one from 1000 to 4999 (RFC 6455 §7.4)"),
        ("/close 1000 " + "x" * 124, "a close holds a reason of 123 bytes, not 124 (RFC 6455 §5.5)"),
        ("/raw", "give bytes in hex, such as 81 85 37 fa"),
        ("/raw 8", "'8' is not bytes in hex, such as 81 85 37 fa"),
    ],
)
def test_a_line_that_can_not_be_meant(line: str, told: str) -> None:
    assert parse_command(line) == Tell(told)


class Flood:
    """A server that sends messages of 1,000 bytes to its one client, as many as that takes, up to a bound."""

    MOST_BYTES = 40 * MIB

    def __init__(self) -> None:
        self.sent = 0
        self.is_held_back = threading.Event()  # nothing could be sent for a second
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as client:
            client.settimeout(1)
            key = client.recv(65536).partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + Accept.of(key.decode()).value.encode() + b"\r\n\r\n"
            )
            data = encode_frame(Opcode.TEXT, b"x" * 1000) * 50
            try:
                while self.sent < self.MOST_BYTES:
                    client.sendall(data)
                    self.sent += len(data)
            except TimeoutError:
                self.is_held_back.set()
            except OSError:
                pass

    def end(self) -> None:
        self._thread.join(PATIENCE_S)


@pytest.fixture
def flood() -> Iterator[Flood]:
    flood = Flood()
    yield flood
    flood.end()


def test_a_server_sends_no_more_than_is_read_of_our_output(flood: Flood) -> None:
    command = [*CONNECT, flood.address, "-w", "-1"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as ran:
        assert ran.stdout is not None
        read = 0
        while flood.sent < flood.MOST_BYTES:
            read += len(os.read(ran.stdout.fileno(), 65536))
            assert flood.sent - read < 20 * MIB  # of which most is in the system's buffers
        ran.kill()


# In a terminal


class Terminal:
    """The program in a terminal of its own."""

    def __init__(self, home: Path, *arguments: str) -> None:
        self._screen, inside = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = subprocess.Popen(
            [*CONNECT, *arguments], stdin=inside, stdout=inside, stderr=inside, env=environment, start_new_session=True
        )
        os.close(inside)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> str:
        """Return what was shown up to that text, which has not been waited for before."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in self._seen:
            ready, _, _ = select.select([self._screen], [], [], max(0.0, deadline - time.monotonic()))
            try:
                data = os.read(self._screen, 65536) if ready else b""
            except OSError:  # EIO: the program has ended
                data = b""
            assert data, f"{text!r} did not come; this did: {self._seen!r}"
            self._seen += re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", data.decode(errors="replace"))
        before, _, self._seen = self._seen.partition(text)
        return before + text

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
        os.close(self._screen)


@pytest.fixture
def terminal(server: Program, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path, f"{server.address}/room")
    try:
        terminal.wait_for(f"connected to ws://{server.address}/room")
        terminal.wait_for(">")
        yield terminal
    finally:
        terminal.end()


def test_a_conversation(terminal: Terminal, tmp_path: Path) -> None:
    terminal.type("hello\r")
    terminal.wait_for("< hello")
    terminal.type("/ping\r")
    assert re.search(r"pong in \d+\.\d ms", terminal.wait_for(" ms"))
    terminal.type("/binary 00 ff\r")
    terminal.wait_for("< (binary, 2 bytes) 00 ff")
    terminal.type("/help\r")
    terminal.wait_for("put these bytes on the wire as they are")
    terminal.type("/nothing\r")
    terminal.wait_for("there is no /nothing")
    terminal.type("/close 1000 enough\r")
    terminal.wait_for("disconnected: closed by us with 1000 (normal closure) 'enough'")
    assert terminal.wait() == 0
    history = tmp_path / "rawws" / "history"
    assert "+/ping\n" in history.read_text()
    assert history.stat().st_mode & 0o777 == 0o600


def test_leaving_with_ctrl_d(terminal: Terminal) -> None:
    terminal.type("\x04")
    terminal.wait_for("disconnected: closed by us with 1000")
    assert terminal.wait() == 0


def test_raw_bytes_and_what_the_server_says_to_them(terminal: Terminal) -> None:
    terminal.type("/raw 81 05 68 65 6c 6c 6f\r")
    terminal.wait_for(
        "disconnected: closed by the server with 1002 (protocol error) 'server received unexpected unmasked"
    )
    assert terminal.wait() == 1


def test_control_characters_of_others_do_not_get_to_the_terminal(terminal: Terminal, server: Program) -> None:
    piped(server, "-x", "\x1b]0;owned\x07 fine", "-w", "0")
    assert "\x07" not in terminal.wait_for(r"< \x1b]0;owned\x07 fine")


def test_a_server_sends_no_more_than_a_terminal_draws(flood: Flood, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path, flood.address)
    try:
        terminal.wait_for("< xxx")
        terminal.wait_for(">")  # where a line may be typed
        assert flood.is_held_back.wait(PATIENCE_S), f"{flood.sent:,} bytes were sent"  # while nobody looks
        assert flood.sent < 20 * MIB
    finally:
        terminal.end()
