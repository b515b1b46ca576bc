"""Answers of all nodes to a question: the roll, what each answers, and which haven't in time."""

from __future__ import annotations

import json

import pytest

from rawws.broadcast import node_answers
from rawws.broadcast.node_answers import (
    MAX_ANSWER_BYTES,
    PARSED,
    Gathered,
    Gathering,
    NodeAnswer,
    NodeName,
    answers_key,
    encode_items,
    fields_of_answer,
    question_of,
    read_name,
    read_roll,
)

A, B, C = NodeName("aa", "north:1"), NodeName("bb", "south:2"), NodeName("cc", "east:3")


def as_fields(values: list[str | bytes]) -> dict[bytes, bytes]:
    raw = [each.encode() if isinstance(each, str) else each for each in values]
    return dict(zip(raw[::2], raw[1::2], strict=True))


def answer(name: NodeName, *items: object) -> dict[bytes, bytes]:
    return as_fields(fields_of_answer(3, name, items))


def beat(name: NodeName, *more: bytes) -> dict[bytes, bytes]:
    return {b"node": name.node.encode(), b"host": name.host.encode(), **dict.fromkeys(more, b"1")}


def test_as_many_items_are_encoded_as_there_is_room_for() -> None:
    items = ["ä" * 3, {"n": 1}, "x"]
    whole, left_out = encode_items(items)
    assert (json.loads(whole), left_out) == (items, 0)
    for most in range(2, len(whole) + 2):
        part, left_out = encode_items(items, most)
        found = json.loads(part)
        assert len(part) <= most
        assert found == items[: len(found)]
        assert left_out == len(items) - len(found)
    assert encode_items([]) == (b"[]", 0)


def test_the_roll_has_the_nodes_that_have_not_gone() -> None:
    moved = B._replace(host="west:9")
    entries = [
        beat(A),
        beat(B),
        {b"node": b"x y"},
        beat(C),
        beat(C, b"gone"),
        beat(moved),
        beat(C._replace(node="dd"), b"gone"),
    ]
    assert read_roll(entries) == {"aa": A, "bb": moved}


@pytest.mark.parametrize(
    "fields", [{}, {b"node": b""}, {b"node": b"a" * 65}, {b"node": b"a\n"}, {b"node": b"a", b"host": b"\x1b[2J"}]
)
def test_an_entry_without_a_name_is_of_no_node(fields: dict[bytes, bytes]) -> None:
    assert read_name(fields) is None


def test_the_host_is_bounded_and_may_be_anything_that_can_be_shown() -> None:
    assert read_name({b"node": b"a", b"host": b"\xff" + b"x" * 300}) == NodeName("a", "\ufffd" + "x" * 254)


@pytest.mark.parametrize("host", [b"", b"two\nlines", b"a/b"])
def test_a_place_in_a_list_can_begin_with_the_host(host: bytes) -> None:
    assert read_name({b"node": b"a", b"host": host}) is None


@pytest.mark.parametrize(("to", "number"), [(b"3", 3), (b"", None), (b"-1", None), (b"1" * 19, None), (b"x", None)])
def test_an_answer_names_its_question(to: bytes, number: int | None) -> None:
    assert question_of({b"to": to}) == number


def test_a_question_is_answered_when_all_nodes_of_the_roll_have() -> None:
    gathering = Gathering()
    assert gathering.result == Gathered(problem="the backplane is away")
    gathering.take(answer(B, 1, {"x": 2}))
    assert not gathering.is_whole, "the roll isn't known yet"
    gathering.expect({"aa": A, "bb": B})
    assert not gathering.is_whole
    assert gathering.result == Gathered((NodeAnswer(B, (1, {"x": 2})),), (A,))
    gathering.take(answer(C, 5))  # it has come after the roll was read
    gathering.take(answer(A))
    assert gathering.is_whole
    assert gathering.result == Gathered((NodeAnswer(C, (5,)), NodeAnswer(A, ()), NodeAnswer(B, (1, {"x": 2}))))


def test_a_problem_ends_a_question() -> None:
    gathering = Gathering()
    gathering.problem = "Redis refuses it"
    assert gathering.is_whole
    assert gathering.result.problem == "Redis refuses it"


@pytest.mark.parametrize(
    "changes",
    [
        {b"node": b"x y"},
        {b"items": b""},
        {b"items": b"{}"},
        {b"items": b"\xff"},
        {b"items": b"[" * 50_000},
        {b"items": b"[" + b" " * MAX_ANSWER_BYTES + b"]"},
        {b"left": b""},
        {b"left": b"-1"},
    ],
)
def test_an_answer_that_no_node_has_written_is_passed_over(changes: dict[bytes, bytes]) -> None:
    gathering = Gathering()
    gathering.expect({"aa": A})
    gathering.take({**answer(A, 1), **changes})
    assert (gathering.is_whole, gathering.result.answers) == (False, ())
    gathering.take(answer(A, 1))
    gathering.take(answer(A, 2))  # a node answers once
    assert gathering.result.answers == (NodeAnswer(A, (1,)),)


def test_all_answers_together_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_answers, "MAX_ANSWERS_BYTES", 20)
    gathering = Gathering()
    gathering.expect({"aa": A, "bb": B})
    assert gathering.held_bytes == 0
    gathering.take(answer(A, "x" * 10))
    assert gathering.held_bytes == PARSED * len(b'["xxxxxxxxxx"]')
    gathering.take(answer(B, "y" * 10, 1))
    assert gathering.result.answers == (NodeAnswer(A, ("x" * 10,)), NodeAnswer(B, (), left_out=2))
    assert gathering.held_bytes == PARSED * 20
    assert answers_key("aa") == "rawws:answers:aa"
