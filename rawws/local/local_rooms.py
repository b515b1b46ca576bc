"""Rooms that the workers of one machine share: a worker's side.

::

    peers ──▶ take ────────▶ link ══▶ the sequencer in the first process (`rawws.local.sequencer`)
                                                     ║
    peers ◀── the room's log ◀── every worker ◀══════╝

A room is followed while somebody uses it. Its history comes first, and then what is published, in one order.
"""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import trio

from rawws import logs
from rawws.backplane.command_work import CommandWork
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.node_answers import Gathered, Gathering, NodeName, encode_items
from rawws.broadcast.node_commands import Command, encode_body
from rawws.broadcast.outbox import OVERHEAD_BYTES, Outgoing
from rawws.broadcast.stream_entries import Author
from rawws.errors import BackplaneAway, Refusal
from rawws.limits import MIB
from rawws.local import protocol
from rawws.local.followed import FollowedRoom
from rawws.local.link import Pipe
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
    note,
)
from rawws.local.unconfirmed import Sent, Unconfirmed
from rawws.relay.backplane import AWAY, CommandTaker, check_key
from rawws.relay.loop import current_loop
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.wire.frames import count_frames, encode_message
from rawws.wire.trace import FAULT, STATE

# Publishers are held back when this many bytes have no answer of the sequencer yet.
MAX_WAITING_BYTES = MIB
# Beyond this, commands are not taken while the sequencer doesn't answer.
MAX_UNSENT_BYTES = 16 * MIB
# A client waits for at most this time for a room's history, and an operator for a history to be cleared.
PATIENCE_S = 3.0
# A room that nobody uses is followed for this time longer, since somebody may be about to join.
UNUSED_S = 5.0
# The sequencer is asked for a sign of life at this interval, and is away if it has missed so many of them.
BEAT_S, MISSED_BEATS = 1.0, 3
MAX_ASKED = 8
_HOLD = "backplane"


class LocalRooms:
    """The backplane of a worker's hub. `run` has to be running."""

    def __init__(
        self,
        link: socket.socket,
        refuse_room: Callable[[str, Collection[str]], Refusal | None],
        name: NodeName,
        taker: CommandTaker[RoomState],
    ) -> None:
        """``link`` goes to the sequencer, and is closed when `run` ends.

        ``refuse_room`` returns why no room can be added besides the given ones, or None. ``taker`` carries out the
        commands of other workers.
        """
        self._pipe = Pipe(link)
        self._refuse_room = refuse_room
        self._name = name
        self._link_number = 0  # until the sequencer has told it
        self._is_welcome = trio.Event()
        self._is_gone = False
        self._missed_beats = 0
        self._is_silent = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._sent = Unconfirmed(MAX_WAITING_BYTES)
        self._space = trio.lowlevel.ParkingLot()
        self._followed: dict[str, FollowedRoom] = {}
        self._to_broadcast: dict[FollowedRoom, None] = {}
        self._work = CommandWork(self, taker, self._catch_up, self._answer)
        self._questions = itertools.count(1)
        self._asked: dict[int, tuple[Gathering, trio.Event]] = {}
        self._limit = trio.CapacityLimiter(MAX_ASKED)
        self._syncs: dict[int, trio.Event] = {}
        self.sequencer_rooms = self.sequencer_bytes = 0  # that it has, by its last sign of life
        self._send(Kind.HELLO, VERSION, *name)

    def __repr__(self) -> str:
        return f"<LocalRooms {self._name.node} rooms={len(self._followed)} waiting={self.waiting}>"

    @property
    def followed_rooms(self) -> int:
        """The number of rooms that are followed."""
        return len(self._followed)

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Publish and follow until cancelled, or until the first process is gone."""
        memory = current_loop().memory
        memory.extra_usage.add(self._held_bytes)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pipe.send_rest, self._take_unsent, lambda _: None)
                nursery.start_soon(self._work.run)
                nursery.start_soon(self._sweep)
                nursery.start_soon(self._watch)
                try:
                    await self._read()
                except ProtocolError as error:
                    sentence = f"the first process has sent what can't be understood: {error}"
                    logs.server_line(logging.ERROR, FAULT, sentence)
                nursery.cancel_scope.cancel()
        finally:
            self._end()
            self._pipe.close()
            memory.extra_usage.discard(self._held_bytes)

    def _held_bytes(self) -> int:
        rooms = sum(each.held_bytes for each in self._followed.values())
        answers = sum(gathering.held_bytes for gathering, _ in self._asked.values())
        sent = self._sent.held_bytes + self._unsent_bytes + self._pipe.held_bytes
        return sent + rooms + answers + self._work.held_bytes

    # The link

    def _send(self, kind: Kind, *fields: object) -> None:
        self._send_data(note(kind, *fields))

    def _send_data(self, data: bytes) -> None:
        if self._is_gone:
            return
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        self._pipe.wake()

    def _take_unsent(self, _: int) -> list[bytes]:
        """Return all that waits: as much as publishers are let wait with."""
        unsent, self._unsent, self._unsent_bytes = self._unsent, [], 0
        return unsent

    async def _read(self) -> None:
        decoder = Decoder(TO_WORKER)
        while data := await self._pipe.receive():
            self._note_life()
            for message in decoder.feed(data):
                self._handle(message)
            self._broadcast()
            await self._work.ready()
            await trio.lowlevel.checkpoint()

    def _handle(self, message: Message) -> None:
        try:
            if isinstance(message, Batch):
                self._add(message)
            elif isinstance(message, History):
                self._load(message)
            elif isinstance(message, Note):
                self._HANDLERS[message.kind](self, *message.fields)
        except Exception:  # nothing that the sequencer sends should cause one
            logs.server.exception("#%d ! an error in rawws itself, in a message of the first process", logs.SERVER)

    def _broadcast(self) -> None:
        """Send what has come to the readers of its rooms."""
        changed, self._to_broadcast = self._to_broadcast, {}
        for each in changed:
            each.broadcast()

    def _welcome(self, _: int, number: int) -> None:
        self._link_number = number
        self._is_welcome.set()

    async def start(self) -> None:
        """Wait until the sequencer has answered."""
        with trio.move_on_after(PATIENCE_S):
            await self._is_welcome.wait()

    # Coming and going

    @trio.lowlevel.enable_ki_protection
    async def _watch(self) -> None:
        """Ask the sequencer for signs of life. Beats are counted, and not seconds: this process may be stopped, too."""
        while True:
            await trio.sleep(BEAT_S)
            if self._missed_beats:  # nothing has come since the last one
                if self._missed_beats == MISSED_BEATS:
                    self._is_silent = True
                    sentence = "the backplane is away (the first process doesn't answer)"
                    logs.server_line(logging.WARNING, FAULT, f"{sentence}; peers stay, and published messages wait")
            else:
                self._send(Kind.SYNC, 0)
            self._missed_beats += 1

    def _note_life(self) -> None:
        self._missed_beats = 0
        if self._is_silent:
            self._is_silent = False
            logs.server_line(logging.INFO, STATE, "the backplane is back")

    def _end(self) -> None:
        """Tell all who wait that nothing more comes."""
        self._is_gone = True
        self._unsent.clear()
        self._unsent_bytes = 0
        self._sent.fail("the first process is gone")
        self._space.unpark_all()

    @property
    def is_away(self) -> bool:
        return self._is_gone or self._is_silent or not self._is_welcome.is_set()

    @property
    def trouble(self) -> str:
        return "the backplane is away" if self.is_away else ""

    @property
    def refuses(self) -> bool:
        return False

    @property
    def refusal(self) -> Refusal | None:
        return AWAY if self.is_away or self.is_full else None

    # Publishing

    @property
    def is_full(self) -> bool:
        return self._sent.is_full

    @property
    def waiting(self) -> int:
        return self._sent.messages

    async def ready(self) -> None:
        while self.is_full and not self._is_gone:
            await self._space.park()

    async def flush(self) -> None:
        while self._sent and not self._is_gone:
            await self._space.park()

    def take(self, room: RoomState, frames: Sequence[bytes | bytearray], sender: int, key: str | None = None) -> int:
        check_key(key)
        messages = count_frames(frames, max(map(len, frames)))
        serial = next(self._sent.serials)
        given = Publish(serial, room.path, b"".join(frames), messages, sender, room.settings.history, key)
        self._put(given)
        return messages

    def publish(self, message: Outgoing) -> None:
        check_key(message.key)
        frames: list[bytes | bytearray] = []
        encode_message(message.opcode, message.payload, frames)
        given = Publish(
            next(self._sent.serials),
            message.path,
            b"".join(frames),
            1,
            message.sender,
            message.history,
            message.key,
            message.once,
            message.digest,
            wants_result=True,
        )
        self._put(given, message)

    def _put(self, given: Publish, post: Outgoing | None = None) -> None:
        data = protocol.publish(given)
        fills = self._sent.add(Sent(given.serial, len(data) + OVERHEAD_BYTES, given.messages, post))
        self._send_data(data)
        if fills:
            for followed in self._followed.values():
                followed.room.holds.add(_HOLD)

    def withdraw(self, message: Outgoing) -> bool:
        """Return False: it is with the sequencer, or about to be."""
        del message
        return False

    def _are_done(self, serial: int, results: list[Any]) -> None:
        self._sent.confirm(serial, results)
        if not self.is_full:
            self._space.unpark_all()
            for followed in list(self._followed.values()):
                if _HOLD in followed.room.holds:
                    current_loop().slow.unblock(followed.room, _HOLD)

    async def clear(self, room: RoomState) -> Refusal | None:
        followed = self._follow(room)
        if refusal := await self._settled(followed):
            return refusal
        serial, done = next(self._sent.serials), trio.Event()
        self._sent.add(Sent(serial, OVERHEAD_BYTES, 0, on_done=done.set))
        self._send(Kind.CLEAR, serial, room.path)
        with trio.move_on_after(PATIENCE_S):
            await done.wait()
        return None if done.is_set() and not self._is_gone else AWAY

    # Following

    def ids_before_loading(self) -> None:
        return None  # the ids are those of the sequencer's room, and come with its history

    def follow(self, room: RoomState) -> bool:
        self._follow(room)
        return True

    def _follow(self, room: RoomState) -> FollowedRoom:
        followed = self._followed.get(room.path)
        if followed is None:
            followed = self._followed[room.path] = FollowedRoom(room)
            self._ask_for(followed)
            if self.is_full:
                room.holds.add(_HOLD)
        followed.unused_since = None
        return followed

    def _ask_for(self, followed: FollowedRoom) -> None:
        place = followed.begin()
        self._send(Kind.FOLLOW, followed.room.path, *followed.room.settings.history, *(place or (None, 0)))

    def _load(self, part: History) -> None:
        if (followed := self._followed.get(part.path)) is not None and followed.load(part):
            self._to_broadcast[followed] = None

    def _add(self, batch: Batch) -> None:
        if (followed := self._followed.get(batch.path)) is not None:
            sender = batch.sender if batch.link == self._link_number else NOBODY
            followed.add(batch, sender)
            self._to_broadcast[followed] = None

    def _follow_again(self) -> None:
        """Follow all rooms from where they are: this worker was too slow, and has missed messages."""
        sentence = "this worker was too slow for what is published: it reads on, and readers may get a gap"
        logs.server_line(logging.WARNING, FAULT, sentence)
        for followed in self._followed.values():
            self._ask_for(followed)

    def _note_cleared(self, path: str) -> None:
        if (followed := self._followed.get(path)) is not None and followed.is_loaded:
            followed.broadcast()
            followed.room.clear_history()

    @trio.lowlevel.enable_ki_protection
    async def _sweep(self) -> None:
        """Stop following rooms that nobody has used for a while."""
        while True:
            await trio.sleep(UNUSED_S / 4)
            now = trio.current_time()
            for each in list(self._followed.values()):
                # One whose history is on its way stays: a later request for it would get that history, too.
                if each.waiters or not (each.room.is_idle and each.is_settled.is_set()):
                    each.unused_since = None
                elif each.unused_since is None:
                    each.unused_since = now
                elif now - each.unused_since > UNUSED_S:
                    self._forget(each)

    def _forget(self, followed: FollowedRoom) -> None:
        path = followed.room.path
        del self._followed[path]
        self._to_broadcast.pop(followed, None)
        self._send(Kind.UNFOLLOW, path)
        current_loop().slow.unblock(followed.room, _HOLD)
        followed.room.reset()

    async def prepare(self, room: RoomState, since: MessageId | None = None) -> Refusal | None:
        # Strangers may ask for any number of rooms. Each would wait for its history, and leave a request for it behind.
        if self._is_gone or (self._is_silent and room.path not in self._followed):
            return AWAY
        if refusal := self._refuse_room(room.path, self._followed):
            return refusal
        followed = self._follow(room)
        followed.waiters += 1
        try:
            if followed.is_loaded and followed.is_doubtful(since) and not await self._sync():
                return AWAY
            return await self._settled(followed)
        finally:
            followed.waiters -= 1

    async def _settled(self, followed: FollowedRoom) -> Refusal | None:
        """Wait until a room has its history."""
        with trio.move_on_after(PATIENCE_S):
            await followed.is_settled.wait()
        return None if followed.is_settled.is_set() else AWAY

    async def _sync(self) -> bool:
        """Wait for all that was published before this call; return False if it takes too long."""
        number = next(self._questions)
        done = self._syncs[number] = trio.Event()
        self._send(Kind.SYNC, number)
        try:
            with trio.move_on_after(PATIENCE_S):
                await done.wait()
            return done.is_set()
        finally:
            del self._syncs[number]

    def _note_synced(self, number: int, rooms: int, held_bytes: int) -> None:
        self.sequencer_rooms, self.sequencer_bytes = rooms, held_bytes
        if (done := self._syncs.get(number)) is not None:
            self._broadcast()
            done.set()

    # Commands

    async def _catch_up(self, rooms: Collection[RoomState]) -> None:
        """Return: what was published before a command has come before it."""

    def tell(self, kind: str, body: Mapping[str, Any]) -> None:
        encode_body(body)  # checks its size
        if self._is_gone or self._unsent_bytes > MAX_UNSENT_BYTES:
            sentence = "the first process doesn't answer, and much waits for it already"
            raise BackplaneAway(f"{sentence}; no other worker gets this command, so give it again when it is back")
        self._send(Kind.TELL, kind, dict(body), next(self._questions))

    async def ask(self, kind: str, body: Mapping[str, Any], timeout_s: float) -> Gathered:
        encode_body(body)  # checks its size
        number = next(self._questions)
        gathering, is_answered = self._asked[number] = (Gathering(), trio.Event())
        try:
            with trio.move_on_after(timeout_s):
                async with self._limit:
                    self._send(Kind.ASK, kind, dict(body), number)
                    await is_answered.wait()
        finally:
            del self._asked[number]
        return gathering.result

    def _take_roll(self, number: int, roll: list[Any]) -> None:
        if (asked := self._asked.get(number)) is not None:
            gathering, is_answered = asked
            gathering.expect({node: NodeName(node, host) for node, host in roll})
            if gathering.is_whole:
                is_answered.set()

    def _take_answer(self, number: int, node: str, host: str, items: str, left_out: int) -> None:
        if (asked := self._asked.get(number)) is not None:
            gathering, is_answered = asked
            texts = {b"node": node, b"host": host, b"items": items, b"left": str(left_out)}
            gathering.take({name: text.encode() for name, text in texts.items()})
            if gathering.is_whole:
                is_answered.set()

    def _take_command(self, kind: str, body: dict[str, Any], node: str, serial: int, asks: bool) -> None:
        self._work.put(Command(kind, body, Author(node, 0, serial), asks), f"of {node}")

    def _answer(self, question: Command, items: Iterable[object]) -> None:
        encoded, left_out = encode_items(items)
        self._send(Kind.REPLY, question.by.node, question.by.serial, encoded.decode(), left_out)

    _HANDLERS: Mapping[Kind, Callable[..., None]] = {
        Kind.WELCOME: _welcome,
        Kind.DONE: _are_done,
        Kind.COMMAND: _take_command,
        Kind.ROLL: _take_roll,
        Kind.ANSWER: _take_answer,
        Kind.SYNCED: _note_synced,
        Kind.LOST: _follow_again,
        Kind.CLEARED: _note_cleared,
    }
