"""The server for Autobahn's fuzzing client: a handler that sends every message back."""

from __future__ import annotations

import argparse

import trio

import rawws


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--no-fast-lane", dest="fast_lane", action="store_false")
    options = parser.parse_args()
    await rawws.serve(echo, options.port, host="127.0.0.1", max_size=None, fast_lane=options.fast_lane)


if __name__ == "__main__":
    trio.run(main)
