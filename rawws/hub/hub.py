"""Rooms by path, and the built-in program: it relays each message to everybody in the sender's room."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from typing import Any

from rawws import logs
from rawws.access.grant import ANYBODY, Action, Admitted, Grant
from rawws.broadcast.encodings import BY_SUBPROTOCOL, PLAIN, SUBPROTOCOL
from rawws.broadcast.log import History
from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.query import FROM_NOW_ON, RoomQuery, read_request
from rawws.broadcast.response_stream import ResponseStream
from rawws.broadcast.stream_encodings import EVENTS, StreamEncoding
from rawws.callables import check_plain
from rawws.errors import RETRY_SOON, Refusal, UsageError
from rawws.hooks import is_application_error, log_failure
from rawws.hub.closed_store import ClosedStore
from rawws.hub.doors import Door, action_through
from rawws.hub.hub_arguments import Mode, attendance_of, check_push, check_queues, check_store, choose, moderator_of
from rawws.hub.hub_commands import DISCONNECT, HubCommands, disconnect_body
from rawws.hub.moderator import AttendedWatchers, OnMember, OnMessage
from rawws.hub.paths import BESIDE_AN_APPLICATION, RoomPaths
from rawws.hub.queues import NO_STORE, QUEUE_BYTES, SHARED, NoQueues, Queues
from rawws.hub.reception import Reception
from rawws.hub.registry import RoomRegistry, RoomsInUse
from rawws.hub.room import Room
from rawws.hub.shards import Shards
from rawws.hub.waiting_polls import WaitingPolls
from rawws.limits import LEAST_STORE_BYTES, MAX_LAG_BYTES, MIB, by_flag, check_number
from rawws.net.accept import Address
from rawws.net.transport import Transport
from rawws.relay.backplane import Backplane
from rawws.relay.from_threads import Function
from rawws.relay.gates import DEAD_JOBS, Gate
from rawws.relay.peer import NOTHING, About, Peer, PeerGroup
from rawws.relay.room_state import RoomState
from rawws.relay.settings import RoomSettings, Slow
from rawws.relay.thread_queue import Outcome
from rawws.relay.watchers import Watchers
from rawws.wire.events import check_close
from rawws.wire.handshake import Handshake
from rawws.wire.messages import Request
from rawws.wire.role import Role
from rawws.wire.session import Session
from rawws.wire.trace import FAULT

# The messages that each room of a hub with a store keeps, unless its program says otherwise.
STORED_HISTORY = 1000
# The rooms that a store has at most, unless its program says otherwise: they take up to a gigabyte without a message.
STORED_ROOMS = 1_000_000
# The dead jobs of a group that are kept at least, and for how long: somebody has to look at them.
MOST_DEAD_JOBS, DEAD_JOBS_AGE_S = 10_000, 10 * 365 * 86_400.0
STORE_SYNCS = ("always", "interval", "never")


class Hub:
    """All rooms of an application, by path.

    A hub that is given to `rawws.serve` in place of a handler relays: a connection is greeted with ``hello``, if that
    isn't None, and put into the room of its path. Its messages go to everybody there, or back to itself alone with
    ``mode="echo"``. No connection needs a task. With a handler, the program decides which connection joins which room,
    and what is published: see `Hub.room`.

    ``max_lag_bytes`` is how far a peer may lag in a room: the bytes that are kept because of it (each message takes
    some 160 more). ``slow`` is the policy for a peer that lags further:

    - ``"close"``: it is closed with 1013.
    - ``"skip"``: it skips to the newest message.
    - ``"wait"``: publishers wait until it has caught up. It is closed if it takes nothing for ``ping_timeout``.
    - ``"latest"``: whenever it can take more, it gets the newest message of each ``key``, a member of the messages'
      JSON. ``max_lag_bytes`` then bounds the newest messages of all keys together.

    A room keeps its last ``history`` messages, for at most ``history_age_s`` and in about ``history_bytes``. With
    ``exclude_sender``, a peer's message goes to all others. With ``read_only``, a peer that sends a message is closed
    with 1008; the program and POST requests publish. Beyond ``max_rooms``, or ``max_peers`` in a room, requests are
    refused with 503.

    With ``store``, the path of a file, rooms survive a restart: their history, their ids, and the Idempotency-Keys of
    POST requests. `rawws.serve` opens the store, and closes it. A message goes to readers, and a POST is answered with
    202, when the message is stored as ``store_sync`` says: on the disk (``"always"``), or safe from the end of this
    process (``"interval"``, ``"never"``). With ``"interval"``, everything is on the disk ``store_interval_s`` later.
    ``history`` is 1,000 by default then (as with ``queue_in_memory``), and 0 without a store.

    The file gets at most ``store_bytes``; a little before that publishers wait, and a POST is answered with 507. Beyond
    ``store_rooms`` rooms in it, requests for further ones are refused with 503.

    With a store, or through `rawws.share`, the readers of a room can share its messages as jobs (``?group=``,
    `rawws.work`). Jobs that are not finished are kept whatever the history is, up to ``queue_bytes`` in a room: then
    publishers there wait, and a POST is answered with 507. ``queue_in_memory`` allows groups without a store, whose
    jobs end with the server.

    ``push`` is a list of texts ``"/room/pay sms https://host/hook"``: the jobs of a group are sent to a URL by POST.

    ``rooms_at`` and all paths below it are rooms, over WebSocket and HTTP. By default every path is a room. If the
    server has an application for HTTP (the ``http`` of `rawws.serve`), only the paths below ``/room/`` are. The other
    paths are the application's: also for WebSockets if it is one of ASGI, and otherwise they are refused there with
    404. This doesn't limit ``routes``, or a handler in place of the hub.

    ``settings(path)`` may return other `RoomSettings` for some rooms. If it fails, the request is answered with 500.

    ``on_message(sender, message)`` decides about each message that a client publishes, by WebSocket or by POST, and is
    not asked about those of the program itself. It is a plain function, and all connections wait while it runs. Its
    result is published: the same message, or another one. With None the message is dropped, and with `Close` its sender
    is closed too. A POST is answered with 403 in both cases. An exception is logged, and costs a WebSocket its
    connection (1011) and a POST its answer (500). ``message`` is a ``str`` for text and ``bytes`` for binary, and the
    `Sender` has the user, the address and the room. With a backplane, the node that the message comes to asks.

    ``on_join(member)`` and ``on_leave(member)`` are plain functions, too. They are called with each WebSocket and each
    reader of events that the hub puts into a room, with exactly one leave for each join.

    Raises `UsageError` for values that can't be used, and for settings that exclude each other.
    """

    def __init__(
        self,
        *,
        mode: Mode | str = Mode.BROADCAST,
        hello: str | None = None,
        max_lag_bytes: int = MAX_LAG_BYTES,
        slow: Slow | str = Slow.CLOSE,
        key: str | None = None,
        history: int | None = None,
        history_bytes: int = MIB,
        history_age_s: float = 3600.0,
        exclude_sender: bool = False,
        read_only: bool = False,
        max_rooms: int | None = None,
        max_peers: int | None = None,
        rooms_at: str | None = None,
        store: str | os.PathLike[str] | None = None,
        store_sync: str = "always",
        store_interval_s: float = 0.1,
        store_bytes: int | None = None,
        store_rooms: int = STORED_ROOMS,
        queue_bytes: int = QUEUE_BYTES,
        queue_in_memory: bool = False,
        push: Sequence[str] | None = None,
        settings: Callable[[str], RoomSettings | None] | None = None,
        on_message: OnMessage | None = None,
        on_join: OnMember | None = None,
        on_leave: OnMember | None = None,
    ) -> None:
        """Raises `UsageError` for an unknown mode or policy, and for an invalid limit."""
        if max_rooms is not None:
            check_number("max_rooms", max_rooms, least=1)
        if not isinstance(hello, str | None):
            raise UsageError(f"hello can't be {hello!r}; it is a text")
        if settings is not None:
            check_plain("settings", settings, "path")
        self.mode = choose(Mode, mode, "mode")
        self.store = check_store(store, self.mode)
        self.store_sync = store_sync
        check_number("store_interval_s", store_interval_s, whole=False)
        if store_bytes is not None:
            check_number("store_bytes", store_bytes, least=LEAST_STORE_BYTES)
        check_number("store_rooms", store_rooms, least=1)
        self.store_bytes, self.store_rooms = store_bytes, store_rooms
        self.push = check_push(push)
        check_number("queue_bytes", queue_bytes, least=1)
        self.store_interval_s = store_interval_s
        if store_sync not in STORE_SYNCS:
            raise UsageError(f"there is no store_sync {store_sync!r}; give one of {', '.join(map(repr, STORE_SYNCS))}")
        if history is None:
            history = 0 if store is None and not queue_in_memory else STORED_HISTORY
        self.settings = RoomSettings(
            History(history, history_bytes, history_age_s),
            max_lag_bytes,
            slow,
            key,
            exclude_sender,
            read_only,
            max_peers,
        )
        self.backplane: Shards | None = None  # through which rooms are shared with other nodes
        self.stored: Backplane[RoomState] | None = None  # through which rooms are stored, while the store is open
        self.queues: Queues = NoQueues(NO_STORE)  # the groups of its rooms
        self.queue_bytes = queue_bytes
        self.queue_in_memory = check_queues(queue_in_memory, store, self.mode)
        self._rooms_at = None if rooms_at is None else RoomPaths(rooms_at)
        self._settings_for = settings
        self._max_rooms = max_rooms
        self.moderator = moderator_of(on_message, self.mode)
        self._attendance = attendance_of(on_join, on_leave)
        self.registry = RoomRegistry(
            self._choose_settings, self._choose_backplane, self._choose_gate, self._make_watchers
        )
        self._reception = Reception(self.registry, self.mode, hello or "", self._attendance)
        self.polls = WaitingPolls()
        self.commands = HubCommands(self.registry, self.polls)
        self._asked_for: RoomState | None = None  # the empty room that the last request was for

    def __repr__(self) -> str:
        return f"<Hub rooms={len(self.registry.in_use)}>"

    def __iter__(self) -> Iterator[Room]:
        return iter(list(self.rooms.values()))

    @property
    def rooms(self) -> Mapping[str, Room]:
        """The rooms that have a member, or keep something for later, by path. It is a live view."""
        return RoomsInUse(self.registry)

    def paths(self, *, beside_application: bool) -> RoomPaths:
        """Return the paths that are rooms, on a server with or without an application for HTTP."""
        return self._rooms_at or RoomPaths(BESIDE_AN_APPLICATION if beside_application else "/")

    def room(self, path: str) -> Room:
        """Return the room of a path. It is always the same object while anybody is in the room or holds it.

        Any thread may call this, and look at `rooms`.
        """
        return self.registry.facade_of(self.registry.get(path))

    def _make_watchers(self) -> Watchers[Peer]:
        return Watchers() if self._attendance is None else AttendedWatchers(self._attendance)

    def _choose_backplane(self, path: str) -> Backplane[RoomState] | None:
        if self.backplane is not None:
            return self.backplane.of(path)
        return ClosedStore() if self.stored is None and self._has_store else self.stored

    @property
    def obstacle(self) -> str:
        """The reason why the hub isn't ready for new clients; empty if it is."""
        if self.stored is not None:
            return self.stored.trouble
        return "the backplane is away" if self.backplane is not None and self.backplane.is_away else ""

    @property
    def _has_store(self) -> bool:
        return self.store is not None or self.queue_in_memory

    def _choose_settings(self, path: str) -> RoomSettings:
        settings = None if self._settings_for is None else self._settings_for(path)
        if settings is None:
            settings = self.settings
        elif not isinstance(settings, RoomSettings):
            raise UsageError(f"settings({path!r}) returned {settings!r}; it must return RoomSettings, or None")
        return self.for_dead_jobs(settings) if self.queues.keeps_dead(path) else settings

    def _choose_gate(self, path: str) -> Gate | None:
        return DEAD_JOBS if self.queues.keeps_dead(path) else self.moderator

    def for_dead_jobs(self, settings: RoomSettings) -> RoomSettings:
        """Return settings with a history in which dead jobs are found as long as somebody may look for them."""
        kept = settings.history
        longest = max(kept.max_age_s, DEAD_JOBS_AGE_S)
        history = History(max(kept.messages, MOST_DEAD_JOBS), max(kept.max_bytes, self.queue_bytes), longest)
        return replace(settings, history=history)

    def keep_dead_jobs(self, path: str) -> RoomState | None:
        """Have the room of a path, if anything refers to it, keep the dead jobs of a group from now on."""
        room = self.registry.find(path)
        if room is not None:
            room.change(self.for_dead_jobs(room.settings), DEAD_JOBS)
        return room

    async def prepare(self, path: str, since: MessageId | None = None) -> Refusal | None:
        """Load a room so that it can be read from an id on, if needed. Returns a refusal if that fails."""
        if self.backplane is None and self.stored is None:
            return None
        room = self.registry.get(path)
        assert room.shared is not None
        return await room.shared.prepare(room, since) or self.refuse_room(path)  # others may have opened

    def share_through(self, backplane: Shards) -> None:
        """Share all rooms with other nodes, including rooms that a program holds. None may have peers or a history."""
        self.backplane = backplane
        self.queues = NoQueues(SHARED)
        for room in self.registry:
            room.share_through(backplane.of(room.path))

    def store_through(self, stored: Backplane[RoomState] | None) -> None:
        """Store all rooms from now on, including rooms that a program holds; with None, store none any more."""
        self.stored = stored
        if stored is not None:
            for room in self.registry:
                room.share_through(stored)

    @property
    def peers_publish(self) -> bool:
        """Whether a peer's messages are published in its room; False where ``settings`` decides for each room."""
        return self.mode is Mode.BROADCAST and not self.settings.read_only and self._settings_for is None

    @property
    def subprotocols(self) -> tuple[str, ...]:
        """The subprotocols that a hub speaks by itself."""
        return (SUBPROTOCOL,) if self.mode is Mode.BROADCAST else ()

    def limits_by_flag(self) -> dict[str, float]:
        """Return the limits that are set, by the flag of ``rawws serve`` that sets each."""
        history = self.settings.history
        return by_flag(
            max_rooms=self._max_rooms,
            max_peers=self.settings.max_peers,
            max_lag=self.settings.max_lag_bytes,
            history=history.messages,
            history_bytes=history.max_bytes,
            history_age=history.max_age_s,
            store_bytes=self.store_bytes,
            store_rooms=self.store_rooms if self._has_store else None,
        )

    def refuse_room(self, path: str, among: Collection[str] | None = None) -> Refusal | None:
        """Return why no room can be added at a path, besides the rooms in use or the given ones; None if it can."""
        rooms = self.registry.in_use if among is None else among
        if path in rooms:
            return None
        if self._max_rooms is None or len(rooms) < self._max_rooms:
            return self.refuse_settings(path)
        sentence = f"There are as many rooms as this server takes (--max-rooms {self._max_rooms}); try again later."
        return Refusal(503, "too_many_rooms", sentence, RETRY_SOON)

    def refuse_settings(self, path: str) -> Refusal | None:
        """Return a refusal if the application's ``settings`` for the room of a path fail. The failure is logged.

        The room is kept, so that the settings need not be asked for again when a client joins.
        """
        if self._settings_for is None:
            return None
        try:
            self._asked_for = self.registry.get(path)
        except UsageError as error:
            logs.line(logs.hub, logging.ERROR, logs.SERVER, FAULT, str(error))
        except BaseException as error:
            if not is_application_error(error):
                raise
            log_failure(logs.hub, logs.SERVER, f"settings({path!r}) failed", error)
        else:
            return None
        return Refusal(500, "internal_error", "The server failed to decide about this room.")

    def admit(self, request: Request) -> Refusal | None:
        """Return why a request can't be let into the room of its path; None if it can.

        Ask again when all else is decided: while a hook of the application ran, other clients may have joined.
        """
        path = request.path or ""
        if refusal := self.refuse_room(path):
            return refusal
        room = self.registry.in_use.get(path)
        most = None if room is None else room.settings.max_peers
        if room is not None and most is not None and len(room) >= most:
            sentence = f"This room is full (--max-peers {most}); try again later."
            return Refusal(503, "room_full", sentence, RETRY_SOON)
        reading = read_request(request)
        return reading if isinstance(reading, Refusal) else None

    def action(self, door: Door, path: str) -> Action:
        """Return the action in the room of a path that one of its doors is for.

        This may call ``settings`` for the room, unless `admit` has admitted the request before.
        """
        relays = door is Door.WEBSOCKET and self.mode is Mode.BROADCAST and not self._settings_at(path).read_only
        return action_through(door, relays=relays)

    def _settings_at(self, path: str) -> RoomSettings:
        room = self.registry.find(path)
        return self._choose_settings(path) if room is None else room.settings

    def disconnect(self, *, user: object, code: int = 1008, reason: str | None = None, wait: bool = False) -> int:
        """Close all connections of a user that are in a room, and return their number.

        ``user`` is what ``authenticate`` returned, or the name of a `User`. The close goes out after all that the rooms
        have published. A poll that waits is answered with 403.

        With a backplane, other nodes close the connections of the user in their rooms, too, and the number is that of
        this node. They need a name to recognize the user: a text, a whole number, or a `User` that has a name. The
        command goes to them after everything that was published before, and waits while the backplane is away.

        Any thread may call this, as `Room.publish`. In another thread than the server's it returns 0 at once, and
        closes the connections after what that thread has published; with ``wait`` it waits, and returns their number.

        Raises `UsageError` for a code that can't be sent (RFC 6455 §7.4), a reason of more than 123 bytes, and a user
        that other nodes can't recognize. Raises `BackplaneAway`, after closing the connections of this node, when the
        backplane is away and keeps too many commands already.
        """
        if user is None:
            raise UsageError("a user is required: None is everybody without a name")
        close = check_close(code, reason)  # also if the user has no connection
        command = None if self.backplane is None else disconnect_body(user, close)
        home = self.registry.home
        disconnect = partial(self._disconnect, user, code, reason, command)
        if home.loop_here() is not None:
            return disconnect()
        if not wait:
            home.put(Function(disconnect))
            return 0
        closed: int = home.put_and_wait(Function(disconnect, Outcome()), "hub.disconnect, user=user")
        return closed

    def _disconnect(self, user: object, code: int, reason: str | None, command: dict[str, Any] | None) -> int:
        found = {member for room in self for member in room if _is_user(member.user, user)}
        for member in found:
            member.close(code, reason)
        polls = [poll for poll in self.polls if _is_user(poll.user, user)]
        for poll in polls:
            poll.end(reason or "")
        workers = [worker for worker in self.queues.workers() if _is_user(worker.user, user)]
        for worker in workers:
            worker.close(code, reason)
        if self.backplane is not None and command is not None:
            self.backplane.tell(DISCONNECT, command)
        return len(found) + len(polls) + len(workers)

    def serving(self) -> AbstractContextManager[None]:
        """Return a context in which other threads may call this hub, for its server."""
        return self.registry.home.serving()

    # As a program

    def adopt(
        self,
        number: int,
        transport: Transport,
        handshake: Handshake,
        endpoint: PeerGroup,
        *,
        request: Request | None = None,
        remote_address: Address | None = None,
        admitted: Admitted = ANYBODY,
        trailing_data: bytes = b"",
        fast_lane: bool = True,
    ) -> Peer | None:
        """Take over a connection whose handshake is complete: greet it, and put it in its path's room.

        The query of the ``request`` names the position to read from. The ``remote_address`` is that of the transport,
        unless a proxy says otherwise. A peer that isn't ``admitted`` to write is closed with 1008 if it does, and any
        peer is closed when its admission ends. The loop owns the transport from here on. Frames that the client sent
        right after its request are read at once. Returns None, with the transport closed, when the system can't watch
        one more socket, or the client has gone.
        """
        agreement = handshake.deflate
        session = Session(
            Role.SERVER,
            max_message_bytes=endpoint.limits.max_message_bytes,
            deflate=agreement is not None,
            fast_lane=fast_lane,
            relays=True,
            echoes=self.mode is Mode.ECHO,
        )
        endpoint.show_frames(number, session)
        encoding = BY_SUBPROTOCOL.get(handshake.subprotocol, PLAIN)
        if agreement is not None and agreement.deflates(Role.SERVER):
            encoding = encoding.deflated(agreement.server_window_bits)
        peer = Peer(number, transport, session, endpoint, encoding)
        peer.about = _about(transport, remote_address, admitted.user, handshake.subprotocol)
        return self._reception.add(peer, handshake.path, _reading_of(request), admitted, trailing_data)

    def stream_events(
        self,
        number: int,
        transport: Transport,
        path: str,
        reading: RoomQuery,
        endpoint: PeerGroup,
        *,
        encoding: StreamEncoding = EVENTS,
        remote_address: Address | None = None,
        admitted: Admitted = ANYBODY,
    ) -> Peer | None:
        """Take over a connection whose response is a room's messages in an encoding. Its head has been sent."""
        peer = Peer(number, transport, ResponseStream(encoding), endpoint, encoding)
        peer.about = _about(transport, remote_address, admitted.user)
        return self._reception.add(peer, path, reading, admitted)


def _is_user(user: object, wanted: object) -> bool:
    """Return whether a client's user is the wanted one, or has this name."""
    if isinstance(user, bool) or isinstance(wanted, bool):
        return user is wanted  # True equals 1, but they are two users
    return wanted in (user, user.user if isinstance(user, Grant) else None)


def _about(transport: Transport, address: Address | None, user: object, subprotocol: str | None = None) -> About:
    client = None if address == (transport.remote_address or "") else address
    return NOTHING if user is None and subprotocol is None and client is None else About(user, subprotocol, client)


def _reading_of(request: Request | None) -> RoomQuery:
    if request is None:
        return FROM_NOW_ON
    reading = read_request(request)
    return FROM_NOW_ON if isinstance(reading, Refusal) else reading
