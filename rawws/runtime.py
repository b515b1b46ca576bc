"""Errors of calls from another thread or event loop than trio's, in which rawws and its application run.

A call from another thread, or from asyncio, raises a `UsageError` that names the call which works from there. An
application that needs asyncio fails with errors that don't say so; `explain_asyncio` explains them.
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
_REMEDIES = {
    "quart": "Quart runs on trio with the package quart-trio",
    "asgiref": "asgiref, and Django with it, runs on asyncio only: run that application in a server of its own",
    "django": "Django runs on asyncio only: run that application in a server of its own",
    "a2wsgi": "a2wsgi runs on asyncio only: wrap the application in starlette.middleware.wsgi.WSGIMiddleware instead",
}
_REMEDY = (
    "call anyio or trio there, such as anyio.sleep, or run a coroutine of asyncio in a thread: "
    "await anyio.to_thread.run_sync(asyncio.run, coroutine)"
)


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


# Applications that need asyncio


def explain_asyncio(error: BaseException) -> str:
    """Return a sentence with the place where an application needs asyncio, and advice; empty for another failure."""
    for each in _causes(error):
        begins = _WORDS.get(type(each), ())  # the beginning alone: a peer may have written the rest
        if (begins and str(each).startswith(begins)) or _broke_in_asyncio(each):
            library, where = _find_caller(each)
            remedy = _REMEDIES.get(library, _REMEDY)
            words = str(each).partition(". ")[0]  # trio's message has two more sentences
            return f"it needs asyncio{where}, but rawws runs it on trio ({type(each).__name__}: {words}); {remedy}"
    return ""


def hint_at_asyncio(lines: str) -> str:
    """Return advice for an application that failed with this traceback; empty if asyncio isn't the cause."""
    begins = tuple(f"{kind.__name__}: {words}" for kind, each in _WORDS.items() for words in each)
    if not lines.rpartition("\n")[2].startswith(begins):
        return ""
    remedy = next((remedy for library, remedy in _REMEDIES.items() if f"{os.sep}{library}{os.sep}" in lines), _REMEDY)
    return f"\nIt needs asyncio, but rawws runs it on trio; {remedy}."


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the members of exception groups, and their causes and contexts, each once."""
    errors: list[BaseException] = [error]
    seen: set[int] = set()
    while errors:
        each = errors.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, BaseExceptionGroup):
            errors += each.exceptions
        else:
            yield each
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


def _find_caller(error: BaseException) -> tuple[str, str]:
    """Return the package of the code that called asyncio, and `` at file:line``; empty if it isn't known."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = _module_of(frame).partition(".")[0]
        if package not in _PLUMBING:
            path = Path(frame.f_code.co_filename)
            shown = path.name if path.parent == Path.cwd() else os.path.join(*path.parts[-2:])
            return package, f" at {shown}:{line}"
    return "", ""


def _module_of(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _innermost_module(tb: TracebackType | None) -> str:
    module = ""
    for frame, _ in traceback.walk_tb(tb):
        module = _module_of(frame)
    return module
