"""The part of a shared group that a node knows: its workers and their jobs, and what a turn tells and asks."""

from __future__ import annotations

import itertools
import math

from rawws.broadcast.message_ids import MessageId
from rawws.groups.leases import Worker
from rawws.groups.mirror import HELD_BYTES, MIRROR_BYTES, MOST_EVENTS, Mirror, Turn
from rawws.groups.protocol import Answer, Verb


def answer(number: int, verb: Verb = Verb.ACK, in_s: float = 0.0, why: str = "") -> Answer:
    return Answer(verb, MessageId("17", number), in_s, why)


def worker(name: str = "#1", most: int = 1, ack_s: float = 30.0) -> Worker:
    return Worker(name, most=most, ack_s=ack_s, tries=5)


def working(*numbers: int, most: int = 2) -> tuple[Mirror, Worker]:
    """A mirror with a worker that has jobs since time 0."""
    mirror, one = Mirror("n", itertools.count(1)), worker(most=most)
    mirror.join(one)
    turn = mirror.begin(0)
    for number in numbers:
        assert mirror.hold(turn, one, f"17-{number}", 0)
    assert mirror.end(turn, [], 0, is_more=False, before=0) == []
    return mirror, one


def words(turn: Turn) -> list[tuple[str, str]]:
    return [(event.what, event.id) for event in turn.events]


def test_a_turn_asks_for_as_many_jobs_as_its_workers_may_have() -> None:
    mirror, one, two = Mirror("n", itertools.count(1)), worker("#1 a", most=3), worker("tok #2 b", ack_s=1.5)
    mirror.join(one)
    mirror.join(two)
    request = mirror.begin(0).request("born")
    assert request["wants"] == [["#n #1 a", 30_000, 5, 3], ["tok #2 b", 1500, 5, 1]]
    assert (request["born"], request["serial"], request["again"], request["workers"]) == ("born", 1, 0, 2)
    one.is_paused = True
    assert mirror.is_hungry
    two.is_paused = True
    assert not mirror.is_hungry
    assert mirror.begin(0).request("born")["wants"] == []
    assert mirror.workers == 2


def test_workers_that_have_got_nothing_come_first() -> None:
    mirror, one, two = Mirror("n", itertools.count(1)), worker("#1", most=2), worker("#2")
    mirror.join(one)
    mirror.join(two)
    turn = mirror.begin(0)
    assert mirror.hold(turn, one, "17-1", 0)
    mirror.end(turn, [], 0, is_more=False, before=0)
    assert [each for each, _ in mirror.begin(0).wants] == [two, one]


def test_the_name_of_a_lease_can_be_encoded() -> None:
    mirror = Mirror("n", itertools.count(1))
    mirror.join(worker("#1 a (\ud800)"))
    assert mirror.begin(0).request("b")["wants"][0][0] == "#n #1 a (?)"


def test_an_answer_frees_its_worker_at_once_and_goes_with_the_next_turn() -> None:
    mirror, one = working(1, most=1)
    assert not mirror.is_hungry
    assert mirror.say(answer(1, Verb.NAK, 1.5), one)
    assert not mirror.say(answer(1), one), "it has said so already"
    assert not mirror.say(answer(9), one)
    assert not mirror.say(answer(1), worker("#2")), "it is no worker"
    assert mirror.has_events
    turn = mirror.begin(1)
    assert turn.request("b")["events"] == [["nak", "17-1", "#n #1", 1500, "its worker has given it back", False]]
    assert turn.wants == [(one, 1)]
    assert mirror.end(turn, [1], 1, is_more=True, before=0) == []
    assert mirror.is_behind
    assert not mirror.has_events


def test_reasons_are_the_workers_or_ours() -> None:
    mirror, one = working(1, 2, 3)
    for number, verb, why in ((1, Verb.TERM, ""), (2, Verb.TERM, "no"), (3, Verb.NAK, "busy")):
        assert mirror.say(answer(number, verb, why=why), one)
    assert [event.why for event in mirror.begin(0).events] == ["its worker has given it up", "no", "busy"]


def test_a_late_answer_is_returned_for_its_worker() -> None:
    mirror, one = working(1, 2)
    mirror.say(answer(1), one)
    mirror.say(answer(2, Verb.MORE), one)
    turn = mirror.begin(1)
    late = mirror.end(turn, [0, 0], 1, is_more=False, before=0)
    assert [(event.id, event.worker) for event in late] == [("17-1", one), ("17-2", one)]
    assert not mirror.say(answer(2), one), "it has gone to another one"


def test_more_gives_as_much_time_as_at_first_and_is_sent_once_at_a_time() -> None:
    mirror, one = working(1)
    assert mirror.next_due() == 30
    assert mirror.say(answer(1, Verb.MORE), one)
    assert mirror.say(answer(1, Verb.MORE), one)
    assert mirror.next_due() == math.inf
    turn = mirror.begin(31)  # Redis decides whether it was in time
    assert words(turn) == [("more", "17-1")]
    assert mirror.end(turn, [1], 31, is_more=False, before=0) == []
    assert mirror.next_due() == 61


def test_a_lease_that_has_ended_frees_its_worker() -> None:
    mirror, one = working(1, 2)
    assert mirror.held_bytes == MIRROR_BYTES + 2 * HELD_BYTES
    mirror.lapse(29.9)
    assert not mirror.is_hungry
    assert mirror.begin(30).wants == [(one, 2)]
    assert not mirror.say(answer(1), one)


def test_a_worker_that_goes_gives_back_what_it_has() -> None:
    mirror, one = working(1, 2)
    mirror.leave(one, "it has gone")
    mirror.leave(one, "it has gone")
    turn = mirror.begin(0)
    assert words(turn) == [("gone", "17-1"), ("gone", "17-2")]
    assert {event.why for event in turn.events} == {"it has gone"}
    assert mirror.end(turn, [1, 0], 0, is_more=False, before=0) == [], "nobody is to be told"


def test_a_worker_without_a_connection_keeps_its_lease_and_answers_with_a_token() -> None:
    mirror, one = working(1)
    mirror.detach(one)
    assert not mirror.has_events
    event = mirror.say_by_token(answer(1), "tok")
    turn = mirror.begin(0)
    assert turn.request("b")["events"] == [["ack", "17-1", "tok", 0, "", True]]
    assert mirror.end(turn, [0], 0, is_more=False, before=0) == []
    assert event.is_own is False
    event = mirror.say_by_token(answer(1), "")
    mirror.withdraw(event)
    mirror.withdraw(event)
    assert not mirror.has_events


def test_a_job_that_was_not_sent_is_given_back() -> None:
    mirror, one = working(1, most=1)
    mirror.give_back(one, "17-1")
    mirror.give_back(worker("#gone"), "17-2")
    turn = mirror.begin(0)
    assert words(turn) == [("back", "17-1"), ("back", "17-2")]
    assert turn.wants == [(one, 1)]


def test_a_job_that_comes_too_late_is_not_sent() -> None:
    mirror, one = Mirror("n", itertools.count(1)), worker(ack_s=5)
    mirror.join(one)
    turn = mirror.begin(10)
    assert not mirror.hold(turn, one, "17-1", 15)
    assert mirror.hold(turn, one, "17-1", 14.9)


def test_after_a_lost_answer_the_next_turn_says_the_same_again() -> None:
    mirror, one = working(1, 2, 3)
    mirror.say(answer(1), one)
    by_token = mirror.say_by_token(answer(7), "tok")
    first = mirror.begin(1)
    mirror.fail(first)
    mirror.say(answer(2), one)
    second = mirror.begin(2)
    mirror.fail(second)
    third = mirror.begin(3)
    assert words(third) == [("ack", "17-1"), ("ack", "17-2")], "nobody waits for what was said with a token"
    assert by_token.is_own is None
    assert (third.again, third.serial) == (first.serial, first.serial + 2)
    assert mirror.end(third, [0, 0], 3, is_more=False, before=second.serial) == [], "both may be done"
    assert mirror.begin(4).again == 0


def test_a_worker_is_told_that_it_is_late_if_no_lost_turn_can_have_done_what_it_said() -> None:
    mirror, one = working(1, 2)
    mirror.say(answer(1), one)
    mirror.fail(mirror.begin(1))
    mirror.say(answer(2), one)
    second = mirror.begin(2)
    mirror.fail(second)
    third = mirror.begin(3)
    late = mirror.end(third, [0, 0], 3, is_more=False, before=second.serial - 1)
    assert [event.id for event in late] == ["17-2"], "that turn has never come"


def test_a_turn_that_redis_has_refused_has_done_nothing() -> None:
    mirror, one = working(1)
    mirror.say(answer(1), one)
    by_token = mirror.say_by_token(answer(7), "tok")
    mirror.refuse(mirror.begin(1))
    assert by_token.is_own is None
    assert [event.id for event in mirror.forget()] == ["17-1"]


def test_an_event_that_redis_leaves_for_later_is_sent_again() -> None:
    mirror, one = working(1)
    mirror.say(answer(1, Verb.TERM), one)
    assert mirror.end(mirror.begin(1), [2], 1, is_more=False, before=0) == []
    assert mirror.is_behind
    assert words(mirror.begin(2)) == [("term", "17-1")]


def test_the_events_of_a_turn_are_bounded() -> None:
    mirror = Mirror("n", itertools.count(1))
    for number in range(MOST_EVENTS + 1):
        mirror.say_by_token(answer(number), "tok")
    turn = mirror.begin(0)
    assert len(turn.events) == MOST_EVENTS
    mirror.end(turn, [1] * MOST_EVENTS, 0, is_more=False, before=0)
    assert mirror.is_behind
    assert "workers=0 events=1" in repr(mirror)


def test_a_group_that_is_gone_has_no_jobs_and_keeps_its_workers() -> None:
    mirror, one = working(1, 2, 3)
    mirror.say(answer(1), one)
    mirror.fail(mirror.begin(0))
    mirror.say(answer(2), one)
    by_token = mirror.say_by_token(answer(9), "tok")
    late = mirror.forget()
    assert [event.id for event in late] == ["17-2"], "the first may be done"
    assert by_token.is_own is False
    turn = mirror.begin(1)
    assert (turn.again, turn.events, turn.wants) == (0, [], [(one, 2)])


def test_a_more_for_a_job_of_a_worker_that_has_gone_means_nothing() -> None:
    mirror, one = working(1)
    mirror.say(answer(1, Verb.MORE), one)
    mirror.detach(one)
    assert mirror.end(mirror.begin(0), [1], 0, is_more=False, before=0) == []
    assert mirror.next_due() == math.inf
