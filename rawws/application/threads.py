"""The threads in which a WSGI application runs: a bounded pool, in place of a loop."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any

import trio

from rawws.application.loop import Channel
from rawws.application.spec import ClientDisconnected, Message, Receive, Scope, Send
from rawws.application.wsgi_call import WsgiCall

# As many as trio and anyio have by default. Each request holds one until its response is sent.
DEFAULT_THREADS = 40


class Threads:
    """An `ApplicationLoop` for a WSGI application, which has no loop: each call has a thread.

    A call that finds no thread free waits for one. A thread can't be cancelled: it is left alone, and the application
    gets an OSError when it reads or sends more.
    """

    name = "threads"
    failure = None

    def __init__(self, count: int = DEFAULT_THREADS) -> None:
        self._count = count
        self._limiter = trio.CapacityLimiter(count)

    def describe(self) -> str:
        return f"threads, at most {self._count} at a time (WSGI)"

    def running(self, nursery: trio.Nursery) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def wait_blocked(self) -> None:
        await trio.sleep_forever()

    def begin(self, *_: object) -> None:
        return None

    async def call(self, app: Any, scope: Scope, channel: Channel) -> None:
        if scope["type"] == "websocket":
            await channel.receive()
            await channel.send({"type": "websocket.close", "code": 1000})
            return
        exchange = _Exchange(channel.receive, channel.send)
        try:
            await trio.to_thread.run_sync(
                WsgiCall(exchange.receive, exchange.send_all).run,
                app,
                scope,
                limiter=self._limiter,
                abandon_on_cancel=True,
            )
        finally:
            exchange.close()


class _Exchange:
    """``receive`` and ``send`` for the thread of a call, which uses one of them at a time."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_over = False
        self._scope: trio.CancelScope | None = None  # of the function for which the thread waits

    def close(self) -> None:
        """End the exchange in the server's thread. The call's own thread may go on, if it was left alone."""
        self._is_over = True
        if self._scope is not None:
            self._scope.cancel()

    def receive(self) -> Message:
        event: Message = self._run(self._receive)
        return event

    def send_all(self, events: list[Message]) -> None:
        self._run(self._send_events, events)

    async def _send_events(self, events: list[Message]) -> None:
        for event in events:
            await self._send(event)

    def _run(self, function: Any, *arguments: object) -> Any:
        try:
            return trio.from_thread.run(self._run_in_trio, function, *arguments)
        except (trio.Cancelled, trio.RunFinishedError):
            raise ClientDisconnected("this request is cancelled") from None

    async def _run_in_trio(self, function: Any, *arguments: object) -> Any:
        # In a task of trio's own, since a thread that may be left alone has none. Nothing else cancels it.
        if not self._is_over:
            with trio.CancelScope() as self._scope:
                return await function(*arguments)
        raise ClientDisconnected("this request is cancelled")
