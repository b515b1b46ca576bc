"""``trio-websocket``. It has no compression."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse


async def main() -> None:
    options = parse()
    connections: set[WebSocketConnection] = set()

    async def echo(request: WebSocketRequest) -> None:
        connection = await request.accept()
        try:
            while True:
                await connection.send_message(await connection.get_message())
        except ConnectionClosed:
            pass

    async def relay(request: WebSocketRequest) -> None:
        connection = await request.accept()
        connections.add(connection)
        try:
            while True:
                message = await connection.get_message()
                for other in list(connections):
                    try:
                        await other.send_message(message)
                    except ConnectionClosed:
                        connections.discard(other)
        except ConnectionClosed:
            pass
        finally:
            connections.discard(connection)

    await serve_websocket(
        relay if options.broadcast else echo,
        HOST,
        options.port,
        options.ssl_context(),
        max_message_size=MAX_MESSAGE_BYTES,
    )


trio.run(main)
