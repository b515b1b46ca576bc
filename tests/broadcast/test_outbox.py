"""Messages on their way to a backplane: in order, in batches, and each one once."""

from __future__ import annotations

import random

import pytest

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.outbox import OVERHEAD_BYTES, Outbox, Outgoing
from rawws.broadcast.stream_entries import Author
from rawws.wire.frames import Opcode


def message(name: str, size: int = 10) -> Outgoing:
    return Outgoing(name, Opcode.BINARY, bytes(size), History())


def filled(count: int) -> tuple[Outbox, list[Outgoing]]:
    outbox = Outbox(10_000)
    messages = [message(str(number)) for number in range(count)]
    for each in messages:
        outbox.put(each)
    return outbox, messages


def test_a_batch_is_gone_when_it_has_arrived() -> None:
    outbox, messages = filled(5)
    assert messages[4].described == "a message for room 4"
    assert outbox.batch(3, 1000) == messages[:3]
    assert (outbox.under_way, outbox.sent, len(outbox)) == (3, 0, 5)
    assert outbox.arrived(3) == messages[:3]
    assert (outbox.under_way, outbox.sent, len(outbox)) == (0, 3, 2)
    assert outbox.batch(3, 1000) == messages[3:]
    assert [each.is_done for each in messages] == [True] * 3 + [False] * 2


def test_messages_of_a_batch_that_have_not_arrived_are_sent_again() -> None:
    outbox, messages = filled(4)
    outbox.batch(3, 1000)
    outbox.arrived(1)  # as the other side remembers it
    outbox.give_up()
    assert outbox.batch(9, 1000) == messages[1:]


@pytest.mark.parametrize(("most_bytes", "count"), [(5, 1), (10, 1), (25, 2), (40, 4), (1000, 4)])
def test_a_batch_is_bounded_in_bytes_and_has_at_least_one_message(most_bytes: int, count: int) -> None:
    outbox, _ = filled(4)
    assert len(outbox.batch(10, most_bytes)) == count


def test_an_outbox_is_full_at_its_bound_and_still_takes_messages() -> None:
    outbox = Outbox(2 * (10 + OVERHEAD_BYTES))
    outbox.put(message("a"))
    assert not outbox.is_full
    outbox.put(message("b"))
    assert outbox.is_full
    outbox.put(message("c", 1000))
    outbox.batch(2, 1000)
    outbox.arrived(2)
    assert (outbox.is_full, outbox.waiting_bytes) == (True, 1000 + OVERHEAD_BYTES)
    outbox.batch(1, 1000)
    outbox.arrived(1)
    assert (outbox.is_full, outbox.waiting_bytes, len(outbox)) == (False, 0, 0)


def test_only_messages_that_have_not_gone_out_can_be_withdrawn() -> None:
    outbox, messages = filled(3)
    outbox.batch(1, 1000)
    assert [outbox.withdraw(each) for each in messages] == [False, True, True]
    assert not outbox.withdraw(messages[1]), "it is not there any more"
    assert (len(outbox), outbox.waiting_bytes) == (1, 10 + OVERHEAD_BYTES)


def test_batches_cut_anywhere_lose_and_duplicate_nothing() -> None:
    chance = random.Random(7)
    for _ in range(50):
        outbox, messages = filled(40)
        store: list[Outgoing] = []
        while len(outbox):
            batch = outbox.batch(chance.randrange(1, 9), 1000)
            stored = len(batch) if chance.random() < 0.5 else 0  # a batch arrives whole, or not at all
            store += batch[:stored]
            if stored and chance.random() < 0.5:
                outbox.arrived(stored)
                continue
            outbox.arrived(len(store) - outbox.sent)  # the answer is lost, but the store has the number
            outbox.give_up()
        assert store == messages


ONCE = IdempotencyKey("once", "me")


def test_the_keys_of_a_message_count_and_go_into_its_entry() -> None:
    sent = Outgoing("/x", Opcode.TEXT, b"12345", History(), sender=7, key="AB", once=ONCE, digest="digest")
    assert sent.held_bytes == 5 + 2 + ONCE.held_bytes + 6 + OVERHEAD_BYTES
    sent.author = Author("node", sent.sender, 1)
    assert sent.fields == ["data", b"12345", "op", "t", "by", str(sent.author), "key", b"AB"]


def test_the_messages_of_one_sender_are_split_into_one_each() -> None:
    frames = [b"\x81\x01a", b"\x82\x01b"]
    first, second = Outgoing.split("/x", frames, History(5), 7, "key")
    assert (first.path, first.opcode, first.payload, first.history) == ("/x", Opcode.TEXT, b"a", History(5))
    assert (second.opcode, second.payload, second.sender, second.key) == (Opcode.BINARY, b"b", 7, "key")


def test_a_message_has_a_label_when_its_id_is_known() -> None:
    labels = [message("/x") for _ in range(3)]
    labels[1].id, labels[2].stored_as = (12, 3), "e-5"
    assert [each.label for each in labels] == [None, "12-3", "e-5"]
