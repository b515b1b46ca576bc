"""The leases of a group: deliveries, answers, time-outs, keys, the dead, and restarts."""

from __future__ import annotations

import math

import pytest

from rawws.groups import group as module
from rawws.groups.group import Counts, Group
from rawws.groups.leases import Dead, Delivery, Worker
from rawws.store.entries import GroupState, GroupWrite, Job

NOW, WALL = 100.0, 1_000_100.0


def make(messages: int = 0, key: str | None = None) -> Group:
    group = Group("/room", "g", 0)
    if messages:
        group.offer(1, messages, key)
    return group


def deliver(group: Group, now: float = NOW) -> list[tuple[str, int, int]]:
    """Assign, store and send all that can be sent."""
    deliveries = group.assign(now)
    group.take_write(now, now + WALL - NOW)
    assert all(group.begin(delivery, now) for delivery in deliveries)
    return [(worker.lease, number, tried) for worker, number, tried in deliveries]


def write(group: Group, now: float = NOW) -> GroupWrite:
    written = group.take_write(now, now + WALL - NOW)
    assert written is not None
    return written


# Deliveries


def test_messages_go_to_free_workers_in_turns() -> None:
    group = make(5)
    group.join(Worker("#1", most=2))
    group.join(Worker("#2", most=1))
    assert not group.wants_messages
    assert deliver(group) == [("#1", 1, 1), ("#2", 2, 1), ("#1", 3, 1)]
    assert group.leased == group.jobs == 3
    assert group.position == 3
    assert group.ack(2, "#2")
    assert deliver(group) == [("#2", 4, 1)]


def test_a_group_wants_messages_when_a_worker_is_free_and_none_is_there() -> None:
    group = make()
    assert not group.wants_messages
    group.join(Worker("#1"))
    assert group.wants_messages
    group.offer(1, 1)
    assert not group.wants_messages
    assert group.read_to == 1
    assert group.oldest == 1
    group.offer(1, 1)  # it is known already
    assert group.read_to == 1


def test_a_delivery_is_stored_before_it_is_sent() -> None:
    group = make(2)
    assert write(group) == GroupWrite("/room", "g", 0)  # a new group
    worker = Worker("#1", ack_s=10)
    group.join(worker)
    (delivery,) = group.assign(NOW)
    assert group.has_changes
    assert write(group) == GroupWrite("/room", "g", 1, (Job(1, 1, WALL + 10, "#1"),))
    assert not group.has_changes
    assert group.take_write(NOW, WALL) is None
    assert not group.ack(1, "#1"), "it hasn't got the job yet"
    assert group.begin(delivery, NOW + 0.1)
    assert not group.begin(delivery, NOW + 0.1), "it has it already"
    assert group.next_due == NOW + 10.1
    assert not group.has_changes
    assert group.counts == Counts(1, 0, 0, 0)
    assert "position=1" in repr(group)
    assert "jobs=1/1" in repr(worker)


def test_a_lease_that_begins_late_is_stored_again() -> None:
    group = make(1)
    group.join(Worker("ab http", ack_s=10))
    (delivery,) = group.assign(NOW)
    write(group)
    assert group.begin(delivery, NOW + 60)
    assert write(group, NOW + 60).jobs == (Job(1, 1, WALL + 70, "ab http"),)


def test_a_delivery_that_is_given_back_is_no_try() -> None:
    group = make(1)
    worker = Worker("#1", tries=1)
    group.join(worker)
    (delivery,) = group.assign(NOW)
    group.give_back(delivery, NOW)
    group.give_back(delivery, NOW)
    assert write(group).jobs == (Job(1, 0, 0.0, ""),)
    assert deliver(group) == [("#1", 1, 1)]


def test_a_worker_that_leaves_before_a_delivery_gets_none() -> None:
    group = make(1)
    worker, other = Worker("#1", tries=1), Worker("#2", tries=1)
    group.join(worker)
    (delivery,) = group.assign(NOW)
    group.leave(worker, NOW)
    group.join(other)
    assert not group.begin(delivery, NOW)
    assert deliver(group) == [("#2", 1, 1)]


def test_a_paused_worker_gets_nothing() -> None:
    group = make(2)
    worker, other = Worker("#1", most=2), Worker("#2")
    group.join(worker)
    group.join(other)
    group.pause(worker)
    assert deliver(group) == [("#2", 1, 1)]
    group.resume(worker)
    assert deliver(group) == [("#1", 2, 1)]


def test_lost_messages_are_passed_over() -> None:
    group = make()
    group.join(Worker("#1", most=9))
    group.offer(1, 3, is_lost=True)
    group.offer(4, 1)
    group.offer(6, 1)  # and the one before it is missing
    assert deliver(group) == [("#1", 4, 1), ("#1", 6, 1)]
    group.offer(7, 1, is_lost=True)
    assert deliver(group) == []
    assert group.position == 7


def test_a_job_is_forgotten_whose_message_turns_out_to_be_lost() -> None:
    group = make(2)
    group.join(Worker("#1"))
    (delivery,) = group.assign(NOW)
    group.drop_lost(delivery)
    group.drop_lost(delivery)
    assert write(group) == GroupWrite("/room", "g", 1, (), (1,))
    assert deliver(group) == [("#1", 2, 1)]


# Answers


def test_a_job_is_done_when_it_is_acknowledged() -> None:
    group = make(1)
    group.join(Worker("#1"))
    deliver(group)
    assert not group.ack(1, "#2")
    assert group.ack(1, "#1")
    assert not group.ack(1, "#1")
    assert write(group) == GroupWrite("/room", "g", 1, (), (1,))
    assert group.oldest == 2
    assert group.counts.done == 1
    assert group.held_bytes == module.GROUP_BYTES


def test_a_job_that_is_given_back_goes_out_again_at_once_or_later() -> None:
    group = make(3)
    group.join(Worker("#1"))
    deliver(group)
    assert not group.nak(1, "#2", NOW)
    assert group.nak(1, "#1", NOW)
    assert deliver(group) == [("#1", 1, 2)]
    assert group.nak(1, "#1", NOW, 30)
    assert write(group).jobs == (Job(1, 2, WALL + 30, ""),)
    assert deliver(group) == [("#1", 2, 1)]
    assert group.ack(2, "#1")
    assert group.expire(NOW + 30) == 0
    assert deliver(group, NOW + 30) == [("#1", 1, 3)]
    assert group.counts == Counts(4, 2, 1, 0)


def test_a_worker_that_is_still_at_it_keeps_its_job() -> None:
    group = make(1)
    group.join(Worker("#1", ack_s=10))
    deliver(group)
    assert group.more(1, "#1", NOW + 9)
    assert not group.has_changes, "the lease ends with the server in any case"
    assert not group.more(1, "#2", NOW + 9)
    assert group.expire(NOW + 18) == 0
    assert group.expire(NOW + 19) == 1
    assert not group.more(1, "#1", NOW + 19)


def test_a_job_that_is_no_use_is_dead_at_once() -> None:
    group = make(2)
    group.join(Worker("#1"))
    deliver(group)
    assert not group.term(1, "#2", "")
    assert group.term(1, "#1", "no such number")
    assert list(group.dead) == [Dead(1, 1, "no such number", "#1")]
    group.bury()
    assert write(group).done == (1,)
    assert group.counts.dead == 1
    assert deliver(group) == [("#1", 2, 1)]
    assert group.term(2, "#1", "")
    assert group.dead[0].reason == "its worker has given it up"


# Ends of leases


def test_the_jobs_of_a_worker_that_has_gone_go_to_others_in_their_order() -> None:
    group = make(4)
    worker = Worker("#1", most=3)
    group.join(worker)
    deliver(group)
    group.leave(worker, NOW)
    group.leave(worker, NOW)
    group.join(Worker("#2", most=9))
    assert [number for _, number, _ in deliver(group)] == [1, 2, 3, 4]


def test_a_job_without_an_answer_goes_out_again() -> None:
    group = make(1)
    group.join(Worker("#1", ack_s=10))
    group.join(Worker("#2", ack_s=10))
    deliver(group)
    assert group.expire(NOW + 9.9) == 0
    assert group.expire(NOW + 10) == 1
    assert deliver(group, NOW + 10) == [("#2", 1, 2)]
    assert not group.ack(1, "#1"), "a late worker learns that another one has it"


def test_a_job_is_dead_after_exactly_as_many_tries_as_its_worker_allows() -> None:
    group = make(1)
    group.join(Worker("#1", tries=5))
    for tried in range(1, 6):
        assert deliver(group) == [("#1", 1, tried)]
        assert group.nak(1, "#1", NOW, why="busy")
    assert deliver(group) == []
    assert list(group.dead) == [Dead(1, 5, "busy", "#1")]


def test_a_worker_that_allows_fewer_tries_does_not_get_a_job_that_had_them() -> None:
    group = make(2)
    patient = Worker("#1", tries=9)
    group.join(patient)
    for _ in range(3):
        deliver(group)
        assert group.nak(1, "#1", NOW, why="busy")
    group.leave(patient, NOW)
    group.join(Worker("#2", tries=3))
    assert deliver(group) == [("#2", 2, 1)]
    assert list(group.dead) == [Dead(1, 3, "busy", "#1")]


# Keys


def test_of_each_key_one_job_is_out_at_a_time() -> None:
    group = make()
    group.join(Worker("#1", most=9))
    for number, key in enumerate("abab", 1):
        group.offer(number, 1, key)
    assert deliver(group) == [("#1", 1, 1), ("#1", 2, 1)]
    assert group.position == 4, "the others wait"
    assert group.ack(1, "#1")
    assert deliver(group) == [("#1", 3, 1)]
    assert group.nak(2, "#1", NOW, 60), "what is tried later is still before the next one"
    assert deliver(group) == []
    assert group.ack(3, "#1")
    assert group.expire(NOW + 60) == 0
    assert deliver(group, NOW + 60) == [("#1", 2, 2)]
    assert group.ack(2, "#1")
    assert deliver(group) == [("#1", 4, 1)]


def test_jobs_that_wait_for_a_key_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_PARKED", 3)
    group = make(10, "k")
    group.join(Worker("#1", most=9))
    assert len(deliver(group)) == 1
    assert group.position == 4
    assert not group.wants_messages
    group.ack(1, "#1")
    assert deliver(group) == [("#1", 2, 1)]


# Workers without a connection


def test_a_worker_that_asks_once_gets_one_job_and_keeps_its_lease() -> None:
    group = make(2)
    worker = Worker("ab12 curl", ack_s=10, once=True)
    group.join(worker)
    assert deliver(group) == [("ab12 curl", 1, 1)]
    group.detach(worker)
    assert group.lease_of(1, "ab12") == group.lease_of(1) == "ab12 curl"
    assert group.lease_of(1, "other") == group.lease_of(2) == ""
    assert group.more(1, "ab12 curl", NOW + 5)
    assert write(group, NOW + 5).jobs == (Job(1, 1, WALL + 15, "ab12 curl"),)
    assert group.ack(1, group.lease_of(1, "ab12"))
    assert deliver(group) == []


def test_the_token_is_needed_for_a_job_that_was_delivered_before() -> None:
    group = make(1)
    for lease in ("one curl", "two curl"):
        group.join(Worker(lease, ack_s=10, once=True))
    deliver(group)
    group.expire(NOW + 10)
    assert deliver(group, NOW + 10) == [("two curl", 1, 2)]
    assert group.lease_of(1) == group.lease_of(1, "one") == ""
    assert group.lease_of(1, "two") == "two curl"


def test_a_worker_that_asks_once_and_was_not_sent_its_job_waits_on() -> None:
    group = make(1)
    worker = Worker("ab curl", once=True)
    group.join(worker)
    (delivery,) = group.assign(NOW)
    group.give_back(delivery, NOW)
    assert deliver(group) == [("ab curl", 1, 1)]


# Restarts


def restored(*jobs: Job, keys: dict[int, str] | None = None) -> Group:
    return Group.restored(GroupState("/room", "g", 9, jobs), keys or {}, NOW, WALL)


def test_the_leases_of_connections_end_with_the_server() -> None:
    group = restored(Job(3, 2, WALL + 20, "#7 ::1"))
    assert not group.has_changes
    group.join(Worker("#1"))
    assert deliver(group) == [("#1", 3, 3)]


def test_the_leases_of_other_workers_live_on() -> None:
    group = restored(Job(3, 1, WALL + 20, "ab curl"), Job(4, 1, WALL - 1, "cd curl"))
    group.join(Worker("#1", most=9))
    assert group.leased == 1
    assert deliver(group) == [("#1", 4, 2)]
    assert group.lease_of(3, "ab") == "ab curl"
    assert group.more(3, "ab curl", NOW)
    assert group.expire(NOW + 30) == 2
    assert deliver(group, NOW + 30) == [("#1", 3, 2), ("#1", 4, 3)]


def test_a_job_that_waited_still_waits() -> None:
    group = restored(Job(3, 1, WALL + 20, ""), Job(4, 0, 0.0, ""))
    group.join(Worker("#1", most=9))
    assert deliver(group) == [("#1", 4, 1)]
    group.expire(NOW + 20)
    assert deliver(group, NOW + 20) == [("#1", 3, 2)]


def test_keys_are_in_order_again() -> None:
    group = restored(Job(5, 0, 0.0, ""), Job(3, 1, WALL + 20, ""), keys={3: "k", 5: "k"})
    group.join(Worker("#1", most=9))
    assert deliver(group) == []
    group.expire(NOW + 20)
    assert deliver(group, NOW + 20) == [("#1", 3, 2)]
    assert group.ack(3, "#1")
    assert deliver(group) == [("#1", 5, 1)]


def test_a_job_that_had_all_its_tries_when_the_server_ended_is_dead() -> None:
    group = restored(Job(3, 5, WALL + 20, "#7 ::1"), Job(4, 5, 0.0, ""))
    group.join(Worker("#1", tries=5))
    assert deliver(group) == []
    assert list(group.dead) == [
        Dead(3, 5, "the server ended while the worker had it", "#7 ::1"),
        Dead(4, 5, "it was delivered as often as that before", ""),
    ]
    assert group.next_due == math.inf


def test_a_dead_job_that_is_not_buried_is_ready_after_a_restart() -> None:
    group = make(1)
    group.join(Worker("#1", tries=1))
    deliver(group)
    group.nak(1, "#1", NOW)
    assert write(group).jobs == (Job(1, 1, 0.0, ""),)
    assert not group.begin(Delivery(Worker("#1"), 1, 1), NOW)


# Bounds


def test_a_lease_of_before_a_restart_is_acknowledged() -> None:
    group = restored(Job(3, 1, WALL + 20, "ab curl"))
    assert group.ack(3, "ab curl")
    assert (group.leased, group.jobs, group.counts.done) == (0, 0, 1)


def test_a_job_with_a_key_that_dies_lets_the_next_one_go_out() -> None:
    group = make(2, "k")
    group.join(Worker("#1"))
    assert deliver(group) == [("#1", 1, 1)]
    assert group.term(1, "#1", "no use")
    assert deliver(group) == []
    group.bury()
    assert deliver(group) == [("#1", 2, 1)]


def test_many_jobs_are_acknowledged_up_to_the_first_that_is_not_leased() -> None:
    group = make(5)
    worker = Worker("#1", most=4)
    group.join(worker)
    deliver(group)
    assert group.ack_many((1, 2, 7, 3), "#1") == 2
    assert group.ack_many((3,), "#2") == 0
    assert group.ack_many((), "#1") == 0
    assert list(worker.jobs) == [3, 4]
    assert (group.leased, group.jobs, group.counts.done) == (2, 2, 2)
    assert write(group).done == (1, 2)
    assert deliver(group) == [("#1", 5, 1)], "it has space for more again"


def test_jobs_that_are_over_leave_no_timers_behind() -> None:
    group = make(20_000)
    group.join(Worker("#1", most=9, ack_s=40_000))
    for _ in range(2000):
        for lease, number, _ in deliver(group):
            assert group.ack(number, lease)
    deliver(group)
    number = next(iter(group.workers)).jobs.copy().popitem()[0]
    for second in range(20_000):
        assert group.more(number, "#1", NOW + second / 1000)
        if not second % 100:
            assert group.expire(NOW) == 0  # as in each turn
    assert group._timers.count < 2000
    assert group.expire(NOW + 40_019.9) == 8
    assert group.expire(NOW + 40_020) == 1


def test_jobs_that_die_together_are_taken_a_few_at_a_time() -> None:
    group = restored(*(Job(number, 9, 0.0, "") for number in range(1, 10)))
    group.join(Worker("#1", most=9))
    assert group.assign(NOW, 4) == []
    assert len(group.dead) == 4
    assert group.is_behind
    for _ in range(4):
        group.bury()
    assert group.assign(NOW, 9) == []
    assert len(group.dead) == 5
    assert not group.is_behind
