"""One call of an application on another loop, in the server's thread: it does what the application's parcels say."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import trio

from rawws.application.asyncio_side import AsyncioSide, acknowledge
from rawws.application.parcels import Asked, Ended, Mark, Noticed, Parcel
from rawws.application.spec import ClientDisconnected, Receive, Send

# Hands a call to the application's thread.
Post = Callable[[Callable[[], object]], None]


class ServerSide:
    """One call, as the server sees it. All methods belong to the thread of the server."""

    def __init__(self, receive: Receive, send: Send, post: Post, nursery: trio.Nursery) -> None:
        self._receive = receive
        self._send = send
        self._post = post
        self._nursery = nursery  # takes the tasks that wait for an event
        self._parcels: deque[Parcel] = deque()
        self._sleeper: trio.lowlevel.Task | None = None
        self._receiving: trio.CancelScope | None = None  # the scope of the task that waits for an event
        self._is_closed = False
        self._error: BaseException | None = None  # of an event for which the application has not waited
        self.other: AsyncioSide | None = None

    def take(self, parcel: Parcel) -> None:
        """Take a parcel from the application."""
        self._parcels.append(parcel)
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    async def serve(self) -> BaseException | None:
        """Do what the application's parcels say until it ends. Return the error that it has raised."""
        while not isinstance(parcel := await self._next(), Ended):
            await self._heed(parcel)
        try:
            return parcel.error or self._error
        finally:
            del parcel  # an error's traceback may have this frame: the circle would keep a stream open

    async def _heed(self, parcel: Parcel) -> None:
        match parcel:
            case Asked():
                self._nursery.start_soon(self._pull)
            case Mark():
                error, self._error = self._error, None
                self._post(partial(acknowledge, parcel, error))
            case Noticed():
                if self._error is parcel.error:
                    self._error = None
            case _:
                await self._forward(parcel)

    async def serve_cancelled(self) -> BaseException | None:
        """Wait until a cancelled application ends; whatever it sends is lost. Return the error that it has raised."""
        gone = ClientDisconnected("this call of the application is cancelled")
        while True:
            parcel = await self._next()
            match parcel:
                case Mark():
                    self._post(partial(acknowledge, parcel, gone))
                case Ended():
                    is_due = isinstance(parcel.error, asyncio.CancelledError | ClientDisconnected)
                    return None if is_due else parcel.error

    def close(self) -> None:
        """Stop waiting for an event, and let go of errors, whose tracebacks have everything that the call has."""
        self._is_closed = True
        self._error = None
        self._parcels.clear()
        if self._receiving is not None:
            self._receiving.cancel()

    async def _forward(self, message: Any) -> None:
        try:
            await self._send(message)
        except Exception as error:
            if self._error is None:
                self._error = error
                if not (self._parcels and isinstance(self._parcels[0], Mark | Ended)):
                    self._tell(error)

    def _tell(self, error: BaseException) -> None:
        assert self.other is not None
        self._post(partial(self.other.fail, error))

    @trio.lowlevel.enable_ki_protection
    async def _pull(self) -> None:
        assert self.other is not None
        if self._is_closed:
            return
        # Shielded, as the call itself may be: it is the call that is cancelled, and it closes this.
        with trio.CancelScope(shield=True) as self._receiving:
            try:
                event: Any = await self._receive()
            except Exception as error:
                event = error
            self._post(partial(self.other.arrive, event))

    async def _next(self) -> Parcel:
        while not self._parcels:
            self._sleeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return self._parcels.popleft()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED
