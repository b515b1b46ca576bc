"""The start of each server: on the first core, on a free port, in the mode that a case needs."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from benchmarks import procinfo, wire

HOST = "127.0.0.1"
START_TIMEOUT_S = 60.0
PACKAGE_ROOT = Path(__file__).resolve().parent.parent


# Older versions are compared with newer ones, so a feature that they lack is no failure.
NOT_YET = "this version has no"


class Unavailable(Exception):
    """The reason why this server can't run this case here."""


class Answerer(Enum):
    """The part of rawws that answers requests: its own answer, or the application on one of two event loops."""

    BUILT_IN = "built-in"
    TRIO = "trio"
    ASYNCIO = "asyncio"


@dataclass(frozen=True)
class Wish:
    """The features that a case needs of a server."""

    broadcast: bool = False
    compression: bool = False
    tls: bool = False
    distinct: bool = False  # messages differ, and their content matters
    handler: bool = False  # rawws as a library: a task and a handler for each connection, as the others have it
    callbacks: bool = False  # rawws as a library: callbacks in the loop's turn
    # HTTP: the other servers run an application of ASGI, and rawws answers in this way.
    http: Answerer | None = None


@dataclass(frozen=True)
class Certificate:
    cert: str
    key: str


@dataclass(frozen=True)
class Running:
    """A started server: where it listens, and the process to be watched."""

    name: str
    port: int
    pid: int
    wish: Wish


@dataclass(frozen=True)
class Server:
    name: str  # as typed after --only
    title: str  # as printed
    module: str = ""  # below benchmarks.peers; empty for rawws and ws
    packages: tuple[str, ...] = ()  # these must be importable
    distributions: tuple[str, ...] = ()  # their versions are reported
    compression: bool = True
    asgi: tuple[str, ...] = ()  # what Python runs, for a server of ASGI applications; --port is added

    def takes(self, wish: Wish) -> bool:
        """Return whether it is a server of this kind; cases of another kind have no row of it."""
        return self.name == "rawws" or bool(self.asgi) == (wish.http is not None)

    def missing(self) -> str | None:
        """Return why this server can't be started at all, or None."""
        if self.name == "ws":
            if not shutil.which("node"):
                return "node is not installed"
            found = package_version("ws")
            return None if found else "npm install --no-save ws bufferutil, here or where NODE_PATH leads"
        absent = [package for package in self.packages if importlib.util.find_spec(package) is None]
        return f"{', '.join(absent)} not installed" if absent else None

    def command(self, port: int, wish: Wish, certificate: Certificate | None) -> list[str]:
        if self.asgi:
            return [sys.executable, *self.asgi, "--port", str(port)]
        mode = "broadcast" if wish.broadcast else "echo"
        tls = ["--tls-cert", certificate.cert, "--tls-key", certificate.key] if wish.tls and certificate else []
        if self.name == "rawws" and wish.handler:
            return [sys.executable, "-m", "benchmarks.peers.rawws_handler", "--port", str(port), "--mode", mode]
        if self.name == "rawws" and wish.callbacks:
            return [sys.executable, "-m", "benchmarks.peers.rawws_callbacks", "--port", str(port), "--mode", mode]
        if self.name == "rawws":
            return rawws_command(port, mode, wish, tls)
        if wish.compression and not self.compression:
            raise Unavailable("has no compression")
        if self.name == "ws":
            program = ["node", str(PACKAGE_ROOT / "benchmarks" / "peers" / "ws_server.mjs")]
        else:
            program = [sys.executable, "-m", f"benchmarks.peers.{self.module}"]
        compression = ["--compression"] if wish.compression else []
        if self.name == LIMIT and wish.distinct:
            program.append("--relay")
        return [*program, "--port", str(port), "--mode", mode, *compression, *tls]

    def versions(self) -> dict[str, str]:
        if self.name == "ws":
            versions = {"ws": package_version("ws"), "bufferutil": package_version("bufferutil")}
            versions["node"] = node("process.stdout.write(process.version)")
            return {name: version or "not installed" for name, version in versions.items()}
        found: dict[str, str] = {}
        for distribution in self.distributions:
            try:
                found[distribution] = importlib.metadata.version(distribution)
            except importlib.metadata.PackageNotFoundError:
                found[distribution] = "from source" if distribution == self.name else "not installed"
        return found


LIMIT = "limit"
APPLICATION = "benchmarks.peers.application:app"


def uvicorn(http: str, loop: str) -> tuple[str, ...]:
    """Return the arguments for uvicorn without a log of requests, which rawws has at its level INFO."""
    parts = ("--http", http, "--loop", loop, "--ws", "websockets", "--ws-per-message-deflate", "false")
    return ("-m", "uvicorn", APPLICATION, *parts, "--no-access-log", "--log-level", "warning")


SERVERS = (
    Server("rawws", "rawws", "", ("rawws",), ("rawws", "trio", "h11", "wsproto", "numpy")),
    Server("uwebsockets", "uWebSockets (socketify)", "uwebsockets", ("socketify",), ("socketify",), True),
    Server("picows", "picows", "picows_server", ("picows", "uvloop"), ("picows", "uvloop"), False),
    Server("ws", "npm ws"),
    Server("websockets", "websockets (uvloop)", "websockets_uvloop", ("websockets", "uvloop"), ("websockets",)),
    Server("websockets-trio", "websockets (trio)", "websockets_trio", ("websockets", "trio"), ("websockets",)),
    Server("aiohttp", "aiohttp (uvloop)", "aiohttp_server", ("aiohttp", "uvloop"), ("aiohttp",)),
    Server(
        "trio-websocket",
        "trio-websocket",
        "trio_websocket_server",
        ("trio_websocket",),
        ("trio-websocket",),
        False,
    ),
    Server(
        "uvicorn",
        "uvicorn (h11, asyncio)",
        packages=("uvicorn", "h11", "websockets", "starlette"),
        distributions=("uvicorn", "h11", "websockets", "starlette"),
        asgi=uvicorn("h11", "asyncio"),
    ),
    Server(
        "uvicorn-httptools",
        "uvicorn (httptools, uvloop)",
        packages=("uvicorn", "httptools", "uvloop", "websockets", "starlette"),
        distributions=("uvicorn", "httptools", "uvloop", "websockets", "starlette"),
        asgi=uvicorn("httptools", "uvloop"),
    ),
    Server(
        "hypercorn",
        "hypercorn (trio)",
        packages=("hypercorn", "trio", "starlette"),
        distributions=("hypercorn", "trio", "starlette"),
        asgi=("-m", "benchmarks.peers.hypercorn_trio"),
    ),
    Server(LIMIT, "the machine's limit", "limit"),
)
BY_NAME = {server.name: server for server in SERVERS}


def node(script: str) -> str:
    try:
        done = subprocess.run(["node", "-e", script], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@functools.cache
def package_version(name: str) -> str:
    """Return the version of the npm package that the peer script would find, or nothing."""
    return node(
        "const r = require('module').createRequire(process.cwd() + '/');"
        f"process.stdout.write(r('{name}/package.json').version)"
    )


@functools.cache
def rawws_help() -> str:
    done = subprocess.run(
        [sys.executable, "-m", "rawws", "serve", "--help"],
        capture_output=True,
        text=True,
        timeout=20,
        env=environment(),
    )
    return done.stdout


def rawws_command(port: int, mode: str, wish: Wish, tls: list[str]) -> list[str]:
    """Return the command for rawws, without the flags that this version of it does not have yet."""
    known = rawws_help()
    if wish.compression and "--no-compression" not in known:
        raise Unavailable(f"{NOT_YET} compression")
    if wish.tls and "--tls-cert" not in known:
        raise Unavailable(f"{NOT_YET} TLS")
    application = application_flags(wish.http, known)
    command = [sys.executable, "-m", "rawws"]
    flags = [["--host", HOST], ["--port", str(port)], ["--mode", mode], ["--hello", ""]]
    flags += [["--log-level", "warning"], ["--ping-interval", "0"]]
    if not wish.compression:
        flags.append(["--no-compression"])
    for flag in flags:
        if flag[0] in known:
            command += flag
    return command + application + tls


def application_flags(answerer: Answerer | None, known: str) -> list[str]:
    if answerer in (None, Answerer.BUILT_IN):
        return []
    if importlib.util.find_spec("starlette") is None:
        raise Unavailable("starlette not installed")
    if "--app-loop" in known:
        return ["--app", APPLICATION, "--app-loop", answerer.value]
    if "--app" not in known or answerer is not Answerer.TRIO:
        raise Unavailable(f"{NOT_YET} application on {answerer.value}")
    return ["--app", APPLICATION]


def environment() -> dict[str, str]:
    """Return the environment in which ``-m benchmarks.peers…`` and ``-m rawws`` are found from anywhere."""
    paths = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


@contextmanager
def started(server: Server, wish: Wish, certificate: Certificate | None = None) -> Iterator[Running]:
    """Start the server on its own core, wait until it answers, and stop it and its children afterwards."""
    port = free_port()
    command = server.command(port, wish, certificate)
    # Not every version of rawws lets an application have WebSockets.
    with running(server.name, command, port, wish, handshake=not wish.tls and wish.http is None) as process:
        yield process


@contextmanager
def running(
    name: str, command: list[str], port: int, wish: Wish, *, handshake: bool, core: int | None = None
) -> Iterator[Running]:
    """Run the command on the server's core, or another, and yield when it answers a handshake, or a connect."""
    core = procinfo.cores()[0] if core is None else core
    own = os.sched_getaffinity(0)
    with tempfile.TemporaryFile() as output:
        # The child inherits this thread's core; there is no preexec_fn that is safe in every program.
        os.sched_setaffinity(0, {core})
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env=environment(), start_new_session=True,
            )  # fmt: skip
        finally:
            os.sched_setaffinity(0, own)
        try:
            wait_until_ready(process, port, handshake, output.fileno())
            yield Running(name, port, process.pid, wish)
        finally:
            stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            # Long enough for an orderly end, short enough for a server that waits for each client's close.
            process.wait(0.5)
            return
        except subprocess.TimeoutExpired:
            continue
    process.wait(5)


def wait_until_ready(process: subprocess.Popen[bytes], port: int, handshake: bool, output_fd: int) -> None:
    """Return when the server answers; raise Unavailable if it never does."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if answers(port, handshake):
            return
        time.sleep(0.02)
    size = os.lseek(output_fd, 0, os.SEEK_END)
    tail = os.pread(output_fd, 600, max(0, size - 600)).decode(errors="replace").strip()
    raise Unavailable(f"did not start: {tail or 'no output'}")


def answers(port: int, handshake: bool) -> bool:
    try:
        with socket.create_connection((HOST, port), 1.0) as sock:
            if not handshake:
                return True
            sock.sendall(wire.upgrade_request(port, wire.new_key()))
            if b" 101 " not in sock.recv(4096):
                return False
            # Close in order: some servers print a traceback otherwise.
            with suppress(OSError):
                sock.sendall(wire.client_frame(b"\x03\xe8", wire.FIN | wire.CLOSE))
                while sock.recv(4096):
                    pass
            return True
    except OSError:
        return False
