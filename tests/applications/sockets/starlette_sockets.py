"""The WebSockets of Starlette's documentation, each at a path of its own."""

from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

PAGE = """<!doctype html><title>Chat</title>
<form><input id="messageText" aria-label="Message"><button>Send</button></form><ul id="messages"></ul>
<script>
  const ws = new WebSocket(`ws://${location.host}/ws`)
  ws.onmessage = ({ data }) => {
    const item = document.createElement("li")
    item.append(data)
    document.getElementById("messages").append(item)
  }
  document.forms[0].onsubmit = (event) => {
    event.preventDefault()
    ws.send(document.getElementById("messageText").value)
  }
</script>"""

left = []  # the codes and reasons of those who have left /disconnects


class Homepage(HTTPEndpoint):
    async def get(self, request):
        return HTMLResponse(PAGE)


class Echo(WebSocketEndpoint):
    encoding = "text"

    async def on_receive(self, websocket, data):
        await websocket.send_text(f"Message text was: {data}")


class Json(WebSocketEndpoint):
    encoding = "json"

    async def on_receive(self, websocket, data):
        await websocket.send_json({"got": data})


class Binary(WebSocketEndpoint):
    encoding = "bytes"

    async def on_connect(self, websocket):
        await websocket.accept()

    async def on_receive(self, websocket, data):
        await websocket.send_bytes(b"Message: " + data)

    async def on_disconnect(self, websocket, close_code):
        left.append([close_code, "bytes"])


async def about(websocket):
    """Say what the handshake has, with the first of the subprotocols offered, and a header."""
    offered = websocket.scope["subprotocols"]
    await websocket.accept(subprotocol=offered[0] if offered else None, headers=[(b"x-kind", b"about")])
    await websocket.send_json(
        {
            "path": websocket.url.path,
            "scheme": websocket.url.scheme,
            "version": websocket.headers["sec-websocket-version"],
            "search": websocket.query_params.get("search"),
            "username": websocket.path_params["username"],
            "cookie": websocket.cookies.get("session"),
        }
    )
    await websocket.close(code=4000, reason="that is all")


async def every_kind(websocket):
    await websocket.accept()
    await websocket.send_text("text " + await websocket.receive_text())
    await websocket.send_bytes(b"bytes " + await websocket.receive_bytes())
    await websocket.send_json({"json": await websocket.receive_json()})
    await websocket.send_json({"json": await websocket.receive_json(mode="binary")}, mode="binary")
    message = await websocket.receive()
    await websocket.send({"type": "websocket.send", "text": message["type"]})
    await websocket.close()


async def iterates(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text.upper())
    left.append([1000, "iterated"])


async def disconnects(websocket):
    await websocket.accept()
    try:
        while True:
            await websocket.send_text(await websocket.receive_text())
    except WebSocketDisconnect as error:
        left.append([error.code, error.reason])


async def denies(websocket):
    await websocket.send_denial_response(JSONResponse({"why": "no ticket"}, status_code=402))


async def closes_first(websocket):
    await websocket.close(code=1008)


async def raises(websocket):
    await websocket.accept()
    await websocket.receive_text()
    raise ValueError("a fault of the application")


async def who_has_left(request):  # noqa: ARG001
    return JSONResponse(left)


app = Starlette(
    routes=[
        Route("/", Homepage),
        Route("/left", who_has_left),
        WebSocketRoute("/ws", Echo),
        WebSocketRoute("/json", Json),
        WebSocketRoute("/bytes", Binary),
        WebSocketRoute("/about/{username}", about),
        WebSocketRoute("/every-kind", every_kind),
        WebSocketRoute("/iterates", iterates),
        WebSocketRoute("/disconnects", disconnects),
        WebSocketRoute("/denies", denies),
        WebSocketRoute("/closes-first", closes_first),
        WebSocketRoute("/raises", raises),
    ]
)
