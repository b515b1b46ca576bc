"""Messages that the sequencer has not confirmed: they are counted, and those who wait are told the result once."""

from __future__ import annotations

from collections.abc import Callable

from rawws.broadcast.log import History
from rawws.broadcast.outbox import Outgoing
from rawws.local.unconfirmed import Sent, Unconfirmed
from rawws.wire.frames import Opcode


def make_post(on_done: Callable[[], None] | None = None) -> Outgoing:
    return Outgoing("/room", Opcode.TEXT, b"x", History(0), on_done=on_done)


def test_the_queue_counts_what_is_sent_until_it_is_confirmed() -> None:
    sent = Unconfirmed(100)
    assert [next(sent.serials) for _ in range(3)] == [1, 2, 3]
    assert not sent.add(Sent(1, 60, 2))
    assert not sent.is_full
    assert sent.add(Sent(2, 40, 1))
    assert not sent.add(Sent(3, 40, 4))  # it was full before
    assert (len(sent), sent.messages, sent.held_bytes, sent.is_full) == (3, 7, 140, True)
    sent.confirm(1, [])
    assert (len(sent), sent.messages, sent.held_bytes, sent.is_full) == (2, 5, 80, False)
    sent.confirm(3, [])
    assert (len(sent), sent.messages, sent.held_bytes, sent.is_full) == (0, 0, 0, False)
    sent.confirm(3, [])
    assert len(sent) == 0


def test_a_publisher_is_told_the_id_of_its_message_and_no_other_one() -> None:
    calls: list[str] = []
    first, second = make_post(lambda: calls.append("first")), make_post()
    sent = Unconfirmed(100)
    sent.add(Sent(1, 1, 1, first))
    sent.add(Sent(2, 1, 1))
    sent.add(Sent(3, 1, 1, second))
    sent.confirm(2, [(1, "e", 7, False)])
    assert (first.is_done, first.stored_as, first.is_reused, calls) == (True, "e-7", False, ["first"])
    assert not second.is_done
    sent.confirm(3, [(3, "e", 7, True)])
    assert (second.is_done, second.stored_as, second.is_reused) == (True, "", True)


def test_something_without_messages_is_confirmed_in_its_turn() -> None:
    calls: list[str] = []
    sent = Unconfirmed(100)
    sent.add(Sent(1, 1, 1))
    sent.add(Sent(2, 1, 0, on_done=lambda: calls.append("done")))
    sent.confirm(1, [])
    assert calls == []
    sent.confirm(2, [])
    assert calls == ["done"]


def test_all_who_wait_are_told_that_nothing_is_confirmed_any_more() -> None:
    calls: list[str] = []
    post = make_post(lambda: calls.append("post"))
    sent = Unconfirmed(100)
    sent.add(Sent(1, 1, 1, post))
    sent.add(Sent(2, 1, 1))
    sent.add(Sent(3, 1, 0, on_done=lambda: calls.append("done")))
    sent.fail("it is gone")
    assert (post.is_done, post.problem, post.label, calls) == (True, "it is gone", None, ["post", "done"])
    assert sent.messages == 2
