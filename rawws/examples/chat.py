"""A chat with rooms, names, and a list of the people who are there.

    python -m rawws.examples.chat --port 8080
    open http://localhost:8080/ in two tabs, and enter with two names

The server decides who is speaking: a message gets the name with which its connection was made, whatever it contains.
The room keeps the last 50 messages for those who come later.
"""

from __future__ import annotations

import json
from functools import partial
from urllib.parse import parse_qs

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

KEPT = 50
MAX_NAME, MAX_TEXT = 20, 2000  # characters

hub = rawws.Hub(history=KEPT, rooms_at="/room/")


def authenticate(request: rawws.Request) -> object:
    """Return the name in the query, which identifies a user of this chat without passwords."""
    name = parse_qs(request.query).get("name", [""])[0].strip()[:MAX_NAME]
    return name or rawws.Response(401, "Please give a name: ?name=...\n")


async def chat(ws: rawws.WebSocket) -> None:
    """Put a connection into the room of its path, and publish what it says there."""
    room = hub.room(ws.path)
    with room.join(ws, last=KEPT):
        publish(room, ws, event="joined")
        try:
            async for message in ws:
                if isinstance(message, str) and message.strip():
                    publish(room, ws, text=message.strip()[:MAX_TEXT])
        finally:
            room.leave(ws)
            publish(room, ws, event="left")


def publish(room: rawws.Room, ws: rawws.WebSocket, **what: str) -> None:
    """Publish what a user does, with the names of the people who are in the room then."""
    people = sorted({str(member.user) for member in room})
    room.publish(json.dumps({"name": ws.user, "people": people, **what}))


async def serve(host: str, port: int) -> None:
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, chat, port, host=host, http=page("chat"), authenticate=authenticate)
        server = await nursery.start(partial(start, max_size=4 * MAX_TEXT))
        print(f"listening on http://localhost:{server.port}/", flush=True)


def main() -> None:
    options = arguments(__doc__).parse_args()
    run_until_signal(serve, options.host, options.port)


if __name__ == "__main__":
    main()
