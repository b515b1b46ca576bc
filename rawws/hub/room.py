"""A room as a program holds it: publishing, joining and leaving, and its members.

A `Room` has no state of its own. It acts on a `rawws.relay.room_state.RoomState`, which it shares with the loop.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple, NoReturn, overload

from rawws.broadcast.message_ids import parse_id
from rawws.broadcast.query import RoomQuery
from rawws.errors import UsageError
from rawws.hub.home import Home, refuse_to_wait
from rawws.hub.member import Member
from rawws.relay.backplane import check_key
from rawws.relay.from_threads import Publication, publish_added
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer
from rawws.relay.room_base import NOBODY
from rawws.relay.room_state import RoomState
from rawws.relay.settings import RoomSettings
from rawws.relay.thread_queue import Outcome
from rawws.runtime import check_in_trio, not_awaited
from rawws.websocket import WebSocket
from rawws.websocket.callbacks import CallbackWebSocket
from rawws.websocket.internals import peer_of, prepare_to_join
from rawws.wire.events import Data, as_message
from rawws.wire.frames import encode_message


class Delivery(NamedTuple):
    """The outcome of publishing a message: the number of the room's peers for each case."""

    sent: int  # the operating system has taken it, and all earlier messages
    queued: int  # it is sent later, or replaced as `Slow` says: the peer reads slowly, or the message is large
    closed: int  # the peer was lost, or closed for lagging too far


def _refuse_await(_: Delivery) -> NoReturn:
    raise UsageError("room.publish(message) doesn't wait for anybody; leave out the await")


Delivery.__await__ = _refuse_await  # type: ignore[attr-defined]  # so that a type checker refuses it by itself


_UNKNOWN = Delivery(0, 0, 0)


class Room:
    """The connections and the messages of one URL path. A program gets it from `rawws.Hub.room`.

    ``for member in room`` iterates over the members at this node, and ``len(room)`` is their number. A room costs
    nothing while nobody is in it and its history is over.
    """

    __slots__ = ("__weakref__", "_home", "_state")

    def __init__(self, state: RoomState, home: Home) -> None:
        """For `rawws.Hub`."""
        self._state = state
        self._home = home

    def __repr__(self) -> str:
        state = self._state
        return f"<Room {state.path} peers={len(state)} lagging={len(state.lagging)} {state.log!r}>"

    def __len__(self) -> int:
        """The number of members at this node."""
        return len(self._state)

    def __bool__(self) -> bool:
        return True  # a room that is empty is a room

    def __iter__(self) -> Iterator[Member]:
        """Iterate over the room's present members at this node, in the order in which they connected.

        Joins and leaves during the iteration have no effect on it.
        """
        return iter([Member(peer) for peer in sorted(self._state.peers, key=lambda peer: peer.number)])

    def __contains__(self, who: object) -> bool:
        """Whether a `Member`, a `WebSocket` or a `CallbackWebSocket` is in the room now."""
        peer = getattr(who, "_peer", None)
        return isinstance(peer, Peer) and self._state in peer.rooms

    @property
    def path(self) -> str:
        """The path of the room's URL."""
        return self._state.path

    @property
    def settings(self) -> RoomSettings:
        """The room's settings: its history, and its treatment of peers."""
        return self._state.settings

    @property
    def last_id(self) -> str:
        """The id of the newest message; if there is none, the id of the beginning.

        It is that of the beginning, too, in a room with a store that nobody has opened yet.
        """
        return self._state.last_id

    @property
    def is_held(self) -> bool:
        """Whether publishers have to wait, see `ready`."""
        return self._state.is_held

    # Publishing

    @overload
    def publish(
        self, message: Data, *, text: bool | None = None, key: str | None = None, wait: Literal[False] = False
    ) -> Delivery: ...

    @overload
    def publish(
        self, message: Data, *, text: bool | None = None, key: str | None = None, wait: Literal[True]
    ) -> str | None: ...

    def publish(
        self, message: Data, *, text: bool | None = None, key: str | None = None, wait: bool = False
    ) -> Delivery | str | None:
        """Send a message to everybody in the room, and return the outcome. This never waits for a peer.

        A ``str`` goes as text, anything bytes-like as binary, unless ``text`` says otherwise. It is encoded once for
        all peers. ``key`` is for rooms whose slow peers get the newest message of each key.

        Any thread may call this, with or without an event loop of its own. In another thread than that of the hub's
        server it returns at once: the message is on its way, and all numbers of the outcome are 0. The messages of a
        thread keep their order. At most 16 MiB are on their way, or an eighth of ``max_memory``: beyond that a thread
        waits, and an event loop's thread gets `rawws.QueueFull`. Before the server starts, and after it has ended, it
        raises `rawws.NotServing`; a message that was accepted is published even if the server ends now.

        With ``wait`` it returns the message's id. In another thread it waits until the message is published, as `ready`
        does; in a room that is stored or shared with other nodes, until the store or the backplane has it (and returns
        None if a backplane doesn't tell the id). It waits for at most 30 seconds, and then raises `rawws.PublishError`,
        or `rawws.PublishUnsure` if the message may be published. In the thread of an event loop that would have to wait
        it raises `UsageError`.
        """
        if wait:
            return self._publish_for_id(message, text, key)
        return self.publish_many((message,), text=text, key=key)

    def publish_many(
        self, messages: tuple[Data, ...] | list[Data], *, text: bool | None = None, key: str | None = None
    ) -> Delivery:
        """Send several messages together. This takes one system call for each peer, not one for each message.

        All of them have the same ``key``. Any thread may call this, as `publish`.

        In a room that is stored, or shared with other nodes, the messages are on their way to the store, or to all
        nodes, when this returns. Their outcome isn't known yet, and all its numbers are 0.
        """
        frames = _encode(messages, text)
        loop, state = self._home.loop_here(), self._state
        if not frames:
            return _UNKNOWN
        if loop is None:
            self._home.put(self._publication(frames, key))
        elif state.shared is not None:
            state.shared.take(state, frames, NOBODY, key)
        else:
            state.add(frames, NOBODY, key)
            return Delivery(*publish_added(state, loop.sending))
        return _UNKNOWN

    def _publish_for_id(self, message: Data, text: bool | None, key: str | None) -> str | None:
        """Publish a message, and return its id."""
        what, state = "room.publish, message", self._state
        loop = self._home.loop_here()
        if loop is None:
            publication = self._publication(_encode((message,), text), key, Outcome())
            given: str | None = self._home.put_and_wait(publication, what)
            return given
        if state.shared is not None:
            refuse_to_wait(what)
        self.publish_many((message,), text=text, key=key)
        return state.last_id

    def _publication(
        self, frames: list[bytes | bytearray], key: str | None, outcome: Outcome | None = None
    ) -> Publication:
        if self._state.shared is not None:
            check_key(key)  # in the caller's thread
        return Publication(self._state, frames, key, outcome)

    async def ready(self) -> None:
        """Wait while publishers are held back.

        The reason is a slow peer in a room with the policy ``wait``, much work left to encode, or too many messages on
        their way to other nodes.
        """
        check_in_trio("room.ready", is_async=True)
        await self._state.ready()

    # Membership

    def join(
        self, websocket: WebSocket | CallbackWebSocket, *, since: str | None = None, last: int | None = None
    ) -> Membership:
        """Put a connection into the room: it gets the messages here until it leaves or closes.

        With ``since``, an id, it is first sent the history after that message; with ``last``, a number, this many of
        the last messages. To leave at the end of a block, use the result: ``async with room.join(ws):``. A connection
        may be in any number of rooms. Raises `rawws.ConnectionClosed` when it is closed already.

        In a room that is stored, and that nobody has used just now, it becomes a member a moment later, when the room
        has been read from the disk. The messages that are published meanwhile are sent to it, too.
        """
        check_in_trio("room.join, ws")
        self._home.loop_here()
        reading = RoomQuery(None if since is None else parse_id(since), last)
        self._seal_turn()
        peer = prepare_to_join(websocket)
        self._state.begin_soon(peer, partial(self._begin, peer, reading))
        return Membership(self, websocket)

    def _begin(self, peer: Peer, reading: RoomQuery) -> None:
        current_loop().join(peer, self._state, self._state.resolve(reading).after)

    def leave(self, websocket: WebSocket | CallbackWebSocket) -> None:
        """Take a connection out of the room. Earlier messages are still sent to it.

        Harmless when it is not in the room.
        """
        check_in_trio("room.leave, ws")
        self._seal_turn()
        current_loop().leave_room(peer_of(websocket), self._state)
        return not_awaited("room.leave(ws) has nothing to wait for")

    def _seal_turn(self) -> None:
        """Send what relayed peers have published so far in this turn, if it is called within one."""
        if self._state.log.open_bytes:
            current_loop().sending.broadcast(self._state)


class Membership:
    """The membership of a connection in a room. As a context manager, sync or async, it ends with the block."""

    if not TYPE_CHECKING:  # a type checker reports it by itself

        def __await__(self):
            raise UsageError("room.join(ws) doesn't wait; use async with room.join(ws), or leave out the await")

    def __init__(self, room: Room, websocket: WebSocket | CallbackWebSocket) -> None:
        self.room = room
        self._websocket = websocket

    def __enter__(self) -> Room:
        return self.room

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.room.leave(self._websocket)

    async def __aenter__(self) -> Room:
        return self.room

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.room.leave(self._websocket)


def _encode(messages: tuple[Data, ...] | list[Data], text: bool | None) -> list[bytes | bytearray]:
    """Return messages as frames. Raises TypeError and ValueError for what can't be sent, in the caller's thread."""
    frames: list[bytes | bytearray] = []
    for message in messages:
        encode_message(*as_message(message, text), frames)
    return frames


def state_of(room: Room) -> RoomState:
    """Return the state that a room acts on. This is for rawws itself."""
    return room._state
