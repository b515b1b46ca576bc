"""The WebSocket endpoints of an ASGI application, as far as they can be seen without calling it.

ASGI has no way to ask. Frameworks keep lists, each in its own form, and middleware wraps one application in another.
The result is for a warning and isn't complete: an application may have endpoints that aren't found.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

# A tree of applications may contain a circle, or branches that are made on access (as in a test's Mock).
MAX_ROUTES = 10_000
MAX_UNWRAPPED = 200
MAX_DEPTH = 30

# Where middleware and servers keep the application that they wrap: Starlette and most of PyPI; Quart's and Flask's
# ``wsgi_app`` idiom; Channels (``inner``, and ``application`` of its validators); python-socketio.
_WRAPPED = ("app", "asgi_app", "inner", "application", "other_asgi_app")


_ANY, _ANY_PATH = "\0", "\1"  # these stand for a parameter
_PARAMETER = re.compile(r"\{[^}]*\}|<[^>]*>|\(")
_SPANS_SEGMENTS = re.compile(r":path\b|<path\b|\(")


def websocket_paths(application: object) -> list[str]:
    """Return the paths of the WebSocket endpoints that are found, each once. Attributes that raise count as missing."""
    return list(dict.fromkeys(_Look().at(application, "", 0)))


def endpoints(application: object) -> list[object]:
    """Return the functions that answer an application's requests, as far as it lists them itself."""
    return _careful(_functions, application)


def may_match_below(pattern: str, root: str) -> bool:
    """Return whether an endpoint's path, by its parameters, may match paths that begin with a root such as ``/room/``.

    ``{name}`` and ``<name>`` stand for one segment, ``{name:path}`` and ``<path:name>`` for any number of them. A
    regular expression in parentheses may match anything.
    """
    ours = root.split("/")
    theirs = _PARAMETER.sub(lambda found: _ANY_PATH if _SPANS_SEGMENTS.search(found[0]) else _ANY, pattern).split("/")
    for own, other in zip(ours, theirs, strict=False):
        if _ANY_PATH in other:
            return own.startswith(other.partition(_ANY_PATH)[0].partition(_ANY)[0]) or not own
        if own and not (own == other or (_ANY in other and own.startswith(other.partition(_ANY)[0]))):
            return False
    return len(theirs) >= len(ours)


class _Look:
    """One walk through a tree of applications, which visits each application once for each path to it."""

    def __init__(self) -> None:
        self._seen: set[tuple[int, str]] = set()
        self._unwrapped = 0

    def at(self, application: object, prefix: str, depth: int) -> Iterator[str]:
        if depth > MAX_DEPTH or len(self._seen) >= MAX_ROUTES or (id(application), prefix) in self._seen:
            return
        self._seen.add((id(application), prefix))
        for find in (_of_rules, _of_socket_io):
            for path in _careful(find, application):
                yield prefix + path
        for route in _careful(_routes, application):
            # A mount has a path of its own; a router and a host have none.
            path = prefix + _text(route, "path")
            if _is_endpoint(route):
                yield path
            else:
                yield from self.at(route, path.rstrip("/"), depth + 1)
        for before, router in _careful(_included, application):
            yield from self.at(router, prefix + before, depth + 1)
        for path in _careful(_of_channels, application):
            yield prefix + path
        for inner in _careful(_wrapped, application):
            self._unwrapped += 1
            if self._unwrapped <= MAX_UNWRAPPED:
                yield from self.at(inner, prefix, depth + 1)


Found = TypeVar("Found")


def _careful(find: Callable[[Any], Iterable[Found]], application: object) -> list[Found]:
    """Return at most `MAX_ROUTES` results, and those before an exception. An attribute may run any code, and raise."""
    found: list[Found] = []
    with contextlib.suppress(Exception):
        found.extend(itertools.islice(find(application), MAX_ROUTES))
    return found


def _text(thing: object, name: str) -> str:
    try:
        value = getattr(thing, name, "")
    except Exception:
        return ""
    return value if isinstance(value, str) else ""


def _is_endpoint(route: object) -> bool:
    """Starlette's, FastAPI's and Litestar's ``WebSocketRoute``, or a class derived from it."""
    return any("WebSocketRoute" in cls.__name__ for cls in type(route).__mro__)


def _routes(application: Any) -> Iterator[object]:
    """Starlette, FastAPI, Litestar: applications, routers and mounts have ``routes``."""
    yield from getattr(application, "routes", None) or ()


def _functions(application: Any) -> Iterator[object]:
    for route in _routes(application):
        yield getattr(route, "endpoint", None)


def _included(route: Any) -> Iterator[tuple[str, object]]:
    """Recent versions of FastAPI keep an included router unchanged, and its prefix in another attribute."""
    router = getattr(route, "original_router", None)
    if router is not None:
        yield _text(getattr(route, "include_context", None), "prefix"), router


def _of_rules(application: Any) -> Iterator[str]:
    """Quart: Werkzeug's map of rules."""
    rules = getattr(application, "url_map", None)
    for rule in () if rules is None else rules.iter_rules():
        if getattr(rule, "websocket", False) is True:
            yield str(rule.rule)


def _of_channels(application: Any) -> Iterator[str]:
    """Django Channels: a router of protocols. Its middleware wraps a router of URLs."""
    mapping = getattr(application, "application_mapping", None)
    if not isinstance(mapping, dict) or "websocket" not in mapping:
        return
    router = mapping["websocket"]
    for _ in range(MAX_DEPTH):
        if patterns := getattr(router, "routes", None):
            yield from ("/" + str(route.pattern).removeprefix("^") for route in patterns)
            return
        router = getattr(router, "inner", None) or getattr(router, "application", None)
    yield "/"  # it takes WebSockets, but doesn't say where


def _of_socket_io(application: Any) -> Iterator[str]:
    """Socket.IO and Engine.IO, at one path."""
    if path := _text(application, "engineio_path"):
        yield f"/{path.strip('/')}/"


def _wrapped(application: Any) -> Iterator[object]:
    for name in _WRAPPED:
        inner = getattr(application, name, None)
        if callable(inner):
            yield inner
