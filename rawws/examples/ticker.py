"""A feed of prices in which slow readers get the latest price of each symbol.

    python -m rawws.examples.ticker --port 8080
    open http://localhost:8080/ and slow the second reader down

An old price is of no use to a reader that lags. So the room's policy is ``latest``: it keeps the newest message of each
symbol, and a reader that can take more gets those that it has not had yet, one of each symbol. The room knows the
symbol by a member of the message's JSON. No reader has a task, and a slow one costs the others nothing.

A reader lags when the buffers on the way are full. A browser and the two kernels hold some 200 kB for each connection,
which would be thousands of prices. Each message is therefore padded, and the server's part is kept small.
"""

from __future__ import annotations

import json
import random
from functools import partial

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

SYMBOLS = ("ALDER", "ASPEN", "BEECH", "BIRCH", "CEDAR", "ELM", "FIR", "HAZEL", "LARCH", "MAPLE", "OAK", "PINE")
SEND_BUFFER_BYTES = 16 * 1024


class Market:
    """The prices, and the number of the last change of each."""

    def __init__(self, padding: int) -> None:
        self._prices = {symbol: random.uniform(20, 200) for symbol in SYMBOLS}
        self._numbers = dict.fromkeys(SYMBOLS, 0)
        self._padding = "x" * padding

    def change(self, symbol: str) -> str:
        """Change a price a little, and return the message that says so."""
        self._prices[symbol] *= 1 + random.gauss(0, 0.002)
        self._numbers[symbol] += 1
        quote = {"symbol": symbol, "number": self._numbers[symbol], "price": round(self._prices[symbol], 2)}
        return json.dumps({**quote, "time": trio.current_time(), "padding": self._padding})


async def run(room: rawws.Room, per_second: float, padding: int) -> None:
    """Change all prices again and again, each of them ``per_second`` times a second."""
    market = Market(padding)
    while True:
        for symbol in SYMBOLS:
            room.publish(market.change(symbol))
            await trio.sleep(1 / per_second / len(SYMBOLS))


def make_hub() -> rawws.Hub:
    """Return a hub whose room gives a lagging reader the newest message of each symbol."""
    return rawws.Hub(slow="latest", key="symbol", read_only=True, rooms_at="/prices")


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Return listeners whose connections have a small send buffer."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    for listener in listeners:
        listener.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    return listeners


async def serve(host: str, port: int, per_second: float, padding: int) -> None:
    hub = make_hub()
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, hub, listeners=await listen(host, port), compression=None, http=page("ticker"))
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/", flush=True)
        nursery.start_soon(run, hub.room("/prices"), per_second, padding)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--per-second", type=float, default=10.0, help="changes of each price in a second")
    parser.add_argument("--padding", type=int, default=4000, metavar="BYTES", help="makes each message larger")
    options = parser.parse_args()
    run_until_signal(serve, options.host, options.port, options.per_second, options.padding)


if __name__ == "__main__":
    main()
