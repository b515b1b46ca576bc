"""The WebSocket that a program holds: messages in and out, of either role."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence

import trio

from rawws import logs
from rawws.broadcast.message_ids import Gap
from rawws.errors import Cause, Closed, ConnectionClosed, ConnectionClosedOK, UsageError
from rawws.limits import KIB, Limits
from rawws.relay.peer import Inbox
from rawws.runtime import check_in_trio, not_awaited
from rawws.websocket.base import WebSocketBase
from rawws.websocket.fragmented_send import send_in_fragments
from rawws.wire.deflate import StreamDeflater
from rawws.wire.events import Data, Message, MessagePart, as_control_payload, as_message, check_close
from rawws.wire.fragmenting import Fragments
from rawws.wire.frames import Opcode
from rawws.wire.session import State
from rawws.wire.trace import OUT

# A call that need not wait for anything doesn't let other tasks run. A task that only makes such calls would stop them,
# so after this many calls, one lets them run. (trio's functions do so in each call, which would cost more than the call
# itself.)
CALLS_IN_A_ROW = 16

# The memory of a program's connection besides its peer, with its handler's task (measured).
WEBSOCKET_BYTES = 7 * KIB

_TEXT = Opcode.TEXT  # a global is found faster than an Enum's member


class WebSocket(WebSocketBase):
    """A WebSocket connection after its handshake.

    Messages are ``str`` for text and ``bytes`` for binary. ``async for message in ws`` ends with an orderly close,
    and raises `ConnectionClosedError` at any other end.

    Pings are answered, and the peer is watched, whether the program is receiving or not. Any number of tasks may
    send at once; each message goes out whole. A method that is cancelled has done nothing: no message is lost by
    cancelling `recv`, nor sent in part by cancelling `send`. The exception is `send` with an async iterable.
    """

    # For a client that resumes, see `rawws.connect`:
    last_id: str = ""  # the id of the message that `recv` returned last
    gap: Gap | None = None  # messages that are missing, after the requested position or since then
    skipped: int = 0  # messages that the server has left out since then, because we read too slowly

    _calls = 0
    _receiving = False
    _in_stream = False  # parts of a message have been taken, and not its last
    _sending_stream: trio.Lock | None = None  # held while a message goes out in fragments

    def _make_inbox(self, limits: Limits) -> Inbox:
        inbox = Inbox(limits.max_queue)
        inbox.own_bytes = WEBSOCKET_BYTES
        return inbox

    # Receiving

    async def recv(self) -> str | bytes:
        """Return the next message. One task at a time may receive.

        When the connection has been closed, raises `ConnectionClosed` after all earlier messages have been received.
        """
        inbox = self._inbox
        self._check_that_nobody_receives()
        if self._calls >= CALLS_IN_A_ROW:
            await self._let_others_go()
        self._calls += 1
        if self._in_stream:
            await self._skip_stream()
        while not inbox.items:
            await self._wait_for_item()
        item = inbox.items.popleft()
        if inbox.paused and len(inbox.items) * 2 <= inbox.limit:
            self._loop.resume(self._peer)
        if type(item) is MessagePart:
            return await self._collect(item)
        opcode, payload = item[0], item[1]
        return payload.decode() if opcode is _TEXT else bytes(payload)

    def _check_that_nobody_receives(self) -> None:
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this WebSocket already")

    async def _let_others_go(self) -> None:
        self._calls = 0
        if self._peer.can_flush:
            self._loop.sending.flush(self._peer)
        await trio.lowlevel.checkpoint()

    def has_messages(self) -> bool:
        """Return whether a message can be received without waiting. Data that has arrived is read first."""
        self._loop.read_now(self._peer)
        return bool(self._inbox.items)

    async def _wait_for_item(self) -> None:
        """Wait for an item, or raise if none can come any more. Only one task at a time does so."""
        check_in_trio("ws.recv", is_async=True)
        self._receiving = True
        try:
            await self._wait_for_news()
        finally:
            self._receiving = False

    async def _wait_for_news(self) -> None:
        """Wait until an item may have come, or raise if none can come any more. Queued frames go out first."""
        peer, inbox = self._peer, self._inbox
        if inbox.closed is not None:
            raise self._closed_error(inbox.closed)
        if peer.can_flush:
            self._loop.sending.flush(peer)
            if inbox.closed is not None:
                return  # the peer is gone, so nothing would wake this task
        if inbox.deferred_close is not None:
            self._loop.send_deferred_close(peer)
            return
        await inbox.readers.sleep()
        self._calls = 0

    async def _next_part(self) -> Message | MessagePart:
        inbox = self._inbox
        self._check_that_nobody_receives()
        while not inbox.items:
            await self._wait_for_item()
        item = inbox.items.popleft()
        if inbox.paused and len(inbox.items) * 2 <= inbox.limit:
            self._loop.resume(self._peer)
        self._in_stream = type(item) is MessagePart and not item.final
        if not self._in_stream:
            self._session.end_streaming()
        return item if isinstance(item, MessagePart) else Message(*item)

    async def _skip_stream(self) -> None:
        while self._in_stream:
            await self._next_part()

    async def _collect(self, first: MessagePart) -> str | bytes:
        """Return the message that begins with a part: streaming was requested, but given up before the message came."""
        parts = [first]
        try:
            while not parts[-1].final:
                part = await self._next_part()
                assert isinstance(part, MessagePart)
                parts.append(part)
        except trio.Cancelled:
            self._put_back(parts)
            raise
        self._session.end_streaming()
        message = b"".join(part.payload for part in parts)
        return message.decode() if first.opcode is _TEXT else message

    def _put_back(self, parts: Sequence[Message | MessagePart]) -> None:
        """Put the parts of an incomplete message back, for the next call that receives."""
        self._inbox.items.extendleft(reversed(parts))
        self._in_stream = False

    def recv_streaming(self) -> AsyncIterator[str | bytes]:
        """Return the next message in pieces, as they come off the wire. This suits a message too large to keep.

        ``async for piece in ws.recv_streaming()``. The boundaries between pieces have no meaning. ``max_size`` holds
        for the whole message. If the iteration is left early, the rest of the message is dropped.
        """
        return _Pieces(self)

    async def _first_part(self) -> Message | MessagePart:
        """Return the first part of the next message, or all of it. From now on, messages come in parts."""
        self._check_that_nobody_receives()
        await self._skip_stream()
        inbox = self._inbox
        if not inbox.items and inbox.closed is None:
            inbox.items.extend(item for item in self._session.begin_streaming() if isinstance(item, MessagePart))
        return await self._next_part()

    def __aiter__(self) -> WebSocket:
        return self

    async def __anext__(self) -> str | bytes:
        try:
            return await self.recv()
        except ConnectionClosedOK:
            raise StopAsyncIteration from None

    # Sending

    async def send(
        self, message: Data | AsyncIterable[Data], text: bool | None = None, compress: bool | None = None
    ) -> None:
        """Send a message: ``str`` as text, bytes-like as binary, unless ``text`` says otherwise.

        Waits until the peer has taken earlier messages, and returns when this one is on its way. While more messages
        wait to be received, small ones are gathered and go out together, at the latest when the program waits for
        anything. An async iterable is sent as one message in fragments, each as it comes. Cancelling that, or an
        exception in the iterable, fails the connection with 1011, because half a message can't be taken back.
        ``compress`` overrides the choice by size.

        Raises `ConnectionClosed`; TypeError and ValueError for an invalid message.
        """
        check_in_trio("ws.send, message", is_async=True)
        if type(message) is str and text is None:  # as_message(), written out for most messages
            opcode, payload = _TEXT, message.encode()
        elif not isinstance(message, Data) and isinstance(message, AsyncIterable):  # an abstract class takes long
            await self._send_stream(message, text, compress=bool(compress))
            return
        else:
            opcode, payload = as_message(message, text)  # type: ignore[assignment]
        if self._calls >= CALLS_IN_A_ROW:
            await self._let_others_go()
        self._calls += 1
        peer, session = self._peer, self._session
        if peer.is_busy or self._sending_stream is not None or not self._can_send:
            await self._wait_to_send()
        frames = session.message(opcode, payload, compress=compress)
        if self._inbox.items and not peer.rooms:
            self._loop.sending.send_soon(peer, frames)
        else:
            self._loop.sending.send(peer, frames)

    @property
    def _can_send(self) -> bool:
        if self._inbox.closed is not None:
            return False
        return self._session.state is State.OPEN or self._inbox.deferred_close is not None

    async def _wait_to_send(self) -> None:
        """Wait until earlier messages are on their way. Raises `ConnectionClosed` when nothing can be sent."""
        peer = self._peer
        while True:
            if self._sending_stream is not None:
                async with self._sending_stream:
                    pass
            elif not self._can_send:
                await self.wait_closed()
                assert self._inbox.closed is not None
                raise self._closed_error(self._inbox.closed)
            elif peer.is_busy:
                await self._inbox.drained.park()
                self._calls = 0
            else:
                return

    async def wait_sent(self) -> None:
        """Wait until the operating system has taken all that has been sent so far.

        The peer may not have received it yet. Raises `ConnectionClosed` when the connection ends first.
        """
        peer, inbox = self._peer, self._inbox
        if peer.can_flush:
            self._loop.sending.flush(peer)
        drains = inbox.drains
        while inbox.drains == drains:
            if inbox.closed is not None:
                raise self._closed_error(inbox.closed)
            if not peer.has_queued and not peer.lost:
                return
            await inbox.drained.park()

    async def _send_stream(self, pieces: AsyncIterable[Data], text: bool | None, *, compress: bool) -> None:
        await self._wait_to_send()
        session, agreement = self._session, self._agreement
        self._sending_stream = trio.Lock()
        deflater = None
        if compress and agreement is not None and agreement.deflates(session.our_role):
            deflater = StreamDeflater(agreement.window_bits(session.our_role))
        message = Fragments(session, deflater, text)
        try:
            async with self._sending_stream:
                await send_in_fragments(self._loop, self._peer, message, pieces, self._wait_to_go_on)
        finally:
            self._sending_stream = None

    async def _wait_to_go_on(self) -> None:
        """Wait until the next fragment can be sent. Raises `ConnectionClosed` when that is impossible."""
        await trio.lowlevel.checkpoint()  # before the send, not after it: a cancelled call must not have sent
        while self._can_send and self._peer.is_blocked:
            await self._inbox.drained.park()
        if not self._can_send:
            await self.wait_closed()
            assert self._inbox.closed is not None
            raise self._closed_error(self._inbox.closed)

    # Control frames

    async def ping(self, data: Data | None = None) -> float:
        """Send a ping, wait for its pong, and return the seconds between them.

        Without data, a ping carries four random bytes; data has at most 125 (§5.5). Raises `ConnectionClosed` when the
        connection ends first. Cancelling gives up on the pong.
        """
        check_in_trio("ws.ping", is_async=True)
        payload = os.urandom(4) if data is None else as_control_payload(data)
        if payload in self._inbox.pings:
            raise UsageError(f"a ping with the data {payload!r} is still waiting for its pong; give another, or none")
        if not self._can_send:
            await self._wait_to_send()
        ping = self._inbox.add_ping(payload, trio.current_time())
        self._session.ping(payload)
        self._loop.sending.send(self._peer, self._session.data_to_send())
        try:
            await ping.answered.wait()
        finally:
            self._inbox.pings.pop(payload, None)
        if ping.latency_s is None:
            assert self._inbox.closed is not None
            raise self._closed_error(self._inbox.closed)
        return ping.latency_s

    async def pong(self, data: Data | None = None) -> None:
        """Send an unsolicited pong, as a one-way heartbeat (§5.5.3). Raises `ConnectionClosed`."""
        check_in_trio("ws.pong", is_async=True)
        payload = b"" if data is None else as_control_payload(data)
        if not self._can_send:
            await self._wait_to_send()
        self._session.pong(payload)
        self._loop.sending.send(self._peer, self._session.data_to_send())
        await trio.lowlevel.checkpoint()

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, after everything sent earlier: no header, no mask, no check.

        This is for study, and for tests of the other side. Raises `ConnectionClosed`.
        """
        check_in_trio("ws.send_raw, data")
        if not self._can_send:
            raise self._closed_error(self._inbox.closed or self._peer.describe_end(Cause.OUR_CLOSE))
        logs.line(logs.frames, logging.DEBUG, self.id, OUT, f"raw bytes: {data.hex(' ')}")
        self._loop.sending.send(self._peer, bytes(data), show=False)  # the caller keeps a bytearray

    # The end

    async def aclose(self, code: int = 1000, reason: str | None = None) -> None:
        """Close the connection, and wait at most ``close_timeout`` until the peer has closed its side.

        Everything sent earlier goes out first. Harmless when the connection is closed already, or being closed.
        Cancelling cuts the connection off. Raises `UsageError` for a code that can't be sent (§7.4), or a reason of
        more than 123 bytes. The peer can cause no exception.
        """
        self.begin_close(code, reason)
        try:
            await self.wait_closed()
        except trio.Cancelled:
            self._loop.drop(self._peer, Cause.OUR_CLOSE, "cut off by us")
            raise

    def begin_close(self, code: int = 1000, reason: str | None = None) -> None:
        """Do what `aclose` does without waiting: the closing handshake goes on in the background."""
        check_in_trio("ws.begin_close")
        self._loop.close(self._peer, *check_close(code, reason))
        return not_awaited("ws.begin_close() doesn't wait, and ws.aclose() does")

    async def wait_closed(self) -> None:
        """Wait until both sides have closed, or the connection is lost; `closed` then says how it ended."""
        check_in_trio("ws.wait_closed", is_async=True)
        await self._inbox.ended.wait()

    def _closed_error(self, closed: Closed) -> ConnectionClosed:
        return self._peer.closed_error(closed)


class _Pieces(AsyncIterator[str | bytes]):
    """The pieces of one message. (An async generator would have to be closed when it is left early.)"""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._begun = False

    async def __anext__(self) -> str | bytes:
        websocket = self._websocket
        if not self._begun:
            part = await websocket._first_part()
            self._begun = True
        elif websocket._in_stream:
            part = await websocket._next_part()
        else:
            raise StopAsyncIteration
        return part.payload.decode() if part.opcode is _TEXT else bytes(part.payload)
