"""The WebSockets of FastAPI's documentation: a page, a dependency that reads a cookie or a token, and many clients."""

from typing import Annotated

from fastapi import Cookie, Depends, FastAPI, Query, WebSocket, WebSocketDisconnect, WebSocketException, status
from fastapi.responses import HTMLResponse

app = FastAPI()

PAGE = """<!doctype html><title>Chat</title>
<h2 id="ws-id"></h2>
<form><input id="messageText" aria-label="Message"><button>Send</button></form><ul id="messages"></ul>
<script>
  const id = location.search.slice(1)
  document.getElementById("ws-id").append(id)
  const ws = new WebSocket(`ws://${location.host}/ws/${id}`)
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


class ConnectionManager:
    def __init__(self):
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket):
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket):
        self.active_connections.remove(websocket)

    async def send_personal_message(self, message: str, websocket: WebSocket):
        await websocket.send_text(message)

    async def broadcast(self, message: str):
        for connection in self.active_connections:
            await connection.send_text(message)


manager = ConnectionManager()


@app.get("/", response_class=HTMLResponse)
async def get():
    return PAGE


@app.websocket("/ws")
async def websocket_endpoint(websocket: WebSocket):
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_text(f"Message text was: {data}")


async def get_cookie_or_token(
    websocket: WebSocket,  # noqa: ARG001 (as in the documentation)
    session: Annotated[str | None, Cookie()] = None,
    token: Annotated[str | None, Query()] = None,
):
    if session is None and token is None:
        raise WebSocketException(code=status.WS_1008_POLICY_VIOLATION)
    return session or token


@app.websocket("/items/{item_id}/ws")
async def items(
    *,
    websocket: WebSocket,
    item_id: str,
    q: int | None = None,
    cookie_or_token: Annotated[str, Depends(get_cookie_or_token)],
):
    await websocket.accept()
    while True:
        data = await websocket.receive_text()
        await websocket.send_text(f"The cookie or token is {cookie_or_token}")
        if q is not None:
            await websocket.send_text(f"The parameter q is {q}")
        await websocket.send_text(f"The text is {data}, for item {item_id}")


@app.websocket("/ws/{client_id}")
async def chat(websocket: WebSocket, client_id: int):
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await manager.send_personal_message(f"You wrote: {data}", websocket)
            await manager.broadcast(f"Client #{client_id} says: {data}")
    except WebSocketDisconnect:
        manager.disconnect(websocket)
        await manager.broadcast(f"Client #{client_id} left the chat")
