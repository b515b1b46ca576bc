"""The choice of the loop in which an application runs.

``auto`` is asyncio, as nearly every application expects, unless something of trio is seen in the application's modules.
Whether an application can start is the second test: one that fails for its loop is started again on the other one.
"""

from __future__ import annotations

import contextlib
import os
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from types import ModuleType

from rawws.application.loop import ApplicationLoop, TrioLoop
from rawws.errors import UsageError
from rawws.extras import install_command

AUTO = "auto"
LOOPS = (AUTO, "asyncio", "uvloop", "trio")

# A program may have any number of modules, and a module any number of names.
MAX_MODULES = 1000
MAX_NAMES = 10_000

_INSTALLED = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class LoopChoice:
    """The loops to try for an application, in order, and the reason for each, for the log."""

    def __init__(self, name: str, roots: Iterable[object]) -> None:
        """``roots`` are the application and what is known of it: its endpoints, or the module that has it.

        Raises `UsageError` for a name that is none of `LOOPS`, and for a loop that isn't installed.
        """
        if name not in LOOPS:
            raise UsageError(f"there is no loop {name!r} for an application; give {', '.join(LOOPS[:-1])} or trio")
        if name == AUTO:
            where = find_trio(roots)
            self._names = ["trio", "asyncio"] if where else ["asyncio", "trio"]
            self.reason = f"{where} uses trio" if where else "no trio is seen in its modules"
        else:
            self._names = [name]
            self.reason = ""
            make_loop(name)

    def loops(self) -> Iterator[ApplicationLoop]:
        """Yield the loops to try, each a new object."""
        return map(make_loop, self._names)


class NoChoice:
    """The one loop of an application that can't run on another one."""

    reason = ""

    def __init__(self, make: Callable[[], ApplicationLoop]) -> None:
        self._make = make

    def loops(self) -> Iterator[ApplicationLoop]:
        """Yield the loop, a new object."""
        yield self._make()


def make_loop(name: str) -> ApplicationLoop:
    """Return a new loop of this name. Raises `UsageError` if it isn't installed."""
    if name == "trio":
        return TrioLoop()
    from rawws.application.asyncio_loop import AsyncioLoop  # asyncio takes a while to import

    if name == "asyncio":
        return AsyncioLoop()
    try:
        import uvloop
    except ImportError:
        raise UsageError(f"uvloop isn't installed; install it with: {install_command('uvloop')}") from None
    return AsyncioLoop("uvloop", uvloop.new_event_loop)


def find_trio(roots: Iterable[object]) -> str:
    """Return the name of a module of the application that uses trio; empty if there is none.

    The modules are those of the roots, and of what can be reached from there by the names in modules, except for
    installed packages. A module uses trio if it has a name for trio, or for something of it or of a package that is
    built on it.
    """
    pending = [name for root in roots for name in _modules_of(root)]
    seen: set[str] = set()
    while pending and len(seen) < MAX_MODULES:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        if _is_of_trio(name):
            return name
        for value in list(vars(sys.modules[name]).values())[:MAX_NAMES] if name in sys.modules else ():
            if any(map(_is_of_trio, _modules_of(value))):
                return name
            pending += [other for other in _modules_of(value) if not _is_installed(other)]
    return ""


def _modules_of(value: object) -> list[str]:
    """Return the names of the modules to which an object belongs: its own, and its type's."""
    if issubclass(type(value), ModuleType):
        return [vars(value)["__name__"]]
    own = None
    with contextlib.suppress(Exception):  # an object's attributes may run any code
        own = getattr(value, "__module__", None)
    return [name for name in (type(value).__module__, own) if isinstance(name, str)]


def _is_of_trio(module: str) -> bool:
    package = module.partition(".")[0]
    return package == "trio" or package.startswith("trio_") or package.endswith("_trio")


def _is_installed(module: str) -> bool:
    """Whether a module is Python's own, or an installed package's. One without a file counts as installed."""
    if module.partition(".")[0] == "rawws":  # it may lie anywhere
        return True
    file = getattr(sys.modules.get(module), "__file__", None)
    return not isinstance(file, str) or file.startswith(_INSTALLED)
