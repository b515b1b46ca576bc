"""The rooms of a hub, by path."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, ValuesView

from rawws.hub.home import Home
from rawws.hub.room import Room
from rawws.relay.backplane import Backplane
from rawws.relay.gates import Gate
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer
from rawws.relay.room_base import RoomBase
from rawws.relay.room_state import RoomState
from rawws.relay.settings import RoomSettings
from rawws.relay.watchers import Watchers


class RoomRegistry:
    """Finds and makes rooms, and keeps the rooms in use: each has a member, or keeps something for later.

    A room that isn't in use lives as long as something else refers to it, such as a program that holds its `Room`.
    Until then, the room of a path is always the same object, and so is its `Room`.

    Any thread may look for rooms. A lock guards the making of rooms and of their objects.
    """

    def __init__(
        self,
        choose_settings: Callable[[str], RoomSettings],
        choose_backplane: Callable[[str], Backplane[RoomState] | None],
        choose_gate: Callable[[str], Gate | None] = lambda _: None,
        make_watchers: Callable[[], Watchers[Peer]] = Watchers,
    ) -> None:
        """The first three are called with the path of a room that is made. ``choose_settings`` may raise `UsageError`.

        ``make_watchers`` makes the watchers of each room.
        """
        self._choose_settings = choose_settings
        self._choose_backplane = choose_backplane
        self._choose_gate = choose_gate
        self._make_watchers = make_watchers
        self._known: weakref.WeakValueDictionary[str, RoomState] = weakref.WeakValueDictionary()
        self.in_use: dict[str, RoomState] = {}
        self.home = Home()
        self._lock = threading.RLock()  # a signal handler may interrupt its own thread

    def __len__(self) -> int:
        """The number of rooms that anything refers to."""
        return len(self._known)

    def __iter__(self) -> Iterator[RoomState]:
        """Iterate over the rooms that anything refers to."""
        with self._lock:
            return iter(list(self._known.values()))

    def find(self, path: str) -> RoomState | None:
        """Return the room of a path, if there is one."""
        return self.in_use.get(path) or self._known.get(path)

    def get(self, path: str) -> RoomState:
        """Return the room of a path. If there is none, it is made."""
        room = self.find(path)
        if room is None:
            settings = self._choose_settings(path)
            with self._lock:
                room = self.find(path)  # another thread may have made it meanwhile
                if room is None:
                    backplane = self._choose_backplane(path)
                    gate = self._choose_gate(path)
                    room = RoomBase(path, settings, self, backplane, gate, self._make_watchers())
                    self._known[path] = room
        return room

    def facade_of(self, room: RoomState) -> Room:
        """Return the object through which programs hold a room."""
        with self._lock:
            facade = room.facade
            if isinstance(facade, weakref.ref):
                facade = facade()
            if isinstance(facade, Room):
                return facade
            facade = Room(room, self.home)
            is_in_use = self.in_use.get(room.path) is room
            room.facade = facade if is_in_use else weakref.ref(facade)
            return facade

    def backplane_of(self, path: str) -> Backplane[RoomState] | None:
        """Return the way that the messages of a room go before anybody gets them; None if there is none."""
        return self._choose_backplane(path)

    # For the rooms

    def add(self, room: RoomState) -> None:
        if room.path not in self.in_use:
            with self._lock:
                self.in_use[room.path] = room
                if isinstance(room.facade, weakref.ref):
                    room.facade = room.facade()

    def keep(self, room: RoomState) -> None:
        self.add(room)
        current_loop().timers.add_room(room)

    def discard(self, room: RoomState) -> None:
        with self._lock:
            if self.in_use.get(room.path) is room:
                del self.in_use[room.path]
                if room.facade is not None:
                    room.facade = weakref.ref(room.facade)


class RoomsInUse(Mapping[str, Room]):
    """The rooms of a registry that are in use, by path, as a program sees them."""

    def __init__(self, registry: RoomRegistry) -> None:
        self._registry = registry

    def __repr__(self) -> str:
        return repr(dict(self))

    def __len__(self) -> int:
        return len(self._registry.in_use)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._registry.in_use))  # in one step, since another thread may call this

    def __contains__(self, path: object) -> bool:
        return path in self._registry.in_use

    def __getitem__(self, path: str) -> Room:
        return self._registry.facade_of(self._registry.in_use[path])

    def values(self) -> ValuesView[Room]:
        """Return a view of the rooms alone."""
        return _Rooms(self)

    def rooms(self) -> Iterator[Room]:
        """Iterate over the rooms that are in use now, whatever happens to them during the iteration."""
        return map(self._registry.facade_of, list(self._registry.in_use.values()))


class _Rooms(ValuesView[Room]):
    """The rooms in use, without a look at each path: by then another thread's room may be gone."""

    _mapping: RoomsInUse

    def __iter__(self) -> Iterator[Room]:
        return self._mapping.rooms()
