"""The wait of others while the grants of very many peers end in the same second.

    python -m benchmarks expiry                           10,000 peers, about half a minute
    python -m benchmarks expiry --peers 2000 --seconds 2  fewer, and less before and after

All peers of the crowd have one JSON Web Token, so their grants end at once, and the server closes them with 4401. In
another room are 50 peers whose grants go on. Each message there has the time of its sending in it, 40 messages a second
are sent on a fixed beat, and each of the 50 records the age at its arrival. The server runs on the first core. The
crowd and the others are two processes on the last one, where the crowd gives way to the others.

An age is given by the clock. The CPU time that the server has used between the sending of a message and its last
arrival is given too: it shows on a busy machine how long the server was occupied with something else.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import hmac
import json
import multiprocessing
import multiprocessing.connection
import os
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import procinfo, servers, wire
from benchmarks.latency import STAMP_DIGITS, stamped
from benchmarks.load import ARRIVING, BUFFER_BYTES, LoadError, close_clients, connect, read_handshake
from benchmarks.memory import SPARE_FILES, allow_open_files
from benchmarks.servers import HOST, Running, Unavailable, Wish

OTHERS = 50
MESSAGES_A_SECOND = 40
MESSAGE_BYTES = 64
FRAME_BYTES = 2 + MESSAGE_BYTES
# The crowd has to be there before its token ends. Its first peers show how long that takes; it has twice as long.
REHEARSAL = 100
SPARE_S = 3.0
MOST_S = 30.0  # for the crowd to be closed
EXPIRED = 4401


def token(secret: str, user: str, ends_at: int) -> str:
    """Return a JSON Web Token that may read and write every room until a time."""
    rights = {"read": ["*"], "write": ["*"]}
    parts = [{"alg": "HS256", "typ": "JWT"}, {"sub": user, "exp": ends_at, "rawws": rights}]
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
    return f"{signed}.{_base64url(hmac.digest(secret.encode(), signed.encode(), 'sha256'))}"


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def open_peers(port: int, count: int, path: str, given: str) -> list[socket.socket]:
    """Open WebSocket connections with a token."""
    peers: list[socket.socket] = []
    while len(peers) < count:
        fresh = []
        for _ in range(min(ARRIVING, count - len(peers))):
            peer, key = connect(port), wire.new_key()
            peers.append(peer)
            request = wire.upgrade_request(port, key, path=path)
            peer.sendall(request.replace(wire.END_OF_HEADERS, f"\r\nAuthorization: Bearer {given}\r\n\r\n".encode()))
            fresh.append((peer, key))
        for peer, key in fresh:
            read_handshake(peer, key, deflate=False)
    return peers


# The others


class Message(NamedTuple):
    """A message to the others: when it was sent (Unix seconds), its ages on arrival, and the server's CPU time."""

    sent_at: float
    ages_s: list[float]
    cpu_s: float


def send_to_others(server: Running, given: str, pipe: multiprocessing.connection.Connection) -> None:
    """Send messages to peers in a room until there is something in the pipe; then put all that was seen into it."""
    peers = open_peers(server.port, OTHERS, "/others", given)
    poller = select.epoll()
    by_fd = {peer.fileno(): peer for peer in peers}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    pipe.send(True)
    messages: list[Message] = []
    due = time.perf_counter()
    while not pipe.poll():
        time.sleep(max(0.0, due - time.perf_counter()))
        messages.append(_send_one(server.pid, peers[0], by_fd, poller))
        due = max(due + 1 / MESSAGES_A_SECOND, time.perf_counter())
    pipe.send(messages)
    close_clients(peers)


def _send_one(pid: int, publisher: socket.socket, by_fd: dict[int, socket.socket], poller: select.epoll) -> Message:
    cpu_s = procinfo.main_thread_seconds(pid)
    ages_s: list[float] = []
    sent_at = time.time()
    publisher.sendall(wire.client_frame(stamped(MESSAGE_BYTES)))
    while len(ages_s) < len(by_fd):
        ready = poller.poll(MOST_S)
        if not ready:
            raise LoadError(f"one of the others has waited for {MOST_S:g} s")
        for fd, _ in ready:
            received = by_fd[fd].recv(BUFFER_BYTES)
            if len(received) != FRAME_BYTES:
                raise LoadError(f"not one message but {len(received)} bytes for one of the others: {received[:80]!r}")
            stamp = int(received[2 : 2 + STAMP_DIGITS])
            ages_s.append((time.perf_counter_ns() - stamp) / 1e9)
    return Message(sent_at, ages_s, procinfo.main_thread_seconds(pid) - cpu_s)


# The crowd


@dataclass
class Crowd:
    """Peers that answer the close of the server, and note when it comes."""

    peers: list[socket.socket]
    closed_at: list[float] = field(default_factory=list)  # Unix seconds
    codes: set[int] = field(default_factory=set)

    def wait_closed(self) -> None:
        """Wait until the server has closed all of them."""
        poller = select.epoll()
        open_now = {peer.fileno(): peer for peer in self.peers}
        for fd in open_now:
            poller.register(fd, select.EPOLLIN)
        until = time.monotonic() + MOST_S
        while open_now:
            if time.monotonic() > until:
                raise LoadError(
                    f"{len(open_now)} peers were not closed within {MOST_S:g} s after the end of their grant"
                )
            for fd, _ in poller.poll(1.0):
                if self._is_over(open_now[fd]):
                    poller.unregister(fd)
                    open_now.pop(fd).close()
        poller.close()

    def _is_over(self, peer: socket.socket) -> bool:
        received = peer.recv(4096)
        if not received:
            return True
        if received[0] != wire.FIN | wire.CLOSE:
            raise LoadError(f"not a close but {received[:80]!r}")
        self.closed_at.append(time.time())
        self.codes.add(int.from_bytes(received[2:4], "big"))
        with contextlib.suppress(OSError):
            peer.sendall(wire.client_frame(received[2:4], wire.FIN | wire.CLOSE))
        return False


# The measurement


@dataclass(frozen=True)
class Found:
    """The result: all messages to the others, and when the crowd was closed, in Unix seconds."""

    peers: int
    messages: list[Message]
    ends_at: float
    first_closed_at: float
    last_closed_at: float

    def stretches(self) -> dict[str, list[Message]]:
        """Return the messages that were sent before, while and after the crowd was closed."""
        found: dict[str, list[Message]] = {"before": [], "while they are closed": [], "afterwards": []}
        for message in self.messages:
            if message.sent_at + max(message.ages_s) < self.first_closed_at:
                found["before"].append(message)
            elif message.sent_at <= self.last_closed_at:
                found["while they are closed"].append(message)
            else:
                found["afterwards"].append(message)
        return found


def percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def table(found: Found) -> list[str]:
    lines = [
        f"{found.peers:,} grants end in one second; {OTHERS} others get {MESSAGES_A_SECOND} messages a second",
        f"{'age on arrival':24}{'messages':>9}{'p50, ms':>9}{'p99, ms':>9}{'longest':>9}{'CPU, p99':>10}{'longest':>9}",
    ]
    for name, messages in found.stretches().items():
        ages = [age for message in messages for age in message.ages_s]
        if not ages:
            raise LoadError(f"no message was sent {name}; give more --seconds or --peers")
        cpu = [message.cpu_s for message in messages]
        figures = [percentile(ages, 0.5), percentile(ages, 0.99), max(ages), percentile(cpu, 0.99), max(cpu)]
        shown = [f"{figure * 1e3:{width}.2f}" for figure, width in zip(figures, (9, 9, 9, 10, 9), strict=True)]
        lines.append(f"{name:24}{len(messages):9}{''.join(shown)}")
    spread_s = found.last_closed_at - found.first_closed_at
    late_s = found.first_closed_at - found.ends_at
    lines.append(
        f"all closed with {EXPIRED} within {spread_s:.2f} s, the first {late_s:.3f} s after the end of the grants"
    )
    return lines


def command(port: int, secret: Path) -> list[str]:
    flags = [
        "--hello",
        "",
        "--log-level",
        "error",
        "--ping-interval",
        "0",
        "--no-page",
        "--jwt-secret-file",
        str(secret),
    ]
    return [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(port), *flags]


def measure(server: Running, secret: str, peers: int, seconds: float) -> Found:
    ours, theirs = multiprocessing.Pipe()
    lasting = token(secret, "other", int(time.time()) + 3600)
    others = multiprocessing.get_context("fork").Process(
        target=send_to_others, args=(server, lasting, theirs), daemon=True
    )
    others.start()
    os.nice(5)  # the crowd gives way to the others
    crowd = Crowd([])
    try:
        _take(ours)
        began = time.time()
        close_clients(open_peers(server.port, REHEARSAL, "/crowd", lasting))
        ends_at = int(time.time() + 2 * (time.time() - began) * peers / REHEARSAL + seconds + SPARE_S)
        crowd.peers += open_peers(server.port, peers, "/crowd", token(secret, "one of many", ends_at))
        if (late_s := time.time() + seconds - ends_at) > 0:
            raise LoadError(f"the crowd took {late_s:.0f} s too long to connect; have fewer --peers")
        crowd.wait_closed()
        if crowd.codes != {EXPIRED} or len(crowd.closed_at) != peers:
            raise LoadError(f"{len(crowd.closed_at)} of {peers} peers were closed, with {sorted(crowd.codes)}")
        time.sleep(seconds)
        ours.send(None)
        messages: list[Message] = [each for each in _take(ours) if each.sent_at >= ends_at - seconds]
        return Found(peers, messages, ends_at, min(crowd.closed_at), max(crowd.closed_at))
    finally:
        close_clients(crowd.peers)
        others.terminate()
        others.join()


def _take(pipe: multiprocessing.connection.Connection) -> Any:
    """Return what the others have put into the pipe."""
    if not pipe.poll(MOST_S):
        raise LoadError(f"the others have not answered within {MOST_S:g} s")
    return pipe.recv()


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks expiry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peers", type=int, default=10_000, help="whose grants end together (default 10,000)")
    parser.add_argument("--seconds", type=float, default=8.0, help="measured before and after the end (default 8)")
    parser.add_argument("--smoke", action="store_true", help="a moment and few peers: does it work? No figure counts")
    options = parser.parse_args(argv)
    peers, seconds = (400, 0.5) if options.smoke else (options.peers, options.seconds)
    if (files := allow_open_files()) < peers + OTHERS + SPARE_FILES:
        raise SystemExit(
            f"{peers} peers need {peers + OTHERS + SPARE_FILES} open files; {files} are allowed (ulimit -Hn)"
        )
    core, load_core = procinfo.cores()
    own_cores = os.sched_getaffinity(0)
    secret = secrets.token_hex(32)
    os.sched_setaffinity(0, {load_core})
    try:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "secret"
            path.write_text(secret)
            port = servers.free_port()
            running = servers.running("rawws", command(port, path), port, Wish(), handshake=False, core=core)
            with running as server:
                found = measure(server, secret, peers, seconds)
    except (Unavailable, LoadError) as problem:
        raise SystemExit(f"no figures: {problem}") from None
    finally:
        os.sched_setaffinity(0, own_cores)
    print("\n".join(table(found)))
    machine = procinfo.describe_machine()
    print(f"\n{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}; the server had one of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
