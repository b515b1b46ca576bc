"""Tries a WebSocket server with the cases of ``wire/cases.py``, each on a connection of its own."""

from __future__ import annotations

import ssl as ssl_module
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from rawws.client import connect
from rawws.transport import Transport
from rawws.wire.cases import KEY, Answer, Case, Outcome, Verdict
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.describe import describe
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.messages import FieldsLike, Headers
from rawws.wire.observer import Observer
from rawws.wire.role import Role
from rawws.wire.uri import parse_uri

# Cases that run at the same time: a server that leaves connections open costs the patience but once.
AT_ONCE = 8

# So many bytes of an answer are looked at before it is asked whether that is enough: there may be a frame in two.
LOOKED_AT_BYTES = 4096
# Heads and frames of a story.
MOST_TOLD = 200


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case: the bytes that were sent, those that came back, and the judgement."""

    case: Case
    request: bytes
    answer: Answer
    outcome: Outcome

    @property
    def sent(self) -> bytes:
        return self.request + self.case.frames

    def story(self) -> list[str]:
        """Return what went out and what came back, as lines; of an endless answer its beginning."""
        observer = Observer()
        seen = observer.receive(Role.CLIENT, self.request)
        raw = self.answer.raw
        told = 0
        while told < len(raw) and len(seen) < MOST_TOLD:
            seen += observer.receive(Role.SERVER, bytes(raw[told : told + LOOKED_AT_BYTES]))
            told += LOOKED_AT_BYTES
        if observer.switched:
            seen += observer.receive(Role.CLIENT, self.case.frames)
        lines = [line for each in [*seen, *observer.finish()] for line in describe(each, with_ruler=False)]
        if told < len(raw):
            lines.append(f"= {len(raw) - told:,} bytes more came, which are left out here")
        return [*lines, "= the server ended the connection" if self.answer.ended else "= the connection is open still"]


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
        self._patience_s = patience_s
        self._connector = connect(
            uri,
            ssl=ssl,
            headers=self._headers,
            origin=origin,
            proxy=proxy,
            compression=None,
            open_timeout=patience_s,
        )

    @trio.lowlevel.enable_ki_protection
    async def run(self, cases: Sequence[Case], tell: Callable[[Result], None]) -> None:
        """Run cases, several at once, and tell the result of each in their order.

        Raises OSError when there is no connection to the server to begin with, or not one of the kind that it speaks.
        """
        await self._connector.probe()
        limiter = trio.CapacityLimiter(AT_ONCE)
        results: dict[int, Result] = {}
        told = 0

        @trio.lowlevel.enable_ki_protection
        async def run_one(index: int, case: Case) -> None:
            nonlocal told
            async with limiter:
                results[index] = await self._try_case(case)
            while told in results:
                tell(results[told])
                told += 1

        async with trio.open_nursery() as nursery:
            for index, case in enumerate(cases):
                nursery.start_soon(run_one, index, case)

    async def _try_case(self, case: Case) -> Result:
        try:
            return await self.run_case(case)
        except OSError as error:
            answer = Answer(case, b"")
            answer.ended = True
            return Result(case, b"", answer, Outcome(Verdict.UNCLEAR, f"no connection: {error.strerror or error}"))

    async def run_case(self, case: Case) -> Result:
        """Run one case. Raises OSError when there is no connection to the server."""
        handshake = ClientHandshake(self._uri, headers=self._headers, origin=self._origin, compression=False)
        request = case.request(handshake)
        transport = await self._connector.dial()
        answer = Answer(case, request)
        try:
            await self._converse(case, request, transport, answer)
        finally:
            transport.close()
        outcome = case.outcome(answer)
        answer.seen = []  # many objects, which nobody asks for when it is judged: a story is told from the bytes
        return Result(case, request, answer, outcome)

    async def _converse(self, case: Case, request: bytes, transport: Transport, answer: Answer) -> None:
        """Send the request, wait for the 101, send the frames, and collect what comes."""
        closes = case.begins_with_close  # we have sent a close
        sent_frames = not case.frames
        with trio.move_on_after(self._patience_s):
            try:
                await transport.send_all(request)
                while not (sent_frames and answer.is_settled) and not answer.is_full:
                    if not sent_frames and answer.seen:
                        sent_frames = True
                        await transport.send_all(case.frames)
                        if case.half:
                            await transport.send_eof()
                        continue
                    data = await transport.receive(LOOKED_AT_BYTES)
                    if not data:
                        answer.ended = True
                        break
                    answer.receive(data)
                    if not closes and answer.has_close:
                        closes = True
                        await transport.send_all(encode_frame(Opcode.CLOSE, b"\x03\xe8", mask_key=KEY))
                    await trio.lowlevel.checkpoint_if_cancelled()  # what never stops coming is not waited for
            except OSError:
                answer.ended = True  # a reset ends it as well
