"""Each block of code in the manual's page on the library is run as it stands, except for the port."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.sync.server import ServerConnection, serve

from tests.manual import page
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import upgrade

BLOCKS = re.findall(r"^```python\n(.*?)^```$", page("howto/library"), re.MULTILINE | re.DOTALL)


def block(telling: str) -> str:
    """Return the one block that contains this text."""
    (found,) = [block for block in BLOCKS if telling in block]
    return str(found)


@pytest.fixture
def run(free_port: int) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts a block as a program, with the test's port in place of 8080."""
    started: list[subprocess.Popen[str]] = []

    def start(telling: str) -> subprocess.Popen[str]:
        code = block(telling).replace("8080", str(free_port))
        process = subprocess.Popen(
            [sys.executable, "-u", "-W", "error", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=PATIENCE_S)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def connect_when_ready(port: int, path: str = "/room") -> Iterator[ClientConnection]:
    """Connect to a program that was just started."""
    wait_for_listener(port)
    with connect(f"ws://{LOOPBACK}:{port}{path}", proxy=None) as connection:
        yield connection


def wait_for_listener(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection((LOOPBACK, port), PATIENCE_S).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise AssertionError("the program does not listen")


def output(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


def test_the_handler_echoes(run: Callable[[str], subprocess.Popen[str]], free_port: int) -> None:
    run("rawws.serve, handler, 8080, host=")
    with connect_when_ready(free_port) as ws:
        for message in ("text", b"binary"):
            ws.send(message)
            assert ws.recv() == message


def test_the_client_talks_to_the_handler(run: Callable[[str], subprocess.Popen[str]], free_port: int) -> None:
    run("rawws.serve, handler, 8080, host=")
    wait_for_listener(free_port)
    hello, round_trip = output(run("a round trip takes")).splitlines()
    assert hello == "hello"
    assert re.fullmatch(r"a round trip takes \d+\.\d\d ms", round_trip)


def test_the_client_reconnects(run: Callable[[str], subprocess.Popen[str]], free_port: int) -> None:
    messages = iter(["one", "two"])

    def tell(connection: ServerConnection) -> None:
        assert connection.request is not None
        assert connection.request.path == "/news"
        assert connection.request.headers["Authorization"] == "Bearer secret"
        news = next(messages, "three")
        connection.send(news)
        if news == "one":
            connection.close(1012, "restart")
        elif news == "two":
            connection.socket.shutdown(socket.SHUT_RDWR)
        else:
            connection.recv()

    with serve(tell, LOOPBACK, free_port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        process = run("async for ws in rawws.connect(")
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.kill()
        server.shutdown()
        thread.join(PATIENCE_S)
    assert lines[:3] == ["one\n", "cut off: closed by the server with 1012 (service restart) 'restart'\n", "two\n"]
    assert lines[3].startswith("cut off: lost without a close (1006)")
    assert lines[4] == "three\n"


def test_the_example_of_rooms_from_code_works(run: Callable[[str], subprocess.Popen[str]], free_port: int) -> None:
    process = run("delivery.queued")
    with connect_when_ready(free_port, "/room?name=alice") as alice:
        alice.send("hello")
        assert alice.recv() == "alice: hello"
        url = f"http://{LOOPBACK}:{free_port}"
        with httpx.Client(trust_env=False) as client:
            assert client.post(f"{url}/room", content="posted").status_code == 202
            assert client.get(f"{url}/").text == "hi there\n"
        assert alice.recv() == "posted"
        with pytest.raises(InvalidStatus, match="401"), connect_when_ready(free_port):
            pass
    assert process.stdout is not None
    assert process.stdout.readline() == "sent 1, queued 0, closed 0\n"


def test_the_example_next_to_a_web_application_works(
    run: Callable[[str], subprocess.Popen[str]], free_port: int
) -> None:
    run("rawws.asgi(app)")
    with connect_when_ready(free_port, "/room/payments") as sms, httpx.Client(trust_env=False) as client:
        answer = client.post(f"http://{LOOPBACK}:{free_port}/pay", content="100")
        assert (answer.status_code, answer.text) == (201, "paid")
        assert sms.recv() == "100"


def test_the_example_attached_to_an_existing_server_works(
    run: Callable[[str], subprocess.Popen[str]], free_port: int
) -> None:
    run("rawws.attach(")
    with connect_when_ready(free_port) as ws:
        ws.send("hello")
        assert ws.recv() == "hello"


@pytest.mark.parametrize("resets", [False, True])
def test_no_client_ends_the_server_that_rawws_is_attached_to(
    run: Callable[[str], subprocess.Popen[str]], free_port: int, resets: bool
) -> None:
    process = run("rawws.attach(")
    wait_for_listener(free_port)
    foreign = upgrade("/room", "Origin: https://evil.example")
    for said in (b"", b"GET / HT", b"no HTTP\r\n\r\n", foreign, upgrade("/room"), upgrade("/room") + b"\x81\x01a"):
        with socket.create_connection((LOOPBACK, free_port), PATIENCE_S) as client:
            client.sendall(said)
            if resets:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        with connect_when_ready(free_port) as ws:  # this client came later, so the other one has been served
            ws.send("hello")
            assert ws.recv() == "hello"
    assert process.poll() is None


def test_the_example_of_the_protocol_alone_works(run: Callable[[str], subprocess.Popen[str]]) -> None:
    assert output(run("from rawws.wire import Role, Session")).splitlines() == [
        "Message(opcode=<Opcode.TEXT: 1>, payload=b'Hello')",
        "PingReceived(payload=b'Hello')",
        "8a 05 48 65 6c 6c 6f",
    ]


def test_the_example_of_test_helpers_works(run: Callable[[str], subprocess.Popen[str]]) -> None:
    assert output(run("open_raw()")) == ""


@pytest.mark.parametrize("telling", ["rawws.serve, handler, 8080, host=", "rawws.asgi(app)"])
def test_a_program_ends_with_ctrl_c(run: Callable[[str], subprocess.Popen[str]], free_port: int, telling: str) -> None:
    process = run(telling)
    with connect_when_ready(free_port, "/room/x") as ws:
        process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed):
            ws.recv(PATIENCE_S)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in err


def test_every_block_is_tested() -> None:
    assert len(BLOCKS) == 8
