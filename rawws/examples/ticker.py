"""A live feed: every reader gets each value as it comes, and a slow reader skips to the newest.

    python -m rawws.examples.ticker --port 8080 --per-second 20
    python -m websockets ws://localhost:8080/

A room keeps the messages that a slow reader has not got yet, so that it gets all of them. Of prices, only the newest is
of use. So each reader has its own task here, which sends the newest value, waits until the reader has taken it (as
``send`` does), and looks again. The numbers show which values each reader has skipped.
"""

from __future__ import annotations

import argparse
import json
import random
from functools import partial

import trio

import rawws
from rawws.examples import run_until_signal


class Ticker:
    """The newest value, and a way to wait for a newer one."""

    def __init__(self, padding: int) -> None:
        self.number = 0
        self.price = 100.0
        self._padding = "x" * padding
        self._changed = trio.Event()

    async def run(self, per_second: float) -> None:
        while True:
            await trio.sleep(1 / per_second)
            self.number += 1
            self.price = round(self.price + random.uniform(-1, 1), 2)
            self._changed.set()
            self._changed = trio.Event()

    def message(self) -> str:
        return json.dumps({"number": self.number, "price": self.price, "padding": self._padding})

    async def feed(self, ws: rawws.WebSocket) -> None:
        """The handler of one reader. It ends when the reader has left, since ``send`` raises then."""
        sent = -1
        while True:
            while self.number == sent:
                await self._changed.wait()
            sent = self.number
            await ws.send(self.message())


async def serve(port: int, per_second: float, padding: int) -> None:
    ticker = Ticker(padding)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticker.run, per_second)
        server = await nursery.start(partial(rawws.serve, ticker.feed, port, host="127.0.0.1", compression=None))
        print(f"listening on ws://localhost:{server.port}/", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--per-second", type=float, default=20.0)
    parser.add_argument("--padding", type=int, default=0, metavar="BYTES", help="makes each message larger")
    options = parser.parse_args()
    run_until_signal(serve, options.port, options.per_second, options.padding)


if __name__ == "__main__":
    main()
