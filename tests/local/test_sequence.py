"""The order of one room."""

from __future__ import annotations

import pytest

from rawws.broadcast.idempotency import KEPT_S, IdempotencyKey
from rawws.broadcast.log import History as Limits
from rawws.broadcast.message_ids import MessageId
from rawws.local import sequence
from rawws.local.protocol import History, Past, Publish
from rawws.local.sequence import Outcome, Sequence

LIMITS = Limits(10, 1000, 60.0)
FRAME = b"\x81\x01a"


def publish(
    messages: int = 1, limits: Limits = LIMITS, key: str | None = None, once: str = "", digest: str = ""
) -> Publish:
    kept = IdempotencyKey(once) if once else None
    return Publish(1, "/x", messages * FRAME, messages, 0, limits, key, kept, digest)


def kept(room: Sequence, since: MessageId | None = None) -> list[Past]:
    parts = list(room.read(since))
    assert [part.is_last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part[:3] for part in parts} == {("/x", room.epoch, room.newest)}
    return [record for part in parts for record in part.records]


def test_messages_are_numbered_one_after_the_other() -> None:
    room = Sequence("/x")
    assert [room.append(publish(count), 0.0).first for count in (1, 3, 1)] == [1, 2, 5]
    assert room.newest == 5
    assert kept(room) == [Past(1, 5, 0.0, None, 5 * FRAME)]
    assert "-5 kept=5 followers=0>" in repr(room)


@pytest.mark.parametrize(
    ("limits", "now", "oldest"),
    [
        (Limits(0, 1000, 60.0), 0.0, None),
        (Limits(4, 1000, 60.0), 0.0, 6),  # a record goes as a whole, when the others suffice
        (Limits(5, 1000, 60.0), 0.0, 4),
        (Limits(100, 12, 60.0), 0.0, 6),
        (Limits(100, 5, 60.0), 0.0, None),
        (Limits(100, 1000, 60.0), 59.0, 1),
        (Limits(100, 1000, 60.0), 60.0, None),
    ],
)
def test_a_room_keeps_what_its_history_lets_it(limits: Limits, now: float, oldest: int | None) -> None:
    room = Sequence("/x")
    for count in (3, 2, 4):
        room.append(publish(count, limits), 0.0)
    room.expire(now)
    records = kept(room)
    assert (records[0].first if records else None) == oldest
    assert room.is_unused is (oldest is None)
    base = Sequence("/x").held_bytes
    assert room.held_bytes == base if oldest is None else room.held_bytes > base


def test_a_worker_that_names_other_limits_changes_them() -> None:
    room = Sequence("/x")
    for _ in range(5):
        room.append(publish(), 0.0)
    room.limit(LIMITS._replace(messages=2), 1.0)
    assert (kept(room)[0].first, room.used_at) == (4, 1.0)


def test_a_message_with_an_idempotency_key_is_published_once() -> None:
    room = Sequence("/x")
    room.append(publish(), 0.0)
    assert room.append(publish(once="k", digest="d"), 0.0) == Outcome(2)
    assert room.append(publish(once="k", digest="d"), 1.0) == Outcome(2, is_repeat=True)
    assert room.append(publish(once="k", digest="other"), 1.0) == Outcome(2, is_reused=True)
    assert room.append(publish(once="l"), 1.0) == Outcome(3)
    room.clear()
    assert room.append(publish(once="k", digest="d"), 1.0) == Outcome(2, is_repeat=True)
    assert room.keeps
    room.expire(KEPT_S + 1)
    assert room.is_unused
    assert room.append(publish(once="k", digest="d"), KEPT_S + 1) == Outcome(4)


def test_a_history_that_is_ended_leaves_nothing() -> None:
    room = Sequence("/x")
    room.append(publish(once="k"), 0.0)
    room.end_history()
    assert room.is_unused
    assert kept(room) == []
    assert room.append(publish(), 0.0).first == 2


def test_a_room_with_followers_is_used() -> None:
    room = Sequence("/x")
    room.followers.add(1)
    assert not room.is_unused
    assert not room.keeps


def test_a_reader_gets_the_messages_after_its_place() -> None:
    room = Sequence("/x")
    for key in (None, "k", None):
        room.append(publish(2, key=key), 0.0)
    assert [each.first for each in kept(room)] == [1, 3, 5]
    assert kept(room, MessageId(room.epoch, 3)) == [Past(4, 1, 0.0, "k", FRAME), Past(5, 2, 0.0, None, 2 * FRAME)]
    assert kept(room, MessageId(room.epoch, 6)) == []
    assert len(kept(room, MessageId("other", 6))) == 3


def test_a_history_is_that_of_the_moment_when_it_was_asked_for() -> None:
    room = Sequence("/x")
    room.append(publish(), 0.0)
    parts = room.read(None)
    room.append(publish(), 0.0)
    assert [part.newest for part in parts] == [1]


def test_small_records_are_joined_and_a_long_history_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "PIECE_MESSAGES", 4)
    monkeypatch.setattr(sequence, "PIECE_BYTES", 12)
    monkeypatch.setattr(sequence, "PART_BYTES", 20)
    limits = Limits(100, 10_000, 60.0)
    room = Sequence("/x")
    for now, count, key in (
        (0.0, 3, None),
        (0.5, 1, None),  # is joined with the one before
        (0.5, 1, None),  # would be too many
        (2.0, 1, None),  # comes too late
        (2.0, 1, "k"),
        (2.0, 1, None),
        (2.0, 3, None),
    ):
        room.append(publish(count, limits, key), now)
    joined = kept(room)
    assert [(each.first, each.messages, each.at) for each in joined] == [
        (1, 4, 0.5),
        (5, 1, 0.5),
        (6, 1, 2.0),
        (7, 1, 2.0),
        (8, 4, 2.0),
    ]
    assert [len(part.records) for part in room.read(None)] == [3, 2]
    assert next(room.read(None)) == History("/x", room.epoch, 11, False, tuple(joined[:3]))


def test_records_that_are_large_together_are_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sequence, "PIECE_BYTES", 8)
    room = Sequence("/x")
    for _ in range(3):
        room.append(publish(), 0.0)
    assert [each.messages for each in kept(room)] == [2, 1]
