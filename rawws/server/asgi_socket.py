"""One WebSocket of an ASGI application, from the question whether it accepts, to the end of its call."""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from rawws import logs
from rawws.application.leaving import is_about_leaving
from rawws.application.loop import ApplicationLoop, Channel
from rawws.application.spec import Application, ClientDisconnected, Message, Scope
from rawws.errors import RETRY_SOON, Cause, ConnectionClosed, Refusal
from rawws.hooks import is_application_error, log_failure
from rawws.server.apps import Acceptance, UpgradeExchange
from rawws.server.asgi_conversation import Conversation
from rawws.websocket import WebSocket
from rawws.websocket.internals import (
    awaits_answers,
    close_because,
    count_besides,
    receive_or_wait,
    take_waiting_message,
    wake_receivers,
)
from rawws.wire.asgi_websocket import ABNORMAL, Accept, AsgiWebSocket, Close, Deny, Reject, Send, TooLate, event_of
from rawws.wire.trace import FAULT, TIMER, mask_target, shorten

_UNANSWERED = Refusal(
    500, "application_returned", "The application has returned without accepting or refusing this WebSocket."
)
_FAILED = Refusal(500, "application_failed", "The application has failed before it accepted or refused this WebSocket.")
_STOPPING = Refusal(503, "stopping", "The server is shutting down; try again.", RETRY_SOON)


class Untaken:
    """The log of an application that fails before it receives ``websocket.connect``, as one without WebSockets does.

    Any stranger can have it fail so, by requesting an upgrade. So there is one traceback, and then a line for each.
    """

    def __init__(self) -> None:
        self._was_logged = False

    def log(self, number: int, target: str, error: BaseException) -> None:
        what = f"the ASGI application failed at {target} before it received websocket.connect"
        if self._was_logged:
            message = f"{what}, again: {type(error).__name__}"
            logs.line(logs.handshake, logging.WARNING, number, FAULT, message)
            return
        self._was_logged = True
        note = "an application that takes no WebSockets does so; further such failures are logged without a traceback"
        log_failure(logs.handshake, number, f"{what}; {note}", error)


class SocketConversation:
    """One WebSocket as the application's ``receive`` and ``send`` see it.

    Three tasks meet here. That of the application's call is in `run`. That of the connection waits for the decision in
    `wait_decided`. Once there is a WebSocket, its handler's is in `serve`.
    """

    def __init__(self, exchange: UpgradeExchange, untaken: Untaken) -> None:
        self._exchange = exchange
        self._untaken = untaken
        self._target = mask_target(exchange.request.target)
        self._state = AsgiWebSocket(exchange.subprotocols)
        self._decision: Accept | Reject | Deny | None = None
        self._denial = Conversation(exchange)  # sends the application's own response, if it has one
        self._websocket: WebSocket | None = None
        self._call = trio.CancelScope()
        self._on_their_way: Callable[[], int] = int  # returns the bytes of events between here and the application
        self._sending = 0  # messages that the client hasn't taken yet
        self._failed = False
        self._was_too_late = False  # the application has sent something, and got to know that the client has gone
        self._decided = trio.Event()  # there is a decision, or there will be none
        self._settled = trio.Event()  # the WebSocket is there, or there will be none
        self._returned = trio.Event()

    @trio.lowlevel.enable_ki_protection
    async def run(self, loop: ApplicationLoop, app: Application, scope: Scope) -> None:
        """Call the application, and log its exception, unless that only says that the client has gone."""
        channel = Channel(self.receive, self.send, self.receive_now, self._track)
        try:
            with self._call:
                await loop.call(app, scope, channel)
        except BaseException as error:
            if not is_application_error(error):
                raise
            is_told = self._was_too_late or self._state.knows_the_end
            if not (is_told and is_about_leaving(error)):
                self._failed = True
                self._log(error)
        finally:
            for event in (self._returned, self._decided, self._settled):
                event.set()

    def _track(self, held_bytes: Callable[[], int]) -> None:
        self._on_their_way = held_bytes

    def _log(self, error: BaseException) -> None:
        number = self._exchange.number
        what = f"the ASGI application failed at {self._target}"
        if self._websocket is not None and self._state.ended is None:
            log_failure(logs.hub, number, f"{what}; its WebSocket is closed with 1011", error)
        elif self._is_denying:
            log_failure(logs.handshake, number, f"{what} within its response", error)
        elif self._decision is not None:
            log_failure(logs.hub, number, f"{what} after the end of its WebSocket", error)
        elif self._state.has_connected:
            log_failure(logs.handshake, number, f"{what} before it accepted or refused the WebSocket", error)
        else:
            self._untaken.log(number, self._target, error)

    # The connection's task

    async def wait_decided(self) -> Acceptance | Refusal | None:
        """Wait for the application's decision. `UpgradeApp` describes the result.

        An application that takes longer than ``open_timeout`` is cancelled. If the client leaves meanwhile, it has the
        same time to notice.
        """
        answer: Acceptance | Refusal | None = None
        try:
            await self._exchange.wait_for(self._decided.wait, self._exchange.limits.header_timeout_s)
            answer = await self._conclude()
        finally:
            if not isinstance(answer, Acceptance):
                self.abandon()
            if self._decision is None or self._is_denying:
                await self._end_call()  # it must not use the exchange any more
        return answer

    @property
    def _is_denying(self) -> bool:
        """Whether the application's own response has begun, and is not complete."""
        return isinstance(self._decision, Deny) and not self._denial.is_complete

    async def _conclude(self) -> Acceptance | Refusal | None:
        match self._decision:
            case Accept(subprotocol, headers):
                return Acceptance(subprotocol, headers, self.serve, self.abandon)
            case Reject():
                path = shorten(mask_target(self._exchange.request.path or ""))
                sentence = f"The application has no WebSocket at {path}, or refuses this one."
                return Refusal(403, "application_refused", sentence)
            case Deny():
                await self._settled.wait()
                if self._exchange.is_lost:
                    raise ConnectionResetError("the client left before it was answered")
                return self._explain_cut() if self._is_denying else None
            case None:
                return await self._give_up()

    def _explain_cut(self) -> Refusal:
        """Return the refusal for a client that has got nothing of the application's response yet."""
        if not self._failed:
            message = f"the ASGI application's response to {self._target} was not complete when it returned"
            logs.line(logs.handshake, logging.ERROR, self._exchange.number, FAULT, message)
        return _FAILED

    async def _give_up(self) -> Refusal:
        """Return the reason why there is no decision. Raises OSError if the client has gone."""
        if self._returned.is_set():
            return _FAILED if self._failed else _UNANSWERED
        limit_s = self._exchange.limits.header_timeout_s
        if self._exchange.is_lost:
            self.abandon()
            with trio.move_on_after(limit_s):
                await self._returned.wait()
            raise ConnectionResetError("the client left before the application accepted or refused it")
        if self._exchange.stopping:
            return _STOPPING
        message = f"the ASGI application took too long to accept or refuse {self._target}; it is cancelled"
        logs.line(logs.handshake, logging.WARNING, self._exchange.number, TIMER, message)
        sentence = (
            f"The application did not accept or refuse this WebSocket within {limit_s:g} seconds (--open-timeout)."
        )
        return Refusal(503, "application_timeout", sentence, RETRY_SOON)

    def abandon(self) -> None:
        """Tell the application that there is no WebSocket, or will be none."""
        self._state.end(ABNORMAL)
        self._settled.set()

    async def _end_call(self) -> None:
        with trio.CancelScope(shield=True):
            self._call.cancel()
            await self._returned.wait()

    # The handler's task

    @trio.lowlevel.enable_ki_protection
    async def serve(self, websocket: WebSocket) -> None:
        """Give the application its WebSocket, and wait until it has returned. This is the WebSocket's handler."""
        held_bytes = self._exchange.call_bytes
        count_besides(websocket, lambda: held_bytes + self._on_their_way())
        self._websocket = websocket
        self._settled.set()
        try:
            await self._returned.wait()
        finally:
            await self._end_call()
        if self._failed:
            close_because(websocket, Cause.ERROR, 1011, "internal error")

    # The application's task

    @trio.lowlevel.enable_ki_protection
    async def receive(self) -> Message:
        """Return the next event: one ``websocket.connect``, messages, and then ``websocket.disconnect``.

        Cancelling this loses no message. Several tasks may receive: a message goes to one of them, and the end to all.
        """
        while (event := self._state.next_event()) is None:
            if self._state.is_exhausted:
                raise self._left()
            if self._websocket is None:
                await self._wait_settled()
                continue
            try:
                message = await receive_or_wait(self._websocket, self._is_answering)
            except ConnectionClosed as closed:
                self._end(closed)
                continue
            if message is not None:
                return event_of(message)
        if event["type"] == "websocket.disconnect":
            await trio.lowlevel.checkpoint()  # the application may ignore this, and go on
        return event

    def receive_now(self) -> Message | None:
        """Return a message that has been read already, for a loop that hands over several at a time.

        The first event isn't among them: whether the application asks for it says whether it takes WebSockets.
        """
        if self._websocket is None or not self._state.has_connected or self._state.ended is not None:
            return None
        message = take_waiting_message(self._websocket)
        return None if message is None else event_of(message)

    async def _wait_settled(self) -> None:
        """Wait until there is a WebSocket, or the state knows that there will be none."""
        await self._settled.wait()
        if self._websocket is None:
            self._state.end(ABNORMAL)

    def _end(self, closed: ConnectionClosed) -> None:
        # Where we have failed the connection, our own close says why.
        self._state.end(closed.rcvd or closed.sent or ABNORMAL)

    def _is_answering(self) -> bool:
        """Return whether messages that the application has sent, in its own loop, are still on their way here."""
        return self._sending > 0 or self._on_their_way() > 0

    @trio.lowlevel.enable_ki_protection
    async def send(self, message: Message) -> None:
        """Do what an event asks for. Raises `UsageError` for an event out of order, and OSError without a client."""
        try:
            await self._do(message)
        finally:
            if self._websocket is not None and awaits_answers(self._websocket):
                wake_receivers(self._websocket)

    async def _do(self, message: Message) -> None:
        match self._state.take(message):
            case Send(data):
                await self._send(data)
            case Accept() as accept:
                await self._accept(accept)
            case Close(code, reason):
                websocket = await self._open_websocket()
                websocket.begin_close(code, reason)
                wake_receivers(websocket)  # they get the event of the end
            case Reject() as reject:
                self._decision = reject
                self._decided.set()
            case Deny() as deny:
                await self._deny(deny)
            case TooLate():
                await trio.lowlevel.checkpoint()  # an application may ignore this, and try again for ever
                raise self._left()

    def _left(self) -> ClientDisconnected:
        self._was_too_late = True
        return ClientDisconnected("the WebSocket has ended")

    async def _send(self, data: str | bytes | bytearray | memoryview) -> None:
        websocket = self._websocket or await self._open_websocket()
        self._sending += 1
        try:
            await websocket.send(data)
        except ConnectionClosed as closed:
            self._end(closed)
            raise self._left() from closed
        finally:
            self._sending -= 1

    async def _accept(self, accept: Accept) -> None:
        """Have the 101 sent. The client may have gone by then."""
        self._decision = accept
        self._decided.set()
        await self._open_websocket()

    async def _open_websocket(self) -> WebSocket:
        """Wait until the 101 has been sent. Raises OSError if it can't be sent."""
        await self._wait_settled()
        if self._websocket is None:
            raise self._left()
        return self._websocket

    async def _deny(self, deny: Deny) -> None:
        """Send a part of the application's own response."""
        self._decision = deny
        self._decided.set()
        try:
            await self._denial.send(deny.event)
        except ClientDisconnected:
            self._was_too_late = True
            raise
        finally:
            if self._denial.is_complete or self._was_too_late:
                self._settled.set()
