"""The cost of publishing from other threads than the loop's, beside that of publishing in the loop's own.

    python -m benchmarks.threads

CPU time of the whole process for each message of 64 bytes, in a room that keeps its last 1,000 messages and has no
members, since sending costs the same in each case:

* by a task of the loop's thread;
* by one thread, which returns at once;
* by eight threads together;
* by one thread that waits for each message's id.

A figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from statistics import median

import trio

import rawws

MESSAGES = 20_000
WAITING = 2_000  # a message whose id is waited for costs two switches of threads
PAYLOAD = "x" * 64
THREADS = 8

Case = Callable[[rawws.Room, int], Awaitable[None]]


async def in_the_loop(room: rawws.Room, messages: int) -> None:
    for serial in range(messages):
        room.publish(PAYLOAD)
        if not serial % 100:
            await trio.lowlevel.checkpoint()


def publish(room: rawws.Room, messages: int) -> None:
    for _ in range(messages):
        room.publish(PAYLOAD)


def publish_and_wait(room: rawws.Room, messages: int) -> None:
    for _ in range(messages):
        room.publish(PAYLOAD, wait=True)


async def in_threads(work: Callable[[rawws.Room, int], None], count: int, room: rawws.Room, messages: int) -> None:
    """Have threads do the work together, and return when the loop has all messages."""
    threads = [threading.Thread(target=work, args=[room, messages // count]) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await trio.to_thread.run_sync(thread.join)
    await trio.to_thread.run_sync(lambda: room.publish(PAYLOAD, wait=True))


CASES: dict[str, tuple[Case, int]] = {
    "in the loop": (in_the_loop, MESSAGES),
    "1 thread": (partial(in_threads, publish, 1), MESSAGES),
    f"{THREADS} threads": (partial(in_threads, publish, THREADS), MESSAGES),
    "1 thread that waits": (partial(in_threads, publish_and_wait, 1), WAITING),
}


async def measure(rounds: int, share: float = 1.0) -> dict[str, float]:
    """Return the CPU time of each case, in µs a message."""
    found: dict[str, list[float]] = {name: [] for name in CASES}
    room = rawws.Hub(history=1000).room("/bench")
    room.publish(PAYLOAD)
    for _ in range(rounds):
        for name, (case, messages) in CASES.items():
            count = max(THREADS, int(messages * share))
            began = time.process_time()
            await case(room, count)
            found[name].append((time.process_time() - began) / count * 1e6)
    return {name: median(times) for name, times in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each case (default 5)")
    options = parser.parse_args()
    for name, microseconds in trio.run(measure, options.rounds).items():
        print(f"{name + ':':<22}{microseconds:8.1f} µs of CPU a message")


if __name__ == "__main__":
    main()
