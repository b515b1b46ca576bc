"""``websockets``, its asyncio server, on uvloop."""

from __future__ import annotations

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve

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
                broadcast(connections, message)
        finally:
            connections.discard(connection)

    async with serve(
        relay if options.broadcast else echo,
        HOST,
        options.port,
        ssl=options.ssl_context(),
        compression="deflate" if options.compression else None,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
    ) as server:
        await server.serve_forever()


uvloop.run(main())
