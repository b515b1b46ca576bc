"""A WebSocket whose messages a program gets by callbacks, in the loop's turn, without a task for the connection.

The answers that a program gives to the messages of one read go out together, at the end of the read. A frame for
another connection goes out soon after the turn, with all others for it.
"""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import trio

from rawws import logs
from rawws.callables import check_plain
from rawws.errors import SHUTTING_DOWN, Cause, Closed, UsageError
from rawws.hooks import log_failure
from rawws.limits import KIB, MAX_LAG_BYTES, Limits
from rawws.net.poller import READABLE
from rawws.relay.peer import MOST_MESSAGES, About, Inbox, Peer
from rawws.relay.reading import TURN_S
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.runtime import check_in_trio, not_awaited
from rawws.websocket.base import WebSocketBase
from rawws.wire.events import Data, PlainEvent, PongReceived, as_message, check_close
from rawws.wire.frames import LENGTH_IN_2_BYTES, SHORT_TEXT, Opcode
from rawws.wire.session import State
from rawws.wire.trace import FAULT

# The memory of a connection with callbacks besides its peer (measured).
CALLBACK_BYTES = 3 * KIB

# A global is found faster than an Enum's or a class's member.
_TEXT, _OPEN, _COUNT_ANSWERS = Opcode.TEXT, State.OPEN, Peer.count_answers


class Callbacks(Protocol):
    """The callbacks of connections: one object for all of them, which `rawws.serve` takes in place of a handler.

    Each is a plain function, called in the loop that serves all connections, which wait while it runs. The methods
    here do nothing: derive from this class to leave some out. Python itself asks for none of them. An exception in
    one is logged, and costs the connection (1011), not the others.
    """

    def opened(self, ws: CallbackWebSocket, /) -> None:
        """Take a new connection: called once, before its first message."""
        return

    def message(self, ws: CallbackWebSocket, data: str | bytes, /) -> None:
        """Take a message, which is a ``str`` for text and ``bytes`` for binary."""
        return

    def closed(self, ws: CallbackWebSocket, /) -> None:
        """Note the end of a connection, however it comes: called once after `opened`. ``ws.closed`` describes it."""
        return

    def pause_writing(self, ws: CallbackWebSocket, /) -> None:
        """Send nothing more for now: more than 64 KiB wait until the peer takes them. Called from `send_nowait`."""
        return

    def resume_writing(self, ws: CallbackWebSocket, /) -> None:
        """Send again: the operating system has taken everything."""
        return


class BatchCallbacks(Callbacks):
    """Callbacks that get the messages of a read at once, before `message` gets what they leave. For rawws itself."""

    def take(self, ws: CallbackWebSocket, events: Sequence[PlainEvent], /) -> Sequence[PlainEvent]:
        """Take the first of the events that have come together, and return the others."""
        raise NotImplementedError


_NAMES = {"opened": ("ws",), "message": ("ws", "data")} | dict.fromkeys(
    ("closed", "pause_writing", "resume_writing"), ("ws",)
)


def has_callbacks(given: object) -> bool:
    """Return whether an object is one with callbacks, and no handler. A class isn't one: its objects are."""
    return not callable(given) and any(callable(getattr(given, name, None)) for name in _NAMES)


def check_callbacks(what: str, given: object) -> None:
    """Raise `UsageError` unless the callbacks of an object can be called as they will be."""
    for name, arguments in _NAMES.items():
        if (function := getattr(given, name, None)) is not None:
            check_plain(f"{name} of {what}", function, *arguments)


def _do_nothing(*_: object) -> None:
    """The callback that a program has left out."""


class CallbackWebSocket(WebSocketBase):
    """A WebSocket connection, as `Callbacks` are given it. None of its methods waits.

    A program may keep any attribute in it, such as ``ws.name = "ann"``. Any task may call its methods, too.
    """

    # The most bytes that may wait for the peer when one more message is sent; beyond it the connection is closed with
    # 1013. A program may set it for a connection.
    max_buffered_bytes = MAX_LAG_BYTES

    def __init__(self, callbacks: object, *arguments: Any, **settings: Any) -> None:
        """For `rawws.serve`."""
        self._callbacks = callbacks
        self._gathered: list[bytes] | None = None  # the answers of a read, while its messages are given out
        self._gathered_bytes = 0
        self._is_plain = settings.get("fast_lane", True)  # a short message is sent as it is
        super().__init__(*arguments, **settings)

    def _make_inbox(self, limits: Limits) -> Inbox:
        self._receiver = _Receiver(self, self._callbacks)
        return self._receiver

    def _begin(self) -> None:
        peer = self._peer
        client = None if self._remote_address == (peer.transport.remote_address or "") else self._remote_address
        peer.about = About(self.user, self._subprotocol, client)
        self._receiver.begin()

    # Sending

    def send_nowait(self, message: Data, text: bool | None = None, compress: bool | None = None) -> bool:
        """Send a message: ``str`` as text, bytes-like as binary, unless ``text`` says otherwise.

        Never waits. The messages for one connection that are sent in one turn of the loop go out together. If the peer
        takes them more slowly than they are sent, they are kept, see ``buffered_bytes``: above 64 KiB
        ``pause_writing`` is called, and when more than ``max_buffered_bytes`` wait already, the connection is closed
        with 1013. ``compress`` overrides the choice by size.

        Returns False when the connection is closed or being closed, so that nothing is sent. Raises TypeError and
        ValueError for an invalid message.
        """
        if type(message) is str and text is None:  # as_message(), written out for most messages
            opcode, payload = _TEXT, message.encode()
        else:
            opcode, payload = as_message(message, text)  # type: ignore[assignment]
        peer, gathered = self._peer, self._gathered
        if gathered is None or peer.rooms:  # a room's messages would overtake the frames if these were gathered
            return self._send_soon(opcode, payload, compress)
        # A message that came together with the peer's close, or with a fault, can still be answered (§5.5.1).
        if peer.cause is not None:
            return False
        size = len(payload)
        if size < LENGTH_IN_2_BYTES and opcode is _TEXT and not compress and self._is_plain:  # Session.message()
            gathered.append(SHORT_TEXT[size] + payload)
        else:
            gathered.append(self._session.message(opcode, payload, compress=compress))
        self._gathered_bytes += size
        return self._gathered_bytes <= MAX_OUTBOX_BYTES or self._send_many()

    def _send_together(self, messages: Iterable[tuple[Opcode, bytes]]) -> bool:
        """Send messages at once and together; a text's payload is UTF-8. Not for a peer in a room: it is overtaken."""
        peer = self._peer
        if self._session.state is not _OPEN or peer.lost is not None or self._close_if_too_slow():
            return False
        message = self._session.message
        if frames := [message(opcode, payload) for opcode, payload in messages]:
            self._loop.stats.messages_out += len(frames) - 1
            self._loop.sending.send(peer, b"".join(frames))
            self._receiver.pause_if_full()
        return True

    def _send_soon(self, opcode: Opcode, payload: bytes, compress: bool | None) -> bool:
        """Send a message with all others that are for this peer when the turn is over."""
        check_in_trio("ws.send_nowait, message")
        peer, sending = self._peer, self._loop.sending
        is_open = self._session.state is _OPEN or (self._gathered is not None and peer.cause is None)
        if not is_open or peer.lost is not None or peer.closed is not None or self._close_if_too_slow():
            return False
        frames = self._session.message(opcode, payload, compress=compress)
        if peer.rooms:
            sending.send(peer, frames)
        else:
            sending.send_soon(peer, frames)
        self._receiver.pause_if_full()
        return True

    def _send_many(self) -> bool:
        """Send the gathered answers before more are gathered; return False if the connection is closed instead."""
        if self._close_if_too_slow():
            return False
        self._flush_gathered()
        return True

    def _flush_gathered(self) -> None:
        """Send the answers that are gathered so far."""
        if gathered := self._gathered:
            self._gathered = []
            self._send_gathered(gathered)

    def _send_gathered(self, gathered: list[bytes]) -> None:
        self._gathered_bytes = 0
        peer = self._peer
        if peer.lost is not None:  # it takes nothing, so that they would only be kept
            return
        frames = gathered[0]
        if len(gathered) > 1:
            frames = b"".join(gathered)
            self._loop.stats.messages_out += len(gathered) - 1
        # They count as automatic answers do: while many wait, nothing is read that would lead to more of them.
        self._loop.sending.send(peer, frames, count=_COUNT_ANSWERS)
        if peer.interest != READABLE:
            self._receiver.pause_if_full()

    def _close_if_too_slow(self) -> bool:
        """Close the connection if too much waits for the peer already; return whether it does."""
        waiting, limit = self._peer.queued_bytes, self.max_buffered_bytes
        if waiting <= limit:
            return False
        reason = f"{waiting} bytes wait already, over the limit of {limit} (max_buffered_bytes)"
        logs.line(logs.hub, logging.WARNING, self.id, FAULT, f"reads too slowly: {reason}")
        self._loop.close(self._peer, 1013, reason, Cause.SLOW_PEER, with_the_rest=False)
        return True

    # The end

    def close(self, code: int = 1000, reason: str | None = None) -> None:
        """Begin to close the connection, after everything sent so far. No message is given to the program from now on.

        The closing handshake goes on in the background, for at most ``close_timeout`` seconds, and then `closed` is
        called. This has no effect on a connection that is closed, or being closed. Raises `UsageError` for a code that
        can't be sent (§7.4), or a reason of more than 123 bytes.
        """
        check_in_trio("ws.close")
        self._loop.close(self._peer, *check_close(code, reason))
        return not_awaited("ws.close() doesn't wait for the end")


class _Receiver(Inbox):
    """The inbox in which nothing waits: each message is given to the program at once."""

    __slots__ = ("_callbacks", "_is_paused", "_message", "_take", "_websocket")

    def __init__(self, websocket: CallbackWebSocket, callbacks: object) -> None:
        super().__init__(MOST_MESSAGES)
        self._websocket = websocket
        self._callbacks = callbacks
        self._message = self._callback("message")
        self._take = callbacks.take if isinstance(callbacks, BatchCallbacks) else None
        self._is_paused = False  # the program has been asked to send nothing more
        self.own_bytes = CALLBACK_BYTES
        self.is_released = True  # nothing but the program's own references keeps it when the peer has gone

    def _callback(self, name: str) -> Callable[..., object]:
        return getattr(self._callbacks, name, _do_nothing)

    def begin(self) -> None:
        self._websocket._gathered = []
        self._call("opened")
        self.flush()
        self._websocket._gathered = None

    def most_events(self, peer: Peer) -> float:
        return self.limit

    def deliver(self, peer: Peer, events: Sequence[PlainEvent]) -> bool:
        websocket, message = self._websocket, self._message
        started_at = time.perf_counter() if len(events) > 1 else 0.0
        websocket._gathered = []
        try:
            left = events
            if self._take is not None and peer.cause is None:
                left = self._take(websocket, events)
            for event in left:
                if type(event) is tuple:  # a whole message
                    if peer.cause is not None:  # §5.5.1: after our close, further data need not be processed
                        continue
                    opcode, payload = event  # type: ignore[misc]
                    result = message(websocket, payload.decode() if opcode is _TEXT else bytes(payload))
                    if result is not None:
                        _check_result("message", result)
                elif type(event) is PongReceived:
                    self.answer_ping(event.payload, trio.current_time())
        except BaseException as error:
            self._fail("message", error)
        gathered = websocket._gathered
        websocket._gathered = None
        if gathered:
            websocket._send_gathered(gathered)
        if started_at:
            self._adapt(len(events), time.perf_counter() - started_at)
        return False

    def _adapt(self, events: int, took_s: float) -> None:
        """Choose the number of messages for the next read, so that a program's time doesn't delay other peers."""
        if took_s > TURN_S:
            self.limit = max(2, int(events * TURN_S / took_s))  # one alone isn't measured
        elif self.limit < MOST_MESSAGES:
            self.limit = min(MOST_MESSAGES, 2 * self.limit)

    def forget(self) -> None:
        """Do nothing: no message waits here, and reading goes on until the peer's close."""

    def flush(self) -> None:
        self._websocket._flush_gathered()

    def pause_if_full(self) -> None:
        """Ask the program to send nothing more if much waits for the peer."""
        if self._is_paused or self._websocket._peer.queued_bytes <= MAX_OUTBOX_BYTES:
            return
        self._is_paused = True
        self._call("pause_writing")

    def wake_senders(self) -> None:
        super().wake_senders()
        if self._is_paused and not self._websocket._peer.has_queued:
            self._is_paused = False
            self._websocket._loop.calls.add(self._resume)

    def _resume(self) -> None:
        if self.closed is None and not self._is_paused:
            self._call("resume_writing")

    def end(self, closed: Closed) -> None:
        super().end(closed)
        self._websocket._loop.calls.add(self._close)

    def _close(self) -> None:
        self._call("closed")

    def _call(self, name: str) -> None:
        """Call a callback; an exception costs the connection."""
        try:
            result = self._callback(name)(self._websocket)
            if result is not None:
                _check_result(name, result)
        except BaseException as error:
            self._fail(name, error)

    def _fail(self, name: str, error: BaseException) -> None:
        websocket = self._websocket
        if websocket._peer.endpoint.takes_for_end(error):
            websocket._loop.close(websocket._peer, 1001, SHUTTING_DOWN, Cause.SHUTDOWN)
            return
        if self.closed is not None:
            log_failure(logs.hub, websocket.id, f"the callback {name} failed", error)
            return
        log_failure(logs.hub, websocket.id, f"the callback {name} failed; its connection is closed with 1011", error)
        websocket._loop.close(websocket._peer, 1011, "internal error", Cause.ERROR)


def _check_result(name: str, result: object) -> None:
    """Raise `UsageError` for the result of an async function, which does nothing unless it is awaited."""
    if inspect.iscoroutine(result):
        result.close()  # otherwise Python warns that it was never awaited
    elif not inspect.isawaitable(result):
        return
    raise UsageError(f"the callback {name} has returned something to be awaited; callbacks are plain functions")
