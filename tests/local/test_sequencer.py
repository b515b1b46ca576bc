"""The sequencer: workers that speak to it, without sockets and without a clock."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from rawws.broadcast.idempotency import KEPT_S, IdempotencyKey
from rawws.broadcast.log import History as Limits
from rawws.local import outgoing, sequencer
from rawws.local.protocol import (
    TO_WORKER,
    VERSION,
    Batch,
    Decoder,
    History,
    Kind,
    Message,
    Note,
    ProtocolError,
    Publish,
)
from rawws.local.sequencer import UNUSED_S, Sequencer

LIMITS = Limits(100, 10_000, 60.0)
NOTHING = Limits(0, 10_000, 60.0)
FRAME = b"\x81\x01a"


class Worker:
    """A worker, as the sequencer sees it."""

    def __init__(self, owner: Sequencer, name: str = "", version: int = VERSION) -> None:
        self.owner = owner
        self.name = name
        self.link = owner.connect()
        self.serial = 0
        self._decoder = Decoder(TO_WORKER)
        if name:
            self.send(Kind.HELLO, version, name, f"machine:{name}")

    def send(self, kind: Kind, *fields: Any, now: float = 0.0) -> None:
        self.owner.receive(self.link, Note(kind, fields), now)

    def follow(
        self, path: str, epoch: str | None = None, number: int = 0, limits: Limits = LIMITS, now: float = 0.0
    ) -> None:
        self.send(Kind.FOLLOW, path, *limits, epoch, number, now=now)

    def publish(
        self, path: str, messages: int = 1, limits: Limits = LIMITS, now: float = 0.0, once: str = "", sender: int = 0
    ) -> int:
        self.serial += 1
        key = IdempotencyKey(once) if once else None
        frames = messages * FRAME
        given = Publish(self.serial, path, frames, messages, sender, limits, None, key, frames.hex(), bool(once))
        self.owner.receive(self.link, given, now)
        return self.serial

    def publish_frames(self, path: str, frames: Sequence[bytes], limits: Limits) -> None:
        self.serial += 1
        given = Publish(self.serial, path, b"".join(frames), len(frames), 0, limits)
        self.owner.receive(self.link, given, 0.0)

    def take(self, most: int = 1 << 30) -> list[Message]:
        return list(self._decoder.feed(b"".join(self.link.outgoing.take(most))))


@pytest.fixture
def owner() -> Sequencer:
    return Sequencer()


@pytest.fixture
def workers(owner: Sequencer) -> list[Worker]:
    found = [Worker(owner, name) for name in "abc"]
    assert [worker.take() for worker in found] == [[Note(Kind.WELCOME, (VERSION, number))] for number in (1, 2, 3)]
    return found


def numbers(messages: Sequence[Message]) -> list[int]:
    return [each.first for each in messages if isinstance(each, Batch)]


def test_a_worker_introduces_itself_first(owner: Sequencer) -> None:
    with pytest.raises(ProtocolError, match="has to introduce itself first"):
        Worker(owner).send(Kind.SYNC, 1)
    with pytest.raises(ProtocolError, match="speaks version 99 of the protocol, and the first process 1"):
        Worker(owner, "x", version=99)
    assert repr(owner) == "<Sequencer links=2 rooms=0 bytes=0>"


def test_followers_get_all_messages_in_one_order(owner: Sequencer, workers: list[Worker]) -> None:
    a, b, c = workers
    for worker in (a, b):
        worker.follow("/x")
        (begin,) = worker.take()
        assert isinstance(begin, History)
        assert (begin.path, begin.newest, begin.is_last, begin.records) == ("/x", 0, True, ())
    a.publish("/x", 2, sender=7)
    c.publish("/x")
    b.publish("/x")
    c.publish("/elsewhere")
    got = a.take()
    assert got == b.take()
    assert numbers(got) == [1, 3, 4]
    first = got[0]
    assert isinstance(first, Batch)
    assert (first.path, first.messages, first.link, first.sender, first.frames) == ("/x", 2, 1, 7, 2 * FRAME)
    assert c.take() == []
    assert {a.link, b.link} <= owner.touched
    assert owner.rooms == 2


def test_a_publisher_learns_how_far_it_is(owner: Sequencer, workers: list[Worker]) -> None:
    a, b, _ = workers
    owner.finish(a.link)
    assert a.take() == []
    a.publish("/x")
    a.publish("/x", once="k")
    b.publish("/x", once="k")
    b.publish("/x", 2, once="k")
    for worker in (a, b):
        owner.finish(worker.link)
    ((done, ((serial, epoch, first, is_reused),)),) = [each.fields for each in a.take() if isinstance(each, Note)]
    assert (done, serial, first, is_reused) == (2, 2, 2, False)
    (note,) = b.take()
    assert note == Note(Kind.DONE, (2, [[1, epoch, 2, False], [2, epoch, 2, True]]))
    owner.finish(a.link)
    assert a.take() == []


def test_a_repeat_is_not_sent_again(workers: list[Worker]) -> None:
    a, b, _ = workers
    a.follow("/x")
    b.publish("/x", once="k")
    b.publish("/x", once="k")
    b.publish("/x", 2, once="k")
    assert numbers(a.take()) == [1]


def test_a_worker_follows_a_room_from_its_place(workers: list[Worker]) -> None:
    a, b, _ = workers
    for _ in range(5):
        a.publish("/x")
    b.follow("/x")
    (whole,) = b.take()
    assert isinstance(whole, History)
    assert [(each.first, each.messages) for each in whole.records] == [(1, 5)]
    b.follow("/x", whole.epoch, 3)
    (rest,) = b.take()
    assert isinstance(rest, History)
    assert [(each.first, each.messages) for each in rest.records] == [(4, 2)]
    b.send(Kind.UNFOLLOW, "/x")
    b.send(Kind.UNFOLLOW, "/x")
    b.send(Kind.UNFOLLOW, "/never")
    a.publish("/x")
    assert b.take() == []


def test_everything_that_came_before_a_sync_goes_out_before_its_answer(workers: list[Worker]) -> None:
    a, b, _ = workers
    b.follow("/x")
    b.take()
    a.publish("/x")
    b.send(Kind.SYNC, 5)
    assert [type(each) for each in b.take()] == [Batch, Note]


def test_a_worker_that_is_gone_is_forgotten(owner: Sequencer, workers: list[Worker]) -> None:
    a, b, _ = workers
    b.follow("/x")
    owner.disconnect(b.link, 0.0)
    a.publish("/x")
    a.send(Kind.ASK, "q/1", {}, 1)
    assert b.link not in owner.touched
    assert a.take() == [Note(Kind.ROLL, (1, [["c", "machine:c"]]))]
    assert Worker(owner).link.number == 4, "no number is given twice"


def test_a_cleared_room_has_no_history_and_its_numbers_go_on(owner: Sequencer, workers: list[Worker]) -> None:
    a, b, c = workers
    for worker in (a, b):
        worker.follow("/x")
        worker.publish("/x")
        worker.take()
    b.take()
    a.send(Kind.CLEAR, 9, "/x")
    a.send(Kind.CLEAR, 10, "/never")
    owner.finish(a.link)
    assert b.take() == [Note(Kind.CLEARED, ("/x",))]
    assert a.take()[-1] == Note(Kind.DONE, (10, []))
    c.follow("/x")
    (begin,) = c.take()
    assert isinstance(begin, History)
    assert (begin.newest, begin.records) == (2, ())


def test_a_command_goes_to_all_others_after_what_was_published_before(workers: list[Worker]) -> None:
    a, b, c = workers
    for worker in (b, c):
        worker.follow("/x")
        worker.take()
    a.publish("/x")
    a.send(Kind.TELL, "disconnect/1", {"user": "u"}, 5)
    for worker in (b, c):
        message, command = worker.take()
        assert isinstance(message, Batch)
        assert command == Note(Kind.COMMAND, ("disconnect/1", {"user": "u"}, "a", 5, False))
    assert a.take() == []


def test_a_question_and_its_answers(workers: list[Worker]) -> None:
    a, b, c = workers
    a.send(Kind.ASK, "rooms/1", {}, 5)
    assert a.take() == [Note(Kind.ROLL, (5, [["b", "machine:b"], ["c", "machine:c"]]))]
    for worker in (b, c):
        assert worker.take() == [Note(Kind.COMMAND, ("rooms/1", {}, "a", 5, True))]
        worker.send(Kind.REPLY, "a", 5, "[1]", 2)
    b.send(Kind.REPLY, "nobody", 5, "[1]", 2)
    assert a.take() == [Note(Kind.ANSWER, (5, name, f"machine:{name}", "[1]", 2)) for name in "bc"]
    assert c.take() == []


def test_a_worker_that_does_not_read_loses_messages_and_the_others_lose_none(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = workers
    for worker in (b, c):
        worker.follow("/x")
        worker.follow("/y")
        worker.take()
    monkeypatch.setattr(b.link.outgoing, "_max_live_bytes", 3 * outgoing.ENTRY_BYTES)
    for _ in range(10):
        a.publish("/x")
        c.take()
    assert b.take() == [Note(Kind.LOST, ())]
    assert b.link.follows == set()
    a.publish("/x")
    a.publish("/y")
    assert (b.take(), numbers(c.take())) == ([], [11, 1])
    b.follow("/x")
    (history,) = b.take()
    assert isinstance(history, History)
    assert history.newest == 11
    a.publish("/x")
    assert numbers(b.take()) == [12]


def test_publishers_wait_for_a_worker_that_is_alive(
    owner: Sequencer, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = workers
    monkeypatch.setattr(sequencer, "CONGESTED_BYTES", 100)
    b.follow("/x")
    b.take()
    assert not owner.is_congested(0.0)
    a.publish("/x")
    assert not owner.is_congested(0.0), "it has never taken anything"
    b.link.progress_at = 10.0
    assert owner.is_congested(10.0)
    assert not owner.is_congested(10.0 + sequencer.STALL_S)
    b.take()
    assert not owner.is_congested(10.0)


# Memory


def test_all_rooms_together_stay_within_a_bound() -> None:
    owner = Sequencer(max_bytes=16_000)
    a = Worker(owner, "a")
    for number in range(10):
        a.publish(f"/{number}", 100)
        assert owner.held_bytes <= 16_000
    a.publish("/9")
    kept = {}
    for number in range(10):
        a.follow(f"/{number}")
        *_, history = a.take()
        assert isinstance(history, History)
        kept[number] = bool(history.records)
    assert kept[9]
    assert not kept[0], "the quietest rooms lose their histories"
    assert owner.held_bytes == sum(room.held_bytes for room in owner._rooms.values())


def test_rooms_that_nobody_follows_keep_histories_up_to_a_number() -> None:
    """A stranger who publishes in a million rooms, each once, costs the others nothing."""
    owner = Sequencer(max_rooms=3)
    a, b = Worker(owner, "a"), Worker(owner, "b")
    for number in range(5):
        a.follow(f"/used/{number}")
        a.publish(f"/used/{number}")
    for number in range(20):
        b.publish(f"/{number}")
    a.take()

    def kept(path: str) -> bool:
        b.follow(path)
        (history,) = (each for each in b.take() if isinstance(each, History))
        b.send(Kind.UNFOLLOW, path)
        return bool(history.records)

    assert [number for number in range(20) if kept(f"/{number}")] == [17, 18, 19]
    assert all(kept(f"/used/{number}") for number in range(5))
    assert owner.held_bytes == sum(room.held_bytes for room in owner._rooms.values())


def test_a_room_that_keeps_nothing_is_remembered_for_a_while(
    owner: Sequencer, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, _ = workers
    a.publish("/x", limits=NOTHING)
    a.publish("/x", limits=NOTHING, now=UNUSED_S)
    owner.sweep(UNUSED_S)
    b.follow("/x", now=UNUSED_S)
    owner.sweep(10 * UNUSED_S)
    (history,) = b.take()
    assert isinstance(history, History)
    assert history.newest == 2
    b.send(Kind.UNFOLLOW, "/x", now=11 * UNUSED_S)
    owner.sweep(11 * UNUSED_S)
    assert owner.rooms == 1
    owner.sweep(12 * UNUSED_S)
    assert (owner.rooms, owner.held_bytes) == (0, 0)
    monkeypatch.setattr(sequencer, "MAX_UNUSED", 5)
    for number in range(20):
        a.publish(f"/{number}", limits=NOTHING)
    assert owner.rooms == 5


def test_a_sweep_looks_at_some_rooms_at_a_time(
    owner: Sequencer, workers: list[Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequencer, "SWEPT", 1)
    (a, *_) = workers
    for path in ("/x", "/y", "/z"):
        a.publish(path)
    before = owner.held_bytes
    owner.sweep(1.0)
    assert owner.held_bytes == before
    a.send(Kind.CLEAR, 9, "/y")
    owner.sweep(1.0)
    owner.sweep(100.0)
    assert owner.held_bytes < before
    assert repr(owner).startswith("<Sequencer links=3 rooms=2")


def test_histories_and_keys_grow_old(owner: Sequencer, workers: list[Worker]) -> None:
    a, b, _ = workers
    a.publish("/x")
    a.publish("/y", once="k")
    a.publish("/z", now=KEPT_S)
    a.publish("/gone", limits=LIMITS._replace(max_age_s=1.0))
    owner.sweep(30.0)
    owner.sweep(70.0)
    assert owner.rooms == 3, "the last is forgotten, and then the first"
    a.publish("/gone", now=70.0)
    owner.sweep(KEPT_S + 1)
    owner.sweep(KEPT_S + 1)
    assert owner.rooms == 1
    b.follow("/z", now=KEPT_S)
    (history,) = b.take()
    assert isinstance(history, History)
    assert history.records
