"""Jobs and workers as records: what they begin with, and how a job is stored."""

from __future__ import annotations

import math

import pytest

from rawws.groups.leases import DEAD, DEFAULT_ACK_S, DELAYED, LEASED, PARKED, READY, OpenJob, Stage, Worker
from rawws.store.entries import Job

WALL = 1_000_000.0


def test_a_worker_has_no_job_and_takes_one_unless_it_says_otherwise() -> None:
    worker = Worker("w")
    assert (worker.most, worker.once, worker.jobs) == (1, False, {})
    assert not worker.is_paused
    assert not worker.is_queued
    assert repr(Worker("w", most=3)) == "<Worker w jobs=0/3>"


def test_a_job_has_not_been_tried_and_may_be_tried_as_often_as_a_worker_likes() -> None:
    job = OpenJob(4, "a", READY)
    assert (job.number, job.key, job.at, job.tries, job.reason) == (4, "a", READY, 0, "")
    assert (job.worker, job.lease, job.is_sent) == (None, "", False)
    assert (job.ack_s, job.most_tries) == (DEFAULT_ACK_S, math.inf)


@pytest.mark.parametrize(
    ("at", "stored"),
    [
        (READY, Job(4, 2, 0.0, "")),
        (PARKED, Job(4, 2, 0.0, "")),
        (DEAD, Job(4, 2, 0.0, "")),
        (DELAYED, Job(4, 2, WALL + 10.0, "")),
        (LEASED, Job(4, 2, WALL + 10.0, "w")),
    ],
)
def test_a_job_is_stored_with_the_time_that_it_waits_for_and_a_lease_with_its_name(at: Stage, stored: Job) -> None:
    job = OpenJob(4, None, at)
    job.tries, job.due, job.lease = 2, 10.0, "w"
    assert job.stored(WALL) == stored
