"""``rawws post``: the message, its id, the errors in one sentence, and the exit statuses."""

from __future__ import annotations

import io
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import rawws.cli
from rawws.cli.arguments import complete_http_url
from rawws.cli.post import MAX_MESSAGE_BYTES, TOKEN_VARIABLE
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram


class Ran(NamedTuple):
    status: int
    out: str
    err: str


Post = Callable[..., Ran]


@pytest.fixture
def post(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Post:
    """Run the command in this process, with bytes for its standard input."""
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    monkeypatch.setattr("random.random", lambda: 0.0)

    def run(*arguments: str, given: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given)))
        status = rawws.cli.main(["post", *arguments])
        return Ran(status, *capsys.readouterr())

    return run


@pytest.fixture
def program(start_program: StartProgram) -> Program:
    return start_program("--history", "10")


def messages(program: Program) -> str:
    """Return the room's history, as a client that polls gets it."""
    with socket.create_connection((LOOPBACK, program.port), PATIENCE_S) as sock:
        sock.sendall(b"GET /room?last=10 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        with sock.makefile("rb") as answer:
            return re.sub("[0-9a-f]{8}-", "#", answer.read().decode().partition("\r\n\r\n")[2])


def test_a_text_is_published_and_its_id_printed(program: Program, post: Post) -> None:
    ran = post(f"{program.address}/room", "-d", "grüße")
    assert (ran.status, ran.err) == (0, "")
    assert re.fullmatch(r"[0-9a-f]{8}-1\n", ran.out)
    assert '"text":"grüße"' in messages(program)


def test_a_message_is_read_from_a_file_or_from_standard_input(program: Program, post: Post, tmp_path: Path) -> None:
    file = tmp_path / "message"
    file.write_bytes(b"two\nlines\r\n")
    url = f"ws://{program.address}/room"
    assert post(url, "-d", f"@{file}", "-q") == Ran(0, "", "")
    assert post(url, "-q", given=b"piped\n\n") == Ran(0, "", "")
    assert post(url, "-q", "-d", "@-", "-b", given=b"\xff\n") == Ran(0, "", "")
    assert post(url, "-q", "-d", "", given=b"not this") == Ran(0, "", "")
    shown = messages(program)
    assert [*re.findall(r'"(?:text|binary|base64|data)":"([^"]*)"', shown)] == ["two\\nlines", "piped\\n", "/wo=", ""]


def test_a_repeated_command_publishes_once(program: Program, post: Post) -> None:
    arguments = (f"http://{program.address}/room", "-d", "hi", "--idempotency-key", "order-17")
    first, second = post(*arguments), post(*arguments)
    assert first == second
    assert first.status == 0
    refused = post(*arguments[:2], "ho", *arguments[3:])
    assert (refused.status, refused.out) == (1, "")
    assert refused.err.endswith("the server answered 422: This Idempotency-Key was used before, for another message\n")


def test_the_token_is_in_a_file_or_a_variable(
    start_program: StartProgram, post: Post, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = start_program("--publish-token", "s3cret")
    url = f"{program.address}/room"
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    assert post(url, "-q", "-d", "hi", "--token-file", str(file)) == Ran(0, "", "")
    refused = post(url, "-d", "hi")
    assert refused.status == 1
    assert refused.err.startswith(f"rawws: {program.address}: the server answered 401: Publishing needs the token")
    monkeypatch.setenv(TOKEN_VARIABLE, "wr0ng")
    assert post(url, "-d", "hi").err == refused.err
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    assert post(url, "-q", "-d", "hi") == Ran(0, "", "")


def test_a_server_that_is_away_is_one_sentence(post: Post) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        ran = post(address, "-d", "hi", "--tries", "2")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"rawws: {address}: can't connect: Connection refused; no program listens there")
    assert ran.err.count("\n") == 1


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that ends each connection when it has the request."""
    listener = socket.create_server((LOOPBACK, 0))

    def serve() -> None:
        while True:
            try:
                connected, _ = listener.accept()
            except OSError:
                return
            with connected:
                connected.recv(65536)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"{LOOPBACK}:{listener.getsockname()[1]}"
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(PATIENCE_S)


def test_a_lost_answer_has_a_status_of_its_own(silent: str, post: Post) -> None:
    ran = post(silent, "-d", "hi", "--tries", "2")
    assert (ran.status, ran.out) == (3, "")
    assert "it isn't known whether the message was published" in ran.err


@pytest.mark.parametrize(
    ("arguments", "given", "reason"),
    [
        (["localhost:1", "-d", "@/nowhere"], b"", "--data @/nowhere can't be read: No such file or directory"),
        (["localhost:1"], b"\xff", "the message isn't UTF-8, as a text has to be; --binary publishes any bytes"),
        (["ftp://localhost"], b"", "the address doesn't begin with http:// or https://"),
        (["localhost:1", "--token-file", "/nowhere"], b"", "--token-file /nowhere can't be read"),
        (["localhost:1", "--tries", "0"], b"", "--tries: '0' would let nothing through"),
        (["localhost:1", "--key", "x"], b"", "--key has no effect without --cert"),
    ],
)
def test_an_argument_that_cannot_be_used_is_one_sentence(
    post: Post, arguments: list[str], given: bytes, reason: str
) -> None:
    ran = post(*arguments, given=given)
    assert (ran.status, ran.out) == (2, "")
    assert reason in ran.err


def test_an_endless_input_is_not_read_for_ever(post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_MESSAGE_BYTES == 1 << 30
    monkeypatch.setattr("rawws.cli.post.MAX_MESSAGE_BYTES", 1000)
    assert "/dev/zero has over 1000 bytes" in post("localhost:1", "-d", "@/dev/zero").err


def test_closed_streams_are_named() -> None:
    command = [sys.executable, "-m", "rawws", "post", "localhost:1"]
    for closed, name in (("<&-", "input"), (">&-", "output")):
        line = f'exec "$@" {closed}'
        ran = subprocess.run(["sh", "-c", line, "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
        assert ran.returncode == 2
        assert ran.stderr.startswith(f"rawws: standard {name} is closed")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("localhost:8080/room", "http://localhost:8080/room"),
        (":8080/room", "http://localhost:8080/room"),
        ("ws://a/room", "http://a/room"),
        ("WSS://a/room", "https://a/room"),
        ("https://a/room", "https://a/room"),
        ("ws+unix:///run/s:/room", "http+unix:///run/s:/room"),
        ("http+unix:///run/s:/room", "http+unix:///run/s:/room"),
        ("ftp://a", "ftp://a"),
    ],
)
def test_an_address_may_be_short_or_that_of_a_websocket(typed: str, meant: str) -> None:
    assert complete_http_url(typed) == meant
