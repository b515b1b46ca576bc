"""A chat: the path is the room, the name is in the query, and the page is served on the same port.

python -m rawws.examples.chat --port 8080
open http://localhost:8080/lounge?name=alice in one tab, and as bob in another
"""

from __future__ import annotations

import argparse
import json
from functools import partial
from urllib.parse import parse_qs

import trio

import rawws
from rawws.examples import run_until_signal

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Chat</title>
<h1></h1><ul id="said"></ul>
<form><input autofocus autocomplete="off" aria-label="Say something"><button>Say</button></form>
<script>
document.querySelector("h1").textContent = location.pathname
const ws = new WebSocket(location.href.replace(/^http/, "ws"))
ws.onmessage = (event) => {
  const { name, text } = JSON.parse(event.data)
  const item = document.createElement("li")
  item.textContent = `${name} ${text}`        // as text: a message is never HTML
  document.querySelector("#said").append(item)
}
document.querySelector("form").onsubmit = (event) => {
  event.preventDefault()
  const input = document.querySelector("input")
  ws.send(input.value)
  input.value = ""
}
</script></html>
"""

hub = rawws.Hub()


def authenticate(request: rawws.Request) -> object:
    """Return the name in the query, which identifies a user of this chat without passwords."""
    name = parse_qs(request.query).get("name", [""])[0].strip()[:20]
    return name or rawws.Response(401, "Say who you are: ?name=...\n")


async def chat(ws: rawws.WebSocket) -> None:
    async with hub.room(ws.path).join(ws) as room:
        say(room, ws, "came in")
        try:
            async for message in ws:
                if isinstance(message, str):
                    say(room, ws, f"says: {message}")
        finally:
            room.leave(ws)
            say(room, ws, "left")


def say(room: rawws.Room, ws: rawws.WebSocket, text: str) -> None:
    room.publish(json.dumps({"name": ws.user, "text": text}))


async def page(_: rawws.Request) -> rawws.Response:
    return rawws.Response(200, PAGE, {"Content-Type": "text/html; charset=utf-8"})


async def serve(port: int) -> None:
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, chat, port, host="127.0.0.1", http=page, authenticate=authenticate, max_size=4096)
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    run_until_signal(serve, parser.parse_args().port)


if __name__ == "__main__":
    main()
