"""Moderation: what the answer of a program's ``on_message`` means for the messages that a client publishes.

The program is asked about each message before that gets into a room's log. Nothing here knows who has sent it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import NamedTuple

from rawws.errors import CloseFrame, UsageError
from rawws.wire.events import Data, Message, as_message, check_close
from rawws.wire.frames import LENGTH_IN_2_BYTES, OPCODE, Opcode, encode_message, frame_ends

_TEXT = Opcode.TEXT  # a global is found faster than an Enum's member


class Close(NamedTuple):
    """The answer of an ``on_message`` that closes the connection of the sender, see `Hub`."""

    code: int = 1008  # 1008, policy violation, unless another one says more (RFC 6455 §7.4)
    reason: str = ""  # at most 123 bytes of UTF-8


Answer = Data | Close | None
# A message is published as it came if it is returned itself. None drops it, and a close closes its sender.
Verdict = Message | CloseFrame | None


def as_data(message: Message) -> str | bytes:
    """Return a message as a program gets it: a text as ``str``, a binary one as ``bytes``."""
    opcode, payload = message
    return payload.decode() if opcode is _TEXT else bytes(payload)


def judge(message: Message, data: str | bytes, answer: object) -> Verdict:
    """Return the meaning of an answer about a message, which the program was given as ``data``.

    Raises `UsageError` for an answer that has none.
    """
    if answer is data:
        return message
    if answer is None:
        return None
    if isinstance(answer, Close):
        return check_close(answer.code, answer.reason)
    if not isinstance(answer, Data):
        if inspect.iscoroutine(answer):
            answer.close()  # otherwise Python warns that it was never awaited
        raise UsageError(
            f"on_message returned an object of the type {type(answer).__name__}; it returns the message to publish "
            "(str or bytes-like), None to drop it, or rawws.Close(code, reason)"
        )
    return as_message(answer)


class Moderated(NamedTuple):
    """The outcome for several messages of one sender."""

    frames: list[bytes | bytearray]  # to be published, as `encode_message` makes them
    received: int  # the number of messages about which the program was asked
    published: int
    close: CloseFrame | None = None  # the last of these messages closes the sender
    error: BaseException | None = None  # the program has failed at the last of them


def moderate(frames: list[bytes | bytearray], ask: Callable[[str | bytes], object]) -> Moderated:
    """Ask a program about each of a client's messages in turn, until it closes the sender, or fails.

    ``frames`` are whole, unmasked frames, as `rawws.wire.session.Session.relay_data` returns them. They are returned as
    they are if the program changes nothing.
    """
    data = frames[0] if len(frames) == 1 else b"".join(frames)
    kept: list[Message] = []
    start = received = 0
    is_changed = False
    for end in frame_ends(data):
        length = data[start + 1]
        payload_at = start + (2 if length < LENGTH_IN_2_BYTES else 4 if length == LENGTH_IN_2_BYTES else 10)
        message = Message(Opcode(data[start] & OPCODE), data[payload_at:end])
        start = end
        received += 1
        try:
            given = as_data(message)
            verdict = judge(message, given, ask(given))
        except BaseException as error:  # the caller decides what it costs
            return Moderated(_encode(kept), received, len(kept), error=error)
        if isinstance(verdict, CloseFrame):
            return Moderated(_encode(kept), received, len(kept), close=verdict)
        is_changed = is_changed or verdict is not message
        if verdict is not None:
            kept.append(verdict)
    return Moderated(_encode(kept) if is_changed else frames, received, len(kept))


def _encode(messages: Sequence[Message]) -> list[bytes | bytearray]:
    frames: list[bytes | bytearray] = []
    for opcode, payload in messages:
        encode_message(opcode, payload, frames)
    return frames
