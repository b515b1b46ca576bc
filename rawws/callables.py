"""Checks of the functions that a program passes to rawws, made when they are passed, not when they are first called.

A check refuses only functions that can't work. A plain function may return an awaitable, as decorators and lambdas do,
so it is accepted as an async one unless it never returns a value.
"""

from __future__ import annotations

import dis
import functools
import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from rawws.errors import UsageError
from rawws.wire.trace import shorten

_NO_HINTS: Mapping[int, str] = {}


def check_async(what: str, given: object, *arguments: str, hints: Mapping[int, str] = _NO_HINTS) -> None:
    """Raise `UsageError` unless this may be an async function of these arguments; ``what`` names it in the message.

    ``hints`` maps another number of arguments to the advice for a function that takes as many.
    """
    if isinstance(given, type) and not hasattr(given, "__await__"):
        raise UsageError(f"{what} can't be the class {name_of(given)} itself; give one of its objects, or a function")
    function = check_function(what, given, *arguments, hints=hints)
    if _returns_nothing(function):
        raise UsageError(f"{what} must be async, and {name_of(given)} is a plain function; define it with async def")


def check_plain(what: str, given: object, *arguments: str) -> None:
    """Raise `UsageError` unless this may be a plain function of these arguments."""
    function = check_function(what, given, *arguments)
    if inspect.iscoroutinefunction(function):
        raise UsageError(f"{what} can't be async, and {name_of(given)} is; define it with def")


def check_function(what: str, given: object, *arguments: str, hints: Mapping[int, str] = _NO_HINTS) -> object:
    """Return the function that a call runs. Raises `UsageError` unless it can be called with these arguments."""
    if inspect.iscoroutine(given):
        given.close()  # otherwise Python warns that it was never awaited
        raise UsageError(
            f"{what} must be a function, and {given.__name__} has been called already; "
            f"give {given.__name__} without parentheses"
        )
    if not callable(given):
        raise UsageError(f"{what} can't be {shorten(repr(given))}; give {_form(arguments)}")
    function = _behind(given)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(
            f"{what} can't be {name_of(given)}, which has a yield in it and so is a generator; give {_form(arguments)}"
        )
    if not takes(given, len(arguments)):
        hint = next((hint for number, hint in hints.items() if takes(given, number)), "")
        own = shorten(f"{name_of(given)}{_signature(given)}")
        raise UsageError(f"{what} is called with {_named(arguments)}, which {own} doesn't take{hint}")
    return function


def name_of(given: object) -> str:
    """Return the qualified name of a callable, or its type's if it has none."""
    while isinstance(given, functools.partial):
        given = given.func
    name = getattr(given, "__qualname__", None) or f"an object of {type(given).__qualname__}"
    return str(name).rpartition("<locals>.")[2]


def _form(arguments: tuple[str, ...]) -> str:
    return f"a function of {_named(arguments)}"


def _named(arguments: tuple[str, ...]) -> str:
    count = "one argument" if len(arguments) == 1 else f"{len(arguments)} arguments"
    return f"{count} ({', '.join(arguments)})"


def _behind(given: Any) -> object:
    """Return the function that a call of a method, a partial or a callable object runs."""
    while True:
        if isinstance(given, functools.partial):
            given = given.func
        elif isinstance(given, MethodType):
            given = given.__func__
        elif inspect.isroutine(given) or isinstance(given, type):
            return given
        else:
            given = type(given).__call__


def takes(given: Callable[..., object], number: int) -> bool:
    """Say whether it can be called with this number of arguments. A wrapper's own signature counts."""
    try:
        signature = inspect.signature(given, follow_wrapped=False)
    except (ValueError, TypeError):
        return True  # a function in C without a signature
    try:
        signature.bind(*[None] * number)
    except TypeError:
        return False
    return True


def _signature(given: Callable[..., object]) -> str:
    signature = inspect.signature(given, follow_wrapped=False)
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def _returns_nothing(function: object) -> bool:
    """Say whether a plain function never returns a value, so that its result can't be awaited.

    False if the bytecode doesn't show it.
    """
    code = getattr(function, "__code__", None)
    if code is None or code.co_flags & (inspect.CO_COROUTINE | inspect.CO_ITERABLE_COROUTINE):
        return False
    loads_none = False
    for instruction in dis.get_instructions(code):
        match instruction.opname:
            case "RETURN_CONST" if instruction.argval is not None:  # Python 3.12 and 3.13
                return False
            case "RETURN_VALUE" if not loads_none:
                return False
        loads_none = instruction.opname == "LOAD_CONST" and instruction.argval is None
    return True
