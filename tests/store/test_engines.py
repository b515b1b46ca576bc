"""The same cases for every engine of a store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS
from rawws.broadcast.log import History
from rawws.store.engine import StoreError
from rawws.store.entries import Append, Clear, GroupEnd, GroupState, GroupWrite, Job, Outcome, RoomTail
from rawws.store.modes import SyncMode
from rawws.store.retention import FORGOTTEN_AFTER_S
from tests.store.stores import AMPLE, MOST, ROOM, AnyEngine, Place, append, message, read, records, texts

KINDS = ["memory", *(mode.value for mode in SyncMode)]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "memory":
        return Place(None)
    return Place(tmp_path / "rooms.db", SyncMode(request.param))


@pytest.fixture
def engine(place: Place) -> Iterator[AnyEngine]:
    with place.open() as opened:
        yield opened


def tail_of(engine: AnyEngine, path: str = ROOM) -> RoomTail:
    tail = engine.tail(path)
    assert tail is not None
    return tail


# Messages


def test_an_unknown_room_is_none(engine: AnyEngine) -> None:
    assert engine.tail(ROOM) is None
    assert engine.read(ROOM, 0, 1, 1) is None
    assert engine.read_last(ROOM, 1, 1) is None
    assert engine.groups() == []


def test_messages_are_numbered_from_1_on_in_an_epoch_of_the_room(engine: AnyEngine) -> None:
    first, second, other = engine.commit([message("a"), Append(ROOM, b"bc", 2, AMPLE), message("d", "/room/other")])
    (third,) = engine.commit([message("e")])
    assert [first.first, second.first, third.first, other.first] == [1, 2, 4, 1]
    assert first.epoch == second.epoch == third.epoch != other.epoch
    assert engine.tail(ROOM) == (first.epoch, 1, 4)
    assert not first.is_repeat
    assert not first.is_reused


def test_records_are_read_as_they_were_appended(place: Place, engine: AnyEngine) -> None:
    entry = Append(ROOM, bytes(range(256)) * 100, 3, AMPLE, "k\N{SNOWMAN}\ud800\0")
    engine.commit([entry, message("b")])
    first, second = records(engine.read(ROOM, 0, MOST, MOST))
    assert first == (1, 3, place.clock.now, entry.frames, entry.key)
    assert second == (4, 1, place.clock.now, b"b", None)


def test_nothing_to_commit_has_no_outcome(engine: AnyEngine) -> None:
    assert engine.commit([]) == []


@pytest.mark.parametrize(
    ("after", "found"),
    [(0, ["ab", "c", "de"]), (1, ["ab", "c", "de"]), (2, ["c", "de"]), (4, ["de"]), (5, []), (9, [])],
)
def test_reading_begins_with_the_record_that_has_the_next_message(
    engine: AnyEngine, after: int, found: list[str]
) -> None:
    engine.commit([Append(ROOM, text, len(text), AMPLE) for text in (b"ab", b"c", b"de")])
    assert read(engine, after=after) == found


@pytest.mark.parametrize(
    ("most_messages", "most_bytes", "first", "last"),
    [
        (MOST, MOST, ["ab", "c", "de"], ["ab", "c", "de"]),
        (1, MOST, ["ab"], ["de"]),
        (2, MOST, ["ab"], ["de"]),
        (3, MOST, ["ab", "c"], ["c", "de"]),
        (MOST, 3, ["ab", "c"], ["c", "de"]),
        (MOST, 4, ["ab", "c"], ["c", "de"]),
        (MOST, 0, ["ab"], ["de"]),
        (0, 0, ["ab"], ["de"]),
    ],
)
def test_a_page_has_bounds_and_at_least_one_record(
    engine: AnyEngine, most_messages: int, most_bytes: int, first: list[str], last: list[str]
) -> None:
    engine.commit([Append(ROOM, text, len(text), AMPLE) for text in (b"ab", b"c", b"de")])
    assert texts(engine.read(ROOM, 0, most_messages, most_bytes)) == first
    assert texts(engine.read_last(ROOM, most_messages, most_bytes)) == last


def test_rooms_are_apart(engine: AnyEngine) -> None:
    paths = [f"/room/{number}" for number in range(50)]
    for turn in range(3):
        engine.commit([message(f"{path} {turn}", path) for path in paths])
    for path in paths:
        assert read(engine, path) == [f"{path} {turn}" for turn in range(3)]


def test_a_commit_of_many_entries_is_in_order(engine: AnyEngine) -> None:
    sent = [str(number) for number in range(333)]
    outcomes = engine.commit([message(text) for text in sent])
    assert [outcome.first for outcome in outcomes] == list(range(1, 334))
    assert read(engine) == sent


def test_a_closed_store_refuses(engine: AnyEngine) -> None:
    engine.close()
    engine.close()
    with pytest.raises(StoreError, match="closed"):
        engine.commit([message("a")])


def test_everything_can_be_had_on_the_disk(engine: AnyEngine) -> None:
    append(engine, "a")
    engine.sync()
    engine.sync()
    assert read(engine) == ["a"]


# Forgetting


def test_the_oldest_records_go_with_the_commit_that_goes_over_a_limit(engine: AnyEngine) -> None:
    append(engine, *"abcdef", history=History(messages=3))
    assert read(engine) == ["d", "e", "f"]
    assert tail_of(engine)[1:] == (4, 6)


def test_many_records_can_go_at_once(engine: AnyEngine) -> None:
    engine.commit([message(str(number)) for number in range(500)])
    append(engine, "last", history=History(messages=2))
    assert read(engine) == ["499", "last"]


def test_nothing_is_kept_without_a_history_and_the_numbers_go_on(engine: AnyEngine) -> None:
    outcomes = append(engine, "a", "b", history=History(messages=0))
    assert read(engine) == []
    assert [outcome.first for outcome in outcomes] == [1, 2]
    assert tail_of(engine) == (outcomes[0].epoch, 3, 2)


def test_records_go_that_are_too_large_together(engine: AnyEngine) -> None:
    append(engine, "aaa", "bbb", "c", history=History(messages=9, max_bytes=4))
    assert read(engine) == ["bbb", "c"]


def test_old_records_go_without_a_message_in_their_room(place: Place, engine: AnyEngine) -> None:
    append(engine, "a", history=History(messages=9, max_age_s=10.0))
    place.clock.now += 5.0
    append(engine, "b", history=History(messages=9, max_age_s=10.0))
    place.clock.now += 5.0
    engine.commit([])
    assert read(engine) == ["b"]
    place.clock.now += 5.0
    append(engine, "c", path="/room/other")
    assert read(engine) == []
    assert tail_of(engine)[1:] == (3, 2)


def test_an_empty_room_is_forgotten_after_a_day(place: Place, engine: AnyEngine) -> None:
    (before,) = append(engine, "a", history=History(messages=0))
    place.clock.now += FORGOTTEN_AFTER_S - 1
    engine.commit([])
    assert tail_of(engine).epoch == before.epoch
    place.clock.now += 1
    engine.commit([])
    assert engine.tail(ROOM) is None
    (after,) = append(engine, "a")
    assert after.first == 1
    assert after.epoch != before.epoch


@pytest.mark.parametrize("kept", [message("b"), GroupWrite(ROOM, "sms", 1)], ids=["a message", "a group"])
def test_a_room_that_has_something_left_is_not_forgotten(
    place: Place, engine: AnyEngine, kept: Append | GroupWrite
) -> None:
    engine.commit([message("a"), kept])
    place.clock.now += 2 * FORGOTTEN_AFTER_S
    engine.commit([])
    assert engine.tail(ROOM) is not None


def test_a_room_is_cleared_up_to_a_message(engine: AnyEngine) -> None:
    engine.commit([Append(ROOM, text, len(text), AMPLE) for text in (b"ab", b"cd", b"ef")])
    engine.commit([Clear(ROOM, 3)])
    assert tail_of(engine)[1:] == (4, 6)
    assert read(engine) == ["cd", "ef"]
    engine.commit([Clear(ROOM, 99), Clear("/unknown", 1)])
    assert tail_of(engine)[1:] == (7, 6)
    assert read(engine) == []
    assert append(engine, "g")[0].first == 7
    assert read(engine) == ["g"]


# Idempotency-Keys


def test_a_message_with_a_known_key_is_the_earlier_one(engine: AnyEngine) -> None:
    first, again = engine.commit([message("a", once="k"), message("a", once="k")])
    (later,) = engine.commit([message("a", once="k")])
    assert again == later == Outcome(first.epoch, 1, is_repeat=True)
    assert read(engine) == ["a"]


def test_a_known_key_for_another_message_is_refused(engine: AnyEngine) -> None:
    first, other = engine.commit([message("a", once="k"), message("b", once="k")])
    (later,) = engine.commit([message("b", once="k")])
    assert other == later == Outcome(first.epoch, 0, is_reused=True)
    assert read(engine) == ["a"]


def test_keys_belong_to_their_owner_and_their_room(engine: AnyEngine) -> None:
    outcomes = engine.commit(
        [message("a", once="k"), message("a", once="k", owner="me"), message("a", "/room/other", once="k")]
    )
    assert [outcome.first for outcome in outcomes] == [1, 2, 1]


def test_a_key_is_known_for_ten_minutes(place: Place, engine: AnyEngine) -> None:
    engine.commit([message("a", once="k")])
    place.clock.now += KEPT_S - 1
    assert engine.commit([message("a", once="k")])[0].is_repeat
    place.clock.now += 1
    assert engine.commit([message("a", once="k")])[0] == Outcome(tail_of(engine).epoch, 2)
    assert engine.commit([message("a", once="k")])[0].first == 2


def test_a_key_outlives_its_message(engine: AnyEngine) -> None:
    engine.commit([message("a", once="k", history=History(messages=0))])
    assert engine.commit([message("a", once="k")])[0].is_repeat


def test_a_room_knows_a_bounded_number_of_keys(engine: AnyEngine) -> None:
    engine.commit([message("a", once=str(number)) for number in range(MAX_KEYS)])
    engine.commit([message("a", once="one more")])
    assert engine.commit([message("a", once="1")])[0].is_repeat
    assert not engine.commit([message("a", once="0")])[0].is_repeat


# Groups


def test_a_group_is_what_was_written(engine: AnyEngine) -> None:
    jobs = (Job(1, 1, 30.0, "lease"), Job(3, 0, 0.0, ""))
    assert engine.commit([message("a"), GroupWrite(ROOM, "sms", 3, jobs)])[1] == Outcome()
    assert engine.groups() == [GroupState(ROOM, "sms", 3, jobs)]
    engine.commit([GroupWrite(ROOM, "sms", 4, (Job(3, 1, 9.0, "x"), Job(4, 1, 9.0, "y")), done=(1, 2))])
    engine.commit([GroupWrite(ROOM, "mail", 0), GroupWrite("/room/other", "sms", 7)])
    assert engine.groups() == [
        GroupState("/room/other", "sms", 7),
        GroupState(ROOM, "mail", 0),
        GroupState(ROOM, "sms", 4, (Job(3, 1, 9.0, "x"), Job(4, 1, 9.0, "y"))),
    ]


def test_the_last_word_on_a_job_counts(engine: AnyEngine) -> None:
    engine.commit(
        [
            GroupWrite(ROOM, "sms", 2, (Job(1, 1, 1.0, "a"), Job(2, 1, 1.0, "a"))),
            GroupWrite(ROOM, "sms", 2, (), done=(1, 2)),
            GroupWrite(ROOM, "sms", 2, (Job(2, 2, 2.0, "b"),)),
        ]
    )
    assert engine.groups() == [GroupState(ROOM, "sms", 2, (Job(2, 2, 2.0, "b"),))]


def test_a_group_ends(engine: AnyEngine) -> None:
    engine.commit([GroupWrite(ROOM, "sms", 1, (Job(1, 1, 1.0, ""),)), GroupEnd(ROOM, "sms"), GroupEnd(ROOM, "other")])
    assert engine.groups() == []
    engine.commit([GroupEnd("/unknown", "sms"), GroupWrite(ROOM, "sms", 5)])
    assert engine.groups() == [GroupState(ROOM, "sms", 5)]


def test_messages_that_a_group_needs_are_not_forgotten(engine: AnyEngine) -> None:
    none = History(messages=0)
    engine.commit([GroupWrite(ROOM, "sms", 0)])
    append(engine, "a", "b", "c", history=none)
    assert read(engine) == ["a", "b", "c"]
    engine.commit([GroupWrite(ROOM, "sms", 3, (Job(2, 1, 1.0, "x"), Job(3, 1, 1.0, "y")))])
    assert read(engine) == ["b", "c"]
    engine.commit([Clear(ROOM, 3)])
    assert read(engine) == ["b", "c"]
    engine.commit([GroupWrite(ROOM, "sms", 3, done=(2,))])
    assert read(engine) == ["c"]
    engine.commit([GroupEnd(ROOM, "sms")])
    assert read(engine) == []


# A restart


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    place = Place(tmp_path / "rooms.db")
    with place.open() as engine:
        engine.commit(
            [message("a", once="k", key="key"), message("b"), GroupWrite(ROOM, "sms", 2, (Job(1, 2, 3.0, "x"),))]
        )
        before = engine.read(ROOM, 0, MOST, MOST), engine.groups(), engine.tail(ROOM)
    with place.open() as engine:
        assert (engine.read(ROOM, 0, MOST, MOST), engine.groups(), engine.tail(ROOM)) == before
        again, another = engine.commit([message("a", once="k"), message("c")])
        assert again.is_repeat
        assert another.first == 3
