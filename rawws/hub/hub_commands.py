"""The commands that a hub gets from other nodes: the other half of `Hub.disconnect`, and questions about the hub."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import trio

from rawws.access.grant import Grant
from rawws.broadcast.node_commands import Command, encode_body
from rawws.errors import UsageError
from rawws.hub.member import user_of
from rawws.hub.registry import RoomRegistry
from rawws.hub.waiting_polls import WaitingPolls
from rawws.relay.backplane import Backplane
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer
from rawws.relay.room_state import RoomState
from rawws.wire.events import CloseFrame, check_close

DISCONNECT = "disconnect/1"
# Connections are closed this many at a time, between which others are served.
CLOSED_AT_ONCE = 50

UserName = str | int


class Answerer(NamedTuple):
    """The two steps of an answer: what a question's body says, and the items for JSON that answer this."""

    read: Callable[[Mapping[str, Any]], Any]
    answer: Callable[[Any], Awaitable[Iterable[object]]]


def name_for_others(user: object) -> UserName:
    """Return the name by which other nodes know a user. Raises `UsageError` for a user without one."""
    if (name := _name_of(user)) is None:
        kind = type(user).__name__
        sentence = "with a backplane, the user is a text, a whole number, or a User with a name"
        raise UsageError(f"other nodes can't recognize a user that is {kind}; {sentence}")
    return name


def disconnect_body(user: object, close: CloseFrame) -> dict[str, Any]:
    """Return the body of the command to close a user's connections.

    Raises `UsageError` as `name_for_others` does, and for a name that is too long.
    """
    body = {"user": name_for_others(user), "code": close.code, "reason": close.reason}
    encode_body(body)  # checks its size
    return body


class HubCommands:
    """Carries out commands in the rooms of a hub, and answers questions about it."""

    def __init__(self, registry: RoomRegistry, polls: WaitingPolls) -> None:
        self._registry = registry
        self._polls = polls
        self._answerers: dict[str, Answerer] = {}

    def answer_with(
        self,
        kind: str,
        answer: Callable[[Any], Awaitable[Iterable[object]]],
        read: Callable[[Mapping[str, Any]], Any] = dict,
    ) -> None:
        """Have the questions of a kind answered by a function of what is read from their body.

        It returns items for JSON. ``read`` raises `UsageError` for a body that no node has written.
        """
        self._answerers[kind] = Answerer(read, answer)

    def fault_of(self, command: Command) -> str:
        known = self._answerers if command.is_question else (DISCONNECT,)
        if command.kind not in known:
            return "this version of rawws doesn't know it"
        return "" if self._can_read(command) else "its arguments are not those of this kind"

    def _can_read(self, command: Command) -> bool:
        if not command.is_question:
            return _read_disconnect(command.body) is not None
        try:
            self._answerers[command.kind].read(command.body)
        except UsageError:
            return False
        return True

    def rooms_for(self, commands: Sequence[Command], backplane: Backplane[RoomState]) -> list[RoomState]:
        wanted = _closes_of(commands)
        return list({room: None for room, _, _ in self._concerned(wanted, backplane)})

    async def carry_out(self, commands: Sequence[Command], backplane: Backplane[RoomState]) -> None:
        wanted = _closes_of(commands)
        found = {peer: close for _, peer, close in self._concerned(wanted, backplane)}
        for number, (peer, close) in enumerate(found.items(), 1):
            current_loop().close(peer, *close)
            if number % CLOSED_AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
        for poll in self._polls:
            room = self._registry.in_use.get(poll.room)
            if room is not None and room.shared is backplane and (end := _close_for(poll.user, wanted)) is not None:
                poll.end(end.reason)

    async def answer(self, question: Command) -> Iterable[object]:
        answerer = self._answerers[question.kind]
        return await answerer.answer(answerer.read(question.body))

    def _concerned(
        self, wanted: Mapping[object, CloseFrame], backplane: Backplane[RoomState]
    ) -> Iterator[tuple[RoomState, Peer, CloseFrame]]:
        """Yield the members of the rooms of a backplane whose users are wanted, with the close for each."""
        for room in list(self._registry.in_use.values()):
            if room.shared is backplane:
                for peer in room.peers:
                    if (close := _close_for(user_of(peer), wanted)) is not None:
                        yield room, peer, close


def _name_of(user: object) -> UserName | None:
    """Return the name by which other nodes know a user; None for a user without one."""
    name = user.user if isinstance(user, Grant) else user
    return name if isinstance(name, str | int) and not isinstance(name, bool) else None


def _close_for(user: object, wanted: Mapping[object, CloseFrame]) -> CloseFrame | None:
    name = _name_of(user)
    return None if name is None else wanted.get(name)


def _read_disconnect(body: Mapping[str, Any]) -> tuple[UserName, CloseFrame] | None:
    user, code, reason = _name_of(body.get("user")), body.get("code"), body.get("reason")
    if user is None or not isinstance(code, int) or not isinstance(reason, str):
        return None
    try:
        return user, check_close(code, reason)
    except (UsageError, UnicodeEncodeError):
        return None


def _closes_of(commands: Sequence[Command]) -> Mapping[object, CloseFrame]:
    """Return the close for each user. The first command decides."""
    wanted: dict[object, CloseFrame] = {}
    for command in commands:
        if (found := _read_disconnect(command.body)) is not None:
            wanted.setdefault(*found)
    return wanted
