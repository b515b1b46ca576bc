"""``rawws connect``: in a pipe, and in a terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.sync.server import ServerConnection
from websockets.sync.server import serve as websockets_serve

from rawws.cli.arguments import complete_url
from rawws.limits import MIB
from rawws.testing import open_pair
from rawws.tools.terminal import Tally, UntilQuiet
from rawws.tools.typed_commands import Close, Command, Ping, Pong, Raw, Say, Tell, parse_command
from rawws.websocket import WebSocket
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.handshake import Accept
from tests.forked import Forked, Forker
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram

CONNECT = (sys.executable, "-m", "rawws", "connect")


@pytest.fixture(scope="module")
def server(forker: Forker) -> Iterator[Program]:
    program = StartProgram(forker)("--hello", "", "--subprotocol", "chat", "--max-size", "1000", "-v")
    yield program
    program.end()


Run = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def connect(forker: Forker) -> Run:
    """Runs ``rawws connect ADDRESS`` with some input."""

    def run(address: str, *arguments: str, said: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return forker.run(["connect", address, *arguments], said, timeout=PATIENCE_S)

    return run


@pytest.fixture
def piped(connect: Run, server: Program) -> Run:
    """Runs ``rawws connect`` to a room of the module's server."""
    return partial(connect, f"{server.address}/room")


# In a pipe


def test_each_line_of_the_input_is_sent_and_each_message_printed(piped: Run) -> None:
    ran = piped("-w", "0", said="one\nzwei ü\n/ping is a text here\nwithout an end".encode())
    assert ran.stdout.decode() == "one\nzwei ü\n/ping is a text here\nwithout an end\n"
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_the_end_of_the_input_loses_no_answer(piped: Run) -> None:
    said = b"".join(b"%d\n" % number for number in range(4000))
    assert piped(said=said).stdout == said


def test_bytes(piped: Run) -> None:
    ran = piped("-b", "-w", "0", said=b"\xff\x00\n\xfe")
    assert (ran.returncode, ran.stdout) == (0, b"\xff\x00\n\xfe\n")


def test_a_signal_during_an_unbuffered_write_truncates_no_message() -> None:
    payload = "x" * 500_000  # more than a pipe takes

    def say(connection: ServerConnection) -> None:
        connection.send(payload)
        with contextlib.suppress(Exception):
            connection.recv()

    with serving(say) as address:
        command = [sys.executable, "-u", *CONNECT[1:], "-w", "-1", address]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            first = os.read(process.stdout.fileno(), 1)  # the program is writing now
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
            rest = process.stdout.read()
        assert len(first + rest) == len(payload) + 1
        assert process.returncode == 0


def test_input_that_is_not_utf8_is_reported(piped: Run) -> None:
    ran = piped("-w", "0", said=b"fine\n\xff\nnever sent\n")
    assert (ran.returncode, ran.stdout) == (2, b"fine\n"), "what was sent before is answered"
    assert ran.stderr == (
        b"rawws: line 2 of the input is not UTF-8, as text has to be; the input from there on was not sent; use -b to "
        b"send bytes\n"
    )


def test_execute_sends_its_messages_and_exits(piped: Run) -> None:
    began = time.monotonic()
    ran = piped("-x", "one", "-x", "two", "-w", "0.2")
    assert (ran.returncode, ran.stdout) == (0, b"one\ntwo\n")
    assert time.monotonic() - began > 0.2


def test_the_handshake_carries_the_headers_that_the_flags_set(piped: Run, server: Program) -> None:
    origin = f"http://{server.address}"
    assert piped("-H", "X-Day: Monday", "-s", "news", "-s", "chat", "-o", origin, "-w", "0").returncode == 0
    for line in (
        "X-Day: Monday",
        "Sec-WebSocket-Protocol: news, chat",
        f"Origin: {origin}",
        "Sec-WebSocket-Protocol: chat",
    ):
        if not any(known.rstrip().endswith(line) for known in server.lines):
            server.wait_for_line(line)


def test_verbose_shows_the_handshake_and_frames_on_standard_error(piped: Run) -> None:
    ran = piped("-v", "-w", "0", said=b"hello\n")
    assert ran.stdout == b"hello\n"
    assert b"#1 > GET /room HTTP/1.1" in ran.stderr
    assert b"Sec-WebSocket-Accept belongs to the client's key? yes" in ran.stderr
    assert b"#1 < TEXT fin=1 rsv=000 mask=none len=5 'hello'" in ran.stderr


def test_a_refusal(piped: Run) -> None:
    ran = piped("-o", "http://elsewhere.example", said=b"hello\n")
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert b"answered 403 Forbidden instead of 101: 'Pages from http://elsewhere.example may not connect" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


def test_a_server_that_closes(piped: Run) -> None:
    ran = piped("-w", "-1", said=b"x" * 2000)
    assert ran.returncode == 1
    assert b"1009 (message too big)" in ran.stderr
    assert ran.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["ws://127.0.0.1:1/"], 1, "rawws: can't connect to 127.0.0.1:1: Connection refused; "),
        (["ftp://host/"], 2, "ftp"),
        (["ws://host/", "-H", "nonsense"], 2, "'nonsense' is not a header; give 'Name: value'"),
        (["ws://host/", "-H", "Upgrade: h2c"], 2, "rawws: the Upgrade header is set by the handshake\n"),
        (["ws://host/", "-w", "x"], 2, "'x' is not a number of seconds"),
        ([], 2, "URL"),
    ],
)
def test_an_invalid_command_line_is_reported(
    start_program: StartProgram, arguments: list[str], status: int, message: str
) -> None:
    ran = start_program.run("connect", *arguments)
    assert ran.returncode == status
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_closed_output_pipe_ends_the_program(server: Program) -> None:
    command = f"(seq 1 100; sleep 0.3; seq 1 100) | {' '.join(CONNECT)} {server.address} | head -1"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, timeout=PATIENCE_S, check=False)
    assert (ran.stdout, ran.stderr) == (b"1\n", b"")


@pytest.mark.parametrize(
    ("redirected", "status", "message"),
    [
        ("<&-", 2, "rawws: standard input is closed; </dev/null is an empty one\n"),
        pytest.param(
            *(">&-", 2, "rawws: standard output is closed; >/dev/null has it thrown away\n"),
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            *(">/dev/full", 1, "rawws: standard output can't be written: No space left on device\n"),
            marks=pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full"),
        ),
        pytest.param("-x two <&- >/dev/null", 0, "", marks=pytest.mark.thorough),
    ],
)
def test_closed_or_full_streams_are_reported(server: Program, redirected: str, status: int, message: str) -> None:
    command = f"echo one | {' '.join(CONNECT)} -w 0.2 {server.address} {redirected}"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (status, "", message)


def test_an_error_without_standard_error_sets_the_exit_status() -> None:
    command = f"{' '.join(CONNECT)} 127.0.0.1:1 2>&-"
    ran = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is full")
@pytest.mark.parametrize(("arguments", "status"), [(["127.0.0.1:1"], 1), (["ftp://host/"], 2), (["--nonsense"], 2)])
def test_an_error_that_cant_be_written_sets_the_exit_status(forker: Forker, arguments: list[str], status: int) -> None:
    with open("/dev/full", "wb") as full, forker.start(["connect", *arguments], stderr=full.fileno()) as ran:
        assert ran.wait(PATIENCE_S) == status


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
def test_short_addresses_are_completed(typed: str, url: str) -> None:
    assert complete_url(typed) == url


# Typed lines


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
def test_a_line_is_parsed_as_text_or_a_command(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("/pign", "there is no /pign; /help lists what there is, and //pign sends that text"),
        ("/ping " + "x" * 126, "a control frame holds 125 bytes, not 126 (RFC 6455 §5.5)"),
        ("/close 999", "'999' is not a close code; give one from 1000 to 4999 (RFC 6455 §7.4)"),
        ("/close 1000 " + "x" * 124, "a close holds a reason of 123 bytes, not 124 (RFC 6455 §5.5)"),
        ("/raw", "give bytes in hex, such as 81 85 37 fa"),
        ("/raw 8", "'8' is not bytes in hex, such as 81 85 37 fa"),
    ],
)
def test_an_invalid_command_line_gets_a_hint(line: str, message: str) -> None:
    assert parse_command(line) == Tell(message)


class Flood:
    """A server that sends messages of 1,000 bytes to its one client as fast as the client reads, up to a bound."""

    MOST_BYTES = 28 * MIB

    def __init__(self) -> None:
        self.sent = 0
        self.is_held_back = threading.Event()  # set after a second in which nothing could be sent
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as client:
            client.settimeout(PATIENCE_S)
            key = client.recv(65536).partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + Accept.of(key.decode()).value.encode() + b"\r\n\r\n"
            )
            frame = encode_frame(Opcode.TEXT, b"x" * 1000)
            data = memoryview(frame * 50)
            client.setblocking(False)
            with contextlib.suppress(OSError):  # the client has ended
                while self.sent < self.MOST_BYTES:
                    if select.select([], [client], [], 1)[1]:
                        self.sent += client.send(data[self.sent % len(frame) :])
                    else:
                        self.is_held_back.set()

    def end(self) -> None:
        self._thread.join(PATIENCE_S)


@pytest.fixture
def flood() -> Iterator[Flood]:
    flood = Flood()
    yield flood
    flood.end()


def test_unread_output_holds_the_server_back(forker: Forker, flood: Flood) -> None:
    with forker.start(["connect", flood.address, "-w", "-1"], stdout=subprocess.PIPE) as ran:
        assert ran.stdout is not None
        read = 0
        while flood.sent < flood.MOST_BYTES:
            read += len(os.read(ran.stdout.fileno(), 65536))
            assert flood.sent - read < 20 * MIB  # most of these bytes are in the system's buffers
        ran.kill()


# The end


class Refuser:
    """A WebSocket server for one client: it does the handshake, and the test does the rest."""

    def __init__(self, act: Callable[[Refuser], None], tls: ssl.SSLContext | None = None) -> None:
        self._listener = socket.create_server((LOOPBACK, 0))
        self.address = f"{LOOPBACK}:{self._listener.getsockname()[1]}"
        self.client_has_gone = threading.Event()
        self._act = act
        self._tls = tls
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._listener, self._listener.accept()[0] as self.client:
            self.client.settimeout(PATIENCE_S)
            self.client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # otherwise a reset may discard a close
            if self._tls is not None:
                self.client = self._tls.wrap_socket(self.client, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                head += self.client.recv(65536)
            key = head.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
            self.client.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + Accept.of(key.decode()).value.encode() + b"\r\n\r\n"
            )
            with contextlib.suppress(OSError):
                self._act(self)

    def send(self, opcode: Opcode, payload: bytes) -> None:
        self.client.sendall(encode_frame(opcode, payload))

    def wait_for_close(self) -> None:
        """Read up to the client's close, which has a masked payload of two bytes."""
        data = b""
        while not (len(data) >= 8 and data[-8:-6] == b"\x88\x82"):
            got = self.client.recv(65536)
            assert got
            data = data[-8:] + got

    def wait_for(self, *messages: bytes) -> None:
        """Read short messages, each with a header and a masking key of six bytes in all."""
        missing = sum(6 + len(message) for message in messages)
        while missing:
            missing -= len(self.client.recv(missing))

    def wait_for_end(self) -> None:
        while self.client.recv(65536):
            pass

    def wait_for_nothing(self) -> None:
        """Read nothing until the client has gone."""
        self.client_has_gone.wait(PATIENCE_S)

    def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()

    def end(self) -> None:
        self.client_has_gone.set()
        self._thread.join(PATIENCE_S)


@contextlib.contextmanager
def refusing(act: Callable[[Refuser], None], tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """Run a `Refuser`; yields its address."""
    refuser = Refuser(act, tls)
    try:
        yield refuser.address
    finally:
        refuser.end()


def status_and_message(connect: Run, address: str, *arguments: str, said: bytes = b"") -> tuple[int, str]:
    """Return the exit status and the text on standard error."""
    ran = connect(address, "--no-compression", *arguments, said=said)
    return ran.returncode, ran.stderr.decode()


@pytest.mark.parametrize("first", [False, True], ids=["in answer to ours", "before ours"])
@pytest.mark.parametrize("code", [1000, 1001, 1005, 1003, 1008, 1009, 1011, 1013, 4001])
def test_the_status_depends_on_the_server_s_code(connect: Run, code: int, first: bool) -> None:
    def act(server: Refuser) -> None:
        if first:
            server.wait_for(b"one", b"two")
        else:
            server.wait_for_close()
        server.send(Opcode.CLOSE, b"" if code == 1005 else code.to_bytes(2, "big") + b"why")
        server.wait_for_end()

    with refusing(act) as address:
        status, message = status_and_message(
            connect, address, *(("-w", "-1") if first else ("-w", "0")), said=b"one\ntwo\n"
        )
    if code in (1000, 1001, 1005):
        assert (status, message) == (0, "")
        return
    assert status == 1
    who = "closed by the server with" if first else "closed by us with 1000 (normal closure), answered with"
    assert re.fullmatch(
        rf"rawws: {re.escape(who)} {code}( \(.*\))? 'why'; lines 1 to 2 may not have reached the server\n", message
    )


@pytest.mark.parametrize("code", [1000, 1001, 1009])
def test_input_that_was_not_sent_is_reported_whatever_the_code(connect: Run, code: int) -> None:
    def act(server: Refuser) -> None:
        server.send(Opcode.CLOSE, code.to_bytes(2, "big"))
        server.wait_for_nothing()

    with refusing(act) as address:
        status, message = status_and_message(connect, address, said=b"x" * 20_000_000 + b"\nnext\n")
    assert status == 1
    assert re.fullmatch(
        rf"rawws: closed by the server with {code} \(.*\); the input from line 1 on was not sent\n", message
    )


def test_input_that_remains_at_the_end_causes_no_warning() -> None:
    """Python would report the reader of the input, if it were left to the garbage collector."""

    def act(server: Refuser) -> None:
        server.wait_for(b"one")
        server.send(Opcode.CLOSE, (1000).to_bytes(2, "big"))
        server.wait_for_end()

    with refusing(act) as address:
        strict = (sys.executable, "-W", "error", *CONNECT[1:], address, "--no-compression")
        ran = subprocess.run(strict, input=b"one\n" * 100_000, capture_output=True, timeout=PATIENCE_S, check=False)
    message = r"rawws: closed by the server with 1000 \(normal closure\); the input from line \d+ on was not sent\n"
    assert re.fullmatch(message, ran.stderr.decode())


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_a_refusal_is_reported_even_if_a_reset_follows_it(connect: Run, scheme: str) -> None:
    def act(server: Refuser) -> None:
        server.client.recv(1)
        server.send(Opcode.CLOSE, b"\x03\xf1too big")
        server.client.close()  # unread bytes turn this into a reset

    tls = None
    if scheme == "wss":
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert(LOOPBACK).configure_cert(tls)
    with refusing(act, tls) as address:
        status, message = status_and_message(
            connect, f"{scheme}://{address}", "-n", said=b"x" * 20_000_000 + b"\nnext\n"
        )
    assert status == 1
    assert message == (
        "rawws: closed by the server with 1009 (message too big) 'too big'; the input from line 1 on was not sent\n"
    )


@pytest.mark.parametrize("resets", [False, True])
def test_an_end_without_a_close_is_a_failure(connect: Run, resets: bool) -> None:
    def act(server: Refuser) -> None:
        server.wait_for_close()
        if resets:
            server.reset()

    with refusing(act) as address:
        status, message = status_and_message(connect, address, "-w", "0", said=b"one\n")
    assert status == 1
    assert message.startswith("rawws: closed by us with 1000 (normal closure), with no close in answer: ")
    assert message.endswith("; line 1 may not have reached the server\n")


def test_a_refused_message_and_the_unsent_input_are_reported(piped: Run) -> None:
    large = b"x" * 8_000_000
    for said in (large, large + b"\nafter\n", b"fine\n" + large + b"\n" + b"after\n" * 100_000):
        ran = piped("--no-compression", said=said)
        assert ran.returncode == 1
        assert ran.stdout == (b"fine\n" if said.startswith(b"fine") else b"")
        message = ran.stderr.decode()
        assert message.startswith("rawws: closed by the server with 1009 (message too big) ")
        assert re.search(r"; the input from line \d+ on was not sent|; lines? [1-9to ]+ may not have reached", message)


def test_unsent_messages_of_execute_are_reported(connect: Run) -> None:
    def act(server: Refuser) -> None:
        server.wait_for(b"one")
        server.send(Opcode.CLOSE, b"\x03\xe9")
        server.wait_for_nothing()

    # An argument holds at most 128 KiB, so there are many of them.
    large = [part for _ in range(15) for part in ("-x", "x" * 100_000)]
    with refusing(act) as address:
        status, message = status_and_message(connect, address, "-x", "one", *large, "-w", "-1")
    if status:  # otherwise the system has taken all of it
        assert re.fullmatch(
            r"rawws: closed by the server with 1001 \(going away\); the input from message \d+ on was not sent\n",
            message,
        )
    else:
        assert message == ""


def test_ctrl_c_in_a_pipe_exits_with_status_0(forker: Forker, server: Program) -> None:
    pipe = subprocess.PIPE
    arguments = ["connect", "-v", f"{server.address}/room"]
    with forker.start(arguments, stdin=pipe, stdout=pipe, stderr=pipe) as ran:
        assert ran.stdin is not None
        assert ran.stdout is not None
        ran.stdin.write(b"one\n")
        ran.stdin.flush()
        assert ran.stdout.readline() == b"one\n"
        ran.send_signal(signal.SIGINT)
        assert ran.wait(PATIENCE_S) == 0


@contextlib.contextmanager
def serving(handle: Callable[[ServerConnection], None]) -> Iterator[str]:
    """Run a server on `websockets`; yields its address."""
    with websockets_serve(handle, LOOPBACK, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{LOOPBACK}:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join(PATIENCE_S)


# Waiting for the answers


@pytest.fixture
def slow_echo() -> Iterator[str]:
    """An echo that thinks about each message for 0.2 s."""

    def handle(client: ServerConnection) -> None:
        for message in client:
            time.sleep(0.2)
            client.send(message)

    with serving(handle) as address:
        yield address


def test_the_frames_that_are_shown_have_the_text_of_compressed_messages(connect: Run) -> None:
    def handle(client: ServerConnection) -> None:
        for _ in range(3):
            client.send(client.recv())

    with serving(handle) as address:
        ran = connect(address, "-v", "-w", "-1", said=b"hello\n" * 3)
    assert (ran.returncode, ran.stdout) == (0, b"hello\n" * 3)
    log = ran.stderr.decode()
    assert " rawws.server    #0 = marks of this log: < received, > sent, " in log
    assert log.count(" rawws.frames    #1 > TEXT ") == 3
    # This server refers to earlier messages (RFC 7692 §7.1.1).
    received = re.findall(r" rawws.frames    #1 < TEXT fin=1 rsv=100 .*\n.* rawws.frames    #1 (.*)", log)
    assert received == ["= the message: TEXT, 5 bytes: 'hello'"] * 3


def test_a_pipe_waits_for_the_answers(connect: Run, slow_echo: str) -> None:
    said = b"q1\nq2\nq3\n"
    ran = connect(slow_echo, said=said)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, said, b"")


def test_a_given_wait_is_kept(connect: Run, slow_echo: str) -> None:
    ran = connect(slow_echo, "-w", "0", said=b"q1\n")
    assert (ran.returncode, ran.stdout) == (0, b"")


async def test_a_server_that_never_pauses_is_closed_after_10_s(autojump_clock: MockClock) -> None:  # noqa: ARG001
    tally = Tally(sent=3)

    async def talk(ws: WebSocket) -> None:
        while True:
            await trio.sleep(0.6)
            await ws.send("tick")

    async def listen(ws: WebSocket) -> None:
        async for _ in ws:
            tally.received += 1
            tally.received_at = trio.current_time()

    async with open_pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(talk, server)
        nursery.start_soon(listen, client)
        message = await UntilQuiet().wait(client, tally)
        # Answers may be missing until the third one, at 1.8 s.
        assert 11.8 <= trio.current_time() < 13
        assert message.startswith("closed by us, though the server is still sending, 10 s after")
        nursery.cancel_scope.cancel()


async def test_answers_that_keep_coming_are_awaited_without_a_time_limit(autojump_clock: MockClock) -> None:  # noqa: ARG001
    tally = Tally(sent=100)

    async def answer(ws: WebSocket) -> None:
        for _ in range(100):
            await trio.sleep(0.9)
            await ws.send("answer")

    async def listen(ws: WebSocket) -> None:
        async for _ in ws:
            tally.received += 1
            tally.received_at = trio.current_time()

    async with open_pair() as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(answer, server)
        nursery.start_soon(listen, client)
        assert await UntilQuiet().wait(client, tally) == ""
        assert tally.received == 100
        assert trio.current_time() == pytest.approx(91)
        nursery.cancel_scope.cancel()


async def test_a_message_that_arrived_during_a_stall_is_not_missed(mock_clock: MockClock) -> None:
    tally = Tally(sent=1)
    async with open_pair() as (client, server), trio.open_nursery() as nursery:

        async def wait() -> None:
            await UntilQuiet().wait(client, tally)
            tally.received = -1

        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        mock_clock.jump(5)  # as after a stall of the loop
        server._loop.sending.send(server._peer, b"\x81\x05hello")
        await wait_all_tasks_blocked()
        assert tally.received == 0
        assert await client.recv() == "hello"
        mock_clock.jump(1)
        await wait_all_tasks_blocked()
        assert tally.received == -1


# Output to a terminal

HOSTILE = "\x1b]0;owned\x07\x1b[2J \x9b5n \x85 \x7f \u202e \x00 fine ü"
SPELT_OUT = r"\x1b]0;owned\x07\x1b[2J \x9b5n \x85 \x7f \u202e \x00 fine ü"


def run_in_terminal(start: Callable[..., subprocess.Popen[bytes] | Forked], said: bytes = b"") -> tuple[int, str]:
    """Run a program with a pipe as input and a terminal for the rest; return the exit status and the output."""
    screen, inside = pty.openpty()
    try:
        with start(stdin=subprocess.PIPE, stdout=inside, stderr=inside) as ran:
            os.close(inside)
            assert ran.stdin is not None
            ran.stdin.write(said)
            ran.stdin.close()
            shown = b""
            with contextlib.suppress(OSError):  # EIO: the program has ended
                while data := os.read(screen, 65536):
                    shown += data
            return ran.wait(PATIENCE_S), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(screen)


def assert_harmless(shown: str) -> None:
    assert all(c.isprintable() or c == "\n" for c in shown), shown


def test_messages_are_made_printable_for_a_terminal(forker: Forker) -> None:
    def act(server: Refuser) -> None:
        server.send(Opcode.TEXT, f"{HOSTILE}\nsecond line".encode())
        server.send(Opcode.BINARY, HOSTILE.encode())
        server.send(Opcode.CLOSE, b"\x03\xf0" + HOSTILE.encode())
        server.wait_for_end()

    with refusing(act) as address:
        status, shown = run_in_terminal(partial(forker.start, ["connect", "-v", address, "-w", "-1"]), said=b"hello\n")
    assert status == 1
    assert_harmless(shown)
    lines = shown.split("\n")
    assert lines[lines.index(SPELT_OUT) + 1] == "second line"
    assert f"(binary, {len(HOSTILE.encode())} bytes) 1b 5d 30 3b" in shown


def test_messages_are_left_as_they_are_for_a_file(connect: Run) -> None:
    def act(server: Refuser) -> None:
        server.send(Opcode.TEXT, HOSTILE.encode())
        server.send(Opcode.BINARY, b"\x1b\xff")
        server.send(Opcode.CLOSE, b"\x03\xe8")
        server.wait_for_end()

    with refusing(act) as address:
        ran = connect(address, "-w", "-1")
    assert (ran.returncode, ran.stdout) == (0, HOSTILE.encode() + b"\n\x1b\xff\n")


def test_characters_outside_the_terminals_encoding_are_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def act(server: Refuser) -> None:
        server.send(Opcode.TEXT, "ü → 5".encode())
        server.send(Opcode.CLOSE, b"\x03\xe8")
        server.wait_for_end()

    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with refusing(act) as address:
        command = [*CONNECT, address, "-w", "-1"]
        assert run_in_terminal(lambda **streams: subprocess.Popen(command, **streams)) == (0, "\\xfc \\u2192 5\n")


REFUSALS = [
    b"HTTP/1.1 403 No\x9b5n\x85\r\nContent-Length: 8\r\n\r\n\x1b[2J\xc2\x9b5",
    b"HTTP/1.1 302 Found\r\nLocation: ws://\x9b\xff\x1b[2J/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://x/\x9b\xff\r\nX: \x9b\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 X\r\nUpgrade: \x9bx\r\nConnection: \x9b\r\nSec-WebSocket-Accept: \x9b\r\n\r\n",
    b"\x1b[2J\x9b\r\n\r\n",
]


@pytest.mark.parametrize(
    ("answer", "command"),
    [*((answer, "connect") for answer in REFUSALS), (REFUSALS[0], "check")],
    ids=[*map(str, range(len(REFUSALS))), "check"],
)
def test_a_refusal_is_made_printable(forker: Forker, answer: bytes, command: str) -> None:
    with socket.create_server((LOOPBACK, 0)) as listener:
        ended = threading.Event()

        def serve() -> None:
            while not ended.is_set():
                with contextlib.suppress(OSError), listener.accept()[0] as client:
                    client.settimeout(PATIENCE_S)
                    client.recv(65536)
                    client.sendall(answer)
                    client.shutdown(socket.SHUT_WR)
                    client.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        address = f"{LOOPBACK}:{listener.getsockname()[1]}"
        try:
            more = ["--only", "handshake", "--timeout", "0.3"] if command == "check" else []
            status, shown = run_in_terminal(partial(forker.start, [command, f"ws://{address}/", "-v", *more]))
        finally:
            ended.set()
            socket.create_connection(listener.getsockname()).close()
            thread.join(PATIENCE_S)
    assert status == 1
    assert_harmless(shown)


# In a terminal


class Terminal:
    """The program in its own terminal."""

    def __init__(self, forker: Forker, home: Path, address: str) -> None:
        self._screen, inside = pty.openpty()
        environment = {**os.environ, "XDG_STATE_HOME": str(home), "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"}
        self.process = forker.start(
            ["connect", address],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            environment=environment,
            leads_session=True,
        )
        os.close(inside)
        self._seen = ""

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def wait_for(self, text: str) -> str:
        """Return the new output up to this text."""
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
def terminal(forker: Forker, server: Program, tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(forker, tmp_path, f"{server.address}/room")
    try:
        terminal.wait_for(f"connected to ws://{server.address}/room")
        terminal.wait_for(">")
        yield terminal
    finally:
        terminal.end()


def test_a_terminal_shows_a_whole_conversation(terminal: Terminal, tmp_path: Path) -> None:
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


def test_ctrl_d_closes_the_connection(terminal: Terminal) -> None:
    terminal.type("\x04")
    terminal.wait_for("disconnected: closed by us with 1000")
    assert terminal.wait() == 0


def test_raw_bytes_are_sent_and_the_answer_is_shown(terminal: Terminal) -> None:
    terminal.type("/raw 81 05 68 65 6c 6c 6f\r")
    terminal.wait_for(
        "disconnected: closed by the server with 1002 (protocol error) 'server received unexpected unmasked"
    )
    assert terminal.wait() == 1


def test_control_characters_of_others_are_escaped_on_the_terminal(terminal: Terminal, piped: Run) -> None:
    piped("-x", "\x1b]0;owned\x07 fine", "-w", "0")
    assert "\x07" not in terminal.wait_for(r"< \x1b]0;owned\x07 fine")


def test_a_slow_terminal_holds_the_server_back(forker: Forker, flood: Flood, tmp_path: Path) -> None:
    terminal = Terminal(forker, tmp_path, flood.address)
    try:
        terminal.wait_for("< xxx")
        terminal.wait_for(">")  # the prompt
        # The test reads no output meanwhile.
        assert flood.is_held_back.wait(PATIENCE_S), f"{flood.sent:,} bytes were sent"
        assert flood.sent < 20 * MIB
    finally:
        terminal.end()
