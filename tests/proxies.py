"""Real reverse proxies in front of a server, which add no forwarding headers."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.redis_server import free_port
from tests.serving import LOOPBACK, PATIENCE_S, Program, need, wait_listening_at

# As nginx's own page about WebSockets has it (https://nginx.org/en/docs/http/websocket.html), and no field more.
NGINX = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen {address}:{port};
        location / {{
            proxy_pass http://{target};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
        }}
    }}
}}
"""
HAPROXY = """
global
    maxconn 64
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend site
    bind {address}:{port}
    default_backend rawws
backend rawws
    server one {target}
"""

NAMES = ("nginx", "haproxy", "socat")


@contextmanager
def silent_proxy(name: str, program: Program, folder: Path) -> Iterator[int]:
    """Put a proxy in front of a program, and yield its port."""
    # On Debian, the directory of daemons is only in root's PATH.
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))
    need(found, name)
    assert found is not None
    port = free_port()
    settings = {"folder": folder, "address": LOOPBACK, "port": port, "target": program.address}
    configuration = folder / f"{name}.conf"
    if name == "nginx":
        configuration.write_text(NGINX.format(**settings))
        command = [found, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    elif name == "haproxy":
        configuration.write_text(HAPROXY.format(**settings))
        command = [found, "-db", "-f", str(configuration)]
    else:
        listen = f"TCP-LISTEN:{port},bind={LOOPBACK},fork,reuseaddr"
        command = [found, listen, f"TCP:{program.address}"]
    log = (folder / f"{name}.log").open("wb")
    with log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            wait_listening_at(port)
            yield port
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_S)
            process.kill()
