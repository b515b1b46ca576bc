"""The page about threads and asyncio."""

from __future__ import annotations

import json
import urllib.request

from tests.manual.howto.walk import Walk


def test_messages_arrive_from_every_thread(walk: Walk) -> None:
    walk.follow("howto/threads")
    url, texts, waits = f"http://localhost:{walk.port('8080')}/room?", list[str](), "last=10"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while len(texts) < 3:
        with opener.open(url + waits) as answer:
            read = json.load(answer)
        texts += [message["text"] for message in read["messages"]]
        waits = f"since={read['next']}&wait=30"
    assert sorted(texts) == ["from any thread", "from asyncio", "from asyncio, with its id"]
