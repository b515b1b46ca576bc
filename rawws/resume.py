"""A client that goes on where it was cut off: the subprotocol ``rawws.id.v1`` from the reader's side."""

from __future__ import annotations

import json
from typing import Any

import trio

from rawws.errors import ConnectionClosed, InvalidResponse, NoResponse
from rawws.websocket import WebSocket
from rawws.wire.encodings import SUBPROTOCOL
from rawws.wire.message_ids import Gap


class ResumedWebSocket(WebSocket):
    """A connection to a room that knows which message it had last; `recv` returns messages as ever."""

    async def begin(self) -> None:
        """Receive the server's first words, which say where it begins.

        Raises `InvalidResponse` for others, and `NoResponse` when the connection ends before them.
        """
        if self.subprotocol != SUBPROTOCOL:
            raise InvalidResponse(f"the server does not speak {SUBPROTOCOL}, without which nothing can be resumed")
        try:
            first = await super().recv()
        except ConnectionClosed as error:
            raise NoResponse(f"the server has not said where it begins: {error}") from None
        head, _ = _divide(first)
        if "at" not in head:
            raise InvalidResponse(f"the server's first message does not say where it begins: {str(head)[:80]}")
        self.last_id = str(head["at"])
        if "gap" in head:
            self.gap = Gap(str(head["gap"]["since"]), str(head["gap"]["after"]))

    async def recv(self) -> str | bytes:
        while True:
            head, payload = _divide(await super().recv())
            if "id" in head:
                self.last_id = str(head["id"])
                return payload
            if "skipped" in head:
                self.skipped += int(head["skipped"])
            elif not head:
                return payload  # a greeting
            await trio.lowlevel.checkpoint_if_cancelled()


def _divide(message: str | bytes) -> tuple[dict[str, Any], str | bytes]:
    """Return the first line of a message, read as JSON, and what is behind it."""
    payload: str | bytes
    if isinstance(message, str):
        line, _, payload = message.partition("\n")
    else:
        raw, _, payload = message.partition(b"\n")
        line = raw.decode(errors="replace")
    try:
        head = json.loads(line)
    except ValueError:
        head = None
    if not isinstance(head, dict):
        raise InvalidResponse(f"a message of {SUBPROTOCOL} begins with a line of JSON, not with {line[:60]!r}")
    return head, payload
