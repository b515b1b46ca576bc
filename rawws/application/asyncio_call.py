"""One call of an application that runs in another thread, as the server follows it.

The application's task is of its own loop, so the server needs no further task for it: whoever waits for the response
follows the call. When the response is complete, the call may be left, and followed on by another task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from rawws import logs
from rawws.application.asyncio_side import AsyncioSide
from rawws.application.loop import GRACE_S
from rawws.application.parcels import Ended
from rawws.application.server_side import Post, ServerSide
from rawws.wire.trace import FAULT


class AsyncioCall:
    """A call that has begun. It belongs to the server's thread, and has to be followed until it has ended."""

    def __init__(
        self, ours: ServerSide, theirs: AsyncioSide, post: Post, on_end: Callable[[AsyncioCall], None]
    ) -> None:
        """``post`` hands a call to the application's thread; ``on_end`` is called when this has ended."""
        self._ours = ours
        self._theirs = theirs
        self._post = post
        self._on_end = on_end
        self.has_ended = False

    def give_up(self, error: BaseException) -> None:
        """End the call: the loop in which the application runs has ended."""
        self._ours.take(Ended(error))

    async def follow(self, may_leave: Callable[[], bool]) -> None:
        """Do what the application asks for, until it has ended (``has_ended``), or the call may be left.

        Raises what the application raises. A cancellation is passed on to it, and ends the call.
        """
        error = None
        try:
            if not await self._ours.serve(may_leave):
                return
            error = self._ours.take_error()
        except trio.Cancelled:
            self._post(self._theirs.cancel)
            error = await _wait_cancelled(self._ours)
            if error is None:
                self._end()
                raise
        except BaseException:
            self._end()
            raise
        self._end()
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback has this frame

    def _end(self) -> None:
        self.has_ended = True
        self._on_end(self)
        self._ours.close()


async def _wait_cancelled(call: ServerSide) -> BaseException | None:
    """Return the error that a cancelled call has raised, if it is one of its own. A call may take `GRACE_S` to end."""
    with trio.CancelScope(deadline=trio.current_time() + GRACE_S, shield=True):
        return await call.serve_cancelled()
    text = f"the application did not end within {GRACE_S:g} seconds of its cancellation; it is left alone"
    logs.server_line(logging.ERROR, FAULT, text)
    return None
