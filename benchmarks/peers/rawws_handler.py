"""rawws as a library: each connection has a handler in its own task, which echoes."""

from __future__ import annotations

import trio

import rawws
from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse


async def echo(ws: rawws.WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def main() -> None:
    options = parse()
    await rawws.serve(
        echo,
        options.port,
        host=HOST,
        ssl=options.ssl_context(),
        compression="deflate" if options.compression else None,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
    )


trio.run(main)
