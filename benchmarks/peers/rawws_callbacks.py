"""rawws as a library: callbacks in the loop's turn, without a task for a connection, which echo."""

from __future__ import annotations

import trio

import rawws
from benchmarks.peers.options import HOST, MAX_MESSAGE_BYTES, parse


class Echo(rawws.Callbacks):
    def message(self, ws: rawws.CallbackWebSocket, data: str | bytes, /) -> None:
        ws.send_nowait(data)


async def main() -> None:
    options = parse()
    await rawws.serve(
        Echo(),
        options.port,
        host=HOST,
        ssl=options.ssl_context(),
        compression="deflate" if options.compression else None,
        ping_interval=None,
        max_size=MAX_MESSAGE_BYTES,
    )


trio.run(main)
