"""One request and its response, as an ASGI application's ``receive`` and ``send`` see them (HTTP part)."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from functools import partial

import h11
import trio

from rawws import logs
from rawws.application.leaving import is_about_leaving
from rawws.application.loop import ApplicationLoop, Call, Channel
from rawws.application.pace import LEAST_BYTES_PER_S, Pace
from rawws.application.spec import Application, ClientDisconnected, Message, Scope
from rawws.broadcast.stream_encodings import EVENTS
from rawws.errors import RETRY_SOON, SHUTTING_DOWN, RawwsError, Refusal, UsageError
from rawws.hooks import is_application_error, log_failure
from rawws.server.apps import Body, Exchange
from rawws.server.exchange import ClientError
from rawws.server.quick_lock import QuickLock
from rawws.wire.messages import check_status
from rawws.wire.trace import FAULT, STATE, mask_target

_DISCONNECT = "http.disconnect"

# An application is notified that the server stops: by http.disconnect, and by an OSError from ``send``. A notice to all
# of them at once would cut short responses that end in time by themselves; uvicorn did so in 2026, and reverted it for
# that reason (its pull requests 2829 and 2913). So here the time depends on the response.
#
# An event stream has no end of its own, and its reader reconnects by itself (WHATWG HTML, §9.2). Its application is
# notified at once, and cancelled a second later, or after this share of the drain if that is less (guesses).
_FAREWELL_S = 1.0
_FAREWELL_SHARE = 0.2
# Any other response may be about to end. If its application waits for a disconnect, as a long poll does, it is notified
# when half of the drain is over (a guess: some frameworks wait so in each request, and abandon it then).
_RECEIVING_SHARE = 0.5
# A stream of unknown length may be a download, and a notice would cut it. So it gets most of the drain (a guess).
_SENDING_SHARE = 0.8

_TOO_SLOW = Refusal(
    408,
    "request_timeout",
    f"The request's body arrived at less than {LEAST_BYTES_PER_S} bytes a second, while the application waited for it.",
)
_STOPPING = Refusal(503, "stopping", "The server is shutting down; try again.", RETRY_SOON)


class Conversation:
    """One request and its answer, as the application's ``receive`` and ``send`` see them."""

    def __init__(self, exchange: Exchange, pace: Pace | None = None) -> None:
        """``pace`` limits the time that the application waits for the request's body."""
        self._exchange = exchange
        self._pace = pace
        self._body_read = False
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None  # while it waits for the body
        self._started = False
        self._is_event_stream = False
        self._has_length = False
        self._is_torn = False  # a piece of the response was sent in part
        self._pieces = 0
        self._complete = False
        self._gone = False  # whether the application knows that the client has gone
        self._stopped = False  # the application was notified that the server stops, or cancelled for that
        self._lost: OSError | None = None  # how the connection was lost
        self._call = trio.CancelScope()
        self._failure: BaseException | None = None  # the exception that the application raised
        self._settled = trio.Event()  # the response is complete, or the application has returned
        self._receiving = QuickLock()  # only one task at a time may wait for the socket
        self._wait: trio.CancelScope | None = None  # the scope of the task that waits
        self._sending = QuickLock()

    async def answer(self, loop: ApplicationLoop, app: Application, scope: Scope, calls: trio.Nursery) -> None:
        """Have the application answer in its loop. Return when the response is complete.

        The application's work after that is followed in the nursery. Raises the exception that has prevented the
        response.
        """
        channel = Channel(self.receive, self.send, self.receive_now, self._exchange.count)
        call = loop.begin(app, scope, channel)
        if call is None:
            # In a task of its own, which outlives the response: the next request on this connection doesn't wait for
            # what the application does in the background, nor does it see its context variables.
            calls.start_soon(self._record, partial(self._within_call, partial(loop.call, app, scope, channel)))
        else:
            await self._follow(call, calls)
        await self._wait_answered()

    async def _follow(self, call: Call, calls: trio.Nursery) -> None:
        """Follow a call until the response is complete, and have the rest of it followed in the nursery."""
        try:
            await self._record(partial(self._follow_answer, call))
        finally:
            if self._receiving.locked():
                await self._end_call()
        if not call.has_ended:
            self._call = trio.CancelScope()
            calls.start_soon(self._record, partial(self._within_call, partial(call.follow, bool)))

    async def _follow_answer(self, call: Call) -> None:
        """Follow a call until the response is complete, or the application has returned."""

        def is_over() -> bool:
            return self._complete and call.is_idle  # its end is often here too, and then nobody else has to wait for it

        # A scope costs as much as a tenth of a small response. Only an event stream needs one, from its head on.
        await call.follow(lambda: self._is_event_stream or is_over())
        if self._is_event_stream and not call.has_ended:
            await self._within_call(partial(call.follow, is_over))

    async def _within_call(self, follow: Callable[[], Awaitable[None]]) -> None:
        with self._call:
            await follow()

    @trio.lowlevel.enable_ki_protection
    async def _record(self, follow: Callable[[], Awaitable[None]]) -> None:
        """Follow the application's call, and record its return or its exception."""
        try:
            await follow()
        except BaseException as error:
            if not is_application_error(error):
                raise
            if not ((self._gone or self._stopped) and is_about_leaving(error)):
                self._failure = error
        finally:
            self._stopped |= self._call.cancelled_caught and self._must_end
            self._settled.set()
        if self._complete and self._failure is not None:
            target = mask_target(self._exchange.request.target)
            message = f"the ASGI application failed at {target} after it had answered"
            log_failure(logs.http, self._exchange.number, message, self._failure)

    @property
    def is_complete(self) -> bool:
        """Whether the whole response has been sent."""
        return self._complete

    async def _wait_answered(self) -> None:
        """Wait until the response is complete. Raises the exception that has prevented it."""
        try:
            if not self._settled.is_set():
                await self._settled.wait()
        finally:
            if not self._complete or self._receiving.locked():
                await self._end_call()
        if self._complete:
            return
        if self._failure is not None or not self._stopped:
            raise self._explain()
        target = mask_target(self._exchange.request.target)
        message = f"the ASGI application's response to {target} is ended, since the server stops"
        logs.line(logs.http, logging.INFO, self._exchange.number, STATE, message)
        if not self._started:
            self._exchange.refusal = _STOPPING
        elif self._is_event_stream and not self._is_torn:
            # Each event is whole. In any other response, the client has to see the cut.
            await self._exchange.end_response()

    async def _end_call(self) -> None:
        """Make the application release the exchange, which is over."""
        with trio.CancelScope(shield=True):
            if not self._complete:
                self._call.cancel()
                await self._settled.wait()
            await self._receiving.acquire()
            self._receiving.release()

    def _explain(self) -> BaseException:
        """Return why the application has returned without completing its response."""
        if isinstance(self._failure, OSError):
            # The error may be about a file or a database of its own. The server would take it for the client's.
            error = RawwsError(f"the ASGI application failed: {type(self._failure).__name__}: {self._failure}")
            error.__cause__ = self._failure
            return error
        if self._failure is not None:
            return self._failure
        if self._gone:
            return self._lost or ConnectionResetError("the client left before it was answered")
        if self._started:
            return RawwsError("the ASGI application returned before its response was complete")
        return RawwsError("the ASGI application returned without a response")

    # When the server stops

    def heed_stop(self) -> None:
        """Set the times at which the application is notified that the server stops, if it does."""
        drain = self._exchange.drain
        if drain is None or self._complete:
            return
        if self._is_event_stream:
            farewell_s = min(_FAREWELL_S, _FAREWELL_SHARE * drain.seconds)
            self._call.deadline = min(self._call.deadline, trio.current_time() + farewell_s)
            if self._wait is not None:
                self._wait.deadline = drain.began
        elif self._wait is not None and self._body_read:
            self._wait.deadline = drain.at(_RECEIVING_SHARE)

    @property
    def _must_end(self) -> bool:
        """Whether an application that asks is notified that the server stops."""
        drain = self._exchange.drain
        if drain is None:
            return False
        return self._is_event_stream or trio.current_time() >= drain.at(_RECEIVING_SHARE)

    def _check_that_more_can_come(self) -> None:
        """Raise `ClientDisconnected` for a stream that the server no longer waits for."""
        drain = self._exchange.drain
        if drain is None:
            return
        too_late = not self._has_length and trio.current_time() >= drain.at(_SENDING_SHARE)
        if self._is_event_stream or self._stopped or too_late:
            self._stopped = True
            raise ClientDisconnected(SHUTTING_DOWN)

    # Events that the application receives

    def receive_now(self) -> Message | None:
        """Return the one event of a request without a body, unless it was received already."""
        if self._body_read or self._exchange.request.has_body:
            return None
        self._body_read = True
        return {"type": "http.request", "body": b"", "more_body": False}

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """Return the next piece of the body; after its end, wait for the client's leaving or the response's end.

        Applications ask whether the client has gone by cancelling this at once. So there is no checkpoint here: an
        exchange looks before it waits.
        """
        await self._receiving.acquire()
        try:
            if self._complete or self._gone:
                return {"type": _DISCONNECT}
            if self._must_end and (self._body_read or self._is_event_stream):
                self._stopped = True
                return {"type": _DISCONNECT}
            with trio.CancelScope() as self._wait:
                self.heed_stop()
                return await self._receive()
            # The response has been completed meanwhile, or the server stops.
            self._stopped |= not self._complete
            return {"type": _DISCONNECT}
        finally:
            self._wait = None
            self._receiving.release()

    @trio.lowlevel.enable_ki_protection
    async def _receive(self) -> Message:
        if not self._body_read:
            try:
                piece = await self._receive_piece()
            except OSError as error:
                self._lose(error)
                return {"type": _DISCONNECT}
            self._body_read = not piece
            return {"type": "http.request", "body": piece, "more_body": bool(piece)}
        await self._exchange.wait_disconnected()
        # Sending goes on until it fails: a client that has only shut down its own side still reads.
        self._gone = True
        return {"type": _DISCONNECT}

    async def _receive_piece(self) -> bytes:
        if self._pace is None:
            return await self._exchange.receive_body()
        began = trio.current_time()
        with trio.move_on_after(max(0.0, self._pace.left_s)):
            piece = await self._exchange.receive_body()
            self._pace.note(trio.current_time() - began, len(piece))
            return piece
        self._exchange.refusal = _TOO_SLOW
        raise ClientError(_TOO_SLOW.sentence)

    def _lose(self, error: OSError) -> None:
        self._gone = True
        self._lost = error

    # Events that it sends

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Message) -> None:
        """Send a part of the response. Raises `UsageError` for an event out of order, and OSError without a client."""
        kind = message.get("type")
        if kind not in ("http.response.start", "http.response.body"):
            raise UsageError(f"an ASGI application can't send {kind!r} in answer to an HTTP request")
        if message.get("more_body"):
            await trio.lowlevel.checkpoint()  # otherwise a stream to a fast client would block all others
        await self._sending.acquire()
        try:
            await self._send(kind, message)
        except ClientDisconnected:
            raise
        except OSError as error:
            self._lose(error)
            raise ClientDisconnected("the client has gone") from error
        except h11.LocalProtocolError as error:
            raise UsageError(f"the ASGI application's response can't be sent: {error}") from None
        finally:
            self._sending.release()

    async def _send(self, kind: str, message: Message) -> None:
        if self._lost is not None:
            raise ClientDisconnected("the client has gone") from self._lost
        if self._complete:
            # "any further messages on the channel will be ignored"
            target = mask_target(self._exchange.request.target)
            late = f"the ASGI application sent {kind} after the end of its response to {target}"
            logs.line(logs.http, logging.WARNING, self._exchange.number, FAULT, f"{late}; ignored")
        elif kind == "http.response.start":
            await self._start(message)
        else:
            await self._send_body(message.get("body", b""), more=message.get("more_body", False))

    async def _start(self, message: Message) -> None:
        if self._started or self._head is not None:
            raise UsageError("the ASGI application has sent http.response.start twice")
        headers = []
        for name, value in message.get("headers", ()):
            if not isinstance(name, bytes) or not isinstance(value, bytes):
                raise UsageError(f"the ASGI application's header {name!r}: {value!r} must be two byte strings")
            lower = name.lower()
            if lower == b"transfer-encoding":  # "the server must ignore it"
                continue
            headers.append((name, value))
            if lower == b"content-length":
                self._has_length = True
            elif lower == b"content-type" and _is_event_stream(value):
                self._is_event_stream = True
        self._head = check_status(message["status"]), headers
        self.heed_stop()
        # A head that gives the length waits for the body, so that there can still be a 500 if none comes. Without a
        # length it is a stream, whose first piece may be long in coming: an EventSource opens with the head.
        if not self._has_length:
            await self._send_head()

    async def _send_head(self, body: Body = b"") -> None:
        """Send the head that has waited, and the first piece of the body with it."""
        if self._head is not None:
            (status, headers), self._head = self._head, None
            await self._exchange.start_response(status, headers, body)
            self._started = True

    async def _send_body(self, body: object, *, more: bool) -> None:
        if self._head is None and not self._started:
            raise UsageError("the ASGI application has sent http.response.body before http.response.start")
        if not isinstance(body, bytes | bytearray | memoryview):
            raise UsageError(f"the body of http.response.body must be bytes, not {type(body).__name__}")
        if more:
            self._check_that_more_can_come()
        if more and self._pieces and self._exchange.request.method == "HEAD":
            # Nothing of the response goes out, so nothing else would ever stop an endless stream.
            await self._end()
            self._gone = True
            raise ClientDisconnected("a HEAD is answered without a body; there is nothing to stream to")
        self._pieces += 1
        try:
            if self._head is not None:
                await self._send_head(body)
            else:
                await self._exchange.send_body(body)
        except trio.Cancelled:
            self._is_torn = True
            raise
        if not more:
            await self._end()

    async def _end(self) -> None:
        await self._exchange.end_response()
        self._complete = True
        if self._call.deadline < math.inf:  # background tasks have a time limit of their own
            self._call.deadline = math.inf
        self._settled.set()
        if self._wait is not None:
            self._wait.cancel()


def _is_event_stream(content_type: bytes) -> bool:
    return content_type.partition(b";")[0].strip().lower() == EVENTS.content_type.encode("ascii")
