"""The page about groups, with workers in a shell, in Python, and in JavaScript."""

from __future__ import annotations

import subprocess
import urllib.request

from tests.manual.howto.walk import Walk
from tests.server.test_real_clients import find_node_modules
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import wait_listening_at


def test_the_page_works_step_by_step(walk: Walk) -> None:
    port = walk.port("8080")

    def work_in_javascript(block: str) -> None:
        urllib.request.urlopen(f"http://{LOOPBACK}:{port}/room/js", b"payment 3").close()
        code = walk.real(block).replace("/room/pay", "/room/js")
        program = 'const WebSocket = require("ws");\n' + code
        process = subprocess.Popen(["node", "-e", program], stdout=subprocess.PIPE, text=True, env=find_node_modules())
        assert process.stdout is not None
        assert process.stdout.readline() == "SMS: payment 3\n"
        process.kill()
        process.communicate(timeout=PATIENCE_S)

    walk.before["curl"] = lambda: wait_listening_at(int(port))
    walk.follow("howto/queues", js=work_in_javascript, sh=lambda _: None)
