"""The answer to a poll: messages of a room as one JSON object, encoded in pieces as they are sent.

JSON may take six times the bytes of a message: each control character becomes ``\\u0001``. So a large message is only
referred to until it is sent, and then encoded a piece at a time. A client that reads slowly holds one piece, however
large its answer is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

from rawws.broadcast.json_messages import as_compact_json, as_json, as_json_in_steps
from rawws.limits import KIB
from rawws.wire.frames import Opcode

# A message over this size is encoded when it is sent. The JSON of a smaller one is below 1 MiB.
LARGE_BYTES = 128 * KIB
# The bytes that are encoded in a step, a multiple of 3 for base64.
STEP_BYTES = 9 * KIB
# Smaller pieces are joined up to this size.
PIECE_BYTES = 64 * KIB


class _Large(NamedTuple):
    """A message that is encoded when it is sent. The payload is a view of a segment of the log."""

    message_id: bytes
    opcode: Opcode
    payload: memoryview

    def encoded(self) -> Iterator[bytes]:
        """Yield what `as_json` returns, in pieces."""
        return as_json_in_steps(self.message_id, self.opcode, self.payload, slice_bytes=STEP_BYTES)


class Polled:
    """The answer to all polls from one place. It can be iterated over any number of times."""

    def __init__(
        self,
        messages: Iterable[tuple[bytes, Opcode, memoryview]],
        after: bytes,
        gap: Mapping[str, str] | None,
        max_bytes: int,
    ) -> None:
        """Take messages until they have ``max_bytes``, and at least one. ``after`` is the id before them."""
        items: list[bytes | _Large] = []
        size = 0
        for message_id, opcode, payload in messages:
            large = len(payload) > LARGE_BYTES
            items.append(_Large(message_id, opcode, payload) if large else as_json(message_id, opcode, bytes(payload)))
            after = message_id
            size += len(payload) if large else len(items[-1])
            if size >= max_bytes:
                break
        self._items = items
        self._end = b'],"next":"%b","gap":%b}\n' % (after, as_compact_json(gap))
        self._whole: bytes | None = None
        if not any(isinstance(item, _Large) for item in items):
            self._whole = b'{"messages":[' + b",".join(items) + self._end  # type: ignore[arg-type]
            self._items = []

    @property
    def whole(self) -> bytes | None:
        """The answer, if none of its messages is large."""
        return self._whole

    def __iter__(self) -> Iterator[bytes]:
        """Yield the answer in pieces of about `PIECE_BYTES`."""
        if self._whole is not None:
            yield self._whole
            return
        waiting = bytearray(b'{"messages":[')
        for number, item in enumerate(self._items):
            if number:
                waiting += b","
            for step in item.encoded() if isinstance(item, _Large) else (item,):
                waiting += step
                if len(waiting) >= PIECE_BYTES:
                    piece = bytes(waiting)
                    waiting.clear()
                    yield piece
        yield bytes(waiting) + self._end

    def objects(self, is_kept: Callable[[object], bool]) -> list[bytes]:
        """Return the objects that the answer keeps in memory, each once; not those for which ``is_kept`` is true."""
        if self._whole is not None:
            return [self._whole]
        held = {
            id(item.payload.obj): item.payload.obj
            for item in self._items
            if isinstance(item, _Large) and not is_kept(item.payload.obj)
        }
        return [*(item for item in self._items if isinstance(item, bytes)), *held.values()]  # type: ignore[list-item]
