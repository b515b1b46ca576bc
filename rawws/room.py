"""A room: the peers and the log of one URL path."""

from __future__ import annotations

from collections.abc import MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from rawws.limits import MAX_LAG_BYTES
from rawws.peer import Peer
from rawws.wire.broadcast_log import BroadcastLog
from rawws.wire.deflate import deflate_frames
from rawws.wire.events import Data, as_message
from rawws.wire.frames import encode_message

if TYPE_CHECKING:
    from rawws.loop import Loop
    from rawws.websocket import WebSocket


class Delivery(NamedTuple):
    """What became of a published message: for how many peers of the room it was which."""

    sent: int  # the operating system has taken it, and all before it
    queued: int  # the peer reads more slowly than the room publishes, and gets it when it has caught up
    skipped: int  # it will not get it, as the room's policy for slow peers has it
    closed: int  # it was lost, or closed for being too far behind


class Room:
    """The peers and the log of one URL path. A peer that is in the room is either current or behind.

    Made by `rawws.Hub.room`. It costs nothing while nobody is in it.
    """

    __slots__ = ("__weakref__", "_loop", "_registry", "alone", "behind", "current", "log", "max_lag_bytes", "path")

    def __init__(
        self, path: str, registry: MutableMapping[str, Room] | None = None, max_lag_bytes: int = MAX_LAG_BYTES
    ) -> None:
        self.path = path
        self.max_lag_bytes = max_lag_bytes
        self.log = BroadcastLog(deflate_frames)
        # Those that have been sent everything, by the form that they get: their place is the log's tail.
        self.current: dict[int, set[Peer]] = {}
        # Those that have a cursor of their own, and wait for their socket to take more.
        self.behind: set[Peer] = set()
        self.alone = (self,)  # for the many peers that are in this room only
        self._registry = {} if registry is None else registry
        self._loop: Loop | None = None  # which serves the peers, while there are any

    def __repr__(self) -> str:
        return f"<Room {self.path} peers={len(self)} behind={len(self.behind)} {self.log!r}>"

    # For everybody

    def __len__(self) -> int:
        """The number of peers in the room."""
        return sum(map(len, self.current.values())) + len(self.behind)

    def __bool__(self) -> bool:
        return True  # a room that is empty is a room

    @property
    def peers(self) -> list[Peer]:
        """Those who are in the room now. What a program holds of one is its ``websocket``."""
        return [*self.behind, *(peer for peers in self.current.values() for peer in peers)]

    def publish(self, message: Data, *, text: bool | None = None) -> Delivery:
        """Send a message to everybody in the room, and say what became of it; never waits for a peer.

        A ``str`` goes as text, anything bytes-like as binary, unless ``text`` says otherwise. It is encoded once,
        however many get it.
        """
        return self.publish_many((message,), text=text)

    def publish_many(self, messages: tuple[Data, ...] | list[Data], *, text: bool | None = None) -> Delivery:
        """Send several messages in one go, which takes one system call a peer instead of one for each."""
        frames: list[bytes | bytearray] = []
        for message in messages:
            encode_message(*as_message(message, text), frames)
        if not frames or self._loop is None:
            return Delivery(0, 0, 0, 0)
        self.log.append(frames)
        self.log.seal()
        sent, queued, closed = self._loop.broadcast(self)
        return Delivery(sent, queued, 0, closed)

    def join(self, websocket: WebSocket) -> Membership:
        """Put a connection into the room: from now on it gets what is published here, until it leaves or closes.

        To leave at the end of a block, use what is returned: ``async with room.join(ws):``. A connection may be in
        any number of rooms. Raises `rawws.ConnectionClosed` when it is closed already.
        """
        websocket.enter(self)
        return Membership(self, websocket)

    def leave(self, websocket: WebSocket) -> None:
        """Take a connection out of the room. Harmless when it is not in it."""
        websocket.exit(self)

    # For the loop

    def open(self, loop: Loop) -> None:
        """Get ready for a peer."""
        self._loop = loop
        self._registry[self.path] = self

    def add_current(self, peer: Peer) -> None:
        self.behind.discard(peer)
        self.current.setdefault(peer.form, set()).add(peer)

    def add_behind(self, peer: Peer) -> None:
        self._discard_current(peer)
        self.behind.add(peer)

    def remove(self, peer: Peer) -> None:
        self._discard_current(peer)
        self.behind.discard(peer)
        self.trim()
        if not len(self):
            self._loop = None
            if self._registry.get(self.path) is self:
                del self._registry[self.path]

    def _discard_current(self, peer: Peer) -> None:
        if peers := self.current.get(peer.form):
            peers.discard(peer)
            if not peers:
                del self.current[peer.form]

    def trim(self) -> None:
        """Forget what no peer needs any more."""
        lowest = self.log.next
        for peer in self.behind:
            assert peer.cursors is not None
            lowest = min(lowest, peer.cursors[self].number)
        self.log.trim(lowest)


class Membership:
    """A connection's being in a room; as a context manager, sync or async, it ends with the block."""

    def __init__(self, room: Room, websocket: WebSocket) -> None:
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
