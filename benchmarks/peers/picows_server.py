"""``picows``, the Cython WebSocket, on uvloop. It has no compression."""

from __future__ import annotations

from typing import ClassVar

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse

DATA = (WSMsgType.TEXT, WSMsgType.BINARY)


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in DATA:
            # A view, not bytes: send() copies it once, into the socket's buffer.
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


class Relay(WSListener):
    connections: ClassVar[set[WSTransport]] = set()

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.connections.add(transport)

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.connections.discard(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type in DATA:
            kind, payload = frame.msg_type, frame.get_payload_as_memoryview()
            for connection in self.connections:
                connection.send(kind, payload)
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code())
            transport.disconnect()


async def main() -> None:
    options = parse()
    listener = Relay if options.broadcast else Echo

    def accept(_request: WSUpgradeRequest) -> WSListener:
        return listener()

    server = await ws_create_server(
        accept,
        HOST,
        options.port,
        ssl=options.ssl_context(),
        max_frame_size=MAX_MESSAGE_BYTES,
    )
    await server.serve_forever()


uvloop.run(main())
