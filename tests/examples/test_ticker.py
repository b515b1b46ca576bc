"""The ticker: a slow reader gets the newest message of each symbol, and the others get every message."""

from __future__ import annotations

import json
import socket

import trio

import rawws
from rawws.examples import ticker
from tests.examples.running import Run, Visit, check_looks
from tests.serving.machine import LOOPBACK

ROUNDS = 100


async def test_a_slow_reader_gets_the_latest_of_each_symbol(nursery: trio.Nursery, bounded: None) -> None:  # noqa: ARG001
    hub = ticker.make_hub()
    listeners = await ticker.listen(LOOPBACK, 0)

    async def start(task_status: trio.TaskStatus[rawws.Server]) -> None:
        await rawws.serve(hub, listeners=listeners, compression=None, task_status=task_status)

    server: rawws.Server = await nursery.start(start)
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    slow.connect((LOOPBACK, server.port))
    async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/prices", socket=slow, max_queue=1) as ws:
        market, room = ticker.Market(padding=4000), hub.room("/prices")
        for _ in range(ROUNDS):
            for symbol in ticker.SYMBOLS:
                room.publish(market.change(symbol))
            await trio.lowlevel.checkpoint()
        seen: dict[str, list[int]] = {symbol: [] for symbol in ticker.SYMBOLS}
        while any(numbers[-1:] != [ROUNDS] for numbers in seen.values()):
            quote = json.loads(await ws.recv())
            seen[quote["symbol"]].append(quote["number"])
        received = sum(map(len, seen.values()))
        assert all(numbers == sorted(set(numbers)) for numbers in seen.values())  # none is older, none comes twice
        assert received < len(ticker.SYMBOLS) * ROUNDS / 2
    server.stop()


def test_the_page_shows_what_a_slow_reader_skips(run: Run, visit: Visit, axe: str) -> None:
    from playwright.sync_api import expect

    page = visit(run("ticker", "--port", "0", "--padding", "16000").wait_listening().url)
    fast, slow = (page.get_by_role("region", name=name) for name in ("A reader that keeps up", "A slow reader"))
    expect(slow.locator(".skipped").first).not_to_have_text("0")
    expect(fast.locator(".skipped").first).to_have_text("0")
    # All symbols are there on both sides.
    expect(slow.locator("tbody tr")).to_have_count(len(ticker.SYMBOLS))
    expect(fast.locator("tbody tr")).to_have_count(len(ticker.SYMBOLS))
    # As a fast reader it is soon up to date, and skips nothing any more.
    page.get_by_label("Time for each message").focus()
    page.keyboard.press("Home")
    expect(page.locator("#chosen")).to_have_text("0 ms")
    page.wait_for_function("""() => {
      const [fast, slow] = document.querySelectorAll("[data-symbol=OAK]")
      return Math.abs(fast.dataset.number - slow.dataset.number) <= 2
    }""")
    check_looks(page, axe)
