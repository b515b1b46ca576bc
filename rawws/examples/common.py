"""The parts that the examples share: their page's files, the flag for the port, and their end by a signal."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Awaitable, Callable
from importlib.resources import files

import trio

import rawws

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}

# Nothing from other origins, and no script or style within the HTML.
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'",
    # A page that is isolated from other origins may let a worker sleep, as the slow reader of the ticker does.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def page(name: str) -> Callable[[rawws.Request], Awaitable[rawws.Response | None]]:
    """Return an answer with the files of an example's page, for the ``http`` or ``process_request`` of `rawws.serve`.

    The page itself is at ``/``. Its other files, and those that all pages share, are next to it. The answer to any
    other path is None.
    """
    found: dict[str | None, rawws.Response] = {}
    for folder in ("shared", name):
        for file in files("rawws.examples").joinpath("static", folder).iterdir():
            headers = _HEADERS | {"Content-Type": f"{_TYPES[file.name.rpartition('.')[2]]}; charset=utf-8"}
            path = "/" if file.name == "index.html" else f"/{file.name}"
            found[path] = rawws.Response(200, file.read_bytes(), headers)

    async def answer(request: rawws.Request) -> rawws.Response | None:
        return found.get(request.path) if request.method in ("GET", "HEAD") else None

    return answer


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser for an example's arguments, with ``--host`` and ``--port``. The description is its docstring."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets others on your network in")
    parser.add_argument("--port", type=int, default=8080)
    return parser


def run_until_signal(main: Callable[..., Awaitable[None]], *arguments: object) -> None:
    """Run an example until it returns, or until Ctrl-C or SIGTERM ends it.

    Python turns Ctrl-C into an exception, which may be raised anywhere, and ignores it if a shell started the program
    in the background. So a server handles these signals itself.
    """
    trio.run(_until_signal, main, arguments)


async def _until_signal(main: Callable[..., Awaitable[None]], arguments: tuple[object, ...]) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, main, arguments, nursery.cancel_scope)
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


async def _run(main: Callable[..., Awaitable[None]], arguments: tuple[object, ...], program: trio.CancelScope) -> None:
    await main(*arguments)
    program.cancel()
