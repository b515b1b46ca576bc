"""``rawws tap``: a reverse proxy that changes nothing, and shows the handshakes and frames that pass through it."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import socket
import ssl
from functools import partial
from urllib.parse import urlsplit

import trio

from rawws import logs
from rawws.cli.arguments import page_token
from rawws.cli.flags import Flag, FlagTable, Value
from rawws.cli.tls_flags import TLS_FLAGS, TLS_GROUP, client_tls
from rawws.errors import UsageError
from rawws.net.addresses import format_address
from rawws.net.listeners import connectable_address, is_loopback, open_listeners
from rawws.net.tls import default_context
from rawws.page import TRACE, About, Access, Page
from rawws.process import signals
from rawws.process.program import raise_file_limit
from rawws.server.serve import serve
from rawws.tools.tap import Target, leads_back, run_tap
from rawws.tracing import Recording, Tracer
from rawws.websocket import WebSocket
from rawws.wire.handshake import wants_websocket
from rawws.wire.messages import Request, Response
from rawws.wire.trace import STATE, WATCHED_LEGEND

_DEFAULT_PORTS = {"ws": 80, "http": 80, "wss": 443, "https": 443}


_OUTPUT = (
    Flag("--record", Value(metavar="FILE"), "also write all traffic to this file, for rawws decode"),
    Flag(
        "--page",
        Value(metavar="[HOST:]PORT"),
        "also show the traffic in a browser, on this port; the link with its token is logged at startup",
    ),
    Flag(
        "--page-token",
        Value(page_token, "TOKEN"),
        "token of the page: letters, digits and -._~",
        shown_default="a new one at each start",
    ),
    Flag(
        "--log-level",
        Value.one_of(logs.LEVELS),
        "lowest level to log; frames are shown at `debug`",
        own_default="debug",
        alternative="level",
    ),
    Flag("-q", None, "log connections only (info)", dest="log_level", stores="info", alternative="level"),
    Flag(
        "-vv",
        None,
        "log each frame's bytes in hex too (trace)",
        dest="log_level",
        stores="trace",
        alternative="level",
    ),
)

FLAGS = FlagTable({TLS_GROUP: TLS_FLAGS, "output, on standard error, in a file and in a browser": _OUTPUT})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Listens for clients, connects each to the target, and passes every byte on unchanged, in both "
        "directions. The log shows each HTTP head, the checks of each handshake, and each frame."
    )
    parser.add_argument("listen", metavar="LISTEN", help="[HOST:]PORT, on loopback if there is no host")
    parser.add_argument("target", metavar="TARGET", help="HOST:PORT of the server, or its URL: ws://…, wss://…, http…")
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Tap until a signal ends it."""
    host, port = parse_listen(options.listen)
    target = parse_target(options.target, client_tls(options))
    if target.tls is None and (options.ca or options.cert):
        raise UsageError(f"--ca and --cert are for a server that speaks TLS; give it as wss://{target}")
    if options.page_token is not None and options.page is None:
        raise UsageError("--page-token is for the page of a tap; give --page PORT too")
    access = Access(options.page_token)
    page_at = None if options.page is None else parse_listen(options.page)
    logs.configure(options.log_level, legend=WATCHED_LEGEND)
    raise_file_limit()
    tracer = Tracer()
    with contextlib.ExitStack() as stack:
        if options.record:
            recording = Recording(options.record)
            tracer.add(recording)
            stack.callback(recording.close)
            stack.callback(tracer.remove, recording)
        signals.run(_tap, (host, port), target, tracer, page_at, access)
    return 0


def parse_listen(text: str) -> tuple[str, int]:
    """Return host and port of ``[HOST:]PORT``. Raises `UsageError`."""
    host, _, port = text.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= 0xFFFF):
        raise UsageError(f"{text!r} is not where to listen; give a port, or host and port such as 0.0.0.0:8080")
    return host.strip("[]") or "127.0.0.1", int(port)


def parse_target(text: str, tls: ssl.SSLContext | None = None) -> Target:
    """Return the server at an address, with these TLS settings or the default ones. Raises `UsageError`."""
    try:
        parts = urlsplit(text if "://" in text else f"//{text}")
        port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    except ValueError:
        port = None
    if port is None or not parts.hostname or parts.path not in ("", "/"):
        raise UsageError(
            f"{text!r} is not a server; give host and port such as localhost:3000, or ws://… or wss://… without a path"
        )
    if parts.scheme not in ("wss", "https"):
        return Target(parts.hostname, port)
    return Target(parts.hostname, port, tls or default_context())


async def _tap(
    listen: tuple[str, int], target: Target, tracer: Tracer, page_at: tuple[str, int] | None, access: Access
) -> None:
    with signals.ending_signals() as received_signals:
        listeners = await open_listeners(*listen)
        if await leads_back(target, listeners):
            for listener in listeners:
                listener.close()
            raise UsageError(f"{target} is where the tap itself listens; give the port of the server")
        async with trio.open_nursery() as nursery:
            for name in await nursery.start(run_tap, listeners, target, tracer):
                _log(f"listening on http://{name} and ws://{name}, and passing all on to {target} as it is")
            if page_at is not None:
                about = About(f"ws://{format_address(connectable_address(listeners[0]))}", is_tap=True)
                await _show_page(nursery, await open_listeners(*page_at), tracer, about, access)
            async for received in received_signals:
                _log(f"{signal.Signals(received).name}: stopped")
                nursery.cancel_scope.cancel()
                break


async def _show_page(
    nursery: trio.Nursery, listeners: list[socket.socket], tracer: Tracer, about: About, access: Access
) -> None:
    """Serve the page, and nothing else, beside the tap."""
    page = Page(tracer, about, any_host=not all(map(is_loopback, listeners)), access=access)

    def refuse_others(request: Request) -> Response | None:
        if wants_websocket(request) and request.path != TRACE:
            return Response(404, f"Here is the page of a tap; connect to {about.uri} instead.\n")
        return None

    async def nobody(_: WebSocket) -> None:
        pass

    start = partial(
        serve,
        nobody,
        listeners=listeners,
        http=page.before(None),
        routes=page.routes,
        process_request=refuse_others,
    )
    await nursery.start(start)
    _log(page.invite(f"http://{format_address(connectable_address(listeners[0]))}"))


def _log(message: str) -> None:
    logs.server_line(logging.INFO, STATE, message)
