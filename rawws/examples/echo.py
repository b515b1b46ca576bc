"""The smallest server: each message goes back to its sender.

    python -m rawws.examples.echo --port 8080
    python -m websockets ws://localhost:8080/        any client will do

Text goes back as text, and binary as binary.
"""

from __future__ import annotations

import logging
from functools import partial

import trio

import rawws
from rawws.examples.common import arguments, run_until_signal


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def serve(host: str, port: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, port, host=host))
        print(f"listening on ws://localhost:{server.port}/", flush=True)


def main() -> None:
    logging.basicConfig(level=logging.INFO)
    options = arguments(__doc__).parse_args()
    run_until_signal(serve, options.host, options.port)


if __name__ == "__main__":
    main()
