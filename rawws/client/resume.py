"""A client that resumes where it was cut off: the subprotocol ``rawws.id.v1`` from the reader's side."""

from __future__ import annotations

import json
from typing import Any

import trio

from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import Gap, MessageId, parse_id
from rawws.errors import ConnectionClosed, InvalidResponse, NoResponse, UsageError
from rawws.websocket import WebSocket
from rawws.wire.events import Message, MessagePart

# A line of the subprotocol has some 40 bytes. If a message comes in pieces, this many bytes are searched for its end.
MAX_LINE_BYTES = 4096


class ResumedWebSocket(WebSocket):
    """A connection to a room that records the id of the last message; messages are received as usual.

    Raises `InvalidResponse` for messages that violate the subprotocol.
    """

    _streamed_id = ""  # of the message that is being received in pieces, if it has one

    async def begin(self, since: str) -> None:
        """Receive the server's greeting, which says where it begins; ``since`` is the id in the request.

        Raises `InvalidResponse` for another message, and `NoResponse` if the connection ends before the greeting.
        """
        if self.subprotocol != SUBPROTOCOL:
            raise InvalidResponse(f"the server does not speak {SUBPROTOCOL}, which is needed to resume")
        try:
            first = await super().recv()
        except ConnectionClosed as error:
            raise NoResponse(f"the server sent no greeting: {error}") from None
        head, _ = _divide(first)
        if "at" not in head:
            raise InvalidResponse(f"the server's first message does not say where it begins: {first[:60]!r}")
        at = _read_id(head["at"])
        self.last_id = str(at)
        self._note(head)
        if since and self.gap is None and at.is_beyond(parse_id(since)):
            self.gap = Gap(since, self.last_id)  # the server ignored ``since``: a redirect may have lost it

    async def recv(self) -> str | bytes:
        while True:
            head, payload = _divide(await super().recv())
            message_id = self._note(head)
            if message_id is not None:
                self.last_id = message_id or self.last_id
                return payload
            await trio.lowlevel.checkpoint_if_cancelled()

    async def _first_part(self) -> Message | MessagePart:
        """Return the next message's first part after its first line. The line may need several parts."""
        while True:
            parts = [await super()._first_part()]
            size = len(parts[0].payload)
            try:
                while self._in_stream and b"\n" not in parts[-1].payload and size < MAX_LINE_BYTES:
                    parts.append(await self._next_part())
                    size += len(parts[-1].payload)
            except trio.Cancelled:
                self._put_back(parts)
                raise
            line, _, payload = b"".join(part.payload for part in parts).partition(b"\n")
            message_id = self._note(_read_line(line.decode(errors="replace")))
            if message_id is not None:
                self._streamed_id = message_id
                self._note_end()
                return MessagePart(parts[0].opcode, payload, not self._in_stream)
            await self._skip_stream()

    async def _next_part(self) -> Message | MessagePart:
        part = await super()._next_part()
        self._note_end()
        return part

    def _note_end(self) -> None:
        """Record the id of a message that was received in full, so that resuming continues after it."""
        if self._streamed_id and not self._in_stream:
            self.last_id, self._streamed_id = self._streamed_id, ""

    def _note(self, head: dict[str, Any]) -> str | None:
        """Process a first line. Return the id of the message after it, empty for a greeting, None if there is none."""
        if "id" in head:
            return str(_read_id(head["id"]))
        if "gap" in head:
            gap = head["gap"] if isinstance(head["gap"], dict) else {}
            self.gap = Gap(str(_read_id(gap.get("since"))), str(_read_id(gap.get("after"))))
        if "skipped" in head:
            if type(head["skipped"]) is not int or head["skipped"] < 0:
                raise InvalidResponse("the server reported skipped messages with an invalid count")
            self.skipped += head["skipped"]
        return None if head else ""


def _divide(message: str | bytes) -> tuple[dict[str, Any], str | bytes]:
    """Return the parsed first line of a message, and the rest."""
    if isinstance(message, str):
        line, _, text = message.partition("\n")
        return _read_line(line), text
    raw, _, payload = message.partition(b"\n")
    return _read_line(raw.decode(errors="replace")), payload


def _read_line(line: str) -> dict[str, Any]:
    try:
        head = json.loads(line)
    except (ValueError, RecursionError):
        head = None
    if not isinstance(head, dict):
        raise InvalidResponse(f"a message of {SUBPROTOCOL} begins with a line of JSON, not with {line[:60]!r}")
    return head


def _read_id(given: object) -> MessageId:
    """Read an id from the server. It goes into the next request, so it must contain nothing else."""
    if not isinstance(given, str):
        raise InvalidResponse(f"the server sent a message id that is not text but of the type {type(given).__name__}")
    try:
        return parse_id(given)
    except UsageError as error:
        raise InvalidResponse(f"the server sent an invalid message id: {error}") from None
