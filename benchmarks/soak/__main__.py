"""Use two nodes in every way at once, for any time, and account for every message.

    python -m benchmarks soak --minutes 10    churn, Redis killed in the middle, and everything that should stay equal
    python -m benchmarks soak --on store      the same with one node, its store, and groups in each room
    python -m benchmarks soak --store         a server with a store, killed a hundred times in each mode
    python -m benchmarks soak --idle          ten thousand idle peers and a hundred busy ones: in 64 MiB?

The minutes are those of the load; the two pauses in which memory, descriptors and tasks are compared come on top. The
exit status is 1 if a message was lost, came twice or out of order, or if a resource is left over.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import trio

from benchmarks.load import LoadError
from benchmarks.memory import allow_open_files
from benchmarks.servers import Unavailable
from benchmarks.soak import idle, report, stage, stored
from benchmarks.soak.run import Soak


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, help="of load (default 10; 0.75 with --idle)")
    parser.add_argument(
        "--on", choices=stage.KEEPERS, default="redis",
        help="where the rooms are: in a Redis that two nodes share (default), or in the store of one node",
    )  # fmt: skip
    parser.add_argument(
        "--idle", type=int, nargs="?", const=10_000, metavar="N",
        help="measure the memory that so many idle peers and 100 busy ones take (default 10,000)",
    )  # fmt: skip
    parser.add_argument(
        "--store", type=int, nargs="?", const=100, metavar="N",
        help="kill a server with a store so many times in each mode (default 100)",
    )  # fmt: skip
    parser.add_argument("--seed", default="1", help="another one gives other sizes, and other moments to cut")
    return parser.parse_args(argv)


async def run(on: str, minutes: float, seed: str) -> int:
    """Run the soak, and return its exit status: 130 when a signal ends it."""
    status = 130
    with stage.stage(stage.KEEPERS[on]) as running:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_at_signal, nursery.cancel_scope)
            soak = Soak(running, minutes, seed)
            compared = await soak.run()
            status = report.show(soak, compared)
            nursery.cancel_scope.cancel()
    return status


async def _stop_at_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            print("interrupted", file=sys.stderr)
            scope.cancel()


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    try:
        if options.idle is not None:
            return idle.measure(options.idle, 60 * (options.minutes or 0.75))
        if options.store is not None:
            return trio.run(stored.run, options.store, options.seed)
        if missing := stage.missing(stage.KEEPERS[options.on]):
            raise Unavailable(missing)
        allow_open_files()
        return trio.run(run, options.on, options.minutes or 10.0, options.seed)
    except (Unavailable, LoadError) as problem:
        print(problem, file=sys.stderr)
        return 2 if isinstance(problem, Unavailable) else 1


if __name__ == "__main__":
    sys.exit(main())
