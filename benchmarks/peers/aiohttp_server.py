"""``aiohttp``, its WebSocketResponse, on uvloop."""

from __future__ import annotations

import asyncio

import uvloop
from aiohttp import ClientConnectionResetError, WSMsgType, web

from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse


async def main() -> None:
    options = parse()
    connections: set[web.WebSocketResponse] = set()

    async def prepared(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(compress=options.compression, max_msg_size=MAX_MESSAGE_BYTES)
        await ws.prepare(request)
        return ws

    async def echo(request: web.Request) -> web.WebSocketResponse:
        ws = await prepared(request)
        async for message in ws:
            if message.type is WSMsgType.TEXT:
                await ws.send_str(message.data)
            elif message.type is WSMsgType.BINARY:
                await ws.send_bytes(message.data)
        return ws

    async def relay(request: web.Request) -> web.WebSocketResponse:
        ws = await prepared(request)
        connections.add(ws)
        try:
            async for message in ws:
                for other in list(connections):
                    try:
                        if message.type is WSMsgType.TEXT:
                            await other.send_str(message.data)
                        elif message.type is WSMsgType.BINARY:
                            await other.send_bytes(message.data)
                    except ClientConnectionResetError:
                        connections.discard(other)
        finally:
            connections.discard(ws)
        return ws

    app = web.Application()
    app.router.add_get("/{room:.*}", relay if options.broadcast else echo)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, options.port, ssl_context=options.ssl_context()).start()
    await asyncio.Event().wait()


uvloop.run(main())
