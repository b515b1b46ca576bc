"""The work that the encodings of a room's readers cause: it is bounded, counted, and done in steps."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from rawws.broadcast import encoded_segments, log
from rawws.broadcast.encodings import SUBPROTOCOL, Encoding
from rawws.broadcast.log import Cursor
from rawws.broadcast.message_ids import Ids
from rawws.broadcast.segments import Segment
from rawws.hub.hub_arguments import Mode
from rawws.hub.room import state_of
from rawws.limits import MIB, Limits
from rawws.relay import encoding_jobs
from rawws.relay.encoding_jobs import TURN_WORK
from rawws.relay.lag_policies import CHUNK_MESSAGES, Lag
from rawws.relay.loop import current_loop
from rawws.relay.sending import Sending
from rawws.wire.deflate import STEP_BYTES, Deflater, inflate_whole
from rawws.wire.fast_reader import FastReader
from rawws.wire.frames import RSV1, Opcode, encode_frame, parse_header
from rawws.wire.session import Session
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S
from tests.serving.server import StartHub
from tests.serving.wire import MASK_KEY, masked, seen_text, text

DEFLATE = "permessage-deflate; server_max_window_bits="
LETTERS = "".join(random.Random(1).choices("ab", k=MIB - 1000))
OFFERS = ("", DEFLATE + "9", DEFLATE + "15")
ENCODINGS = [(offer, protocol) for offer in OFFERS for protocol in (None, SUBPROTOCOL)]


class Counted:
    """Counts the encoding of segments: how often, of how many bytes, and how much between two polls of the sockets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[int, Encoding]] = []  # plain bytes, encoding
        self.since_a_look = self.most_between_looks = 0
        encode_in_steps, deflate_some = Segment.encode_in_steps, Deflater.deflate

        def encode(segment: Segment, encoding: Encoding, ids: Ids) -> Iterator[bytes]:
            self.made.append((len(segment.plain), encoding))
            return encode_in_steps(segment, encoding, ids)

        def deflate_counted(deflater: Deflater, message: bytes | memoryview) -> bytes:
            self.note(len(message))
            return deflate_some(deflater, message)

        monkeypatch.setattr(Segment, "encode_in_steps", encode)
        monkeypatch.setattr(Deflater, "deflate", deflate_counted)
        step = Sending.do_work

        def counted_step(self_: Sending) -> None:
            self.look()
            before = sum(len(making.pieces) for making in _makings(self_._encoding_jobs))
            step(self_)
            self.note(
                STEP_BYTES * max(0, sum(len(making.pieces) for making in _makings(self_._encoding_jobs)) - before)
            )
            self.look()

        monkeypatch.setattr(Sending, "do_work", counted_step)

    def note(self, size: int) -> None:
        self.since_a_look += size
        self.most_between_looks = max(self.most_between_looks, self.since_a_look)

    def look(self) -> None:
        self.since_a_look = 0


def _makings(work: encoding_jobs.EncodingJobs) -> list[encoded_segments._Making]:
    return [making for job in work._jobs.values() for making in job.log._encoded._making.values()]


async def message(client: Client) -> str:
    """Return the next message, without its id, compressed or not."""
    while (header := parse_header(client._unread)) is None:
        assert await client._receive_more()
    size = len(header.raw) + header.payload_bytes
    while len(client._unread) < size:
        assert await client._receive_more()
    payload = client._take(size)[len(header.raw) :]
    if header.rsv1:
        inflated = inflate_whole(payload, 4 * MIB)
        assert inflated is not None
        payload = inflated
    decoded = payload.decode()
    return decoded.partition("\n")[2] if decoded.startswith('{"id"') else decoded


async def messages(client: Client, count: int) -> list[str]:
    texts: list[str] = []
    while len(texts) < count:
        words = await message(client)
        if not words.startswith('{"at"'):
            texts.append(words)
    return texts


async def test_stalled_readers_in_all_encodings_at_all_positions_cost_nothing_when_a_message_comes(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    running = start_hub()
    speaker = running.join()
    stalled = []
    noise = random.Random(1).randbytes(60_000).hex()
    for number in range(6):
        stalled += [running.join(send_buffer=4096, extensions=offer, subprotocol=name) for offer, name in ENCODINGS]
        await speaker.send(text(f"{number}{noise}"))
        assert await speaker.frame() == seen_text(f"{number}{noise}")
        await wait_all_tasks_blocked()
    room = running.hub.room("/")
    assert len(state_of(room).lagging) == len(stalled)
    made = len(counted.made)
    work = state_of(room).log.work_done
    for number in range(20):
        await speaker.send(text(str(number)))
        assert await speaker.frame() == seen_text(str(number))
    await wait_all_tasks_blocked()
    assert len(counted.made) == made, "a lag is known without encoding"
    assert state_of(room).log.work_done == work
    for client in stalled[::5]:
        client.hang_up()
    await wait_all_tasks_blocked()


async def test_each_encoding_is_made_once_for_readers_that_catch_up_from_different_positions(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    running = start_hub(max_lag_bytes=1 << 27)
    speaker = running.join()
    readers: list[tuple[Client, int]] = []
    said = [f"{number} " + random.Random(number).randbytes(30_000).hex() for number in range(8)]
    for number, words in enumerate(said):
        for offer, name in ENCODINGS:
            readers.append((running.join(send_buffer=4096, extensions=offer, subprotocol=name), number))
        await speaker.send(text(words))
        assert await speaker.frame() == seen_text(words)
    async with trio.open_nursery() as nursery:

        async def read(client: Client, first: int) -> None:
            assert await messages(client, len(said) - first) == said[first:]

        for client, first in readers:
            nursery.start_soon(read, client, first)
    assert len(counted.made) == len(said) * 5, "once for each segment and encoding but the plain one"


async def test_others_are_served_between_the_steps_of_encoding_a_large_message(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(monkeypatch)
    running = start_hub(limits=Limits(max_message_bytes=2 * MIB))
    readers = [running.join(extensions=offer, subprotocol=name) for offer, name in ENCODINGS]
    other = running.join("/other")
    speaker = running.join(extensions=DEFLATE + "15")
    steps = 0
    step = Sending.do_work

    def count(self: Sending) -> None:
        nonlocal steps
        steps += 1
        step(self)

    monkeypatch.setattr(Sending, "do_work", count)
    frame = encode_frame(Opcode.TEXT, Deflater(15).deflate(LETTERS.encode()), rsv=RSV1, mask_key=MASK_KEY)
    counted.most_between_looks = 0
    served = 0
    async with trio.open_nursery() as nursery:
        heard = []

        async def hear(client: Client) -> None:
            received = await messages(client, 2)
            assert received == [LETTERS, "after"]
            heard.append(client)

        for reader in readers:
            nursery.start_soon(hear, reader)
        await speaker.send(frame + text("after"))
        while len(heard) < len(readers):
            await other.send(text("other"))
            assert await other.frame() == seen_text("other")
            served += 1
    assert await messages(speaker, 2) == [LETTERS, "after"]
    assert steps > 4 * len(LETTERS) // STEP_BYTES // 2
    assert served > 10, "others had their turn in between"
    assert counted.most_between_looks <= encoding_jobs.TURN_WORK + STEP_BYTES


async def test_readers_that_wait_for_an_encoding_are_not_treated_as_slow(start_hub: StartHub) -> None:
    running = start_hub(max_lag_bytes=1000)
    readers = [running.join(extensions=DEFLATE + "15") for _ in range(3)]
    running.hub.room("/").publish(LETTERS)
    assert state_of(running.hub.room("/")).lagging
    for reader in readers:
        assert await message(reader) == LETTERS
    await wait_all_tasks_blocked()
    assert not state_of(running.hub.room("/")).lagging


async def test_publishers_are_held_back_while_much_is_left_to_encode(start_hub: StartHub) -> None:
    running = start_hub()
    readers = [running.join(extensions=DEFLATE + bits) for bits in ("9", "15")]
    speaker, room = running.join(), running.hub.room("/")
    room.publish(LETTERS)
    room.publish(LETTERS)
    assert room.is_held
    await speaker.send(text("held"))
    with trio.fail_after(PATIENCE_S):
        await room.ready()
    assert not room.is_held
    for reader in readers:
        assert await messages(reader, 3) == [LETTERS, LETTERS, "held"]


async def test_messages_go_uncompressed_while_far_too_much_is_left_to_encode(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding_jobs, "MOST_WORK", MIB)
    running = start_hub()
    reader = running.join(extensions=DEFLATE + "15")
    with_ids = running.join(extensions=DEFLATE + "9", subprotocol=SUBPROTOCOL)
    room = running.hub.room("/")
    for number in range(6):
        room.publish(f"{number}{LETTERS}")
    assert state_of(room).log.work_done < 8 * len(LETTERS)
    expected = [f"{number}{LETTERS}" for number in range(6)]
    async with trio.open_nursery() as nursery:

        async def read(client: Client) -> None:
            assert await messages(client, 6) == expected

        nursery.start_soon(read, reader)
        nursery.start_soon(read, with_ids)


async def test_a_message_for_a_crowd_is_sent_in_parts(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.relay.sending.SENT_AT_ONCE_BYTES", 300_000)
    running = start_hub()
    readers = [running.join() for _ in range(12)]
    room = running.hub.room("/")
    words = "x" * 100_000
    delivery = room.publish(words)
    assert (delivery.sent, delivery.queued, delivery.closed) == (2, 10, 0)
    for number, reader in enumerate(readers):
        assert await message(reader) == words, number
    await wait_all_tasks_blocked()
    assert not state_of(room).lagging


async def test_two_messages_for_a_crowd_are_sent_in_parts(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.relay.sending.SENT_AT_ONCE_BYTES", 300_000)
    running = start_hub()
    readers = [running.join() for _ in range(12)]
    room = running.hub.room("/")
    first, second = "1" * 100_000, "2" * 100_000
    room.publish(first)
    current_loop().sending.do_work()  # more readers have caught up than the second message goes to at once
    room.publish(second)
    for number, reader in enumerate(readers):
        assert [await message(reader), await message(reader)] == [first, second], number
    await wait_all_tasks_blocked()
    assert not current_loop().encoding_jobs.has_work


@pytest.mark.parametrize("index", range(3))
async def test_a_reader_that_was_served_meanwhile_gets_each_message_once(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, index: int
) -> None:
    monkeypatch.setattr("rawws.relay.sending.SENT_AT_ONCE_BYTES", 10)
    running = start_hub()
    readers = [running.join(subprotocol="rawws.id.v1") for _ in range(3)]
    room, loop = running.hub.room("/"), current_loop()
    loop.encoding_jobs.allowance = 0
    room.publish("A")
    assert len(state_of(room).lagging) == 3
    loop.encoding_jobs.allowance = TURN_WORK
    loop.sending.flush(sorted(state_of(room).lagging, key=lambda peer: peer.number)[index])
    loop.encoding_jobs.allowance = 0
    room.publish("B")
    await wait_all_tasks_blocked()
    room.publish("C")
    for reader in readers:
        assert await messages(reader, 3) == ["A", "B", "C"]


async def test_a_reader_may_leave_while_its_encoding_is_being_made(start_hub: StartHub) -> None:
    running = start_hub()
    staying = running.join(extensions=DEFLATE + "15")
    going = [running.join(extensions=DEFLATE + "9") for _ in range(3)]
    room = running.hub.room("/")
    room.publish(LETTERS)
    await trio.lowlevel.checkpoint()
    for client in going:
        client.hang_up()
    assert await message(staying) == LETTERS
    await wait_all_tasks_blocked()
    assert len(room) == 1
    assert not current_loop().encoding_jobs.has_work
    assert not state_of(room).holds


async def test_nothing_is_encoded_for_a_room_that_all_have_left(start_hub: StartHub) -> None:
    running = start_hub()
    clients = [running.join(extensions=DEFLATE + bits) for bits in ("9", "15")]
    room = running.hub.room("/")
    room.publish(LETTERS)
    for client in clients:
        client.hang_up()
    await wait_all_tasks_blocked()
    assert not len(room)
    assert (state_of(room).log.held_bytes, current_loop().encoding_jobs.has_work) == (0, False)


async def test_an_encoding_that_fails_ends_its_room_alone(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = start_hub()
    here, there = running.join(extensions=DEFLATE + "15"), running.join("/other", extensions=DEFLATE + "15")
    make = log.BroadcastLog.make

    def fail(self: log.BroadcastLog, number: int, encoding: Encoding) -> bool:
        if self is state_of(running.hub.room("/")).log:
            raise MemoryError
        return make(self, number, encoding)

    monkeypatch.setattr(log.BroadcastLog, "make", fail)
    running.hub.room("/").publish(LETTERS)
    running.hub.room("/other").publish(LETTERS)
    assert await message(there) == LETTERS
    assert not await here._receive_more()
    assert not len(running.hub.room("/"))
    assert not current_loop().encoding_jobs.has_work
    assert "all connections in room / are dropped" in caplog.text


async def test_an_echo_of_a_large_message_is_not_compressed(start_hub: StartHub) -> None:
    running = start_hub(mode=Mode.ECHO)
    client = running.join(extensions=DEFLATE + "15")
    for words, is_compressed in ((LETTERS, False), (LETTERS[:5000], True)):
        payload = Deflater(15).deflate(words.encode())
        await client.send(encode_frame(Opcode.TEXT, payload, rsv=RSV1, mask_key=MASK_KEY))
        while (header := parse_header(client._unread)) is None:
            assert await client._receive_more()
        assert header.rsv1 is is_compressed
        assert await message(client) == words


async def test_the_newest_messages_of_many_keys_are_sent_in_parts(start_hub: StartHub) -> None:
    running = start_hub(slow="latest", key="k")
    slow, room = running.join(send_buffer=4096), running.hub.room("/")
    count = 3 * CHUNK_MESSAGES
    await wait_all_tasks_blocked()
    for number in range(count):
        room.publish(json.dumps({"k": number, "v": "x" * 20}))
    (peer,) = state_of(room).lagging
    assert peer.is_lagging
    newest = state_of(room).policy.next_chunk(Lag(state_of(room).log, Cursor(0), peer.encoding))
    assert newest is not None
    assert newest.messages == CHUNK_MESSAGES == newest.upto
    keys: list[int] = []
    while len(keys) < count:
        keys.append(json.loads(await message(slow))["k"])
    assert keys == list(range(count)), "all of them, in order"


async def test_a_ping_flood_is_read_in_parts(start_hub: StartHub, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start_hub()
    client = running.join()
    await wait_all_tasks_blocked()
    most = 0
    answer = Session._answer_pings

    def count(session: Session, fast: FastReader) -> None:
        nonlocal most
        most = max(most, len(fast.pings or ()))
        answer(session, fast)

    monkeypatch.setattr(Session, "_answer_pings", count)
    await client.send(masked(Opcode.PING, b"") * 5000 + text("last"))
    got = 0
    while (frame := await client.frame()) != seen_text("last"):
        assert frame.opcode is Opcode.PONG
        got += 1
    assert got <= 5000
    assert 0 < most <= 500
