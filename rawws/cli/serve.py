"""``rawws serve``: the program that says hi to HTTP and relays WebSocket messages within rooms."""

from __future__ import annotations

import argparse
import contextlib
import logging
import socket
from collections.abc import Iterator, Sequence

import trio

from rawws import logs, web
from rawws.asgi_app import asgi, load_app
from rawws.cli.arguments import insecure_tls, port, seconds, size, text
from rawws.errors import UsageError
from rawws.hub import Hub, Mode
from rawws.limits import MAX_LAG_BYTES, Limits
from rawws.page import HOME, About, Page
from rawws.program import load_tls, run_program
from rawws.server import Server, serve
from rawws.tracing import Recording, Tracer
from rawws.transport import dialled_address, is_loopback, name_address
from rawws.wire.handshake import Origins
from rawws.wire.trace import STATE

NAME = "serve"
HELP = "run the server"
DEFAULT_HELLO = "Hello! Message From Server!!"
CASE_PATH = HOME + "break-it"  # the room of connections that the page breaks, where they disturb nobody


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    logs.configure(options.log_level)
    trio.run(_serve, options)
    return 0


async def _serve(options: argparse.Namespace) -> None:
    if options.tls_key and not options.tls_cert:
        raise UsageError("--tls-key is of no use without --tls-cert; give the certificate too")
    program = _Program(options)
    with program.recording():
        await run_program(options.host, options.port, program.serve, lambda: program.remark)


class _Program:
    """What the options ask for, put together."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._hub = Hub(mode=options.mode, hello=options.hello, max_lag_bytes=options.max_lag)
        self._origins = Origins(options.allow_origin)
        self._tracer = Tracer()
        self._app: web.HttpApp = asgi(load_app(options.app)) if options.app else web.HelloApp()
        self._tls = load_tls(options.tls_cert, options.tls_key) if options.tls_cert else None
        self.remark = "any path is a room"

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record what crosses the wire meanwhile, if that is asked for."""
        if self._options.record is None:
            yield
            return
        recording = Recording(self._options.record)
        self._tracer.add(recording)
        try:
            yield
        finally:
            self._tracer.remove(recording)
            recording.close()

    async def serve(self, listeners: Sequence[socket.socket], status: trio.TaskStatus[Server]) -> None:
        options = self._options
        app, routes = self._app, None
        page = self._page(listeners)
        if page is not None:
            app, routes = page.before(app, at_root=options.app is None), page.routes
        await serve(
            self._hub,
            listeners=listeners,
            http=app,
            routes=routes,
            origins=self._origins,
            subprotocols=options.subprotocol,
            max_size=options.max_size,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
            drain=options.drain,
            compression="deflate" if options.compression else None,
            fast_lane=options.fast_lane,
            tracer=self._tracer,
            ssl=self._tls,
            task_status=status,
        )

    def _page(self, listeners: Sequence[socket.socket]) -> Page | None:
        """Return the page, if it is to be shown: by default to those on this machine only."""
        local = all(is_loopback(listener) for listener in listeners)
        if not (local if self._options.page is None else self._options.page):
            return None
        at = "/" if self._options.app is None else HOME
        self.remark += f"; open {at} in a browser to see the wire"
        if not local:
            told = "the page is on: whoever can reach it sees what crosses the wire of everybody here"
            logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, told)
        scheme = "ws" if self._tls is None else "wss"
        uri = f"{scheme}://{name_address(dialled_address(listeners[0]))}"
        about = About(uri, None if self._tls is None else insecure_tls(), case_path=CASE_PATH)
        return Page(self._tracer, about, any_host=not local)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = Limits()
    parser.description = (
        "Answers HTTP requests with 'hi there', upgrades WebSockets, and sends every message "
        "to all who are connected to the same path."
    )
    listen = parser.add_argument_group("where it listens")
    listen.add_argument(
        "--host", default="127.0.0.1", help="name or address (default: %(default)s; '' for every interface)"
    )
    listen.add_argument("--port", type=port, default=8080, help="default: %(default)s; 0 for any free one")
    listen.add_argument("--tls-cert", metavar="FILE", help="speak TLS (https, wss) with this certificate chain, PEM")
    listen.add_argument("--tls-key", metavar="FILE", help="its private key, if that is not in the same file")
    talk = parser.add_argument_group("what it does")
    talk.add_argument(
        "--hello",
        type=text,
        metavar="TEXT",
        default=DEFAULT_HELLO,
        help="greets each new peer (default: %(default)r; '' for none)",
    )
    talk.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.BROADCAST.value,
        help="send each message to the whole room, or back to its sender alone (default: %(default)s)",
    )
    talk.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages from there connect too, such as https://hoppscotch.io; * for any; may be repeated",
    )
    talk.add_argument(
        "--subprotocol",
        metavar="NAME",
        action="append",
        default=[],
        help="agree to this subprotocol when a client offers it; may be repeated, the favourite first",
    )
    talk.add_argument(
        "--app",
        metavar="MODULE:NAME",
        help="have this ASGI application (Starlette, FastAPI, ...) answer the requests that don't upgrade",
    )
    talk.add_argument(
        "--no-compression", dest="compression", action="store_false", help="decline permessage-deflate (RFC 7692)"
    )
    talk.add_argument(
        "--no-fast-lane", dest="fast_lane", action="store_false", help="read and write each frame through wsproto"
    )
    limits = parser.add_argument_group("limits (sizes take k, M and G, in powers of 1,024)")
    limits.add_argument(
        "--max-size", type=size, metavar="BYTES", default=defaults.max_message_bytes,
        help="of one message; a larger one is refused with 1009 (default: 1M)",
    )  # fmt: skip
    limits.add_argument(
        "--max-lag", type=size, metavar="BYTES", default=MAX_LAG_BYTES,
        help="how far a peer may fall behind before it is closed with 1013 (default: 16M)",
    )  # fmt: skip
    for flag, default, what in (
        ("--ping-interval", defaults.ping_interval_s, "between two pings to a peer; 0 for none"),
        ("--ping-timeout", defaults.ping_timeout_s, "that a peer has to send any byte after a ping; 0 for no limit"),
        ("--drain", defaults.drain_s, "that a stopping server waits for its peers"),
    ):
        limits.add_argument(
            flag, type=seconds, metavar="SECONDS", default=default, help=f"{what} (default: %(default)g)"
        )
    show = parser.add_argument_group("what it shows: on standard error, and in a browser")
    show.add_argument(
        "--page",
        action=argparse.BooleanOptionalAction,
        help="show a browser what crosses the wire (default: only when listening on this machine alone)",
    )
    show.add_argument(
        "--record", metavar="FILE", help="write each HTTP head and frame to this file too, for rawws decode to read"
    )
    levels = show.add_mutually_exclusive_group()
    levels.add_argument("--log-level", choices=list(logs.LEVELS), default="info", help="default: %(default)s")
    levels.add_argument("-v", dest="log_level", action="store_const", const="debug", help="the whole story (debug)")
    levels.add_argument(
        "-vv", dest="log_level", action="store_const", const="trace", help="and each frame's bytes in hex (trace)"
    )
