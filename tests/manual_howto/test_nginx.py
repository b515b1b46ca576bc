"""The page about nginx, with the real one."""

from __future__ import annotations

import json
import shutil
import subprocess
from importlib.util import find_spec

from tests.manual_howto.walk import Walk
from tests.serving import PATIENCE_S, need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/opt/homebrew/bin"), "nginx")
    need(shutil.which("openssl"), "openssl")
    need(find_spec("prometheus_client"), "prometheus-client")
    walk.follow("howto/nginx")
    port = walk.port("8443")

    def curl(*arguments: str) -> str:
        """Return the answer to a request for the public name."""
        resolve = ["--resolve", f"rooms.example:{port}:127.0.0.1", "--noproxy", "*"]
        command = ["curl", "-s", "--cacert", str(walk.folder / "cert.pem"), *resolve, *arguments]
        return subprocess.check_output(command, text=True, timeout=PATIENCE_S)

    room = f"https://rooms.example:{port}/room/x"
    assert json.loads(curl(f"{room}?last=1"))["next"].endswith("-1")
    # A page of the same host may connect, and a page of another may not.
    upgrade = ["-H", "Connection: Upgrade", "-H", "Upgrade: websocket", "-H", "Sec-WebSocket-Version: 13"]
    upgrade += ["-H", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "--http1.1", "-o", "-", "-w", "%{http_code}"]
    assert curl(*upgrade, "-H", "Origin: https://evil.example", room).endswith("403")
    own = subprocess.run(
        ["curl", "-si", "-m", "1", "--http1.1", "--cacert", str(walk.folder / "cert.pem"), "--noproxy", "*"]
        + ["--resolve", f"rooms.example:{port}:127.0.0.1", *upgrade[:8]]
        + ["-H", f"Origin: https://rooms.example:{port}", room],
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert own.stdout.startswith(b"HTTP/1.1 101 ")
    # The page stays hidden, even if it were on.
    assert "404" in curl("-o", "/dev/null", "-w", "%{http_code}", f"https://rooms.example:{port}/_rawws/")
