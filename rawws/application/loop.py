"""The event loop in which an application runs, as the server sees it.

The server runs on trio. It calls an application through an `ApplicationLoop`, and gives it functions that run on trio:
`receive` and `send` of one call. How they are called from the application's side is the loop's affair.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import NamedTuple, Protocol

import trio

from rawws.application.spec import Application, Message, Receive, Scope, Send
from rawws.hooks import call_application

# The time that an application has to end after a cancellation, a shutdown or a failed startup, in seconds (a guess).
GRACE_S = 5.0

# Returns the next event of a call if it is known without waiting.
ReceiveNow = Callable[[], Message | None]
# Takes a function that returns the bytes of events on their way between the application and the server.
Track = Callable[[Callable[[], int]], None]


class Channel(NamedTuple):
    """The way between one call of an application and the server: async functions of trio, and what they know."""

    receive: Receive
    send: Send
    # Returns an event that needs no waiting, or None. A loop that has a way to save calls it at the beginning, and
    # after ``receive``.
    receive_now: ReceiveNow | None = None
    track: Track | None = None  # A loop that keeps events on their way calls it once.


class Call(Protocol):
    """A call of an application that runs by itself. It has to be followed until it has ended."""

    @property
    def has_ended(self) -> bool:
        """Whether the application has returned."""

    @property
    def is_idle(self) -> bool:
        """Whether nothing that the application wants is to be done at present."""

    async def follow(self, may_leave: Callable[[], bool]) -> None:
        """Make the calls of ``receive`` and ``send`` that the application wants, until it has ended.

        Returns earlier if ``may_leave``, which is called whenever something has been done, returns True. Then the call
        has to be followed again. Raises what the application raises. A cancellation is passed on to the application,
        which has some time to clean up, and ends the call.
        """


class ApplicationLoop(Protocol):
    """Calls an application. All of its methods belong to the thread in which the server's trio runs."""

    @property
    def name(self) -> str:
        """The name of the loop, as ``--app-loop`` has it."""

    @property
    def failure(self) -> BaseException | None:
        """The error with which the loop has ended by itself, after its context."""

    def describe(self) -> str:
        """Return the name, and where the loop runs."""

    def running(self, nursery: trio.Nursery) -> AbstractAsyncContextManager[None]:
        """Return a context within which the application can be called; at its end, whatever still runs is cancelled.

        The loop may start tasks in the nursery, and cancels it if it ends before the context does.
        """

    async def wait_blocked(self) -> None:
        """Return when the application blocks the loop, so that nothing has reached it for `GRACE_S`.

        It never returns for a loop that can't be blocked apart from the server's.
        """

    def begin(self, app: Application, scope: Scope, channel: Channel) -> Call | None:
        """Begin what `call` does, if the application then runs by itself. None where `call` needs a task of its own."""

    async def call(self, app: Application, scope: Scope, channel: Channel) -> None:
        """Call the application once, and return when it has returned. Raises what it raises.

        The scope is the application's from here on. A cancellation is passed on, and the application has some time to
        clean up.
        """


class TrioLoop:
    """The loop of the server itself: the application is called like any other async function."""

    name = "trio"
    failure = None

    def describe(self) -> str:
        return "trio, in the loop of the server"

    def running(self, nursery: trio.Nursery) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def wait_blocked(self) -> None:
        await trio.sleep_forever()

    def begin(self, *_: object) -> None:
        return None

    async def call(self, app: Application, scope: Scope, channel: Channel) -> None:
        await call_application(app, scope, channel.receive, channel.send)
