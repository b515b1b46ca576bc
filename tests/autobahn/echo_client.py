"""The client for Autobahn's fuzzing server. It sends every message back, through all of the cases."""

from __future__ import annotations

import argparse
from functools import partial

import trio

import rawws


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of the fuzzing server, such as ws://127.0.0.1:9001")
    parser.add_argument("--agent", default="rawws")
    parser.add_argument("--no-fast-lane", dest="fast_lane", action="store_false")
    options = parser.parse_args()
    connect = partial(rawws.connect, max_size=None, proxy=None, fast_lane=options.fast_lane)
    async with connect(f"{options.url}/getCaseCount") as ws:
        count = int(await ws.recv())
    for number in range(1, count + 1):
        async with connect(f"{options.url}/runCase?case={number}&agent={options.agent}") as ws:
            try:
                async for message in ws:
                    await ws.send(message)
            except rawws.ConnectionClosed:
                pass  # many cases are about just that
    async with connect(f"{options.url}/updateReports?agent={options.agent}") as ws:
        await ws.wait_closed()


if __name__ == "__main__":
    trio.run(main)
