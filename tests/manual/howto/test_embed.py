"""The page about servers that read their requests themselves."""

from __future__ import annotations

import socket
import struct

import pytest
from websockets.sync.client import connect

from tests.manual.howto.conftest import Run
from tests.manual.howto.walk import Walk
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import wait_listening_at
from tests.serving.wire import upgrade


def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/embed")


@pytest.mark.parametrize("resets", [False, True])
def test_no_client_ends_the_server_that_rawws_is_attached_to(run: Run, resets: bool) -> None:
    process, port = run("howto/embed", "embedded.py")
    wait_listening_at(port)
    foreign = upgrade("/room", "Origin: https://evil.example")
    for said in (b"", b"GET / HT", b"no HTTP\r\n\r\n", foreign, upgrade("/room"), upgrade("/room") + b"\x81\x01a"):
        with socket.create_connection((LOOPBACK, port), PATIENCE_S) as client:
            client.sendall(said)
            if resets:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # This client came later, so the other one has been served.
        with connect(f"ws://{LOOPBACK}:{port}/room", proxy=None) as ws:
            ws.send("hello")
            assert ws.recv(PATIENCE_S) == "hello"
    assert process.poll() is None
