"""The queue of one worker."""

from __future__ import annotations

from rawws.local import protocol
from rawws.local.outgoing import ENTRY_BYTES, Outgoing
from rawws.local.protocol import History, Kind, note

PARTS = [History("/x", "e", number, number == 2, ()) for number in range(3)]
BEAT = note(Kind.SYNCED, 1, 0, 0)


def test_entries_leave_in_their_order() -> None:
    queue = Outgoing()
    assert not queue
    assert queue.put_live(b"one")
    queue.put_note(BEAT)
    queue.put_history(iter(PARTS))
    assert queue.put_live(b"two")
    assert queue
    assert queue.held_bytes == 6 + len(BEAT) + 3 * ENTRY_BYTES
    assert queue.take(1000) == [b"one", BEAT, *map(protocol.history, PARTS), b"two"]
    assert (queue.held_bytes, queue.take(1000)) == (0, [])


def test_about_as_many_bytes_as_asked_for_are_taken() -> None:
    queue = Outgoing()
    queue.put_live(b"one")
    queue.put_history(iter(PARTS))
    encoded = [protocol.history(part) for part in PARTS]
    assert queue.take(1) == [b"one"]
    assert queue.take(len(encoded[0]) + 1) == encoded[:2]
    assert queue.take(1) == encoded[2:]
    assert queue.take(1) == []


def test_a_worker_that_is_too_slow_loses_messages_and_no_notes() -> None:
    queue = Outgoing(max_live_bytes=2 * ENTRY_BYTES)
    queue.put_note(BEAT)
    queue.put_history(iter(PARTS))
    assert queue.put_live(b"one")
    assert queue.put_live(b"two")
    assert not queue.put_live(b"three")
    assert queue.live_bytes == 0
    assert queue.take(1000) == [note(Kind.LOST), BEAT]
    assert queue.note_bytes == 0
    assert queue.put_live(b"four")


def test_a_worker_for_which_too_many_notes_wait_is_hopeless() -> None:
    queue = Outgoing(max_note_bytes=2 * ENTRY_BYTES)
    queue.put_note(BEAT)
    assert not queue.is_hopeless
    queue.put_note(BEAT)
    assert queue.is_hopeless
