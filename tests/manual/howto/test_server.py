"""The page about servers in Python."""

from __future__ import annotations

import signal

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.manual.howto.conftest import Run
from tests.manual.howto.walk import Walk
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import wait_listening_at


@pytest.mark.thorough
def test_the_page_works_step_by_step(walk: Walk) -> None:
    walk.follow("howto/server")


def test_a_program_ends_with_ctrl_c(run: Run) -> None:
    process, port = run("howto/server", "echo.py")
    wait_listening_at(port)
    with connect(f"ws://{LOOPBACK}:{port}/", proxy=None) as ws:
        for message in ("text", b"binary"):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
        process.send_signal(signal.SIGINT)
        with pytest.raises(ConnectionClosed):
            ws.recv(PATIENCE_S)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert "KeyboardInterrupt" in err
