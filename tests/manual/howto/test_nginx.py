"""The page about nginx, with the real one."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.util import find_spec

from tests.manual.howto.walk import Walk
from tests.serving.machine import PATIENCE_S, need

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"), "nginx")
    need(shutil.which("openssl"), "openssl")
    need(find_spec("prometheus_client"), "prometheus-client")
    walk.follow("howto/nginx")
    port = walk.port("8443")

    def curl(*arguments: str) -> str:
        """Return the answer to a request for the public name."""
        command = [
            "curl",
            "-s",
            "--cacert",
            "cert.pem",
            "--resolve",
            f"rooms.example:{port}:127.0.0.1",
            "--noproxy",
            "*",
        ]
        answer = subprocess.run(
            [*command, *arguments], cwd=walk.folder, capture_output=True, timeout=PATIENCE_S, check=False
        )
        return answer.stdout.decode("utf-8", errors="replace")

    room = f"https://rooms.example:{port}/room/x"
    assert json.loads(curl(f"{room}?last=1"))["next"].endswith("-1")
    # A page of the same host may connect, and a page of another may not.
    fields = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {KEY}")
    upgrade = ["--http1.1", "-i", "-m", "1", *(word for field in fields for word in ("-H", field)), room]
    assert curl("-H", "Origin: https://evil.example", *upgrade).startswith("HTTP/1.1 403 ")
    assert curl("-H", f"Origin: https://rooms.example:{port}", *upgrade).startswith("HTTP/1.1 101 ")
    # The page stays hidden, even if it were on.
    assert "404" in curl("-o", "/dev/null", "-w", "%{http_code}", f"https://rooms.example:{port}/_rawws/")
