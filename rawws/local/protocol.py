"""The messages between the sequencer of a machine and its workers, as bytes.

Both ends are processes of one program, of one version, over a pair of sockets that nobody else holds. Still, a message
is read within bounds, and one that no end would have written raises `ProtocolError`.

A message begins with its length (four bytes, without themselves) and its kind (one byte). The frequent ones are packed:
`Publish`, `Batch` and `History`. All others are a `Note`, an array of JSON, whose fields `SHAPES` lists.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, TypeAlias

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History as Limits
from rawws.broadcast.message_ids import MessageId
from rawws.errors import UsageError
from rawws.limits import MIB
from rawws.wire.frames import skip_frames

VERSION = 1
# The longest message. The frames that a peer publishes in one turn are one message, and so is a part of a history.
MAX_BYTES = 1024 * MIB


class Kind(IntEnum):
    """The kinds of messages. Those up to `SYNC` go to the sequencer, the others come from it."""

    HELLO = 1
    FOLLOW = 2
    UNFOLLOW = 3
    PUBLISH = 4
    CLEAR = 5
    TELL = 6
    ASK = 7
    REPLY = 8
    SYNC = 9
    WELCOME = 20
    HISTORY = 21
    BATCH = 22
    DONE = 23
    COMMAND = 24
    ROLL = 25
    ANSWER = 26
    SYNCED = 27
    LOST = 28
    CLEARED = 29


# The fields of each `Note`.
SHAPES: dict[Kind, tuple[type | tuple[type, ...], ...]] = {
    # A worker introduces itself: the version, its name as a node, and where it runs.
    Kind.HELLO: (int, str, str),
    # A worker wants the messages of a room: its path, the limits of its history, and the place that the worker has
    # reached (an epoch and a number, or null and 0 for nothing yet).
    Kind.FOLLOW: (str, (int, float), (int, float), (int, float), (str, type(None)), int),
    Kind.UNFOLLOW: (str,),
    # An operator clears the history of a room: a serial number as `Publish` has, and the path.
    Kind.CLEAR: (int, str),
    # A command to all other workers: its kind, its body, and its number at its node.
    Kind.TELL: (str, dict, int),
    # A question to all other workers, of the same shape.
    Kind.ASK: (str, dict, int),
    # The answer to a question: the node that has asked, the number there, the items as JSON, and the number left out.
    Kind.REPLY: (str, int, str, int),
    # A request for `SYNCED` with the same number, after everything that the sequencer has had by now.
    Kind.SYNC: (int,),
    # The version, and the number of this link, by which a worker recognizes its own messages.
    Kind.WELCOME: (int, int),
    # All up to a serial number is done. Each result is a serial number, an epoch, a number, and whether the
    # Idempotency-Key was used for another message.
    Kind.DONE: (int, list),
    # A command or a question of another worker: its kind, its body, the node, the number there, whether it asks.
    Kind.COMMAND: (str, dict, str, int, bool),
    # The workers that have to answer a question: its number, and pairs of a node's name and place.
    Kind.ROLL: (int, list),
    # The answer of one of them: the number of the question, the node's name and place, the items, those left out.
    Kind.ANSWER: (int, str, str, str, int),
    # The number, the rooms that the sequencer has, and the bytes of memory that it takes.
    Kind.SYNCED: (int, int, int),
    # This worker was too slow, and doesn't follow any room now. It has to follow them again.
    Kind.LOST: (),
    # The history of a room was cleared: all messages before this.
    Kind.CLEARED: (str,),
}

_HEAD = struct.Struct("!IB")
_PUBLISH = struct.Struct("!QIQdddBIIIII")
_BATCH = struct.Struct("!QIdQQBBII")
_RECORD = struct.Struct("!QIdBII")
_SIZE = struct.Struct("!I")
_HAS_KEY, _HAS_ONCE, _WANTS_RESULT = 1, 2, 4


class ProtocolError(Exception):
    """The other end has sent what it would never send."""


class Note(NamedTuple):
    """A message without packed fields."""

    kind: Kind
    fields: tuple[Any, ...]


class Publish(NamedTuple):
    """Messages of one sender, to be numbered. ``serial`` counts what a worker publishes, from 1 on."""

    serial: int
    path: str
    frames: bytes  # whole frames, without mask and not compressed
    messages: int  # the number of messages in them
    sender: int  # the number of the connection at its worker
    history: Limits
    key: str | None = None
    once: IdempotencyKey | None = None  # of the only message
    digest: str = ""
    wants_result: bool = False


class Batch(NamedTuple):
    """Messages that were numbered, for all who follow the room."""

    path: str
    epoch: str
    first: int  # the number of the first message
    messages: int
    at: float  # in seconds since 1970
    link: int  # of the worker that has published them
    sender: int
    key: str | None
    frames: bytes


class Past(NamedTuple):
    """Messages of a history, which one or several senders have published."""

    first: int
    messages: int
    at: float
    key: str | None
    frames: bytes

    @property
    def last(self) -> int:
        """The number of the last message."""
        return self.first + self.messages - 1

    def after(self, number: int) -> Past:
        """Return the messages after a number, which isn't that of the last or a later one."""
        known = number + 1 - self.first
        if known <= 0:
            return self
        return Past(
            number + 1, self.messages - known, self.at, self.key, self.frames[skip_frames(self.frames, known) :]
        )


class History(NamedTuple):
    """A part of a room's history. ``newest`` is the number of the room's last message, not of the part's."""

    path: str
    epoch: str
    newest: int
    is_last: bool
    records: tuple[Past, ...]


Message: TypeAlias = Note | Publish | Batch | History


# Writing


def note(kind: Kind, *fields: object) -> bytes:
    """Return the bytes of a `Note`. Raises `UsageError` for one that is too large."""
    return _pack(kind, json.dumps(fields, separators=(",", ":")).encode("ascii"))


def publish(message: Publish) -> bytes:
    """Return the bytes of a message. Raises `UsageError` for one that is too large, or an unencodable key."""
    once = message.once
    flags = _HAS_KEY * (message.key is not None) | _HAS_ONCE * (once is not None)
    flags |= _WANTS_RESULT * message.wants_result
    texts = [_bytes(message.path), _bytes(message.key or "")]
    texts += (b"", b"") if once is None else (_bytes(once.text), _bytes(once.owner))
    texts.append(_bytes(message.digest))
    head = _PUBLISH.pack(
        message.serial, message.messages, message.sender, *map(float, message.history), flags, *map(len, texts)
    )
    return _pack(Kind.PUBLISH, head, *texts, message.frames)


def batch(message: Batch) -> bytes:
    """Return the bytes of a message. Raises `UsageError` for one that is too large."""
    path, key, epoch = _bytes(message.path), _bytes(message.key or ""), message.epoch.encode("ascii")
    head = _BATCH.pack(
        message.first,
        message.messages,
        message.at,
        message.link,
        message.sender,
        message.key is not None,
        len(epoch),
        len(path),
        len(key),
    )
    return _pack(Kind.BATCH, head, epoch, path, key, message.frames)


def history(message: History) -> bytes:
    """Return the bytes of a message. Raises `UsageError` for one that is too large."""
    *about, records = message
    head = json.dumps(about, separators=(",", ":")).encode("ascii")
    pieces = [_SIZE.pack(len(head)), head]
    for record in records:
        key = _bytes(record.key or "")
        given = (record.first, record.messages, record.at, record.key is not None, len(key), len(record.frames))
        pieces += (_RECORD.pack(*given), key, record.frames)
    return _pack(Kind.HISTORY, *pieces)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _pack(kind: Kind, *pieces: bytes) -> bytes:
    size = 1 + sum(map(len, pieces))
    if size > MAX_BYTES:
        raise UsageError(f"workers share messages of at most {MAX_BYTES} bytes, and this one has {size}")
    return b"".join((_HEAD.pack(size, kind), *pieces))


# Reading


class Decoder:
    """Cuts a stream of bytes into messages, and keeps the beginning of one that isn't whole yet."""

    def __init__(self, kinds: range) -> None:
        """``kinds`` are those that may come: `TO_SEQUENCER` or `TO_WORKER`."""
        self._kinds = kinds
        self._rest = bytearray()

    @property
    def held_bytes(self) -> int:
        """The bytes of a message that isn't whole."""
        return len(self._rest)

    def feed(self, data: bytes) -> Iterator[Message]:
        """Yield the messages that are whole with these bytes; the iterator has to be used up.

        Raises `ProtocolError`.
        """
        self._rest += data
        view, at = memoryview(self._rest), 0
        try:
            while len(view) - at >= _HEAD.size:
                size, kind = _HEAD.unpack_from(view, at)
                if not 1 <= size <= MAX_BYTES or kind not in self._kinds:
                    raise ProtocolError(f"a message of {size} bytes and of kind {kind} can't be")
                end = at + _SIZE.size + size
                if end > len(view):
                    break
                yield _read(kind, view[at + _HEAD.size : end])
                at = end
        finally:
            view.release()
            del self._rest[:at]


TO_SEQUENCER = range(Kind.HELLO, Kind.SYNC + 1)
TO_WORKER = range(Kind.WELCOME, Kind.CLEARED + 1)


def _read(kind: int, body: memoryview) -> Message:
    try:
        with body:
            match kind:
                case Kind.PUBLISH:
                    return _read_publish(_Fields(body))
                case Kind.BATCH:
                    return _read_batch(_Fields(body))
                case Kind.HISTORY:
                    return _read_history(_Fields(body))
                case _:
                    return _read_note(Kind(kind), bytes(body))
    except (ValueError, RecursionError, struct.error) as error:  # UnicodeDecodeError is a ValueError
        raise ProtocolError(f"a message of kind {kind} can't be read: {error}") from None


class _Fields:
    """The packed fields of a message, from the first to the last."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    def unpack(self, form: struct.Struct) -> tuple[Any, ...]:
        values = form.unpack_from(self._body, self._at)
        self._at += form.size
        return values

    def data(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._body):
            raise ValueError("a field is longer than the message")
        return bytes(self._body[begin : self._at])

    def text(self, size: int) -> str:
        return self.data(size).decode("utf-8", "surrogatepass")

    def rest(self) -> bytes:
        return self.data(len(self._body) - self._at)

    def __bool__(self) -> bool:
        return self._at < len(self._body)


def _read_publish(fields: _Fields) -> Publish:
    serial, messages, sender, *given = fields.unpack(_PUBLISH)
    most, most_bytes, age_s, flags, *sizes = given
    path, key, once, owner, digest = map(fields.text, sizes)
    return Publish(
        serial,
        path,
        fields.rest(),
        messages,
        sender,
        Limits(most, most_bytes, age_s),
        key if flags & _HAS_KEY else None,
        IdempotencyKey(once, owner) if flags & _HAS_ONCE else None,
        digest,
        bool(flags & _WANTS_RESULT),
    )


def _read_batch(fields: _Fields) -> Batch:
    first, messages, at, link, sender, has_key, *sizes = fields.unpack(_BATCH)
    epoch, path, key = map(fields.text, sizes)
    return Batch(path, epoch, first, messages, at, link, sender, key if has_key else None, fields.rest())


def _read_history(fields: _Fields) -> History:
    about = json.loads(fields.data(*fields.unpack(_SIZE)))
    _check_shape(about, (str, str, int, bool))
    records: list[Past] = []
    while fields:
        first, messages, at, has_key, key_size, size = fields.unpack(_RECORD)
        key = fields.text(key_size)
        records.append(Past(first, messages, at, key if has_key else None, fields.data(size)))
    path, epoch, newest, is_last = about
    return History(path, epoch, newest, is_last, tuple(records))


def _read_note(kind: Kind, body: bytes) -> Note:
    fields = json.loads(body)
    _check_shape(fields, SHAPES[kind])
    return Note(kind, tuple(fields))


def _check_shape(fields: object, shape: Sequence[type | tuple[type, ...]]) -> None:
    if not isinstance(fields, list) or len(fields) != len(shape):
        raise ValueError("it has other fields")
    for field, expected in zip(fields, shape, strict=True):
        if not isinstance(field, expected) or (isinstance(field, bool) and expected is int):
            raise ValueError(f"a field is {type(field).__name__}")


def place_of(epoch: str | None, number: int) -> MessageId | None:
    """Return the place that a `FOLLOW` names; None for none."""
    return None if epoch is None else MessageId(epoch, number)
