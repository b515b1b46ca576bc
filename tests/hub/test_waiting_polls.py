"""The polls that wait, as the operator of a hub sees and ends them."""

from __future__ import annotations

import pytest

from rawws.broadcast.log import BroadcastLog
from rawws.hub.waiting_polls import WaitingPoll, WaitingPolls
from rawws.relay.polling import Poller, Polls


def make(number: int) -> WaitingPoll:
    poller = Poller(Polls(), BroadcastLog().next, lambda: None)
    return WaitingPoll(number, "/x", "alice", ("127.0.0.1", 1), 0, poller)


def test_a_poll_is_listed_while_it_waits() -> None:
    polls = WaitingPolls()
    with polls.waiting(make(1)) as first:
        with polls.waiting(make(2)) as second:
            assert list(polls) == [first, second]
        assert list(polls) == [first]
    assert not list(polls)


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [("", "This poll was ended by the server."), ("go home", "This poll was ended by the server: go home.")],
)
async def test_a_poll_that_is_ended_waits_no_more(reason: str, sentence: str) -> None:
    poll = make(1)
    poll.end(reason)
    await poll.poller.wait()
    assert poll.refusal is not None
    assert (poll.refusal.status, poll.refusal.code, poll.refusal.sentence) == (403, "disconnected", sentence)
