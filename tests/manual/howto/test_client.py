"""The page about clients in Python."""

from __future__ import annotations

import socket
import threading

import pytest
from websockets.sync.server import ServerConnection, serve

from tests.manual.howto.conftest import Run
from tests.manual.howto.walk import Walk
from tests.serving.machine import LOOPBACK, PATIENCE_S


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/client")


def test_the_client_reconnects(run: Run) -> None:
    messages = iter(["one", "two"])

    def publish(connection: ServerConnection) -> None:
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

    process, port = run("howto/client", "reconnect.py")  # it tries until somebody listens
    with serve(publish, LOOPBACK, port) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        process.kill()
        server.shutdown()
        thread.join(PATIENCE_S)
    assert lines[:3] == ["one\n", "cut off: closed by the server with 1012 (service restart) 'restart'\n", "two\n"]
    assert lines[3].startswith("cut off: lost without a close (1006)")
    assert lines[4] == "three\n"
