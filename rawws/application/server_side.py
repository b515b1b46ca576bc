"""One call of an application on another loop, in the server's thread: it does what the application's parcels say."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import trio

from rawws.application.asyncio_side import WINDOW_BYTES, AsyncioSide, acknowledge, sent_size_of
from rawws.application.loop import Channel
from rawws.application.parcels import Asked, Ended, Mark, Noticed, Parcel
from rawws.application.spec import ClientDisconnected, Message

# Hands a call to the application's thread.
Post = Callable[[Callable[[], object]], None]


# The most events that cross together. The application holds them then, where they aren't counted (a guess).
MOST_TOGETHER = 16


class ServerSide:
    """One call, as the server sees it. All methods belong to the thread of the server."""

    def __init__(self, channel: Channel, post: Post, nursery: trio.Nursery) -> None:
        self._receive = channel.receive
        self._receive_now = channel.receive_now
        self._send = channel.send
        self._post = post
        self._nursery = nursery  # takes the task that fetches events
        self._parcels: deque[Parcel] = deque()
        self._sleeper: trio.lowlevel.Task | None = None
        self._receiving: trio.CancelScope | None = None  # the scope of the task that fetches events
        self._puller: trio.lowlevel.Task | None = None  # that task, while it has nothing to fetch
        self._asked = 0  # events that are still to be fetched
        self._crossed_bytes = 0  # of events that the application has not asked further than
        self._is_closed = False
        self._error: BaseException | None = None  # of an event for which the application has not waited
        self.other: AsyncioSide | None = None

    @property
    def held_bytes(self) -> int:
        """The bytes of messages and bodies on their way, in both directions."""
        events = (parcel for parcel in self._parcels if not isinstance(parcel, Mark | Noticed | Ended | Asked))
        return self._crossed_bytes + sum(sent_size_of(event) or 0 for event in events)

    @property
    def is_idle(self) -> bool:
        """Whether all parcels that have come are dealt with."""
        return not self._parcels

    def take(self, parcel: Parcel) -> None:
        """Take a parcel from the application."""
        if isinstance(parcel, Asked):
            self._ask()  # not after what was sent before: a client may only read when it has sent everything
            return
        self._parcels.append(parcel)
        if self._sleeper is not None:
            trio.lowlevel.reschedule(self._sleeper)
            self._sleeper = None

    async def serve(self, may_leave: Callable[[], bool]) -> bool:
        """Do what the application's parcels say until it ends; return True then.

        Returns False if ``may_leave``, which is called after each parcel, returns True.
        """
        while not isinstance(parcel := await self._next(), Ended):
            await self._heed(parcel)
            if may_leave():
                return False
        self._error = parcel.error or self._error
        return True

    def take_error(self) -> BaseException | None:
        """Return the error that the application has raised, once."""
        error, self._error = self._error, None
        return error

    async def _heed(self, parcel: Parcel) -> None:
        if type(parcel) is dict:  # as nearly every one
            await self._forward(parcel)
            return
        match parcel:
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
        self.other = None  # which knows this one, too: the two would be kept until they are collected
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
        if self.other is not None:
            self._post(partial(self.other.fail, error))

    def _ask(self) -> None:
        """Have the next event fetched, by a task that is started for the first one."""
        if self._is_closed:
            return
        self._asked += 1
        self._crossed_bytes = 0  # it asks when it has taken all
        if self._puller is not None:
            trio.lowlevel.reschedule(self._puller)
            self._puller = None
        elif self._receiving is None:
            self._receiving = trio.CancelScope(shield=True)  # as the call may be: the call closes this when it ends
            self._nursery.start_soon(self._pull)

    @trio.lowlevel.enable_ki_protection
    async def _pull(self) -> None:
        """Fetch an event each time that the application asks for one, until the call ends."""
        other = self.other
        if other is None:  # the call has ended meanwhile
            return
        assert self._receiving is not None
        with self._receiving:
            while not self._is_closed:
                while not self._asked:
                    self._puller = trio.lowlevel.current_task()
                    await trio.lowlevel.wait_task_rescheduled(self._abort_puller)
                self._asked -= 1
                # Without a name for the events, which would keep them until the next ones come.
                self._post(partial(other.arrive, await self._fetch()))

    async def _fetch(self) -> list[Any]:
        """Return the next event, or the error of receiving it, and the events that may cross together with it."""
        try:
            event: Any = await self._receive()
        except Exception as error:
            event = error
        return [event, *self._further_events(event)]

    def _abort_puller(self, _: object) -> trio.lowlevel.Abort:
        self._puller = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _further_events(self, event: Any) -> Iterator[Message]:
        """Yield events that wait already, and may cross together with this one."""
        if self._receive_now is None or isinstance(event, BaseException):
            return
        size = size_of(event)
        self._crossed_bytes = size
        for _ in range(MOST_TOGETHER):
            if size >= WINDOW_BYTES or (further := self._receive_now()) is None:
                return
            size += size_of(further)
            self._crossed_bytes = size
            yield further

    async def _next(self) -> Parcel:
        while not self._parcels:
            self._sleeper = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(self._abort)
        return self._parcels.popleft()

    def _abort(self, _: object) -> trio.lowlevel.Abort:
        self._sleeper = None
        return trio.lowlevel.Abort.SUCCEEDED


def size_of(event: Message) -> int:
    """Return the bytes of a message, or of a piece of a body, in an event."""
    return len(event.get("bytes") or event.get("text") or event.get("body") or b"")
