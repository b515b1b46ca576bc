"""The smallest server: each message goes back to its sender.

python -m rawws.examples.echo --port 8080
python -m websockets ws://localhost:8080/        (any client will do)
"""

from __future__ import annotations

import argparse
import logging
from functools import partial

import trio

import rawws
from rawws.examples import run_until_signal


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    run_until_signal(serve, options.port)


async def serve(port: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, port, host="127.0.0.1"))
        print(f"listening on ws://localhost:{server.port}/", flush=True)


if __name__ == "__main__":
    main()
