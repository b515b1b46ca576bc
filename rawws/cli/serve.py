"""``rawws serve``: the program that says hi to HTTP and relays WebSocket messages within rooms."""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

from rawws import logs
from rawws.application.loading import AUTO, interface_of, load_app
from rawws.backplane.sharing import share
from rawws.cli.access import combine, read_admin_token, read_publish_token, read_rules
from rawws.cli.files import RereadFiles
from rawws.cli.serve_flags import FLAGS
from rawws.cli.token_sources import TokenSources, check_token_flags
from rawws.errors import UsageError
from rawws.hub.hub import Hub
from rawws.hub.hub_arguments import Mode
from rawws.hub.queues import why_none
from rawws.local.sequencer import Sequencer
from rawws.local.serving import SequencerServer
from rawws.local.sharing import LOCAL, share_with_workers
from rawws.net.addresses import format_address
from rawws.net.listeners import connectable_address, is_loopback
from rawws.net.tls import insecure_context
from rawws.page import HOME, About, Access, CaseGrant, Page
from rawws.process import signals
from rawws.process.program import load_tls, run_program
from rawws.process.workers import MAX_WORKERS, WorkerContext, run_workers
from rawws.relay.lag_policies import POLICIES
from rawws.server.administration import AdminApp, ReservedApp
from rawws.server.apps import HttpApp
from rawws.server.asgi import AsgiApp, make_app, make_wsgi_app
from rawws.server.metrics import MetricsApp
from rawws.server.operators import Nobody, Operators, TokenHolders
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.server.room_posts import PublishPolicy
from rawws.server.routes import Routes
from rawws.server.serve import serve
from rawws.server.server import Server
from rawws.tracing import Recording, Tracer
from rawws.wire.origins import Origins
from rawws.wire.trace import STATE

CASE_PATH = HOME + "break-it"  # a room for connections that the page breaks, apart from all others


def run(options: argparse.Namespace) -> int:
    """Serve until a signal ends it."""
    worker = WorkerContext.of_this_process()
    logs.configure(options.log_level, None if worker is None else worker.number)
    _check(options)
    if options.workers is not None:
        if worker is None:
            has_files = bool(FLAGS.given(options, lambda flag: flag.is_reread))
            supervise = partial(run_workers, reloads=has_files, make_sequencer=_sequencer_maker(options))
            return signals.run(supervise, options.workers, options.host, options.port)
        _take_share(options)
    signals.run(_serve, options, worker)
    return 0


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for flags that don't go together."""
    if not options.app and (alone := FLAGS.given(options, lambda flag: flag.needs_app)):
        verb = "is" if len(alone) == 1 else "are"
        raise UsageError(f"{', '.join(alone)} {verb} for an application; give --app too, or leave it out")
    if options.tls_key and not options.tls_cert:
        raise UsageError("--tls-key has no effect without --tls-cert; give the certificate too")
    uses_keys = POLICIES[options.slow].uses_keys
    if uses_keys and options.latest_key is None:
        raise UsageError(
            f"--slow {options.slow} requires --latest-key, the JSON member that says what a message is about"
        )
    if options.latest_key is not None and not uses_keys:
        raise UsageError("--latest-key is for --slow latest; give that too, or leave out the key")
    idle = FLAGS.given(options, lambda flag: flag.needs_rooms)
    if options.mode == Mode.ECHO.value and idle:
        names, verb = ", ".join(idle), "has" if len(idle) == 1 else "have"
        raise UsageError(f"{names} {verb} no effect with --mode echo, which has no rooms; remove one of them")
    if options.page_token is not None and (options.page is False or options.workers is not None):
        other = "--no-page" if options.page is False else "--workers"
        raise UsageError(f"--page-token has no effect with {other}, which turns the page off; remove one of them")
    check_token_flags(options)
    if options.backplane is not None and LOCAL in options.backplane:
        if options.workers is None:
            raise UsageError(f"--backplane {LOCAL} shares rooms among --workers; give these too, or leave it out")
        if len(options.backplane) > 1:
            raise UsageError(f"--backplane {LOCAL} shares rooms on this machine alone; remove it, or the others")
    _check_store(options)
    if options.workers is not None:
        _check_for_workers(options)


def _check_queues(options: argparse.Namespace) -> None:
    """Raises `UsageError` for what can't be had together with groups, or without a place for their jobs."""
    in_memory = options.queue_in_memory
    others = [flag for flag in ("store", "backplane", "workers") if getattr(options, flag)]
    if in_memory and others:
        sentence = f"--queue-in-memory is for one process without a store, and not for --{others[0]}"
        raise UsageError(f"{sentence}; remove one of them")
    has_jobs = in_memory or options.store is not None or not _shares_locally(options)
    if options.push and not has_jobs:
        raise UsageError(
            "--push has no effect without --store, --backplane or --queue-in-memory; give one, or leave it out"
        )
    if not has_jobs and FLAGS.given(options, lambda flag: flag.name == "--queue-bytes"):
        raise UsageError(
            "--queue-bytes has no effect without --store, --backplane or --queue-in-memory; give one, or leave it out"
        )


def _check_store(options: argparse.Namespace) -> None:
    """Raises `UsageError` for what can't be had together with a store, or without one."""
    _check_queues(options)
    if options.store is None:
        if alone := FLAGS.given(options, lambda flag: flag.needs_store):
            raise UsageError(f"{', '.join(alone)} has no effect without --store; give that too, or leave it out")
        return
    if options.backplane is not None:
        raise UsageError(
            "--store keeps rooms on this machine, and --backplane in Redis, which has its own files; remove one of them"
        )
    if options.workers is not None:
        raise UsageError("--store is for one process, and not yet for the rooms of --workers; remove one of them")
    if options.store_sync != "interval" and FLAGS.given(options, lambda flag: flag.name == "--store-interval"):
        raise UsageError("--store-interval is for --store-sync interval; give that too, or leave it out")


def _check_for_workers(options: argparse.Namespace) -> None:
    """Raises `UsageError` for what only one process can do."""
    if not 1 <= options.workers <= MAX_WORKERS:
        raise UsageError(f"--workers is the number of worker processes; give 1 to {MAX_WORKERS}")
    if options.record is not None:
        raise UsageError("--record writes one file, and --workers are several processes; remove one of them")
    if options.page:
        raise UsageError("--page shows one process, and --workers are several; remove one of them")


def _shares_locally(options: argparse.Namespace) -> bool:
    """Return whether the first process shares the rooms among the workers."""
    return options.backplane in (None, [LOCAL])


def _take_share(options: argparse.Namespace) -> None:
    """Reduce each limit on the whole program to the share of one worker, rounded up."""
    for name in [flag.option for flag in FLAGS if flag.is_divided]:
        if (whole := getattr(options, name)) is not None:
            first = name == "max_memory" and _shares_locally(options)  # which has the rooms' histories, too
            setattr(options, name, math.ceil(whole / (options.workers + first)))


def _sequencer_maker(options: argparse.Namespace) -> Callable[[], SequencerServer] | None:
    """Return what makes the sequencer of the workers; None if they share their rooms through Redis."""
    if not _shares_locally(options):
        return None
    whole = options.max_memory
    most = math.inf if whole is None else math.ceil(whole / (options.workers + 1))
    return lambda: SequencerServer(Sequencer(most, options.max_rooms or math.inf))


async def _serve(options: argparse.Namespace, worker: WorkerContext | None) -> None:
    program = _Program(options, worker)
    with program.recording():
        await run_program(
            options.host,
            options.port,
            program.serve,
            lambda: program.remark,
            worker,
            lambda: program.invitation,
            program.reload,
        )


class _Program:
    """The server and its parts, as the options ask for them."""

    def __init__(self, options: argparse.Namespace, context: WorkerContext | None) -> None:
        self._options = options
        self._context = context
        self._worker = worker = None if context is None else context.number
        self._hub = Hub(**FLAGS.keywords("hub", options))
        self._origins = Origins(options.allow_origin or ())
        self._paths = self._hub.paths(beside_application=options.app is not None)
        self._tracer = Tracer()
        has_rooms = self._hub.mode is Mode.BROADCAST
        self._files = RereadFiles()
        self._rules = read_rules(options, self._files)
        self._cases = CaseGrant(CASE_PATH)
        self._publish_token = read_publish_token(options, self._files)
        self._admin_token = read_admin_token(options, self._files)
        self._app: HttpApp = (
            _load(options) if options.app else HelloApp(["POST"] if has_rooms else [], lambda: self._hub.obstacle)
        )
        self._tokens = TokenSources(options, self._files)
        self._tls = load_tls(options.tls_cert, options.tls_key) if options.tls_cert else None
        self.remark = "any path is a room" if self._paths.root == "/" else f"rooms are {self._paths}"
        if isinstance(self._app, AsgiApp) and self._paths.root != "/":
            whose = "the application's" if self._app.takes_websockets else "refused"
            self.remark += f", other WebSockets are {whose}"
        self.invitation = ""  # to the page, if there is one
        if options.metrics:
            MetricsApp(self._hub, self._app, worker)  # raises if there can't be metrics, before anything listens

    @property
    def reload(self) -> Callable[[], Awaitable[None]] | None:
        """The function that reads files anew, if there are such files."""
        return self._files.reload if self._files else None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record heads and frames during the block, if --record is given."""
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
        app: HttpApp = self._app
        routes: Routes | None = None
        if POLICIES[options.slow].blocks_publishers and not options.ping_timeout:
            waits = f"--slow {options.slow} with --ping-timeout 0 waits for ever"
            message = f"{waits}: a peer that stops reading holds up its room"
            logs.server_line(logging.WARNING, STATE, message)
        # A client that reaches a proxy reaches the server after it.
        local = all(map(is_loopback, listeners)) and not options.trusted_proxy
        if self._hub.mode is Mode.BROADCAST:
            policy = PublishPolicy(self._publish_token, local, self._origins)
            app = RoomApp(self._hub, app, policy, rate=options.rate or 0.0)
        if options.metrics:
            of_all = self._context is not None and self._context.rooms is not None
            app = metrics = MetricsApp(self._hub, app, self._worker, of_all=of_all)
            status = _Started(metrics, status)
        page = self._page(listeners, local)
        if page is not None:
            app = page.before(app, at_root=options.app is None)
            routes = {**page.routes, CASE_PATH: self._hub}
            scheme = "http" if self._tls is None else "https"
            self.invitation = page.invite(f"{scheme}://{format_address(connectable_address(listeners[0]))}")
        if self._hub.mode is Mode.BROADCAST:
            app = AdminApp(self._hub, app if page is not None else ReservedApp(app), self._operators(page, local))
        async with self._sharing():
            with self._tokens.closing():
                await self._serve(listeners, status, app, routes)

    def _sharing(self) -> AbstractAsyncContextManager[object]:
        context = self._context
        if context is not None and context.rooms is not None:
            return share_with_workers(self._hub, context.rooms, context.give_up)
        backplane = self._options.backplane
        return share(self._hub, *backplane) if backplane else contextlib.nullcontext()

    async def _serve(
        self,
        listeners: Sequence[socket.socket],
        status: trio.TaskStatus[Server],
        app: HttpApp,
        routes: Routes | None,
    ) -> None:
        await serve(
            self._hub,
            listeners=listeners,
            http=app,
            routes=routes,
            origins=self._origins,
            tracer=self._tracer,
            ssl=self._tls,
            access=combine(self._rules, self._tokens, self._cases),
            task_status=status,
            **FLAGS.keywords("serve", self._options),
        )

    def _operators(self, page: Page | None, local: bool) -> Operators:
        """Return those who may administer the server."""
        if self._admin_token is not None:
            return TokenHolders(self._admin_token)
        return page.viewers if page is not None and local else Nobody()

    def _page(self, listeners: Sequence[socket.socket], local: bool) -> Page | None:
        """Return the page, if it is on: by default only where this machine alone can reach it."""
        options = self._options
        alone = options.workers is None  # otherwise it would show only what one worker sees
        wanted = local and alone if options.page is None else options.page
        if not wanted or listeners[0].family == socket.AF_UNIX:  # where no browser goes
            if options.page_token is not None:
                message = "the page is off, since others can reach this server; to use --page-token, give --page too"
                logs.server_line(logging.WARNING, STATE, message)
            return None
        if not local:
            message = "the page is on: everybody who can reach it and has its token sees all that crosses the wire"
            logs.server_line(logging.WARNING, STATE, message)
        scheme = "ws" if self._tls is None else "wss"
        uri = f"{scheme}://{format_address(connectable_address(listeners[0]))}"
        about = About(
            uri,
            None if self._tls is None else insecure_context(),
            case_path=CASE_PATH,
            case_headers=self._cases.headers,
            path=self._paths.example,
            has_rooms=self._hub.mode is Mode.BROADCAST,
            why_no_groups=lambda: why_none(self._hub.queues),
        )
        access = Access(options.page_token, secure=self._tls is not None)
        return Page(self._tracer, about, any_host=not local, access=access)


class _Started:
    """Passes on that a server has started, and lets its metrics know it."""

    def __init__(self, metrics: MetricsApp, status: trio.TaskStatus[Server]) -> None:
        self._metrics = metrics
        self._status = status

    def started(self, value: Any = None) -> None:
        self._metrics.begin(value.figures)
        self._status.started(value)


def _load(options: argparse.Namespace) -> HttpApp:
    """Return the application that --app names. Raises `UsageError` if there is none."""
    app: Any = load_app(options.app, options.app_interface)
    interface = interface_of(app) if options.app_interface == AUTO else options.app_interface
    idle = FLAGS.given(options, lambda flag: flag.needs_interface not in ("", interface))
    if idle:
        verb = "has" if len(idle) == 1 else "have"
        raise UsageError(f"{', '.join(idle)} {verb} no effect on an application for {interface.upper()}; leave it out")
    if interface == "wsgi":
        return make_wsgi_app(app, options.root_path, options.app_threads)
    module = sys.modules[options.app.partition(":")[0]]
    return make_app(app, options.root_path, "auto", options.app_loop, [module])


def _policies_in_words() -> str:
    *others, last = (policy.summary for policy in POLICIES.values())
    return f"{', '.join(others)}, or {last}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Answers HTTP requests with 'hi there', upgrades WebSockets, and sends every message "
        "to all who are connected to the same path."
    )
    FLAGS.add_to(parser)
