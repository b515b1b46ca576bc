"""An application in Starlette that every server of ASGI runs: "hi there" over HTTP, and an echo over WebSocket."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket


async def hi(_request: Request) -> PlainTextResponse:
    return PlainTextResponse("hi there")


async def echo(ws: WebSocket) -> None:
    await ws.accept()
    async for text in ws.iter_text():
        await ws.send_text(text)


app = Starlette(routes=[Route("/bench", hi), WebSocketRoute("/bench", echo)])
