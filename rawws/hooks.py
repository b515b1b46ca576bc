"""Calls into an application, and its exceptions: errors of its own, or exceptions for our caller.

In a program that leaves Ctrl-C to Python, a KeyboardInterrupt may be raised anywhere in the main thread. In the midst
of trio's own functions, such as ``nursery.start_soon``, it would leave a task that never runs, and its nursery
would wait for it for ever. So the tasks of a server are protected from it (`trio.lowlevel.enable_ki_protection`): it is
raised in the program's main task, when that is next at a checkpoint. Only an application's code is interrupted.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable
from typing import Any

import trio

from rawws import logs
from rawws.callables import name_of
from rawws.errors import UsageError
from rawws.runtime import NotAwaited, explain_loop
from rawws.wire.trace import FAULT, shorten

# GeneratorExit ends a coroutine that is closed before it has returned.
_ENDS_THE_PROGRAM = (KeyboardInterrupt, SystemExit, GeneratorExit)


def is_application_error(error: BaseException) -> bool:
    """Say whether an application's exception is an error of its own, which costs one response or one connection.

    Other exceptions are for our caller: those that end the program, and trio's ``Cancelled``. A ``Cancelled`` counts as
    an error if nothing is cancelled: an application has kept it and raised it again, and it would end the whole server
    without a message. So does asyncio's ``CancelledError``, which nothing above knows.
    """
    found = False
    errors = [error]
    while errors:  # a loop, since groups may be nested more deeply than Python allows calls
        error = errors.pop()
        if isinstance(error, BaseExceptionGroup):
            errors += error.exceptions
        elif isinstance(error, _ENDS_THE_PROGRAM):
            return False
        elif not isinstance(error, trio.Cancelled) or trio.current_effective_deadline() > -math.inf:
            found = True
    return found  # a cancellation besides isn't lost: trio raises it again at the next checkpoint


@trio.lowlevel.disable_ki_protection
async def call_application(function: Callable[..., Any], *arguments: object) -> Any:
    """Call an application's function, which may be async, and return its result. Ctrl-C may interrupt it."""
    result = function(*arguments)
    if isinstance(result, NotAwaited):  # for example the result of a lambda that stops the server
        return None
    return await result if inspect.isawaitable(result) else result


@trio.lowlevel.disable_ki_protection
async def call_handler(handler: Callable[..., Any], *arguments: object) -> None:
    """Call a handler likewise. Raises `UsageError` if its result shows that it is a plain function."""
    result = handler(*arguments)
    if inspect.isawaitable(result) and not isinstance(result, NotAwaited):
        await result
    elif result:
        raise UsageError(f"{name_of(handler)} is a plain function that returned {shorten(repr(result))}; make it async")


def log_failure(logger: logging.Logger, number: int, what: str, error: BaseException) -> None:
    """Log an application's exception, with its traceback, or in one line if the cause is known."""
    if reason := explain_loop(error):
        logs.line(logger, logging.ERROR, number, FAULT, f"{what}: {reason}")
    else:
        logger.error("#%d %s %s", number, FAULT, what, exc_info=error)
