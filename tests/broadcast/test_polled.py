"""The answer to a poll: messages as JSON, encoded in pieces of bounded size."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable

import pytest

from rawws.broadcast.json_messages import as_compact_json, as_json
from rawws.broadcast.polled import LARGE_BYTES, PIECE_BYTES, STEP_BYTES, Polled
from rawws.limits import MIB
from rawws.wire.frames import Opcode

GAP = {"since": "e-1", "after": "e-3"}


def polled(*messages: tuple[Opcode, bytes], gap: dict[str, str] | None = None, max_bytes: int = 4 * MIB) -> Polled:
    numbered = [(b"e-%d" % number, opcode, memoryview(payload)) for number, (opcode, payload) in enumerate(messages, 1)]
    return Polled(numbered, b"e-0", gap, max_bytes)


def kept_by_nobody(_: object) -> bool:
    return False


def test_no_messages_are_an_answer_too() -> None:
    answer = polled()
    assert answer.whole == b'{"messages":[],"next":"e-0","gap":null}\n'
    assert list(answer) == [answer.whole]
    assert answer.objects(kept_by_nobody) == [answer.whole]


def test_small_messages_are_one_piece() -> None:
    answer = polled((Opcode.TEXT, b"a"), (Opcode.BINARY, b"b"), gap=GAP)
    answered = {"messages": [{"id": "e-1", "text": "a"}, {"id": "e-2", "base64": "Yg=="}], "next": "e-2", "gap": GAP}
    assert answer.whole == as_compact_json(answered) + b"\n"


TEXTS = {"control characters": "\x01", "two bytes each": "ü", "three": "€", "four": "🦊", "mixed": 'x€\\"🦊ü\n'}


@pytest.mark.parametrize("character", TEXTS.values(), ids=TEXTS)
def test_a_large_text_is_encoded_as_a_small_one_would_be(character: str) -> None:
    text = ("." + character * LARGE_BYTES).encode()
    answer = polled((Opcode.TEXT, b"before"), (Opcode.TEXT, text), (Opcode.TEXT, b"behind"))
    assert answer.whole is None
    messages = [(b"e-1", b"before"), (b"e-2", text), (b"e-3", b"behind")]
    encoded = b",".join(as_json(number, Opcode.TEXT, payload) for number, payload in messages)
    expected = b'{"messages":[%b],"next":"e-3","gap":null}\n' % encoded
    assert b"".join(answer) == expected
    assert b"".join(answer) == expected, "it can be sent to any number of clients"


@pytest.mark.parametrize("beyond", [1, 2, 3, STEP_BYTES])
def test_a_large_binary_is_whole_in_base64(beyond: int) -> None:
    payload = bytes(range(256)) * (LARGE_BYTES // 256) + bytes(beyond)
    answered = json.loads(b"".join(polled((Opcode.BINARY, payload))))
    assert answered["messages"] == [{"id": "e-1", "base64": base64.b64encode(payload).decode()}]


def test_no_piece_is_much_larger_than_it_may_be() -> None:
    answer = polled(*[(Opcode.TEXT, b"\x01" * MIB)] * 2)
    sizes = list(map(len, answer))
    assert sum(sizes) > 12 * MIB
    assert max(sizes) <= PIECE_BYTES + 6 * STEP_BYTES


def test_at_least_one_message_is_taken_and_no_more_than_wanted() -> None:
    def taken(answer: Iterable[bytes]) -> list[str]:
        return [message["id"] for message in json.loads(b"".join(answer))["messages"]]

    large, small = (Opcode.TEXT, b"x" * (LARGE_BYTES + 1)), (Opcode.TEXT, b"\x01" * 1000)
    assert taken(polled(large, large, max_bytes=1)) == ["e-1"]
    assert taken(polled(large, large, max_bytes=LARGE_BYTES)) == ["e-1"]
    assert taken(polled(large, large, large, max_bytes=2 * LARGE_BYTES)) == ["e-1", "e-2"]
    assert taken(polled(small, small, small, max_bytes=10_000)) == ["e-1", "e-2"], "as JSON, one has 6,000 bytes"


def test_an_answer_lists_each_object_that_it_alone_keeps_once() -> None:
    segment = bytes(4 * LARGE_BYTES)
    views = [memoryview(segment)[: LARGE_BYTES + 1], memoryview(segment)[LARGE_BYTES + 1 :]]
    messages = [(b"e-1", Opcode.BINARY, memoryview(b"x")), *((b"e-2", Opcode.BINARY, view) for view in views)]
    answer = Polled(messages, b"e-0", None, MIB)
    small = as_json(b"e-1", Opcode.BINARY, b"x")
    assert answer.objects(kept_by_nobody) == [small, segment]
    assert answer.objects(lambda held: held is segment) == [small]
