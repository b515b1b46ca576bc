"""A test of a WebSocket server with the cases of ``inspection/conformance.py``, each on a connection of its own."""

from __future__ import annotations

import contextlib
import ssl as ssl_module
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from rawws.client.connect import connect
from rawws.errors import NoResponse, RawwsError
from rawws.inspection.conformance import BY_NAME, KEY, Answer, Case, Outcome, Verdict, raw_request, status_of
from rawws.inspection.describe import describe
from rawws.inspection.observer import Observer
from rawws.inspection.seen import Seen
from rawws.net.transport import Transport
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.messages import FieldsLike, Headers
from rawws.wire.role import Role
from rawws.wire.uri import parse_uri

# The most cases that wait at the same time. With a server that leaves connections open, they all wait at once.
AT_ONCE = 8
# The time that a case waits alone before the next one begins; most answers arrive sooner.
ALONE_S = 0.05
# The time in which a supervisor may restart a server that has gone down.
RETURN_S = 10.0
RETRY_S = 0.1
# A case waits at least as long as this many handshakes take, so that a slow server doesn't count as a mute one.
PACE = 10
# The responses of a proxy whose server has gone down (RFC 9110 §15.6.3 to §15.6.5).
_GONE_BEHIND_PROXY = frozenset({502, 503, 504})

# The bytes of an answer that are observed at a time; then they may be enough. Two bytes may be a frame.
LOOKED_AT_BYTES = 4096
# The most heads and frames of a story.
MAX_STORY_ITEMS = 200

_ORDINARY = BY_NAME["handshake"]
_CLOSE = encode_frame(Opcode.CLOSE, b"\x03\xe8", mask_key=KEY)


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one case: the bytes that were sent, those that came back, and the judgement."""

    case: Case
    answer: Answer
    outcome: Outcome

    @property
    def sent(self) -> bytes:
        return b"".join(data for _, data in self.answer.sent)

    def story(self) -> list[str]:
        """Return the bytes sent and received, as lines, in the order in which the client saw them.

        Only the beginning of an endless answer is shown.
        """
        observer = Observer()
        seen: list[Seen] = []
        raw = self.answer.raw
        shown = 0
        for at, data in [*self.answer.sent, (len(raw), b"")]:
            while shown < at and len(seen) < MAX_STORY_ITEMS:
                size = min(LOOKED_AT_BYTES, at - shown)
                seen += observer.receive(Role.SERVER, bytes(raw[shown : shown + size]))
                shown += size
            seen += observer.receive(Role.CLIENT, data)
        lines = [line for each in [*seen, *observer.finish()] for line in describe(each, with_ruler=False)]
        if shown < len(raw):
            lines.append(f"= {len(raw) - shown:,} bytes more came, which are left out here")
        return [*lines, "= the server ended the connection" if self.answer.ended else "= the connection is open still"]


@dataclass(frozen=True, slots=True)
class Stopped:
    """The server has stopped answering ``during`` a case, and has not come back.

    ``concurrent`` are the other cases that were waiting for an answer, and ``untried`` those that had not begun.
    """

    during: Case
    concurrent: tuple[Case, ...]
    untried: tuple[Case, ...]
    connections: int  # made by then
    waited_s: float

    def __str__(self) -> str:
        parts = [f"the server stopped answering during case {self.during.name} (connection {self.connections})"]
        if self.concurrent:
            parts.append(f"while {', '.join(case.name for case in self.concurrent)} waited for an answer")
        parts.append(f"and did not come back within {self.waited_s:g} s")
        if self.untried:
            parts.append(f"so {len(self.untried)} cases were not tried")
        return ", ".join(parts)


class Checker:
    """Runs cases against one server."""

    def __init__(
        self,
        uri: str,
        *,
        ssl: ssl_module.SSLContext | None = None,
        headers: FieldsLike = (),
        origin: str | None = None,
        proxy: str | bool | None = True,
        patience_s: float = 3.0,
    ) -> None:
        """``patience_s`` is how long an answer may take; ``proxy`` is as for `connect`.

        Raises `InvalidURI` and `UsageError` for what can't be used.
        """
        self._uri = parse_uri(uri)
        self._headers = Headers.checked(headers)
        self._origin = origin
        self.patience_s = patience_s
        self._connector = connect(
            uri,
            ssl=ssl,
            headers=self._headers,
            origin=origin,
            proxy=proxy,
            compression=None,
            open_timeout=patience_s,
        )

    async def run(self, cases: Sequence[Case], on_result: Callable[[Result], None]) -> Stopped | None:
        """Run the cases, and report the result of each, in their order. Return a `Stopped` if the server went down.

        The cases begin one at a time, each after the server has answered an ordinary handshake, so that a server that
        goes down does so during a known case. Cases that have to wait for a mute server wait at the same time. If a
        supervisor starts the server again, the cases that were under way are tried again, one at a time.

        Raises OSError, `OpenTimeout` and `ProxyError` when the server can't be reached, doesn't speak the protocol of
        the address (TLS or plain), or doesn't answer an ordinary handshake to begin with.
        """
        await self._connector.probe()
        return await _Run(self, on_result).run(cases)

    async def run_case(
        self, case: Case, on_sent: Callable[[], None] | None = None, patience_s: float | None = None
    ) -> Result:
        """Run one case. ``on_sent`` is called when all of it has gone out; ``patience_s`` is the checker's by default.

        Raises OSError, `OpenTimeout` and `ProxyError` when there is no connection to the server.
        """
        request = case.request(self._handshake())
        transport = await self._connector.dial()
        answer = Answer(case, request)
        try:
            with trio.move_on_after(patience_s or self.patience_s):
                await self._converse(case, transport, answer, on_sent)
        finally:
            transport.close()
        outcome = case.outcome(answer)
        answer.seen = []  # many objects, which nobody needs after the judgement: a story is made from the bytes
        return Result(case, answer, outcome)

    def _handshake(self) -> ClientHandshake:
        return ClientHandshake(self._uri, headers=self._headers, origin=self._origin, compression=False)

    async def greet(self) -> Greeting:
        """Perform an ordinary handshake, and return it with the first answer to it, if there is one.

        Raises OSError, `OpenTimeout` and `ProxyError` when there is no connection to the server.
        """
        request = raw_request(self._handshake())
        transport = await self._connector.dial()
        greeting = Greeting(transport, Answer(_ORDINARY, request))
        try:
            await transport.send_all(request)
            while greeting.status is None and not greeting.answer.is_full:
                data = await transport.receive(LOOKED_AT_BYTES)
                if not data:
                    break
                greeting.answer.receive(data)
        except BaseException:
            transport.close()
            raise
        return greeting

    async def _converse(
        self, case: Case, transport: Transport, answer: Answer, on_sent: Callable[[], None] | None
    ) -> None:
        """Send the request, wait for the 101, send the frames, and collect what comes."""
        closes = case.begins_with_close  # we have sent a close
        sent_frames = not case.frames
        await _send(transport, answer.sent[0][1])
        if sent_frames and on_sent:
            on_sent()
        while not (sent_frames and answer.is_settled) and not answer.is_full:
            if not sent_frames and answer.seen:
                sent_frames = True
                answer.will_send(case.frames)
                await _send(transport, case.frames, half=case.half)
                if on_sent:
                    on_sent()
                continue
            try:
                data = await transport.receive(LOOKED_AT_BYTES)
            except OSError:
                data = b""  # a reset ends the connection as well
            if not data:
                answer.ended = True
                break
            answer.receive(data)
            if not closes and answer.has_close:
                closes = True
                answer.will_send(_CLOSE)
                await _send(transport, _CLOSE)
            await trio.lowlevel.checkpoint_if_cancelled()  # a stream that never ends is cut off here


async def _send(transport: Transport, data: bytes, *, half: bool = False) -> None:
    """Send bytes, as many as the server accepts; with ``half``, end our side of the stream.

    A server that accepts no more may have sent its reason before, so a failed send is not the end.
    """
    with contextlib.suppress(OSError):
        await transport.send_all(data)
        if half:
            await transport.send_eof()


class Greeting:
    """An ordinary handshake, which shows that the server is up; while it is open, the server has not gone down."""

    def __init__(self, transport: Transport, answer: Answer) -> None:
        self.answer = answer
        self._transport = transport

    @property
    def status(self) -> int | None:
        """The status of the answer; None for no answer, or none in HTTP."""
        return status_of(self.answer.seen)

    def close(self) -> None:
        self._transport.close()

    def was_cut(self) -> bool:
        """Whether the WebSocket has ended without a close, as it does when the server's process goes down."""
        if self.status != 101:
            return False
        try:
            while not self.answer.is_full and (data := self._transport.receive_now(LOOKED_AT_BYTES)):
                self.answer.receive(data)
        except BlockingIOError:
            return False
        except OSError:
            pass
        return not self.answer.has_close and not self.answer.is_full


class _Attempt:
    """One case that is being tried, until its result is known."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.result: Result | None = None
        self.sent = trio.Event()  # set when all was sent, or could not be
        self.done = trio.Event()
        self.is_confirmed = False  # the server has answered a handshake since
        self._scope = trio.CancelScope()

    @trio.lowlevel.enable_ki_protection
    async def run(self, checker: Checker, patience_s: float) -> None:
        try:
            with self._scope:
                self.result = await checker.run_case(self.case, self.sent.set, patience_s)
        except (OSError, RawwsError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.conclude(Verdict.UNCLEAR, f"no connection: {reason}")
        finally:
            self.sent.set()
            self.done.set()

    def conclude(self, verdict: Verdict, got: str) -> None:
        """Set the result where the server has given none."""
        answer = Answer(self.case, b"") if self.result is None else self.result.answer
        answer.ended = True
        self.result = Result(self.case, answer, Outcome(verdict, got))

    async def cancel(self) -> None:
        self._scope.cancel()
        await self.done.wait()

    @property
    def was_refused(self) -> bool:
        """Whether the server refused the connection for it."""
        return self.result is not None and not self.result.sent


class _Run:
    """One run of cases against a server that may go down meanwhile."""

    def __init__(self, checker: Checker, on_result: Callable[[Result], None]) -> None:
        self._checker = checker
        self._on_result = on_result
        self._connections = 0
        self._patience_s = checker.patience_s
        self._usual: int | None = None  # the status that an ordinary handshake gets
        self._witness: Greeting | None = None  # open while a case is tried
        self._keeps_witness = True
        self._attempts: deque[_Attempt] = deque()  # not yet reported, in the order of the cases
        self._last: _Attempt | None = None  # the one before the present one

    @trio.lowlevel.enable_ki_protection
    async def run(self, cases: Sequence[Case]) -> Stopped | None:
        try:
            await self._begin()
            async with trio.open_nursery() as nursery:
                for number, case in enumerate(cases):
                    await self._wait_for_place()
                    attempt = _Attempt(case)
                    self._attempts.append(attempt)
                    self._connections += 1
                    nursery.start_soon(attempt.run, self._checker, self._patience_s)
                    await attempt.sent.wait()
                    with trio.move_on_after(ALONE_S):
                        await attempt.done.wait()
                    if stopped := await self._go_on(cases[number + 1 :]):
                        return stopped
                    self._last = attempt
                for attempt in self._attempts:
                    await attempt.done.wait()
                return await self._go_on(())
        finally:
            self._replace_witness(None)

    async def _begin(self) -> None:
        """Learn how the server answers, and whether it serves two connections at a time."""
        patience_s = self._checker.patience_s
        greeting = None
        began = trio.current_time()
        with trio.move_on_after(patience_s):
            greeting = await self._checker.greet()
        self._learn_pace(trio.current_time() - began)
        if greeting is None:
            raise NoResponse(f"the server hasn't answered an ordinary handshake within {patience_s:g} s")
        self._usual = greeting.status
        self._replace_witness(greeting)
        if self._usual is None:
            raise NoResponse(
                "the server's answer to an ordinary handshake is not HTTP"
                if greeting.answer.raw
                else "the server has ended the connection without an answer to an ordinary handshake"
            )
        with trio.move_on_after(patience_s) as scope:
            second = await self._greet()
            if second is not None:
                second.close()
        self._keeps_witness = not scope.cancelled_caught and second is not None
        self._replace_witness(self._witness)

    def _learn_pace(self, handshake_s: float) -> None:
        """Set the next cases' time by the server's speed, unless the handshake had to wait for another connection."""
        if self._keeps_witness:
            self._patience_s = max(self._checker.patience_s, min(PACE * handshake_s, RETURN_S))

    def _replace_witness(self, witness: Greeting | None) -> None:
        if self._witness is not None and self._witness is not witness:
            self._witness.close()
        self._witness = witness
        if witness is not None and not self._keeps_witness:
            witness.close()
            self._witness = None

    async def _greet(self) -> Greeting | None:
        """Perform an ordinary handshake; return it if it was answered, otherwise None."""
        self._connections += 1
        try:
            greeting = await self._checker.greet()
        except (OSError, RawwsError):
            return None
        status = greeting.status
        if status is None or (status in _GONE_BEHIND_PROXY and status != self._usual):
            greeting.close()
            return None
        return greeting

    async def _wait_for_place(self) -> None:
        """Wait until another case may begin to wait for its answer."""
        waiting = [attempt for attempt in self._attempts if not attempt.done.is_set()]
        if len(waiting) >= AT_ONCE:
            await waiting[0].done.wait()

    async def _is_intact(self) -> bool | None:
        """Say whether the server answers and has not gone down since the last time; None if it doesn't come back."""
        was_cut = self._witness is not None and self._witness.was_cut()
        first = True
        with trio.move_on_after(self._checker.patience_s + RETURN_S):
            began = trio.current_time()
            while (greeting := await self._greet()) is None:
                first = False
                await trio.sleep(RETRY_S)
                began = trio.current_time()
            self._learn_pace(trio.current_time() - began)
            was_cut = was_cut or (self._witness is not None and self._witness.was_cut())
            self._replace_witness(greeting)
            return first and not was_cut
        return None

    async def _go_on(self, untried: Sequence[Case]) -> Stopped | None:
        """Report the results of the cases so far, after a check that the server still answers."""
        connections = self._connections
        match await self._is_intact():
            case None:
                return await self._give_up(untried, connections)
            case False:
                if stopped := await self._try_suspects(untried):
                    return stopped
            case _:
                pass
        for attempt in self._attempts:
            attempt.is_confirmed = attempt.done.is_set()
        self._report()
        return None

    def _report(self) -> None:
        while self._attempts and self._attempts[0].is_confirmed:
            result = self._attempts.popleft().result
            assert result is not None
            self._on_result(result)

    async def _suspects(self) -> list[_Attempt]:
        """Cancel the cases that were under way when the server went down, and return them, the last one first."""
        suspects = [attempt for attempt in self._attempts if not attempt.is_confirmed]
        for attempt in suspects:
            await attempt.cancel()
        return suspects[::-1]

    async def _try_suspects(self, untried: Sequence[Case]) -> Stopped | None:
        """Try each case that was under way again, alone."""
        suspects = await self._suspects()
        for attempt in suspects:
            again = _Attempt(attempt.case)
            self._connections += 1
            connections, began = self._connections, trio.current_time()
            await again.run(self._checker, self._patience_s)
            attempt.result = again.result
            is_intact = await self._is_intact()
            if is_intact is False and await self._is_cut_when_idle(trio.current_time() - began):
                is_intact = True
            if not is_intact:
                fault = "the server stopped answering, and did so again when this case was tried alone"
                attempt.conclude(Verdict.BAD, fault)
            attempt.is_confirmed = True
            if is_intact is None:
                return await self._give_up(untried, connections, attempt)
        return None

    async def _is_cut_when_idle(self, seconds: float) -> bool:
        """Say whether the server cuts off a WebSocket that is idle for this time: then a cut proves nothing."""
        if self._witness is None:
            return False
        await trio.sleep(min(seconds, self._patience_s))
        if self._witness.was_cut():
            self._keeps_witness = False
        return not self._keeps_witness

    async def _give_up(self, untried: Sequence[Case], connections: int, during: _Attempt | None = None) -> Stopped:
        """Report the cases that were under way when the server stopped, and return the `Stopped` of the run."""
        suspects = await self._suspects()
        if during is None:
            newest = suspects[0] if suspects else self._last
            during = self._last if newest is not None and newest.was_refused else newest
        assert during is not None
        for attempt in suspects:
            attempt.conclude(Verdict.UNCLEAR, f"the server stopped answering during case {during.case.name}")
            attempt.is_confirmed = True
        self._report()
        concurrent = tuple(attempt.case for attempt in suspects[::-1] if attempt is not during)
        waited_s = self._checker.patience_s + RETURN_S
        return Stopped(during.case, concurrent, tuple(untried), connections, waited_s)
