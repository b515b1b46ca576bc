"""The smallest server."""

from __future__ import annotations

from tests.examples.running import Run, dial
from tests.serving.machine import PATIENCE_S


def test_each_message_goes_back(run: Run) -> None:
    with dial(run("echo", "--port", "0").wait_listening().port) as ws:
        for message in ("text", b"binary"):
            ws.send(message)
            assert ws.recv(PATIENCE_S) == message
