"""The meaning of an ``on_message``'s answer, for one message and for several."""

from __future__ import annotations

from typing import Any

import pytest

from rawws.broadcast.moderation import Close, as_data, judge, moderate
from rawws.errors import CloseFrame, UsageError
from rawws.wire.events import Message
from rawws.wire.frames import Opcode, encode_message

SIZES = (0, 1, 125, 126, 4096, 4097, 65535, 65536)


def frames_of(*messages: str | bytes) -> list[bytes | bytearray]:
    frames: list[bytes | bytearray] = []
    for message in messages:
        if isinstance(message, str):
            encode_message(Opcode.TEXT, message.encode(), frames)
        else:
            encode_message(Opcode.BINARY, message, frames)
    return frames


async def ask_later(_: object) -> None:
    """A coroutine function, which an ``on_message`` must not be."""


# One message


def test_a_text_is_given_as_str_and_a_binary_message_as_bytes() -> None:
    assert as_data(Message(Opcode.TEXT, "é".encode())) == "é"
    given = as_data(Message(Opcode.BINARY, bytearray(b"\xff")))
    assert (given, type(given)) == (b"\xff", bytes)


def test_a_message_that_is_returned_itself_is_published_as_it_came() -> None:
    message, data = Message(Opcode.TEXT, b"a"), "a"
    assert judge(message, data, data) is message


@pytest.mark.parametrize(
    ("answer", "published"),
    [
        ("other", Message(Opcode.TEXT, b"other")),
        (b"other", Message(Opcode.BINARY, b"other")),
        (bytearray(b"other"), Message(Opcode.BINARY, b"other")),
        (memoryview(b"other"), Message(Opcode.BINARY, b"other")),
        ("", Message(Opcode.TEXT, b"")),
    ],
)
def test_another_message_is_published_in_its_place(answer: Any, published: Message) -> None:
    assert judge(Message(Opcode.TEXT, b"a"), "a", answer) == published


def test_none_drops_the_message() -> None:
    assert judge(Message(Opcode.TEXT, b"a"), "a", None) is None


def test_a_close_closes_with_its_code_and_reason() -> None:
    message = Message(Opcode.TEXT, b"a")
    assert judge(message, "a", Close()) == CloseFrame(1008, "")
    assert judge(message, "a", Close(4000, "enough")) == CloseFrame(4000, "enough")


@pytest.mark.parametrize("answer", [Close(1005), Close(1000, "x" * 124), Close("1000")])  # type: ignore[arg-type]
def test_a_close_that_cant_be_sent_is_an_error(answer: Close) -> None:
    with pytest.raises(UsageError):
        judge(Message(Opcode.TEXT, b"a"), "a", answer)


@pytest.mark.parametrize("answer", [True, 0, {"a": 1}, CloseFrame(1000, "")])
def test_an_answer_of_another_type_is_an_error_that_names_it(answer: object) -> None:
    with pytest.raises(UsageError, match=f"the type {type(answer).__name__}; it returns the message to publish"):
        judge(Message(Opcode.TEXT, b"a"), "a", answer)


def test_a_coroutine_is_an_error_and_is_closed() -> None:
    with pytest.raises(UsageError, match="coroutine"):  # a warning that it was never awaited would fail the test
        judge(Message(Opcode.TEXT, b"a"), "a", ask_later("a"))


# Several messages


@pytest.mark.parametrize("size", SIZES)
def test_messages_of_all_sizes_pass_as_they_came(size: int) -> None:
    messages: list[str | bytes] = ["x" * size, b"\xff" * size, "y" * size]
    frames = frames_of(*messages)
    asked: list[str | bytes] = []

    def ask(data: str | bytes) -> object:
        asked.append(data)
        return data

    moderated = moderate(frames, ask)
    assert asked == messages
    assert moderated.frames is frames
    assert moderated[1:] == (3, 3, None, None)


def test_one_large_message_in_a_bytearray_passes() -> None:
    payload = bytearray(5000)
    frames: list[bytes | bytearray] = []
    encode_message(Opcode.BINARY, payload, frames)
    assert len(frames) == 2
    assert moderate(frames, lambda data: data).frames is frames
    assert moderate([bytearray(b"".join(frames))], lambda data: data).published == 1


@pytest.mark.parametrize("size", SIZES)
def test_changed_dropped_and_unchanged_messages_keep_their_order(size: int) -> None:
    messages: list[str | bytes] = ["x" * size, "drop", b"\xff" * size, "change"]
    answers: dict[object, object] = {"drop": None, "change": b"changed"}
    moderated = moderate(frames_of(*messages), lambda data: answers.get(data, data))
    assert moderated.frames == frames_of("x" * size, b"\xff" * size, b"changed")
    assert moderated[1:] == (4, 3, None, None)


def test_the_messages_before_a_close_are_published_and_none_after_it_is_asked_about() -> None:
    asked: list[object] = []

    def ask(data: str | bytes) -> object:
        asked.append(data)
        return Close(4001, "no") if data == "bad" else data

    moderated = moderate(frames_of("a", "bad", "b"), ask)
    assert asked == ["a", "bad"]
    assert moderated == (frames_of("a"), 2, 1, CloseFrame(4001, "no"), None)


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(1), UsageError("no")])
def test_a_failure_is_returned_and_the_messages_before_it_are_published(error: BaseException) -> None:
    def ask(data: str | bytes) -> object:
        if data == "bad":
            raise error
        return data

    assert moderate(frames_of("a", "bad", "b"), ask) == (frames_of("a"), 2, 1, None, error)


def test_an_answer_without_a_meaning_is_a_failure() -> None:
    moderated = moderate(frames_of("a"), lambda _: 1)
    assert (moderated.frames, moderated.published) == ([], 0)
    assert isinstance(moderated.error, UsageError)
