"""``rawws serve``: the program that says hi to HTTP and relays WebSocket messages within rooms."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import socket
from collections.abc import Iterator, Sequence

import trio

from rawws import logs, signals, web
from rawws.asgi_app import asgi, load_app
from rawws.cli.arguments import (
    above_zero,
    count,
    host_name,
    one_of,
    origin,
    page_token,
    path_prefix,
    port,
    proxy,
    rate,
    seconds,
    size,
    text,
    token,
)
from rawws.errors import UsageError
from rawws.hub import Hub, Mode
from rawws.lag_policies import POLICIES, Disconnect
from rawws.limits import MAX_LAG_BYTES, MIB, Limits
from rawws.metrics import MetricsApp
from rawws.page import HOME, About, Access, Page
from rawws.program import load_tls, run_program
from rawws.room_app import RoomApp
from rawws.room_posts import Guard
from rawws.server import Routes, Server, serve
from rawws.sharing import share
from rawws.tls import insecure_context
from rawws.tracing import Recording, Tracer
from rawws.transport import dialled_address, is_loopback, name_address
from rawws.wire.handshake import Origins
from rawws.wire.trace import STATE
from rawws.workers import MAX_WORKERS, Membership, run_workers

NAME = "serve"
HELP = "run the server"
DEFAULT_HELLO = "Hello! Message From Server!!"
CASE_PATH = HOME + "break-it"  # the room of connections that the page breaks, where they disturb nobody


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    worker = Membership.of_this_process()
    logs.configure(options.log_level, None if worker is None else worker.number)
    _check(options)
    if options.workers is not None:
        if worker is None:
            return signals.run(run_workers, options.workers, options.host, options.port)
        _take_share(options)
    signals.run(_serve, options, worker)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for flags that don't go together."""
    if options.root_path is not None and not options.app:
        raise UsageError("--root-path is for an application; give --app too, or leave it out")
    if options.tls_key and not options.tls_cert:
        raise UsageError("--tls-key is of no use without --tls-cert; give the certificate too")
    uses_keys = POLICIES[options.slow].uses_keys
    if uses_keys and options.latest_key is None:
        raise UsageError(
            f"--slow {options.slow} needs --latest-key, the JSON member that names what a message is about"
        )
    if options.latest_key is not None and not uses_keys:
        raise UsageError("--latest-key is for --slow latest; give that too, or leave out the key")
    if options.mode == Mode.ECHO.value:
        of_rooms = {
            "--history": options.history,
            "--slow": options.slow != Disconnect.name,
            "--exclude-sender": options.exclude_sender,
            "--read-only": options.read_only,
            "--rate": options.rate,
            "--publish-token": options.publish_token is not None,
        }
        if idle := ", ".join(flag for flag, given in of_rooms.items() if given):
            raise UsageError(f"--mode echo has no rooms, which {idle} would be for; leave out one or the other")
    if options.page_token is not None and (options.page is False or options.workers is not None):
        other = "--no-page" if options.page is False else "--workers"
        raise UsageError(f"--page-token is for the page, and with {other} there is none; leave out one or the other")
    if options.workers is not None:
        _check_for_workers(options)


def _check_for_workers(options: argparse.Namespace) -> None:
    """Raises `UsageError` for what only one process can do."""
    if not 1 <= options.workers <= MAX_WORKERS:
        raise UsageError(f"--workers is how many processes serve; give 1 to {MAX_WORKERS}")
    if options.backplane is None:
        raise UsageError("--workers needs --backplane: workers share nothing, so a room would be as many as they are")
    if options.record is not None:
        raise UsageError("--record writes one file, and --workers are several processes; give one of the two")
    if options.page:
        raise UsageError("the page shows one process; leave out --page, or --workers")


def _take_share(options: argparse.Namespace) -> None:
    """Have a worker keep to its part of what is for the whole program, rounded up."""
    for name in ("max_connections", "max_memory"):
        if (whole := getattr(options, name)) is not None:
            setattr(options, name, math.ceil(whole / options.workers))


async def _serve(options: argparse.Namespace, worker: Membership | None) -> None:
    program = _Program(options, None if worker is None else worker.number)
    with program.recording():
        await run_program(
            options.host,
            options.port,
            program.serve,
            lambda: program.remark,
            worker,
            lambda: program.invitation,
        )


class _Program:
    """What the options ask for, put together."""

    def __init__(self, options: argparse.Namespace, worker: int | None) -> None:
        self._options = options
        self._worker = worker
        self._hub = Hub(
            mode=options.mode,
            hello=options.hello,
            max_lag_bytes=options.max_lag,
            slow=options.slow,
            key=options.latest_key or "",
            history=options.history,
            history_bytes=options.history_bytes,
            history_age_s=options.history_age,
            exclude_sender=options.exclude_sender,
            read_only=options.read_only,
            max_rooms=options.max_rooms,
            max_peers=options.max_peers,
            rooms_at=options.rooms,
        )
        self._origins = Origins(options.allow_origin)
        self._paths = self._hub.paths(beside_application=options.app is not None)
        self._tracer = Tracer()
        has_rooms = self._hub.mode is Mode.BROADCAST
        self._app: web.HttpApp = (
            asgi(load_app(options.app), root_path=options.root_path or "")
            if options.app
            else web.HelloApp(["POST"] if has_rooms else [], self._name_obstacle)
        )
        self._tls = load_tls(options.tls_cert, options.tls_key) if options.tls_cert else None
        self.remark = "any path is a room" if self._paths.root == "/" else f"rooms are {self._paths}"
        self.invitation = ""  # to the page, if there is one
        if options.metrics:
            MetricsApp(self._hub, self._app, worker)  # raises when it can't be, before anything listens

    def _name_obstacle(self) -> str:
        backplane = self._hub.backplane
        return "the backplane is away" if backplane is not None and backplane.is_away else ""

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
        app: web.HttpApp = self._app
        routes: Routes | None = None
        if POLICIES[options.slow].blocks_publishers and not options.ping_timeout:
            waits = f"--slow {options.slow} with --ping-timeout 0 waits for ever"
            message = f"{waits}: a peer that stops reading holds up its room"
            logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, message)
        # Whoever reaches a proxy reaches what is behind it.
        local = all(map(is_loopback, listeners)) and not options.trusted_proxy
        if self._hub.mode is Mode.BROADCAST:
            guard = Guard(options.publish_token, local, self._origins)
            app = RoomApp(self._hub, app, guard, rate=options.rate)
        if options.metrics:
            app = MetricsApp(self._hub, app, self._worker)
        page = self._page(listeners, local)
        if page is not None:
            app = page.before(app, at_root=options.app is None)
            routes = {**page.routes, CASE_PATH: self._hub}
            scheme = "http" if self._tls is None else "https"
            self.invitation = page.invite(f"{scheme}://{name_address(dialled_address(listeners[0]))}")
        async with share(self._hub, *options.backplane) if options.backplane else contextlib.nullcontext():
            await self._serve(listeners, status, app, routes)

    async def _serve(
        self,
        listeners: Sequence[socket.socket],
        status: trio.TaskStatus[Server],
        app: web.HttpApp,
        routes: Routes | None,
    ) -> None:
        options = self._options
        await serve(
            self._hub,
            listeners=listeners,
            http=app,
            routes=routes,
            origins=self._origins,
            hosts=options.allow_host,
            subprotocols=options.subprotocol,
            max_size=options.max_size,
            rate=options.rate,
            max_memory=options.max_memory,
            max_connections=options.max_connections,
            max_connections_per_ip=options.max_connections_per_ip,
            trusted_proxies=options.trusted_proxy,
            max_head=options.max_head,
            max_headers=options.max_headers,
            max_target=options.max_target,
            open_timeout=options.open_timeout,
            keep_alive=options.keep_alive,
            close_timeout=options.close_timeout,
            ping_interval=options.ping_interval,
            ping_timeout=options.ping_timeout,
            drain=options.drain,
            compression="deflate" if options.compression else None,
            fast_lane=options.fast_lane,
            tracer=self._tracer,
            ssl=self._tls,
            task_status=status,
        )

    def _page(self, listeners: Sequence[socket.socket], local: bool) -> Page | None:
        """Return the page, if it is on: by default only where this machine alone can reach it."""
        options = self._options
        alone = options.workers is None  # otherwise it would show only what one worker sees
        wanted = local and alone if options.page is None else options.page
        if not wanted or listeners[0].family == socket.AF_UNIX:  # where no browser goes
            if options.page_token is not None:
                message = "the page is off, since others can reach this server; to use --page-token, give --page too"
                logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, message)
            return None
        if not local:
            message = "the page is on: everybody who can reach it and has its token sees all that crosses the wire"
            logs.line(logs.server, logging.WARNING, logs.SERVER, STATE, message)
        scheme = "ws" if self._tls is None else "wss"
        uri = f"{scheme}://{name_address(dialled_address(listeners[0]))}"
        about = About(
            uri,
            None if self._tls is None else insecure_context(),
            case_path=CASE_PATH,
            path=self._paths.example,
            has_rooms=self._hub.mode is Mode.BROADCAST,
        )
        access = Access(options.page_token, secure=self._tls is not None)
        return Page(self._tracer, about, any_host=not local, access=access)


def _policies_in_words() -> str:
    *others, last = (policy.summary for policy in POLICIES.values())
    return f"{', '.join(others)}, or {last}"


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
        type=one_of([mode.value for mode in Mode]),
        choices=[mode.value for mode in Mode],
        default=Mode.BROADCAST.value,
        help="send each message to the whole room, or back to its sender alone (default: %(default)s)",
    )
    talk.add_argument(
        "--allow-origin",
        type=origin,
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages from there connect too, such as https://hoppscotch.io; * for any; may be repeated",
    )
    talk.add_argument(
        "--allow-host",
        type=host_name,
        metavar="NAME",
        action="append",
        default=[],
        help="a name by which the server may be called, beside addresses and localhost; * for any; may be repeated "
        "(default: any, but only those when listening on this machine alone)",
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
        "--root-path",
        metavar="PATH",
        help="the prefix that a proxy in front removes from the path, such as /api; the application gets it",
    )
    talk.add_argument(
        "--no-compression", dest="compression", action="store_false", help="decline permessage-deflate (RFC 7692)"
    )
    talk.add_argument(
        "--no-fast-lane", dest="fast_lane", action="store_false", help="read and write each frame through wsproto"
    )
    rooms = parser.add_argument_group("rooms")
    rooms.add_argument(
        "--history",
        type=count,
        metavar="N",
        default=0,
        help="messages that a room keeps for who comes later (default: 0)",
    )
    rooms.add_argument(
        "--history-bytes", type=size, metavar="BYTES", default=MIB, help="of a room's history, about (default: 1M)"
    )
    rooms.add_argument(
        "--history-age", type=seconds, metavar="SECONDS", default=3600, help="of a message in it (default: %(default)g)"
    )
    rooms.add_argument(
        "--slow",
        type=one_of(list(POLICIES)),
        choices=list(POLICIES),
        default=Disconnect.name,
        help=f"a peer that reads too slowly {_policies_in_words()} (default: %(default)s)",
    )
    rooms.add_argument(
        "--backplane",
        action="append",
        metavar="URL",
        help="share rooms with other nodes through this Redis, such as redis://localhost; repeatable: rooms are spread",
    )
    rooms.add_argument(
        "--workers",
        type=count,
        metavar="N",
        help="serve by so many processes on one port; needs --backplane; "
        "--max-connections and --max-memory are divided among them, other limits are for each",
    )
    rooms.add_argument("--latest-key", metavar="MEMBER", help="for --slow latest: the member of a message's JSON")
    rooms.add_argument("--exclude-sender", action="store_true", help="what a peer sends goes to all others only")
    rooms.add_argument("--read-only", action="store_true", help="peers may not send; messages come by POST")
    rooms.add_argument(
        "--max-rooms", type=above_zero(count), metavar="N", help="refuse more with 503 (default: no limit)"
    )
    rooms.add_argument(
        "--max-peers", type=above_zero(count), metavar="N", help="in a room; refuse more with 503 (default: no limit)"
    )
    rooms.add_argument(
        "--rate", type=rate, metavar="N", default=0,
        help="messages a second from one peer; more are read later, or answered with 429 (default: no limit)",
    )  # fmt: skip
    rooms.add_argument(
        "--publish-token",
        metavar="TOKEN",
        type=token,
        help="what a POST to a room must carry, as Authorization: Bearer TOKEN",
    )
    rooms.add_argument(
        "--rooms", metavar="PATH", type=path_prefix,
        help="this path and all paths below it are rooms, over WebSocket and HTTP; an upgrade elsewhere gets 404 "
        "(default: / for any path, or /room/ beside --app)",
    )  # fmt: skip
    limits = parser.add_argument_group("limits (sizes take k, M and G, in powers of 1,024)")
    limits.add_argument(
        "--max-size", type=above_zero(size), metavar="BYTES", default=defaults.max_message_bytes,
        help="of one message; a larger one is refused with 1009 (default: 1M)",
    )  # fmt: skip
    limits.add_argument(
        "--max-lag", type=above_zero(size), metavar="BYTES", default=MAX_LAG_BYTES,
        help="how much a peer may have its room keep by falling behind, before it is closed with 1013 (default: 16M)",
    )  # fmt: skip
    limits.add_argument(
        "--max-memory", type=above_zero(size), metavar="BYTES",
        help="memory that connections, rooms and requests may take together; beyond it histories are dropped, then "
        "the largest connections are closed (default: no limit)",
    )  # fmt: skip
    limits.add_argument(
        "--max-connections", type=above_zero(count), metavar="N", help="at once; more get 503 (default: no limit)"
    )
    limits.add_argument(
        "--max-connections-per-ip",
        type=above_zero(count),
        metavar="N",
        help="from one address, or of IPv6 one /64; more get 429 (default: no limit)",
    )
    limits.add_argument(
        "--trusted-proxy", type=proxy, metavar="NETWORK", action="append", default=[],
        help="trust X-Forwarded-For and X-Forwarded-Proto, or else Forwarded, from proxies there, such as 10.0.0.0/8; "
        "may be repeated",
    )  # fmt: skip
    for flag, most, what in (
        ("--max-head", "16k", "of a request's head; a larger one gets 431"),
        ("--max-target", "8k", "of a request's target; a longer one gets 414"),
    ):
        limits.add_argument(
            flag, type=above_zero(size), metavar="BYTES", default=size(most), help=f"{what} (default: {most})"
        )
    limits.add_argument(
        "--max-headers", type=above_zero(count), metavar="N", default=defaults.max_headers,
        help="fields in a request's head; more get 431 (default: %(default)s)",
    )  # fmt: skip
    for flag, default, what in (
        ("--open-timeout", defaults.header_timeout_s, "for a request's head to come; then it gets 408; 0 for no limit"),
        ("--keep-alive", defaults.keep_alive_timeout_s, "between requests, or pieces of an upload; 0 for no limit"),
        ("--close-timeout", defaults.close_timeout_s, "for a peer's half of the closing handshake; 0 for no limit"),
        ("--ping-interval", defaults.ping_interval_s, "between two pings to a peer; 0 for none"),
        (
            "--ping-timeout",
            defaults.ping_timeout_s,
            "for a peer to send a byte after a ping, or to take one while --slow wait waits for it; 0 for no limit",
        ),
        ("--drain", defaults.drain_s, "that a stopping server waits for its peers and its requests"),
    ):
        limits.add_argument(
            flag, type=seconds, metavar="SECONDS", default=default, help=f"{what} (default: %(default)g)"
        )
    show = parser.add_argument_group("what it shows: on standard error, and in a browser")
    show.add_argument("--metrics", action="store_true", help="answer /metrics for Prometheus (needs prometheus-client)")
    show.add_argument(
        "--page",
        action=argparse.BooleanOptionalAction,
        help="show a browser that has the page's token what crosses the wire; the link with the token is logged at "
        "startup (default: only where this machine alone can reach it)",
    )
    show.add_argument(
        "--page-token",
        metavar="TOKEN",
        type=page_token,
        help="the page's token (default: a new one at each start)",
    )
    show.add_argument(
        "--record", metavar="FILE", help="write each HTTP head and frame to this file too, for rawws decode to read"
    )
    levels = show.add_mutually_exclusive_group()
    levels.add_argument(
        "--log-level",
        type=one_of(list(logs.LEVELS)),
        choices=list(logs.LEVELS),
        default="info",
        help="default: %(default)s",
    )
    levels.add_argument("-v", dest="log_level", action="store_const", const="debug", help="the whole story (debug)")
    levels.add_argument(
        "-vv", dest="log_level", action="store_const", const="trace", help="and each frame's bytes in hex (trace)"
    )
