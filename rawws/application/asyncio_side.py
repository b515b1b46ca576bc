"""One call of an application on asyncio, in the application's thread: its ``receive`` and ``send``.

Everything that the application does crosses to the server's thread as a parcel, in order. To wait for an answer costs a
way there and back, so an event is sent without waiting unless much is under way already. An error of such an event is
raised by the next ``send``.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable, Sequence

from rawws.application.parcels import Asked, Ended, Mark, Noticed, Parcel
from rawws.application.spec import Application, ClientDisconnected, Message, Scope
from rawws.application.whereabouts import place_of_coroutine
from rawws.limits import KIB

# The application waits when this many bytes of one response are on their way to the client's socket (a guess: asyncio's
# own transports wait at 64 KiB).
WINDOW_BYTES = 64 * KIB
# A small event takes as much memory as this; so the window is a bound on their number too.
_EVENT_BYTES = 512

# Events that are sent without waiting, and where the bytes are in them.
_STREAMED = {
    "http.response.start": (),
    "http.response.body": ("body",),
    "websocket.send": ("bytes", "text"),
    "websocket.http.response.start": (),
    "websocket.http.response.body": ("body",),
}
# The last event of a call that was cancelled, by the kind of its scope.
_FAREWELLS: dict[str, Message] = {
    "http": {"type": "http.disconnect"},
    "websocket": {"type": "websocket.disconnect", "code": 1006, "reason": ""},
}

_ASKED = Asked()


class AsyncioSide:
    """One call, as the application sees it. All methods belong to the thread of the application."""

    def __init__(self, post: Callable[[Parcel], None], on_end: Callable[[], None], first: Message | None) -> None:
        """``post`` hands a parcel to the server's thread; ``first`` is the first event if it is known.

        ``on_end`` is called after the last parcel.
        """
        self._post = post
        self._on_end = on_end
        self._arrived: deque[Message | BaseException] = deque() if first is None else deque([first])
        self._has_asked = False
        self._waiting: list[asyncio.Future[None]] = []  # tasks of the application that wait for an event
        self._error: BaseException | None = None  # of an event that was sent without waiting
        self._under_way = 0  # bytes that were sent since the application last waited
        self._task: asyncio.Task[None] | None = None
        self._called: object = None  # what the application is awaited as
        self._is_closed = False
        self._farewell: Message | None = None

    async def run(self, app: Application, scope: Scope) -> None:
        """Call the application; how it ends is the last parcel."""
        self._task = asyncio.current_task()
        self._farewell = _FAREWELLS.get(scope["type"])
        try:
            if self._is_closed:  # it was cancelled before it began
                raise asyncio.CancelledError
            self._called = result = app(scope, self.receive, self.send)
            if inspect.isawaitable(result):
                await result
        except BaseException as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        self._is_closed = True
        self._called = None
        self._post(Ended(error))
        self._on_end()

    # Called by the application

    async def receive(self) -> Message:
        """Return the next event. One that arrives after a task has stopped waiting for it is for the next."""
        while not self._arrived:
            if self._is_closed and self._farewell is not None:
                return dict(self._farewell)
            if not self._has_asked and not self._is_closed:
                self._has_asked = True
                self._post(_ASKED)
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                self._waiting.remove(waiter)
        event = self._arrived.popleft()
        if isinstance(event, BaseException):
            raise event
        return event

    async def send(self, message: Message) -> None:
        """Send an event. Raises what the server says of it, or of one that was sent before without waiting."""
        error = self._take_error() if self._error is not None else await self._forward(message)
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame: the circle would keep a stream open until it is collected

    def _take_error(self) -> BaseException | None:
        error, self._error = self._error, None
        if error is not None:
            self._post(Noticed(error))
        return error

    async def _forward(self, message: Message) -> BaseException | None:
        """Send an event, and return the error of that if the application has to wait for it."""
        if self._is_closed:
            return ClientDisconnected("this call of the application has ended, or is cancelled")
        size = sent_size_of(message)  # first, so that it is known to have one
        self._post(_copy(message))
        if size is not None:
            self._under_way += size
            if self._under_way <= WINDOW_BYTES:
                if message.get("more_body"):
                    await asyncio.sleep(0)  # otherwise a stream would keep all other tasks from running
                return None
        sent: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._post(Mark(sent))
        error = await sent
        self._under_way = 0
        if self._error is error:
            self._error = None
        return error

    # Called for the server's side

    def arrive(self, events: Sequence[Message | BaseException]) -> None:
        """Take the event that was asked for, or the error of asking, and those that have crossed with it."""
        self._has_asked = False
        self._arrived += events
        self._wake_all()

    def fail(self, error: BaseException) -> None:
        """Take the error of an event that was sent without waiting."""
        self._error = error

    def cancel(self) -> None:
        """Cancel the application's task. From here on it can send nothing."""
        self._is_closed = True
        self._wake_all()
        if self._task is not None:
            self._task.cancel()

    def place(self) -> str:
        """Return where the application's task is at present, such as ``/srv/shop.py:12, in report``."""
        return place_of_coroutine(self._called)

    def _wake_all(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


def acknowledge(mark: Mark, error: BaseException | None) -> None:
    """Let the application go on from a mark, unless it has stopped waiting."""
    if not mark.sent.done():
        mark.sent.set_result(error)


def _copy(message: Message) -> Message:
    """Return a copy that the application can't change when it goes on before the event is sent."""
    copy = dict(message)
    if "headers" in copy:
        copy["headers"] = list(copy["headers"])
    for name in ("body", "bytes"):
        if isinstance(copy.get(name), bytearray | memoryview):
            copy[name] = bytes(copy[name])
    return copy


def sent_size_of(message: Message) -> int | None:
    """Return about how much memory an event takes on its way, or None for one that the application has to wait for."""
    members = _STREAMED.get(message.get("type", ""))
    if members is None:
        return None
    size = _EVENT_BYTES
    for name in members:
        value = message.get(name)
        if isinstance(value, bytes | bytearray | memoryview | str):
            size += len(value)
        elif value is not None:
            return None  # the server refuses it
    return size
