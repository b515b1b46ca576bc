"""The two halves of a call, and loops, at their edges."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.application.asyncio_loop import AsyncioLoop
from rawws.application.asyncio_side import AsyncioSide
from rawws.application.loop import Channel
from rawws.application.parcels import Asked, Ended, Mark, Parcel
from rawws.application.server_side import ServerSide
from rawws.application.spec import Message
from rawws.application.threads import Threads
from rawws.errors import UsageError


class Side:
    """An application's half of a call, and the parcels that it hands over."""

    def __init__(self) -> None:
        self.parcels: list[Parcel] = []
        self.half = AsyncioSide(self.parcels.append, lambda: None, None)


def test_a_call_that_is_cancelled_before_it_begins_never_begins() -> None:
    async def app(*_: object) -> None:
        raise AssertionError("it began")

    side = Side()
    side.half.cancel()
    asyncio.run(side.half.run(app, {"type": "http"}))
    (ended,) = side.parcels
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, asyncio.CancelledError)


def test_an_error_of_receiving_is_raised_where_the_application_receives() -> None:
    async def receive(side: Side) -> None:
        side.half.arrive([UsageError("not now")])
        with pytest.raises(UsageError, match="not now"):
            await side.half.receive()

    asyncio.run(receive(Side()))


@pytest.mark.parametrize("event", [{"type": "http.response.body", "body": 3}, {"type": "lifespan.startup.failed"}])
def test_an_application_waits_for_an_event_that_may_be_refused(event: Message) -> None:
    async def send(side: Side) -> None:
        sending = asyncio.create_task(side.half.send(event))
        await asyncio.sleep(0)
        sent, mark = side.parcels
        assert sent == event
        assert isinstance(mark, Mark)
        assert not sending.done()
        mark.sent.set_result(UsageError("refused"))
        with pytest.raises(UsageError, match="refused"):
            await sending

    asyncio.run(send(Side()))


async def test_bytes_on_their_way_are_counted() -> None:
    may_send = trio.Event()
    events = [{"type": "websocket.receive", "text": "y" * 5000} for _ in range(3)]

    async def send(_: Message) -> None:
        await may_send.wait()

    async def receive() -> Message:
        return events.pop() if events else await trio.sleep_forever()

    def receive_now() -> Message | None:
        return events.pop() if events else None

    async with trio.open_nursery() as nursery:
        half = ServerSide(Channel(receive, send, receive_now), lambda _: None, nursery)
        half.other = Side().half
        try:
            nursery.start_soon(half.serve, bool)
            for wrong in (3, None):
                half.take({"type": "websocket.send", "bytes": wrong})
            for _ in range(4):
                half.take({"type": "websocket.send", "bytes": bytes(10_000)})
            await wait_all_tasks_blocked()
            assert 40_000 <= half.held_bytes < 45_000, "those behind the one that is being sent"
            half.take(Asked())
            await wait_all_tasks_blocked()
            assert 55_000 <= half.held_bytes < 60_000
            may_send.set()
            await wait_all_tasks_blocked()
            assert half.held_bytes == 15_000, "the application has not asked further"
            half.take(Asked())
            assert half.held_bytes == 0
            half.take(Ended(None))
            await wait_all_tasks_blocked()
        finally:
            half.close()


async def test_a_piece_of_a_body_is_counted_until_the_application_asks_further() -> None:
    pieces: list[Message] = [{"type": "http.request", "body": bytes(5000), "more_body": True}]

    async def receive() -> Message:
        return pieces.pop() if pieces else await trio.sleep_forever()

    async def send(_: Message) -> None: ...

    async with trio.open_nursery() as nursery:
        half = ServerSide(Channel(receive, send, lambda: None), lambda _: None, nursery)
        half.other = Side().half
        half.take(Asked())
        await wait_all_tasks_blocked()
        assert half.held_bytes == 5000
        half.take(Asked())
        assert half.held_bytes == 0
        half.close()


async def test_an_application_is_called_only_while_its_loop_runs() -> None:
    async def nothing(*_: Any) -> Any: ...

    loop = AsyncioLoop()
    with pytest.raises(UsageError, match="can be called only while its loop runs"):
        await loop.call(nothing, {"type": "http"}, Channel(nothing, nothing))
    async with trio.open_nursery() as nursery, loop.running(nursery):
        await loop.call(nothing, {"type": "http"}, Channel(nothing, nothing))
        with pytest.raises(UsageError, match="this loop runs already"):
            await loop.running(nursery).__aenter__()


async def test_wsgi_has_no_websockets() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(event: Message) -> None:
        sent.append(event)

    await Threads().call(None, {"type": "websocket"}, Channel(receive, send))
    assert [event["type"] for event in sent] == ["websocket.close"]
