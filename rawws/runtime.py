"""Errors of calls from another thread or event loop than trio's, in which rawws and its application run.

A call from another thread, or from asyncio, raises a `UsageError` that names the call which works from there. An
application that needs asyncio fails with errors that don't say so; `explain_loop` explains them.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

import trio

from rawws.errors import UsageError

# The messages of asyncio (get_running_loop, get_event_loop), and of trio for a task that awaits a foreign object.
_WORDS: dict[type[BaseException], tuple[str, ...]] = {
    RuntimeError: ("no running event loop", "There is no current event loop"),
    DeprecationWarning: ("There is no current event loop",),  # Python 3.12 and later, with -W error
    TypeError: ("trio.run received unrecognized yield message",),
}
# The frames of these packages are below that of the code which called them.
_PLUMBING = frozenset({"asyncio", "trio", "outcome", "contextlib", "anyio"})
_ASYNCIO_LOOP = ("run_until_complete", "run_forever")  # while one of these runs, there is an asyncio loop
_REMEDY = (
    "call anyio or trio there, such as anyio.sleep, or run a coroutine of asyncio in a thread: "
    "await anyio.to_thread.run_sync(asyncio.run, coroutine)"
)

# An application is called in one of these modules, by the loop that it has.
_TRIO_CALLER = "rawws.application.loop"
_ASYNCIO_CALLER = "rawws.application.asyncio_side"
_WSGI_CALLER = "rawws.application.wsgi_call"  # in a thread, where no loop runs
_ON_ASYNCIO = "have it run there: --app-loop asyncio, or rawws.asgi(app, loop='asyncio')"
_ON_TRIO = "have it run there: --app-loop trio, or rawws.asgi(app, loop='trio')"
# The messages of trio where it doesn't run, and of asyncio for a task that awaits one of trio's objects.
_WORDS_OF_TRIO = ("must be called from async context", "this thread wasn't created by Trio", "Task got bad yield")


def check_in_trio(call: str, *, is_async: bool = False) -> None:
    """Raise `UsageError` unless trio runs in this thread.

    ``call`` is the function and its arguments for the message, such as ``room.publish, message``.
    """
    if not trio.lowlevel.in_trio_run():
        raise _in_wrong_place(call, "trio.from_thread.run" if is_async else "trio.from_thread.run_sync")


def check_runs_on_trio(function: str, run: str = "") -> None:
    """Raise `UsageError` for an async function that isn't run by trio.

    ``run`` holds the arguments of ``trio.run`` for the message; by default the program's main function.
    """
    if trio.lowlevel.in_trio_run():
        return
    start = f"start {'it' if run else 'your main function'} with trio.run({run or 'main'})"
    if _asyncio_runs():
        beside = f"or alongside asyncio with await asyncio.to_thread(trio.run, {run or 'main'})"
        raise UsageError(f"{function} runs on trio, and asyncio runs here; {start} in place of asyncio.run, {beside}")
    raise UsageError(f"{function} runs on trio, which doesn't run here; {start}")


def event_loop_here() -> str:
    """Return the name of the library whose event loop runs in this thread, and must not be blocked; empty if none."""
    if trio.lowlevel.in_trio_run():
        return "trio"
    return "asyncio" if _asyncio_runs() else ""


class NotAwaited:
    """A result in place of None: a program that awaits it gets a `UsageError`."""

    def __init__(self, message: str) -> None:
        self._message = message

    def __await__(self) -> Iterator[object]:
        raise UsageError(f"{self._message}; leave out the await")

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "None"


def not_awaited(message: str) -> None:
    """Return the result of a plain function that returns nothing, and is easily taken for an async one.

    ``message`` is the beginning of the `UsageError` that awaiting the result raises.
    """
    return NotAwaited(message)  # type: ignore[return-value]


def _in_wrong_place(call: str, run: str) -> UsageError:
    only = f"{call.partition(',')[0]} works only in the thread in which trio runs"
    with_token = f"{call}, trio_token=token"
    where = "where token is what trio.lowlevel.current_trio_token() has returned in trio's thread"
    if _asyncio_runs():
        return UsageError(f"{only}; in asyncio, use await asyncio.to_thread({run}, {with_token}), {where}")
    if _is_thread_of_trio():
        return UsageError(f"{only}; in this thread, use {run}({call})")
    return UsageError(f"{only}; in this thread, use {run}({with_token}), {where}")


def _asyncio_runs() -> bool:
    if "asyncio" not in sys.modules:
        return False
    import asyncio  # imported elsewhere already

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _is_thread_of_trio() -> bool:
    """Say whether trio has started this thread, as ``trio.to_thread.run_sync`` and ``anyio.to_thread`` do."""
    try:
        trio.from_thread.check_cancelled()
    except RuntimeError:
        return False
    except trio.Cancelled:
        pass  # the task that waits for this thread has been cancelled
    return True


# Applications that need another loop than the one in which they run


def explain_loop(error: BaseException) -> str:
    """Return a sentence with the place where an application needs another loop, and advice; empty for other failures.

    A hook or a handler always runs on trio.
    """
    errors = list(_causes(error))
    callers = {_module_of(frame) for each in errors for frame, _ in traceback.walk_tb(each.__traceback__)}
    if _WSGI_CALLER in callers:
        return ""
    for each in errors:
        if _ASYNCIO_CALLER in callers:
            if isinstance(each, RuntimeError) and str(each).startswith(_WORDS_OF_TRIO):
                return _explain(each, "trio", "asyncio", _ON_TRIO)
        elif _needs_asyncio(each):
            return _explain(each, "asyncio", "trio", _ON_ASYNCIO if _TRIO_CALLER in callers else _REMEDY)
    return ""


def _explain(error: BaseException, needed: str, used: str, remedy: str) -> str:
    words = str(error).partition(". ")[0]  # trio's message has two more sentences
    failed = f"({type(error).__name__}: {words})"
    return f"it needs {needed}{_find_caller(error)}, but rawws runs it on {used} {failed}; {remedy}"


def _needs_asyncio(error: BaseException) -> bool:
    begins = _WORDS.get(type(error), ())  # the beginning alone: a peer may have written the rest
    return bool(begins and str(error).startswith(begins)) or _broke_in_asyncio(error)


def hint_at_loop(lines: str, *, is_on_trio: bool) -> str:
    """Return a phrase of advice for an application that reports this error itself; empty for another cause.

    Starlette reports a whole traceback, and Quart the message alone.
    """
    last = lines.rpartition("\n")[2]
    words_of = _WORDS if is_on_trio else {RuntimeError: _WORDS_OF_TRIO}
    begins = [
        f"{name}{words}" for kind, each in words_of.items() for words in each for name in ("", f"{kind.__name__}: ")
    ]
    if not last.startswith(tuple(begins)):
        return ""
    if is_on_trio:
        return f"it needs asyncio, but rawws runs it on trio; {_ON_ASYNCIO}"
    return f"it needs trio, but rawws runs it on asyncio; {_ON_TRIO}"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the members of exception groups, and their causes, each once."""
    errors: list[BaseException] = [error]
    seen: set[int] = set()
    while errors:
        each = errors.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            errors += each.exceptions
        if each.__cause__ is not None:
            errors.append(each.__cause__)


def _broke_in_asyncio(error: BaseException) -> bool:
    """Say whether asyncio's own code failed for lack of a loop: asyncio.Queue.get has None where a loop would be."""
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]
    module = _innermost_module(error.__traceback__)
    return (
        isinstance(error, AttributeError)
        and (module == "asyncio" or module.startswith("asyncio."))
        and not any(name in _ASYNCIO_LOOP for name in names)
    )


def _find_caller(error: BaseException) -> str:
    """Return `` at file:line``, where the other loop was called; empty if that isn't known."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = _module_of(frame).partition(".")[0]
        if package not in _PLUMBING:
            path = Path(frame.f_code.co_filename)
            shown = path.name if path.parent == Path.cwd() else os.path.join(*path.parts[-2:])
            return f" at {shown}:{line}"
    return ""


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _innermost_module(tb: TracebackType | None) -> str:
    module = ""
    for frame, _ in traceback.walk_tb(tb):
        module = _module_of(frame)
    return module
