"""The shortest applications of Starlette's documentation: a function, and classes, without an application object."""

from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.responses import PlainTextResponse
from starlette.websockets import WebSocket


async def app(scope, receive, send):
    websocket = WebSocket(scope=scope, receive=receive, send=send)
    await websocket.accept()
    await websocket.send_text("Hello, world!")
    await websocket.close()


class Socket(WebSocketEndpoint):
    encoding = "bytes"

    async def on_receive(self, websocket, data):
        await websocket.send_bytes(b"Message: " + data)


class Page(HTTPEndpoint):
    async def get(self, request):
        return PlainTextResponse("Hello, world!")
