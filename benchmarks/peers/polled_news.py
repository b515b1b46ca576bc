"""The polled side of push_vs_poll: the last news as JSON over HTTP, with aiohttp on uvloop.

``POST /news`` appends a piece of news, ``GET /news?since=ID`` answers what came after it. It is an ordinary
endpoint, as most applications have one, on the fastest of the usual Python servers: the cost is that of polling,
not that of a slow framework.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque

import uvloop
from aiohttp import web

from benchmarks.peers.options import HOST, parse

KEPT = 1000


async def main() -> None:
    options = parse()
    news: deque[dict[str, object]] = deque(maxlen=KEPT)
    last = 0

    async def publish(request: web.Request) -> web.Response:
        nonlocal last
        last += 1
        news.append({"id": last, **json.loads(await request.text())})
        return web.Response(status=204)

    async def latest(request: web.Request) -> web.Response:
        since = int(request.query.get("since", 0))
        fresh = []
        for item in reversed(news):
            if item["id"] == since:
                break
            fresh.append(item)
        return web.json_response({"last": last, "news": fresh[::-1]})

    app = web.Application()
    app.router.add_post("/news", publish)
    app.router.add_get("/news", latest)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, options.port).start()
    await asyncio.Event().wait()


uvloop.run(main())
