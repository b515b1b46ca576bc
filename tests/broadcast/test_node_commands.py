"""Commands between nodes, as entries of a stream, and what a node remembers of its own and of others'."""

from __future__ import annotations

import pytest

from rawws.broadcast import node_commands
from rawws.broadcast.node_commands import (
    AGAIN_S,
    COMMANDS_KEY,
    KEPT_S,
    MAX_BODY_BYTES,
    Command,
    KeptCommands,
    OutgoingCommand,
    SeenCommands,
    read_command,
)
from rawws.broadcast.stream_entries import Author, Retention, key_of
from rawws.errors import UsageError

BODY = {"user": "älice", "code": 1008, "more": [1, None]}


def command(serial: int = 7, body: object = BODY, *, is_question: bool = False) -> Command:
    assert isinstance(body, dict)
    return Command("disconnect/1", body, Author("a1b2", 0, serial), is_question)


def fields_of(given: Command) -> dict[bytes, bytes]:
    raw = [each.encode() if isinstance(each, str) else each for each in given.fields]
    return dict(zip(raw[::2], raw[1::2], strict=True))


@pytest.mark.parametrize("is_question", [False, True])
def test_a_command_is_read_as_it_was_written(is_question: bool) -> None:
    given = command(is_question=is_question)
    assert read_command(fields_of(given)) == given
    assert read_command({**fields_of(given), b"later": b"unknown"}) == given


GOOD = fields_of(command())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({b"kind": b""}, "its kind is not"),
        ({b"kind": b"disconnect"}, "its kind is not"),
        ({b"kind": b"DISCONNECT/1"}, "its kind is not"),
        ({b"kind": b"\xff/1"}, "its kind is not"),
        ({b"kind": b"a/1\n"}, "its kind is not"),
        ({b"kind": b"a" * 33 + b"/1"}, "its kind is not"),
        ({b"by": b""}, "doesn't name its node"),
        ({b"by": b"a b.0.1"}, "doesn't name its node"),
        ({b"by": b"a.0." + b"9" * 19}, "doesn't name its node"),
        ({b"body": b""}, "not an object"),
        ({b"body": b"[]"}, "not an object"),
        ({b"body": b"\xff\xfe"}, "not an object"),
        ({b"body": b"[" * MAX_BODY_BYTES}, "not an object"),
        ({b"body": b"{" + b" " * MAX_BODY_BYTES + b"}"}, "more than 4096 bytes"),
    ],
)
def test_an_entry_that_no_node_has_written_is_no_command(changes: dict[bytes, bytes], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_command({**GOOD, **changes})


def test_a_body_is_bounded_where_it_is_given() -> None:
    room = MAX_BODY_BYTES - len('{"a":""}')
    assert OutgoingCommand.of(command(body={"a": "x" * room})).payload
    with pytest.raises(UsageError, match="at most 4096 bytes of a command, and these are 4097"):
        OutgoingCommand.of(command(body={"a": "x" * (room + 1)}))
    assert b"\\ud800" in OutgoingCommand.of(command(body={"a": "\ud800"})).payload, "any text can be sent"


def test_a_command_goes_out_among_the_messages() -> None:
    outgoing = OutgoingCommand.of(command())
    assert key_of(outgoing.path) == COMMANDS_KEY
    assert outgoing.fields == command().fields
    assert outgoing.described == "the command disconnect/1 to other nodes"
    assert Retention.of(outgoing.history)[::2] == (10_000, 3600)


def test_a_repeated_command_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_commands, "MAX_SEEN", 3)
    seen = SeenCommands()
    assert [seen.is_new(Author("a", 0, serial)) for serial in (2, 1, 2)] == [True, True, False], "in any order"
    assert seen.is_new(Author("b", 0, 2)), "by another node"
    held = seen.held_bytes
    assert seen.is_new(Author("a", 0, 3))
    assert seen.held_bytes == held
    assert seen.is_new(Author("a", 0, 2)), "the oldest is forgotten"


def sent(kept: KeptCommands, serial: int, now: float = 0.0) -> OutgoingCommand:
    """Give a command that Redis confirms."""
    outgoing = kept.add(command(serial), now)
    outgoing.is_done, outgoing.id = True, (serial, 0)
    return outgoing


def test_a_confirmed_command_is_expected_in_the_stream() -> None:
    kept = KeptCommands()
    sent(kept, 1)
    waiting = kept.add(command(2), 0.0)
    sent(kept, 3)
    assert kept.confirmed == {1, 3}
    kept.note_back(1)
    kept.note_back(99)
    assert kept.confirmed == {3}
    waiting.is_done = True  # it has arrived, and its id is unknown
    assert kept.confirmed == {3}


def serials(some: list[OutgoingCommand]) -> list[int]:
    return [each.author.serial for each in some if each.author is not None]


def test_lost_commands_are_sent_again_as_what_they_were() -> None:
    kept = KeptCommands()
    first = sent(kept, 1)
    sent(kept, 2)
    kept.note_back(1)
    assert kept.send_again(20.0) == []
    kept.lose({1, 99})
    (again,) = kept.send_again(20.0)
    assert (again.author, again.fields) == (first.author, first.fields)
    kept.lose({1})
    assert kept.send_again(20.0) == [], "it waits to be sent anyway"
    again.is_done, again.id = True, (9, 0)
    assert serials(kept.send_again(20.0)) == [1]


def test_all_commands_are_sent_again_but_not_all_of_the_time() -> None:
    kept = KeptCommands()
    sent(kept, 1)
    kept.add(command(2), 0.0)  # it waits to be sent anyway
    sent(kept, 3, now=10.0)
    kept.lose_all()
    again = kept.send_again(20.0)
    assert serials(again) == [1, 3]
    for each in again:
        each.is_done = True
    kept.lose_all()
    assert kept.send_again(20.0 + AGAIN_S / 2) == []
    assert serials(kept.send_again(20.0 + AGAIN_S)) == [1, 3]
    assert kept.send_again(20.0 + 3 * AGAIN_S) == []


def test_a_command_of_long_ago_is_not_sent_again() -> None:
    kept = KeptCommands()
    sent(kept, 1)
    sent(kept, 2, now=10.0)
    kept.lose_all()
    assert serials(kept.send_again(KEPT_S + 5)) == [2]


def test_the_number_of_kept_commands_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_commands, "MAX_KEPT", 2)
    kept = KeptCommands()
    assert kept.held_bytes == 0
    sent(kept, 1)
    sent(kept, 2)
    held = kept.held_bytes
    assert held > 2 * len(OutgoingCommand.of(command()).payload)
    sent(kept, 3)
    assert (kept.held_bytes, kept.confirmed) == (held, {2, 3})
