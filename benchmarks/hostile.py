"""The cost of hostile clients: for each surface, CPU time a byte received, and how long others wait meanwhile.

    python -m benchmarks hostile                          all of them, in about a minute
    python -m benchmarks hostile --only frames,bombs      some of them

On each surface, clients send the most expensive data into one room, as fast as the server takes it, for about a second
of work. Meanwhile, in another room, one of two ordinary peers sends a message every 5 ms, and its time to the other
peer is recorded. The CPU time is counted until the server has processed everything, and divided by the bytes that were
sent. A compressed message counts with its bytes on the wire, of
which 1 KiB may be 1 MiB of zeros. The server runs on the first core, the load on the last.

A wait is given twice: by the clock, and in CPU time of the server, which is the time by the clock on an otherwise idle
machine. The first row is for comparison: no client attacks the server.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import multiprocessing
import multiprocessing.connection
import os
import random
import selectors
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from benchmarks import procinfo, servers, wire
from benchmarks.load import LoadError, close_clients, connect
from benchmarks.memory import allow_open_files
from benchmarks.servers import HOST, Running, Wish

KIB, MIB = 2**10, 2**20
ORDINARY = "/ordinary"
EVERY_S = 0.005
MOST_WAIT_S = 120.0
MOST_S = 5.0
NO_END = 1 << 62
HISTORY = ("--history", "1000", "--history-bytes", str(8 * MIB))
# A server that is asleep in most of this many checks in a row has nothing left to do. A server that runs, or waits for
# a busy core, is not asleep.
LOOK_S, LOOKS, MOST_ROUNDS = 0.01, 20, 500
IDS = "rawws.id.v1"
# The encodings that readers may request.
FORMS = [(bits, protocol) for bits in (0, 9, 12, 15) for protocol in ("", IDS)]


# Clients


def frame(payload: bytes, opcode: int = wire.TEXT, first: int = wire.FIN) -> bytes:
    return wire.client_frame(payload, first | opcode)


def compressed(payload: bytes, opcode: int = wire.TEXT) -> bytes:
    return frame(wire.deflate(payload), opcode | wire.RSV1)


def upgrade(port: int, path: str, window_bits: int = 0, protocol: str = "", extensions: str = "") -> bytes:
    request = wire.upgrade_request(port, wire.new_key(), path=path, subprotocol=protocol)
    if window_bits:
        extensions = f"permessage-deflate; server_max_window_bits={window_bits}"
    field = f"Sec-WebSocket-Extensions: {extensions}\r\n" if extensions else ""
    return request.replace(b"\r\n\r\n", f"\r\n{field}\r\n".encode())


def open_socket(port: int, path: str, window_bits: int = 0, protocol: str = "", buffer: int = 0) -> socket.socket:
    sock = connect(port, receive_buffer=buffer)
    sock.sendall(upgrade(port, path, window_bits, protocol))
    head = b""
    while wire.END_OF_HEADERS not in head:
        data = sock.recv(4096)
        if not data:
            raise LoadError(f"no 101: {head[:200]!r}")
        head += data
    return sock


def open_events(port: int, path: str) -> socket.socket:
    sock = connect(port)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\n\r\n".encode())
    return sock


def post(path: str, body: bytes, kind: str = "text/plain") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Crowd:
    """Clients that send as fast as the server reads, and read what it sends, all from one thread."""

    def __init__(self, port: int, most_bytes: int) -> None:
        """All together send ``most_bytes``, and what is left of the last piece."""
        self.port = port
        self.sent_bytes = 0
        self.most_bytes = most_bytes
        self._selector = selectors.DefaultSelector()
        self._sending: dict[socket.socket, tuple[Iterator[bytes], memoryview]] = {}
        self.mute: list[socket.socket] = []  # clients that read nothing

    def reads(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._selector.register(sock, selectors.EVENT_READ)

    def sends(self, sock: socket.socket, pieces: Iterator[bytes]) -> None:
        """Let a client send one piece after the other, regardless of the answers."""
        sock.setblocking(False)
        self._sending[sock] = (pieces, memoryview(b""))
        self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)

    def run(self, seconds: float, each: Callable[[], None] | None = None) -> None:
        """Continue for this time, or until enough is sent; ``each`` is called repeatedly, and may add clients."""
        until = time.perf_counter() + seconds
        while time.perf_counter() < until and self.sent_bytes < self.most_bytes:
            for key, events in self._selector.select(0 if each else 0.02):
                assert isinstance(key.fileobj, socket.socket)
                self._serve(key.fileobj, events)
            if each is not None:
                each()

    def stop_sending(self) -> None:
        """Stop sending, and keep reading."""
        self.most_bytes = NO_END
        for sock in self._sending:
            with contextlib.suppress(KeyError):
                self._selector.modify(sock, selectors.EVENT_READ)
        self._sending.clear()

    def _serve(self, sock: socket.socket, events: int) -> None:
        try:
            if events & selectors.EVENT_READ and not sock.recv(MIB):
                self.forget(sock)
                return
            if events & selectors.EVENT_WRITE and sock in self._sending:
                pieces, left = self._sending[sock]
                left = left or memoryview(next(pieces, b"") if self.sent_bytes < self.most_bytes else b"")
                if not left:
                    del self._sending[sock]
                    self._selector.modify(sock, selectors.EVENT_READ)
                    return
                sent = sock.send(left)
                self.sent_bytes += sent
                self._sending[sock] = (pieces, left[sent:])
        except BlockingIOError:
            pass
        except OSError:
            self.forget(sock)

    def forget(self, sock: socket.socket) -> None:
        self._sending.pop(sock, None)
        self._selector.unregister(sock)
        sock.close()

    def close(self) -> None:
        close_clients([key.fileobj for key in self._selector.get_map().values()])  # type: ignore[misc]
        close_clients(self.mute)
        self._selector.close()


def repeated(data: bytes, least_bytes: int = 64 * KIB) -> Iterator[bytes]:
    return itertools.repeat(data * max(1, least_bytes // len(data)))


def once_again(pieces: Sequence[bytes]) -> Iterator[bytes]:
    return itertools.cycle(pieces)


# The surfaces. Each fills a crowd, and may return a function to be called repeatedly.

Fill = Callable[[Crowd, str], "Callable[[], None] | None"]


@dataclass(frozen=True)
class Surface:
    name: str  # as typed after --only
    title: str
    fill: Fill
    most_bytes: int  # these keep the server busy for about a second
    flags: tuple[str, ...] = ()


SURFACES: list[Surface] = []


def surface(name: str, title: str, most_bytes: int, *flags: str) -> Callable[[Fill], Fill]:
    def add(fill: Fill) -> Fill:
        SURFACES.append(Surface(name, title, fill, most_bytes, flags))
        return fill

    return add


def readers_of_all_forms(crowd: Crowd, path: str) -> None:
    for bits, protocol in FORMS:
        crowd.reads(open_socket(crowd.port, path, bits, protocol))
    crowd.reads(open_events(crowd.port, path))


def talkers(crowd: Crowd, path: str, data: bytes, count: int = 4) -> None:
    for _ in range(count):
        crowd.sends(open_socket(crowd.port, path, 15), repeated(data))


FEW_LETTERS = bytes(random.Random(1).choices(b"ab", k=MIB))


@surface("nothing", "nothing, for comparison", 1)
def nothing(crowd: Crowd, path: str) -> Callable[[], None]:
    crowd.reads(open_socket(crowd.port, path))
    return lambda: time.sleep(EVERY_S)


@surface("frames", "frames of 7 bytes, one reader", 4 * MIB)
def frames(crowd: Crowd, path: str) -> None:
    crowd.reads(open_socket(crowd.port, path))
    talkers(crowd, path, frame(b"x"))


@surface("frames-all", "the same, readers of all forms", 2 * MIB)
def frames_all(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, frame(b"x"))


@surface("fragments", "fragments of one byte", MIB // 2)
def fragments(crowd: Crowd, path: str) -> None:
    message = frame(b"x", first=0) + frame(b"x", 0, 0) * 998 + frame(b"x", 0)
    talkers(crowd, path, message)


@surface("pings", "empty pings", 4 * MIB)
def pings(crowd: Crowd, path: str) -> None:
    talkers(crowd, path, frame(b"", wire.PING))


@surface("deflated", "compressed frames of 1 KiB, all forms", 2 * MIB)
def deflated(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, compressed(FEW_LETTERS[:KIB]))


@surface("bombs", "compressed frames of 1 MiB of zeros, all forms", 60 * KIB)
def bombs(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, compressed(bytes(MIB), wire.BINARY), 1)


@surface("letters", "compressed frames of 1 MiB of few letters, all forms", 1536 * KIB)
def letters(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, compressed(FEW_LETTERS), 1)


@surface("lines", "compressed frames of 1 MiB of line feeds, all forms", 50 * KIB)
def lines(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, compressed(b"\n" * MIB), 1)


@surface("noise", "frames of 1 MiB of noise, all forms", 24 * MIB)
def noise(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    talkers(crowd, path, frame(random.Random(1).randbytes(MIB), wire.BINARY), 1)


def stand_about(crowd: Crowd, path: str) -> None:
    """Add peers that read nothing, at different positions and in all encodings."""
    talker = open_socket(crowd.port, path)
    message = frame(random.Random(1).randbytes(200 * KIB), wire.BINARY)
    for _ in range(5):
        for bits, protocol in FORMS:
            crowd.mute.append(open_socket(crowd.port, path, bits, protocol, buffer=4096))
        talker.sendall(message)
        time.sleep(0.02)
    crowd.reads(talker)
    time.sleep(0.1)


@surface("laggards", "frames of 7 bytes, 40 stalled readers of all forms", 4 * MIB)
def laggards(crowd: Crowd, path: str) -> None:
    stand_about(crowd, path)
    talkers(crowd, path, frame(b"x"), 1)


@surface("laggards-skip", "the same with --slow skip", 4 * MIB, "--slow", "skip", "--max-lag", "400000")
def laggards_skip(crowd: Crowd, path: str) -> None:
    laggards(crowd, path)


@surface("latest", "JSON of 1 MiB and of 1 KiB with --slow latest", 400 * KIB, "--slow", "latest", "--latest-key", "k")
def latest(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    stand_about(crowd, path)
    large = compressed(b'{"k":[' + b"[],{}," * (MIB // 7) + b"0]}")
    small = [compressed(json.dumps({"k": number, "text": "ab" * KIB}).encode()) for number in range(1000)]
    crowd.sends(open_socket(crowd.port, path, 15), once_again([large, b"".join(small)]))


@surface("own", "frames of 7 bytes of 20 peers with --exclude-sender", 4 * MIB, "--exclude-sender")
def own(crowd: Crowd, path: str) -> None:
    talkers(crowd, path, frame(b"x"), 20)


@surface("echo", "compressed frames of 1 MiB of few letters with --mode echo", 3 * MIB, "--mode", "echo")
def echo(crowd: Crowd, path: str) -> None:
    talkers(crowd, path, compressed(FEW_LETTERS), 2)


def keep_a_history(crowd: Crowd, path: str) -> None:
    talker = open_socket(crowd.port, path)
    talker.sendall(frame(b"x" * 40) * 1000)
    talker.sendall(frame(b"\n" * 512 * KIB))
    talker.sendall(frame(b"x" * 40) * 400)
    time.sleep(0.2)
    crowd.reads(talker)


@surface("joins", "handshakes that ask for a history, each from another place in all forms", 300 * KIB, *HISTORY)
def joins(crowd: Crowd, path: str) -> Callable[[], None]:
    keep_a_history(crowd, path)
    places = itertools.cycle(range(1, 400))
    open_now: list[socket.socket] = []

    def join() -> None:
        place = next(places)
        bits, protocol = FORMS[place % len(FORMS)]
        request = upgrade(crowd.port, f"{path}?last={place}", bits, protocol)
        sock = connect(crowd.port)
        crowd.sends(sock, iter([request]))
        open_now.append(sock)
        if len(open_now) > 50:
            gone = open_now.pop(0)
            if gone.fileno() >= 0:
                crowd.forget(gone)

    return join


@surface("polls", "polls of a history, each from another place", 40 * KIB, *HISTORY)
def polls(crowd: Crowd, path: str) -> None:
    keep_a_history(crowd, path)
    asked = [f"GET {path}?last={place} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode() for place in range(300, 500)]
    for first in range(4):
        crowd.sends(connect(crowd.port), once_again(asked[first:]))


@surface("heads", "requests of 100 header fields", 2 * MIB)
def heads(crowd: Crowd, path: str) -> None:
    fields = "".join(f"X-{number}: y\r\n" for number in range(98))
    request = f"GET {path}?peers HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n".encode()
    for _ in range(4):
        crowd.sends(connect(crowd.port), repeated(request))


@surface("posts", "POST of one byte, all forms", 512 * KIB)
def posts(crowd: Crowd, path: str) -> None:
    readers_of_all_forms(crowd, path)
    for _ in range(4):
        crowd.sends(connect(crowd.port), repeated(post(path, b"x")))


@surface("chunks", "POST in chunks of one byte", 512 * KIB)
def chunks(crowd: Crowd, path: str) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    request = head.encode() + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n"
    for _ in range(4):
        crowd.sends(connect(crowd.port), repeated(request))


@surface("extensions", "handshakes with 12 KiB of extensions", 8 * MIB)
def extensions(crowd: Crowd, path: str) -> Callable[[], None]:
    offers = ", ".join(itertools.repeat("permessage-deflate; a=1", 480))

    def ask() -> None:
        sock = connect(crowd.port)
        crowd.sends(sock, iter([upgrade(crowd.port, path, extensions=offers)]))
        came.append(sock)
        if len(came) > 50 and (gone := came.pop(0)).fileno() >= 0:
            crowd.forget(gone)

    came: list[socket.socket] = []
    return ask


@surface("presence", "100 watchers of each other who come and go", 150 * KIB)
def presence(crowd: Crowd, path: str) -> Callable[[], None]:
    came: list[socket.socket] = []
    request = upgrade(crowd.port, f"{path}?presence", 0, IDS)

    def come() -> None:
        sock = connect(crowd.port)
        crowd.sends(sock, iter([request]))
        came.append(sock)
        if len(came) > 100 and (gone := came.pop(0)).fileno() >= 0:
            crowd.forget(gone)

    return come


# The ordinary peer, in its own process, so that the load does not delay it


Wait = tuple[float, float]  # in CPU time of the server, and by the clock, in seconds


def be_ordinary(port: int, pid: int, pipe: multiprocessing.connection.Connection, echoes: bool) -> None:
    """Send messages to another peer at an interval, and report on request how long each took."""
    says = open_socket(port, ORDINARY)
    hears = says if echoes else open_socket(port, ORDINARY)
    for sock in (says, hears):
        sock.setblocking(True)
    said = frame(b"ordinary")
    waits: list[Wait] = []
    while True:
        began, began_cpu = time.perf_counter(), procinfo.main_thread_seconds(pid)
        says.sendall(said)
        if not hears.recv(4096):
            raise LoadError("the ordinary peer was dropped")
        waits.append((procinfo.main_thread_seconds(pid) - began_cpu, time.perf_counter() - began))
        if not echoes:
            with contextlib.suppress(BlockingIOError):
                says.recv(4096, socket.MSG_DONTWAIT)
        if pipe.poll(EVERY_S):
            if pipe.recv() is None:
                return
            pipe.send(waits)
            waits = []


@dataclass
class Found:
    """The cost of one surface."""

    surface: Surface
    sent_bytes: int
    cpu_s: float
    waits: list[Wait]

    @property
    def us_a_byte(self) -> float:
        return self.cpu_s * 1e6 / max(1, self.sent_bytes)

    def wait_ms(self, clock: int, share: float) -> float:
        """Return a percentile of the waits in CPU time of the server (0), or by the clock (1)."""
        waits = sorted(each[clock] for each in self.waits)
        return waits[min(len(waits) - 1, int(len(waits) * share))] * 1e3


def command(port: int, flags: Sequence[str]) -> list[str]:
    known = ["--hello", "", "--log-level", "error", "--ping-interval", "0", "--no-page", "--close-timeout", "1"]
    return [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(port), *known, *flags]


def measure(server: Running, wanted: Sequence[Surface], share: float) -> Iterator[Found]:
    """Try surfaces on one server, each in its own room."""
    ours, theirs = multiprocessing.Pipe()
    echoes = "echo" in wanted[0].flags
    ordinary = multiprocessing.get_context("fork").Process(
        target=be_ordinary, args=(server.port, server.pid, theirs, echoes), daemon=True
    )
    ordinary.start()
    try:
        for each in wanted:
            crowd = Crowd(server.port, max(1, int(each.most_bytes * share)))
            try:
                again = each.fill(crowd, f"/{each.name}")
                _waits(ours)
                cpu_s = procinfo.cpu_seconds(server.pid)
                crowd.run(MOST_S * share, again)
                crowd.stop_sending()
                _run_until_idle(crowd, server.pid)
                yield Found(each, crowd.sent_bytes, procinfo.cpu_seconds(server.pid) - cpu_s, _waits(ours))
            finally:
                crowd.close()
        ours.send(None)
    finally:
        ordinary.terminate()
        ordinary.join()


def _waits(pipe: multiprocessing.connection.Connection) -> list[Wait]:
    pipe.send(True)
    if not pipe.poll(MOST_WAIT_S):
        raise LoadError(f"an ordinary peer has waited for {MOST_WAIT_S:g} s")
    waits: list[Wait] = pipe.recv()
    return waits


def _run_until_idle(crowd: Crowd, pid: int) -> None:
    """Continue reading until the server has processed everything."""
    for _ in range(MOST_ROUNDS):
        asleep = 0
        for _ in range(LOOKS):
            crowd.run(LOOK_S)
            asleep += procinfo.sleeps(pid)
        if asleep >= 0.6 * LOOKS:
            return
    raise LoadError(f"the server has not done with it after {MOST_ROUNDS * LOOKS * LOOK_S:g} s")


def table(found: Sequence[Found]) -> list[str]:
    lines = [
        "| | µs of CPU a byte | wait of others in CPU time, p50 | p99 | longest | p99 by the clock |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in found:
        shown = ((0, 0.5), (0, 0.99), (0, 1.0), (1, 0.99))
        waits = " | ".join(f"{each.wait_ms(clock, share):,.1f} ms" for clock, share in shown)
        cost = f"{each.us_a_byte:.2f}" if each.us_a_byte < 10 else f"{each.us_a_byte:.0f}"
        if each.surface is SURFACES[0]:
            cost = "–"
        lines.append(f"| {each.surface.title} | {cost} | {waits} |")
    return lines


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks hostile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [each.name for each in SURFACES]
    parser.add_argument("--only", metavar="A,B", help=f"these surfaces: {', '.join(names)}")
    parser.add_argument("--smoke", action="store_true", help="a moment only: does it work? No figure counts")
    options = parser.parse_args(argv)
    only = options.only.split(",") if options.only else names
    if unknown := set(only) - set(names):
        parser.error(f"no surface is called {', '.join(sorted(unknown))}")
    wanted = [each for each in SURFACES if each.name in only]
    allow_open_files()
    core, load_core = procinfo.cores()
    own_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {load_core})
    found: dict[str, Found] = {}
    try:
        for flags in dict.fromkeys(each.flags for each in wanted):
            port = servers.free_port()
            share = 0.01 if options.smoke else 1.0
            with servers.running("rawws", command(port, flags), port, Wish(), handshake=True, core=core) as server:
                for each in measure(server, [each for each in wanted if each.flags == flags], share):
                    found[each.surface.name] = each
                    print(f"{each.surface.name}: {each.sent_bytes:,} bytes, {each.cpu_s:.2f} s", file=sys.stderr)
    finally:
        os.sched_setaffinity(0, own_cores)
    print("\n".join(table([found[each.name] for each in wanted])))
    machine = procinfo.describe_machine()
    print(f"\n{machine['cores']} cores of {machine['cpu']}, Python {machine['python']}; the server had one of them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
