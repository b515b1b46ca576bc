"""Real reverse proxies in front of a server. They add no header fields unless they are configured to."""

from __future__ import annotations

import contextlib
import csv
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.redis_server import free_port
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import wait_listening_at

# The configuration of nginx's page about WebSockets (https://nginx.org/en/docs/http/websocket.html), unchanged.
NGINX_HTTP = """
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
"""
NGINX = (
    NGINX_HTTP
    + """    server {{
        listen {address}:{port};
        location {location} {{
            proxy_pass http://{target}{path};
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection "upgrade";
            {settings}
        }}
    }}
}}
"""
)
HAPROXY = """
global
    maxconn 64
    stats socket {folder}/stats level user
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
frontend site
    bind {address}:{port}
    default_backend rawws
backend rawws
    {settings}
    server one {target} {options}
"""

NAMES = ("nginx", "haproxy", "socat")


def check_result(folder: Path) -> str:
    """Return the status of HAProxy's last check of the server, such as ``L7OK``; empty before the first one."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(PATIENCE_S)
        try:
            asking.connect(str(folder / "stats"))
        except (FileNotFoundError, ConnectionRefusedError):
            return ""  # it doesn't listen there yet
        asking.sendall(b"show stat\n")
        table = csv.DictReader(asking.makefile())
        (row,) = [row for row in table if row["svname"] == "one"]
    return row["check_status"].removeprefix("* ").removeprefix("INI")


@contextmanager
def proxy(
    name: str,
    port_behind: int,
    folder: Path,
    *settings: str,
    options: str = "",
    location: str = "/",
    path: str = "",
) -> Iterator[int]:
    """Put a proxy in front of a port, and yield the port of the proxy.

    ``settings`` are lines for nginx's location or HAProxy's backend. ``options`` are those of HAProxy's server;
    ``location`` is nginx's, which a ``path`` replaces on the way.
    """
    # On Debian, the directory of daemons is only in root's PATH.
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]))
    need(found, name)
    assert found is not None
    port = free_port()
    target = f"{LOOPBACK}:{port_behind}"
    chosen = {
        "folder": folder,
        "address": LOOPBACK,
        "port": port,
        "target": target,
        "settings": "\n    ".join(settings),
        "options": options,
        "location": location,
        "path": path,
    }
    configuration = folder / f"{name}.conf"
    if name == "nginx":
        configuration.write_text(NGINX.format(**chosen))
        command = [found, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration)]
    elif name == "haproxy":
        configuration.write_text(HAPROXY.format(**chosen))
        command = [found, "-db", "-f", str(configuration)]
    else:
        listen = f"TCP-LISTEN:{port},bind={LOOPBACK},fork,reuseaddr"
        command = [found, listen, f"TCP:{target}"]
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
