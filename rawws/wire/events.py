"""Events of a WebSocket connection after the handshake: messages, pings, closes (RFC 6455 §5 to §7)."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

# A close is also what an exception tells of, so that its shape is in errors.py; to readers of the wire it is an event.
from rawws.errors import CLOSE_CODE_NAMES as CLOSE_CODE_NAMES
from rawws.errors import CloseFrame as CloseFrame
from rawws.errors import Fault, UsageError
from rawws.wire.frames import MAX_CONTROL_PAYLOAD_BYTES, Opcode

# The codes that an endpoint may set (§7.4.1 and the registry). The others are never sent (1004, 1005, 1006, 1015), or
# only by clients (1010).
SENDABLE_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014})


def check_close(code: int, reason: str | None) -> CloseFrame:
    """Return a close with this code and reason. Raises `UsageError` for one that can't be sent (§5.5, §7.4)."""
    if not isinstance(code, int) or (code not in SENDABLE_CLOSE_CODES and not 3000 <= code <= 4999):
        raise UsageError(
            f"{code!r} can't be sent as a close code (RFC 6455 §7.4); give 1000, 1001, 1003, 1007 to 1014, or one "
            "from 3000 to 4999"
        )
    reason = reason or ""
    if (size := len(reason.encode())) > MAX_CONTROL_PAYLOAD_BYTES - 2:
        raise UsageError(f"a close reason of {size} bytes is too long; a close frame holds 123 (RFC 6455 §5.5)")
    return CloseFrame(code, reason)


class Message(NamedTuple):
    """A whole data message. ``opcode`` is TEXT or BINARY; a text's payload is valid UTF-8.

    A large payload comes as the bytearray in which it was collected; it is the receiver's own.
    """

    opcode: Opcode
    payload: bytes | bytearray


# The same without a name, for a server that reads very many messages. An object of a class of its own costs 1 µs (with
# the caches cold, as between two system calls): as much as all else from the receive of a message to its callback.
PlainMessage = tuple[Opcode, bytes | bytearray]

# A NamedTuple's own constructor takes its arguments by name through a second call; this takes 0.2 µs less.
make_message = partial(tuple.__new__, Message)


class MessagePart(NamedTuple):
    """The next piece of a message, where the session streams; with ``final`` the message ends.

    A text's pieces end between two characters.
    """

    opcode: Opcode
    payload: bytes
    final: bool


class PingReceived(NamedTuple):
    """A ping; its pong is already in `Session.data_to_send`."""

    payload: bytes


class PongReceived(NamedTuple):
    """A pong: the answer to a ping of ours with this payload, or an unsolicited one (§5.5.3)."""

    payload: bytes


class CloseReceived(NamedTuple):
    """The peer's close. If it was the first, our answer is in `Session.data_to_send`."""

    close: CloseFrame


class Failed(NamedTuple):
    """We failed the connection (§7.1.7); our close is in `Session.data_to_send`."""

    fault: Fault


Event = Message | MessagePart | PingReceived | PongReceived | CloseReceived | Failed
PlainEvent = PlainMessage | MessagePart | PingReceived | PongReceived | CloseReceived | Failed


# The types that a program may send as one message.
Data = str | bytes | bytearray | memoryview

_TEXT, _BINARY = Opcode.TEXT, Opcode.BINARY  # a global is found faster than an Enum's member


def as_message(data: Data, text: bool | None = None) -> Message:
    """Return a program's data as a message: ``str`` as text, bytes as binary, unless ``text`` says otherwise.

    Raises TypeError for anything else, and ValueError for a text that is not UTF-8 (§5.6).
    """
    if isinstance(data, str):
        return make_message((_BINARY if text is False else _TEXT, data.encode()))
    if not isinstance(data, bytes | bytearray | memoryview):
        raise TypeError(f"a message is a str or bytes-like, not {type(data).__name__}")
    payload = bytes(data)
    if text:
        payload.decode()
    return Message(Opcode.TEXT if text else Opcode.BINARY, payload)


def as_control_payload(data: Data) -> bytes:
    """Return a program's data as the payload of a ping or a pong. Raises `UsageError` for more than 125 bytes (§5.5).

    Otherwise it is as `as_message`.
    """
    payload = as_message(data).payload
    if len(payload) > MAX_CONTROL_PAYLOAD_BYTES:
        raise UsageError(f"{len(payload)} bytes are too many for a ping or pong; it holds 125 (RFC 6455 §5.5)")
    return bytes(payload)
