"""``websockets``, its trio server."""

from __future__ import annotations

import trio
from websockets.trio.server import ServerConnection, broadcast, serve

from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse


async def main() -> None:
    options = parse()
    connections: set[ServerConnection] = set()

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def relay(connection: ServerConnection) -> None:
        connections.add(connection)
        try:
            async for message in connection:
                # A copy: connections come and go while this waits for the slowest of them.
                await broadcast(list(connections), message)
        finally:
            connections.discard(connection)

    await serve(
        relay if options.broadcast else echo,
        options.port,
        host=HOST,
        ssl=options.ssl_context(),
        compression="deflate" if options.compression else None,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
    )


trio.run(main)
