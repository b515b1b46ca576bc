"""The newest message of each key."""

from __future__ import annotations

import json

import pytest

from rawws.broadcast.latest_by_key import MAX_KEYED_BYTES, MAX_KEYS, LatestByKey
from rawws.wire.frames import Opcode, encode_frame
from tests.wire.helpers import text_frame, texts_in


def test_the_newest_of_each_key() -> None:
    newest = LatestByKey("symbol")
    texts = ['{"symbol":"A","price":1}', '{"symbol":"B"}', '{"symbol":"A","price":2}', "no json", '["A"]', "7"]
    newest.add(1, b"".join(map(text_frame, texts)))
    newest.give(8, ":A")
    newest.add(7, encode_frame(Opcode.BINARY, b"x") + text_frame("by header"))
    newest.add(9, text_frame('{"symbol":"B","price":3}'))
    assert [(number, texts_in(raw)) for number, raw in newest.after(0)] == [
        (3, [texts[2]]),
        (7, ["x"]),  # without a key, as those before it
        (8, ["by header"]),
        (9, ['{"symbol":"B","price":3}']),
    ]
    assert [number for number, _ in newest.after(7)] == [8, 9]
    assert newest.after(9) == []


def test_the_number_of_keys_is_bounded() -> None:
    newest = LatestByKey("k")
    newest.add(1, b"".join(text_frame(f'{{"k":{number}}}') for number in range(MAX_KEYS + 10)))
    assert len(newest) == MAX_KEYS
    assert newest.after(0)[0][0] == 11


def test_the_newest_messages_of_all_keys_take_bounded_memory() -> None:
    newest = LatestByKey("k", 20_000)
    newest.add(1, b"".join(text_frame(json.dumps({"k": number, "pad": "x" * 1000})) for number in range(100)))
    assert newest.held_bytes <= 20_000
    assert [number for number, _ in newest.after(0)] == list(range(100 - len(newest) + 1, 101)), "the oldest went"
    assert len(newest) > 10
    newest.add(101, text_frame(json.dumps({"k": "large", "pad": "x" * 30_000})))
    assert [number for number, _ in newest.after(0)] == [101], "the last is kept in any case"
    newest.add(102, text_frame(json.dumps({"k": "large"})))
    newest.add(103, text_frame(json.dumps({"k": "small"})))
    assert [number for number, _ in newest.after(0)] == [102, 103]
    assert newest.held_bytes < 1000


def test_a_large_message_is_not_searched_for_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    loads = json.loads

    def count(text: bytes) -> object:
        read.append(len(text))
        return loads(text)

    monkeypatch.setattr(json, "loads", count)
    newest = LatestByKey("k")
    largest = '{"k":1}'.ljust(MAX_KEYED_BYTES)
    newest.add(1, b"".join(map(text_frame, [largest, largest + " ", '{"k":1,"n":2}', '{"no":1}'])))
    assert [number for number, _ in newest.after(0)] == [3, 4], "the second and the fourth have no key"
    newest.give(5, ":1")
    newest.add(5, text_frame(largest + " "))
    assert [number for number, _ in newest.after(0)] == [3, 4, 5], "one that was given counts"
    assert max(read) == MAX_KEYED_BYTES


def test_the_newest_of_each_key_can_be_forgotten() -> None:
    newest = LatestByKey("k")
    newest.add(1, text_frame('{"k": 1}'))
    assert newest.held_bytes > 0
    newest.clear()
    assert (len(newest), newest.held_bytes, newest.after(0)) == (0, 0, [])
