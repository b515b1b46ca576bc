"""Programs to read and to run, each as ``python -m rawws.examples.NAME``.

================  =====================================================================================
``echo``          the smallest server: each message goes back
``chat``          rooms with names, and a page to talk from
``ticker``        a live feed in which slow readers skip to the newest value
``payments``      a back end that notifies another: events that survive a kill of the other one
``existing_app``  a Starlette application with a WebSocket room, on one port
================  =====================================================================================
"""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

import trio


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
