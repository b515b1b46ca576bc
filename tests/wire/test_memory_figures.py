"""The memory that each part says it takes. Whether the figures are true is for ``tests/relay/test_memory.py``."""

from __future__ import annotations

import pytest

from rawws.broadcast.idempotency import IdempotencyKey
from rawws.broadcast.log import History
from rawws.broadcast.outbox import OVERHEAD_BYTES, Outgoing
from rawws.wire.deflate import STREAM_BYTES, Inflater
from rawws.wire.fast_reader import INCOMPLETE_BYTES
from rawws.wire.frame_recorder import FrameRecorder
from rawws.wire.frames import Opcode, encode_frame, parse_header
from rawws.wire.message_view import VIEW_BYTES
from rawws.wire.role import Role
from rawws.wire.session import Session
from rawws.wire.wsproto_reader import READER_BYTES

KEY = b"\x01\x02\x03\x04"
DEFLATED = bytes.fromhex("f248cdc9c907")  # "Hello" up to the flush that ends it


def masked(opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> bytes:
    return encode_frame(opcode, payload, fin=fin, rsv=rsv, mask_key=KEY)


def session(*, fast_lane: bool = True, deflate: bool = False, takeover: bool = False) -> Session:
    return Session(Role.SERVER, max_message_bytes=1000, fast_lane=fast_lane, deflate=deflate, takeover=takeover)


def test_an_idle_session_takes_nothing_more() -> None:
    idle = session()
    assert idle.memory_bytes == 0
    idle.receive_data(masked(1, b"whole"))
    assert idle.memory_bytes == 0


def test_answers_and_bytes_that_wait_are_counted() -> None:
    busy = session()
    busy.receive_data(masked(9, b""))
    assert busy.memory_bytes == len(busy.outgoing) == 2
    busy.data_to_send()
    busy.receive_data(masked(1, b"a") * 3, 1)
    assert busy.memory_bytes == 2 * len(masked(1, b"a"))


def test_a_frame_that_has_begun_takes_its_buffer_and_its_objects() -> None:
    begun = session()
    begun.receive_data(masked(2, bytes(100))[:-1])
    assert begun.memory_bytes == begun.held_bytes + INCOMPLETE_BYTES > INCOMPLETE_BYTES


@pytest.mark.parametrize("fast_lane", [True, False])
def test_a_message_in_fragments_takes_a_reader(fast_lane: bool) -> None:
    begun = session(fast_lane=fast_lane)
    begun.receive_data(masked(2, b"abc", fin=False))
    assert begun.memory_bytes == READER_BYTES + 3


def test_a_compressed_message_takes_an_inflater_until_it_ends() -> None:
    begun = session(deflate=True)
    begun.receive_data(masked(1, DEFLATED, fin=False, rsv=0x40))
    assert begun.memory_bytes > READER_BYTES + STREAM_BYTES
    begun.receive_data(masked(0, b"\x00"))
    assert begun.memory_bytes == 0


def test_a_context_that_is_kept_is_counted_between_messages() -> None:
    client = Session(Role.CLIENT, max_message_bytes=1000, deflate=True, takeover=True)
    assert client.memory_bytes == 0
    client.receive_data(encode_frame(Opcode.TEXT, DEFLATED + b"\x00", rsv=0x40))
    assert client.memory_bytes == STREAM_BYTES + len("Hello")
    assert Inflater(1000).held_bytes == 0


def test_the_kept_part_of_a_frame_to_be_shown_is_counted() -> None:
    watched = session()
    watched.on_frame = lambda *_: None
    watched.receive_data(masked(2, bytes(100))[:-1])
    assert watched.memory_bytes == READER_BYTES + 2 * 99
    header = parse_header(encode_frame(2, bytes(5)))
    assert header is not None
    recorder = FrameRecorder(header)
    recorder.add(bytes(5))
    assert recorder.held_bytes == 5


@pytest.mark.parametrize("sends", [True, False])
def test_a_view_of_a_fragmented_message_is_counted_until_it_ends_or_is_dropped(sends: bool) -> None:
    def pass_on(watched: Session, frame: bytes) -> None:
        if sends:
            watched.show_sent(frame)
        else:
            watched.receive_data(frame)

    def begin() -> Session:
        watched = session(deflate=True)
        watched.watch(lambda *_: None)
        assert watched.memory_bytes == 2 * VIEW_BYTES
        pass_on(watched, masked(1, DEFLATED, fin=False, rsv=0x40))
        assert watched.memory_bytes > 2 * VIEW_BYTES + STREAM_BYTES * (1 if sends else 2)
        return watched

    watched = begin()
    pass_on(watched, masked(0, b"\x00"))
    assert watched.memory_bytes == 2 * VIEW_BYTES
    watched = begin()
    watched.watch(None)
    assert watched.memory_bytes < 2 * STREAM_BYTES
    assert sends is (watched.memory_bytes == 0)


def test_a_message_for_a_stream_counts_with_its_keys() -> None:
    plain = Outgoing("/x", Opcode.TEXT, b"pay", History())
    keyed = Outgoing(
        "/x", Opcode.TEXT, b"pay", History(), key="EUR", once=(once := IdempotencyKey("again")), digest="d" * 64
    )
    assert plain.held_bytes == OVERHEAD_BYTES + 3
    assert keyed.held_bytes == OVERHEAD_BYTES + 3 + len("EUR") + once.held_bytes + 64
