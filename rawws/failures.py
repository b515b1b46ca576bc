"""What an application raises: its own failure, or what is for who called us."""

from __future__ import annotations

import math

import trio

# GeneratorExit is how a coroutine ends that nobody goes on with.
_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)


def is_failure(error: BaseException) -> bool:
    """Say whether what an application has raised is its own failure, which costs one answer or one connection.

    The rest is for who called us: what ends the program, and trio's cancelling. But trio doesn't cancel where an
    application has kept a ``Cancelled``, and raises it when nothing is cancelled: let through, that would end the
    whole server without a word. Nor does asyncio's ``CancelledError`` mean anything to anybody above.
    """
    found = False
    errors = [error]
    while errors:  # and no recursion: groups may be nested more deeply than Python calls
        error = errors.pop()
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, _ENDS_THE_PROGRAM):
            return False
        elif not isinstance(error, trio.Cancelled) or trio.current_effective_deadline() > -math.inf:
            found = True
    return found  # beside which cancelling isn't lost: trio raises it again where we wait next
