"""A text and a whiteboard that several browsers edit at once.

    python -m rawws.examples.editing --port 8080
    open http://localhost:8080/ in two browsers, and edit in both

The server knows nothing of texts or drawings: it relays what the browsers do, and keeps it for those who come later.
The browsers keep each document as a set, which only grows (``replica.js``). The text and the drawing follow from the
set alone, so all browsers show the same, in whatever order the changes have come, also after work without a connection.

A history is bounded, and a document may have had more changes than that. So after every 200 changes, the browser that
made the last of them publishes its whole set as one message (``document.js``). The room forgets a document after a day
without changes, or when the server ends. A browser that has the document open publishes it again when it reconnects.

No change is checked by the server, so everybody who can connect may also fill a document until no browser can show it.
A service for strangers has to check each change in a handler before it publishes that.
"""

from __future__ import annotations

from functools import partial

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

MIB = 1024 * 1024

# Ten times as many changes as there are between two whole sets, and a day's rest. A newcomer, who reads all of it, may
# lag by as much.
DOCUMENT = rawws.RoomSettings(rawws.History(2000, max_bytes=32 * MIB, max_age_s=24 * 3600), max_lag_bytes=64 * MIB)

# The cursors of a document. There is no history of them, and of each person only the newest is of use.
CURSORS = rawws.RoomSettings(slow="latest", key="from")

hub = rawws.Hub(
    settings=lambda path: CURSORS if path.startswith("/rooms/cursors/") else DOCUMENT,
    rooms_at="/rooms/",
    max_rooms=1000,
)


async def serve(host: str, port: int) -> None:
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, hub, port, host=host, http=page("editing"), max_size=4 * MIB)
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/", flush=True)


def main() -> None:
    options = arguments(__doc__).parse_args()
    run_until_signal(serve, options.host, options.port)


if __name__ == "__main__":
    main()
