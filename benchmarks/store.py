"""The cost of a store: each mode beside the same server without one.

    python -m benchmarks.store

On one core, with the load on the other, in turns in each round:

* broadcast to 100 by WebSocket, 64 bytes a message, ten of them publishing, for several windows of messages under way,
  of which the best counts; and the server's CPU time for a delivery;
* messages published by POST, one under way on each of 32 connections, and on one connection.

A figure is the median of the rounds. ``--smoke`` is for a moment, with few readers, and one server for each mode: does
it work? No figure counts.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import procinfo, servers
from benchmarks.fanout import Fanout
from benchmarks.load import LoadError, close_clients, open_clients
from benchmarks.rooms import POSTING, by_post
from benchmarks.servers import HOST, Running, Wish

MODES = ("", "never", "interval", "always")  # the first is without a store
READERS, PUBLISHERS = 100, 10
WINDOWS = (8, 32, 128)
PAYLOAD_BYTES = 64
HISTORY = 1000


Start = Callable[[], AbstractContextManager[Running]]


class Effort(NamedTuple):
    """The effort of one turn."""

    seconds: float  # for each figure
    readers: int = READERS
    windows: Sequence[int] = WINDOWS


SMOKE = Effort(0.1, 2 * PUBLISHERS, WINDOWS[:1])


class Broadcast(NamedTuple):
    """Deliveries a second, and the server's CPU time for one."""

    rate: float
    cpu_us: float


def command(port: int, mode: str, folder: str) -> list[str]:
    flags = ["--hello", "", "--log-level", "warning", "--ping-interval", "0", "--no-compression", "--no-page"]
    store = ["--store", str(Path(folder) / "rooms.db"), "--store-sync", mode] if mode else []
    start = [sys.executable, "-m", "rawws", "--host", HOST, "--port", str(port), "--history", str(HISTORY)]
    return [*start, *flags, *store]


def broadcast(server: Running, effort: Effort, window: int) -> Broadcast:
    clients = open_clients(server.port, effort.readers)
    try:
        load = Fanout(clients, PUBLISHERS, window, PAYLOAD_BYTES)
        load.run(effort.seconds / 2)
        before = procinfo.cpu_seconds(server.pid)
        sample = load.run(effort.seconds)
        if not sample.messages:
            raise LoadError("nothing was delivered")
        return Broadcast(sample.rate, 1e6 * (procinfo.cpu_seconds(server.pid) - before) / sample.messages)
    finally:
        close_clients(clients)


@contextmanager
def started(mode: str) -> Iterator[Running]:
    """Start a server with a new store, or without one."""
    with tempfile.TemporaryDirectory(prefix="rawws-store-") as folder:
        port = servers.free_port()
        wish = Wish(broadcast=True)
        with servers.running("rawws", command(port, mode, folder), port, wish, handshake=True) as server:
            yield server


@contextmanager
def starter(mode: str, *, once: bool) -> Iterator[Start]:
    """Yield what starts a server of this mode: a new one each time, or the same."""
    if not once:
        yield partial(started, mode)
        return
    with started(mode) as running:
        yield lambda: contextlib.nullcontext(running)


def measure(start: Start, effort: Effort) -> tuple[Broadcast, float, float]:
    """Return the figures of one turn: of the broadcast, and of POSTs on many connections and on one."""
    found: list[Broadcast] = []
    for window in effort.windows:
        with start() as server:
            found.append(broadcast(server, effort, window))
    posts: list[float] = []
    for connections in (POSTING, 1):
        with start() as server:
            posts.append(by_post(server, effort.seconds, connections))
    return max(found), posts[0], posts[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=2.0, help="measured for each figure (default 2)")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts (default 3)")
    parser.add_argument("--smoke", action="store_true", help="a moment and few readers: does it work? No figure counts")
    options = parser.parse_args()
    effort, rounds = (SMOKE, 1) if options.smoke else (Effort(options.seconds), options.rounds)
    os.sched_setaffinity(0, {procinfo.cores()[1]})
    found: dict[str, list[tuple[Broadcast, float, float]]] = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, turns in found.items():
            with starter(mode, once=options.smoke) as start:
                turns.append(measure(start, effort))
    show(found)


def show(found: dict[str, list[tuple[Broadcast, float, float]]]) -> None:
    posts = f"{f'POST × {POSTING}':>12}{'POST × 1':>10}{'÷':>7}"
    print(f"{'':<12}{'deliveries/s':>14}{'÷ without':>11}{'µs CPU':>9}{posts}")
    without = median(turn[0].rate for turn in found[""])
    for mode, turns in found.items():
        rate, cpu_us = median(turn[0].rate for turn in turns), median(turn[0].cpu_us for turn in turns)
        many, one = median(turn[1] for turn in turns), median(turn[2] for turn in turns)
        figures = f"{rate:>14,.0f}{rate / without:>11.2f}{cpu_us:>9.3f}{many:>12,.0f}{one:>10,.0f}{many / one:>7.1f}"
        print(f"{mode or 'no store':<12}{figures}")


if __name__ == "__main__":
    main()
