"""One call of an application that runs in another thread, as the server follows it.

The application's task is of its own loop, so the server needs no further task for it: whoever waits for the response
follows the call. When the response is complete, the call may be left, and followed on by another task.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from rawws.application.asyncio_side import AsyncioSide
from rawws.application.parcels import Ended
from rawws.application.server_side import Post, ServerSide


class AsyncioCall:
    """A call that has begun. It belongs to the server's thread, and has to be followed until it has ended."""

    def __init__(
        self,
        ours: ServerSide,
        theirs: AsyncioSide,
        post: Post,
        on_end: Callable[[AsyncioCall], None],
        patience: Callable[[], float],
        leave_alone: Callable[[AsyncioSide], None],
    ) -> None:
        """``post`` hands a call to the application's thread; ``on_end`` is called when this has ended.

        ``patience()`` returns the seconds that a cancelled call has to end; ``leave_alone`` is called with one that
        takes longer.
        """
        self._ours = ours
        self._theirs = theirs
        self._post = post
        self._on_end = on_end
        self._patience = patience
        self._leave_alone = leave_alone
        self.has_ended = False

    def give_up(self, error: BaseException) -> None:
        """End the call: the loop in which the application runs has ended."""
        self._ours.take(Ended(error))

    @property
    def is_idle(self) -> bool:
        return self._ours.is_idle

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
            error = await self._wait_cancelled()
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

    async def _wait_cancelled(self) -> BaseException | None:
        """Return the error that the cancelled call has raised, if it is one of its own, unless it takes too long."""
        with trio.CancelScope(deadline=trio.current_time() + self._patience(), shield=True):
            return await self._ours.serve_cancelled()
        self._leave_alone(self._theirs)
        return None
