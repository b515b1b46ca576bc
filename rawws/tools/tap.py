"""A tap between clients and a server: it passes every byte on unchanged, and shows what both sides send."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import socket
import ssl as ssl_module
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

import trio

from rawws import logs
from rawws.inspection.describe import describe_switch
from rawws.inspection.observer import Observer, begins_with_http
from rawws.inspection.seen import Head, Rest, Seen, SeenFrame, Switch
from rawws.limits import MIB
from rawws.net.accept import Address, accept_connections
from rawws.net.addresses import format_address, parse_ip, plain_address
from rawws.net.client_address import client_of
from rawws.net.connection_errors import EXHAUSTED
from rawws.net.dial import dial
from rawws.net.tls import explain, start_tls
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.tracing import OpenConnection, Tracer
from rawws.wire.role import Role
from rawws.wire.trace import DIRECTIONS, FAULT, STATE, escape, head_lines, printable

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# From the look-up of the server's name to the end of the TLS handshake, as with `rawws.connect`.
DIAL_TIMEOUT_S = 10.0
# The most bytes after an upgrade that are kept until its answer. A client has to wait for that (§4.1); the bytes are
# passed on in any case.
MAX_WAITING_BYTES = 4096
# The most bytes of a payload that are kept for a recording, besides a little of its end.
MAX_SHOWN_BYTES = 16 * MIB
# The time in which a side's last bytes are still passed on after it stopped reading (a guess: they are in a buffer).
LAST_WORDS_S = 5.0
# The time to receive a client's request and to let it read the answer, when there is no connection to the server.
REFUSAL_S = 5.0
MOST_ANSWERED_BYTES = 64  # the most that is read to recognize HTTP
# The most connections of one client on which the server hasn't sent a byte yet. If the target leads back here, through
# another tap or a proxy, each connection causes another one, up to this bound. The next one is refused after this time,
# and the refusal travels back to the client that began the loop. A loop comes from one address at each of its taps, so
# a bound for each client ends it, and a silent client keeps no other client out.
MOST_UNANSWERED = 250
UNANSWERED_S = 2.0
# The most bytes that are observed, and frames that are shown, before other tasks run. Two bytes may be a frame.
LOOKED_AT_BYTES = 8192
SHOWN_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Target:
    """The server behind the tap."""

    host: str
    port: int
    tls: ssl_module.SSLContext | None = None

    def __str__(self) -> str:
        return format_address((self.host, self.port))

    async def dial(self) -> Transport:
        """Return a connection to the server. Raises OSError, also when that takes too long."""
        stage = f"connecting to {self}"
        with trio.move_on_after(DIAL_TIMEOUT_S):
            connected = await dial(self.host, self.port)
            if self.tls is None:
                return Transport(connected)
            stage = f"the TLS handshake with {self}"
            return await start_tls(connected, self.tls, self.host, str(self))
        raise TimeoutError(f"{stage} took longer than {DIAL_TIMEOUT_S:g} s")


async def leads_back(target: Target, listeners: Sequence[socket.socket]) -> bool:
    """Say whether the target, under any name, is the address of one of the listeners: then a tap would dial itself."""
    try:
        found = await trio.socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False  # the first connection reports the failed lookup
    dialled = {plain_address(address) for _, _, _, _, address in found}
    own = [plain_address(listener.getsockname()) for listener in listeners]
    return any(
        _reaches(parse_ip(host), parse_ip(at)) for host, port in dialled for at, own_port in own if port == own_port
    )


def _reaches(dialled: IpAddress, listens_at: IpAddress) -> bool:
    """Say whether a connection to an address reaches a listener at another one, on the same port."""
    if dialled.version != listens_at.version:
        return False
    if dialled.is_unspecified:  # the system takes it for its own address
        return listens_at.is_unspecified or listens_at.is_loopback
    return dialled == listens_at or (listens_at.is_unspecified and _is_of_this_machine(dialled))


def _is_of_this_machine(address: IpAddress) -> bool:
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as nothing_is_sent:
        try:
            nothing_is_sent.bind((str(address), 0))
        except OSError:
            return False
    return True


async def run_tap(
    listeners: Sequence[socket.socket],
    target: Target,
    tracer: Tracer,
    *,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Tap every connection that the listeners accept, until cancelled. The listeners are closed at the end."""
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        opened: dict[_Tapped, None] = {}  # in the order in which they were opened
        unanswered: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()  # by client, while it has any

        def list_open(most: int) -> tuple[list[OpenConnection], int]:
            websockets = [tapped for tapped in opened if tapped.is_websocket]
            listed = [tapped.describe() for tapped in websockets[-most:]]
            return listed, len(websockets) - len(listed)

        tracer.list_open = list_open

        async def run(tapped: _Tapped) -> None:
            opened[tapped] = None
            try:
                await tapped.run()
            finally:
                del opened[tapped]

        async with trio.open_nursery() as nursery:

            def take(connected: socket.socket, address: Address) -> None:
                client = client_of(address[0]) if isinstance(address, tuple) else ""
                if (permits := unanswered.get(client)) is None:
                    permits = unanswered[client] = trio.Semaphore(MOST_UNANSWERED)
                nursery.start_soon(run, _Tapped(Transport(connected), target, tracer, permits))

            for listener in listeners:
                nursery.start_soon(accept_connections, listener, take)
            task_status.started([format_address(listener.getsockname()) for listener in listeners])


def _bad_gateway(reason: str, *, with_body: bool) -> bytes:
    """Return the tap's own response, a 502 (RFC 9110 §15.6.3)."""
    body = f"The tap has no connection to the server behind it: {printable(reason)}.\n".encode()
    head = (
        "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")


def _describe_loss(error: OSError, sender: Role, target: Target) -> str:
    if isinstance(error, ssl_module.SSLError):  # in TLS 1.3, it may follow the handshake
        error = explain(error, str(target))
    return f"lost: {error.strerror or error}, while the {sender.label}'s bytes were passed on"


class _Tapped:
    """One connection through the tap."""

    def __init__(self, client: Transport, target: Target, tracer: Tracer, unanswered: trio.Semaphore) -> None:
        self._number = next(current_loop().numbers)
        self._ends = {Role.CLIENT: client}
        self._target = target
        self._tracer = tracer
        self._unanswered = unanswered  # this connection holds one until the server has sent a byte
        self._has_one = False
        self._observer = Observer(max_waiting_bytes=MAX_WAITING_BYTES)
        self._reason = ""  # why it ended, unless both sides ended it in order
        self._dialled_from = client.peer_name
        self._path = ""  # of the last request
        self._heads = dict.fromkeys(Role, b"")  # the last of each side
        self.is_websocket = False

    def describe(self) -> OpenConnection:
        return OpenConnection(self._number, self._dialled_from, self._path, self.is_websocket)

    async def run(self) -> None:
        """Pass everything on until both sides have ended, or one is lost."""
        client = self._ends[Role.CLIENT]
        self._log(logs.http, logging.INFO, STATE, f"accepted from {client.peer_name}")
        self._tracer.opened(self._number, client.peer_name)
        try:
            await self._connect_and_pass_on(client)
        finally:
            client.close()  # also when the tap ends while there is no server yet
            self._count_answered()

    async def _connect_and_pass_on(self, client: Transport) -> None:
        try:
            await self._wait_for_others()
            server = self._ends[Role.SERVER] = await self._target.dial()
        except OSError as error:
            reason = error.strerror or str(error)
            if await self._refuse(client, reason):
                reason += "; the client was answered with 502"
            self._end(FAULT, reason)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pump, Role.CLIENT, nursery.cancel_scope)
                nursery.start_soon(self._pump, Role.SERVER, nursery.cancel_scope)
        finally:
            for end in (client, server):
                if self._reason:
                    end.reset()  # after a close, what was cut off would look complete
                else:
                    end.close()
            for seen in self._observer.finish():
                self._show(seen)
            self._end(STATE, self._reason or "ended by both sides")

    async def _wait_for_others(self) -> None:
        """Wait while too many connections wait for the server's first byte. Raises OSError when that takes too long."""
        with trio.move_on_after(UNANSWERED_S):
            await self._unanswered.acquire()
            self._has_one = True
            return
        raise OSError(
            errno.ELOOP,
            f"{MOST_UNANSWERED} connections wait for the first byte from {self._target}, and there are no more at a "
            "time from one client: it may lead back to this tap, through another one",
        )

    def _count_answered(self) -> None:
        if self._has_one:
            self._has_one = False
            self._unanswered.release()

    async def _refuse(self, client: Transport, reason: str) -> bool:
        """Close the connection, after a 502 with the reason for a client that speaks HTTP. Return whether that was
        sent."""
        is_answered = False
        with trio.move_on_after(REFUSAL_S), contextlib.suppress(OSError):
            begun = b""
            while not begins_with_http(begun) and len(begun) < MOST_ANSWERED_BYTES and (data := await client.receive()):
                begun += data
                await self._look_at(Role.CLIENT, data)
            if begins_with_http(begun):
                await client.send_all(_bad_gateway(reason, with_body=not begun.startswith(b"HEAD ")))
                is_answered = True
                await client.linger()
        client.close()
        return is_answered

    async def _pump(self, sender: Role, tapped: trio.CancelScope) -> None:
        """Pass on the bytes of one side, and then the end of its stream."""
        source, sink = self._ends[sender], self._ends[sender.other]
        try:
            while data := await source.receive():
                if sender is Role.SERVER:
                    self._count_answered()
                # The bytes are shown before they are passed on, so that a question is shown before its answer.
                await self._look_at(sender, data)
                try:
                    await sink.send_all(data)
                except OSError as error:
                    if error.errno in EXHAUSTED:
                        raise
                    # The other side may have sent its reason before the reset, and that has yet to be passed on.
                    self._reason = self._reason or _describe_loss(error, sender, self._target)
                    tapped.deadline = trio.current_time() + LAST_WORDS_S
                    return
            if self._reason:
                return  # it was cut off, so some bytes may be missing
            self._log(logs.http, logging.DEBUG, DIRECTIONS[sender], f"the {sender.label} ended its stream")
            await sink.send_eof()
        except OSError as error:
            self._reason = self._reason or _describe_loss(error, sender, self._target)
            tapped.cancel()

    async def _look_at(self, sender: Role, data: bytes) -> None:
        for start in range(0, len(data), LOOKED_AT_BYTES):
            self._observer.shown_bytes = min(self._tracer.shown_bytes, MAX_SHOWN_BYTES)
            seen = self._observer.receive(sender, data[start : start + LOOKED_AT_BYTES])
            for number, each in enumerate(seen, 1):
                self._show(each)
                if number % SHOWN_AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()

    def _end(self, mark: str, reason: str) -> None:
        self._log(logs.hub, logging.INFO, mark, reason)
        self._tracer.ended(self._number, reason)

    # The log and the page

    def _show(self, seen: Seen) -> None:
        match seen:
            case Head():
                self._show_head(seen)
            case Switch():
                self._log(logs.handshake, logging.INFO, STATE, describe_switch(seen))
                if not seen.protocol:
                    self.is_websocket = True
                    self._tracer.upgraded(self._number, self._heads[Role.CLIENT], self._heads[Role.SERVER])
                    self._tracer.switched(self._number)
            case SeenFrame():
                self._show_frame(seen)
            case Rest():
                bytes_seen = escape(seen.raw[:40])
                self._log(logs.http, logging.INFO, FAULT, f"the {seen.sender.label}: {seen.reason}: {bytes_seen}")
                self._show_fault(seen)

    def _show_head(self, head: Head) -> None:
        mark = DIRECTIONS[head.sender]
        self._heads[head.sender] = head.raw
        for text in head_lines(head.raw):
            self._log(logs.http, logging.DEBUG, mark, text)
        if head.problem:
            self._log(logs.http, logging.INFO, FAULT, head.problem)
        steps = head.accept.steps if head.accept is not None and head.is_fine else ()
        logs.show_checks(self._number, head.checks, steps, failed_at=logging.INFO)
        if head.sender is Role.CLIENT:
            target = b"".join(head.raw.split(b" ", 2)[1:2])
            self._path = escape(target.partition(b"?")[0])
        self._tracer.head(self._number, head.sender, head.raw)
        if head.checks:
            self._tracer.checked(self._number, head.sender, head.checks, head.accept)

    def _show_fault(self, seen: SeenFrame | Rest) -> None:
        if seen.fault is not None:
            fault = f"{seen.fault.sentence}; the receiver is to fail with {seen.fault.close_code}"
            self._log(logs.frames, logging.WARNING, FAULT, f"the {seen.sender.label} broke a rule: {fault}")

    def _show_frame(self, seen: SeenFrame) -> None:
        if logs.frames.isEnabledFor(logging.DEBUG):
            logs.show_frame(self._number, DIRECTIONS[seen.sender], seen.frame)
        self._show_fault(seen)
        self._tracer.frame(self._number, seen.sender, seen.frame)

    def _log(self, logger: logging.Logger, level: int, mark: str, text: str) -> None:
        logs.line(logger, level, self._number, mark, text)
