"""Commands of a node to all others, as entries of a stream, and what each node remembers of them.

The stream has the key ``rawws:commands``. Every node follows it from its start on. An entry has these fields:

========  ==================================================================================
``kind``  the name of the command and its version, such as ``disconnect/1``
``body``  its arguments, an object of JSON
``by``    ``node.0.number``: the node that gave it, and its number there (`Author`)
``ask``   ``1`` if every node has to answer (`rawws.broadcast.node_answers`)
========  ==================================================================================

A command that isn't a question is sent like a message: it waits while Redis is away, and goes out after everything
that its node had published before. A Redis that loses its data loses commands, too, and a node that was away meanwhile
would never get them. So each node keeps its own for a while (`KeptCommands`) and sends them again then, and the others
recognize those that they have carried out already (`SeenCommands`).
"""

from __future__ import annotations

import json
import math
import re
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rawws.broadcast.log import History
from rawws.broadcast.outbox import Outgoing
from rawws.broadcast.stream_entries import Author, key_of
from rawws.errors import UsageError
from rawws.limits import KIB
from rawws.wire.frames import Opcode

# No room has this path, since the path of a request begins with a slash.
COMMANDS_PATH = "commands"
COMMANDS_KEY = key_of(COMMANDS_PATH)
# The stream keeps its last 10,000 entries, until an hour after the last of them.
RETAINED = History(messages=10_000, max_age_s=3600.0)
MAX_BODY_BYTES = 4 * KIB
# The memory of a command besides its body, while it waits to be carried out or is kept (measured).
COMMAND_BYTES = 900
# The commands of others that are remembered, to recognize repetitions, and the memory of one (measured).
MAX_SEEN, SEEN_BYTES = 4000, 250
# The own commands that are kept, to be sent again if Redis loses them.
MAX_KEPT, KEPT_S = 1000, 3600.0
# All of them are sent again at most once in this time: those of many nodes may fill the stream, so that some are lost.
AGAIN_S = 10.0

_KIND = re.compile(r"[a-z]{1,32}/[0-9]{1,4}")


@dataclass(frozen=True, slots=True)
class Command:
    """A command of one node to all others. ``body`` is what JSON can hold."""

    kind: str  # with its version
    body: Mapping[str, Any]
    by: Author
    is_question: bool = False

    @property
    def fields(self) -> list[str | bytes]:
        """The fields of its entry, names and values in turn."""
        fields: list[str | bytes] = ["kind", self.kind, "body", encode_body(self.body), "by", str(self.by)]
        return [*fields, "ask", "1"] if self.is_question else fields


def encode_body(body: Mapping[str, Any]) -> bytes:
    """Return the JSON of a body. Raises `UsageError` for more than `MAX_BODY_BYTES`."""
    encoded = json.dumps(body, separators=(",", ":")).encode("ascii")
    if len(encoded) > MAX_BODY_BYTES:
        raise UsageError(f"other nodes take at most {MAX_BODY_BYTES} bytes of a command, and these are {len(encoded)}")
    return encoded


def read_command(fields: Mapping[bytes, bytes]) -> Command:
    """Read an entry by any writer. Raises ValueError, with the reason, for one that no node has written."""
    kind = fields.get(b"kind", b"").decode("ascii", "replace")
    if not _KIND.fullmatch(kind):
        raise ValueError("its kind is not a name and a version, such as disconnect/1")
    by = Author.parse(fields.get(b"by", b""))
    if by is None:
        raise ValueError("it doesn't name its node")
    return Command(kind, _read_body(fields.get(b"body", b"")), by, fields.get(b"ask") == b"1")


def _read_body(encoded: bytes) -> dict[str, Any]:
    if len(encoded) > MAX_BODY_BYTES:
        raise ValueError(f"its body has more than {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(encoded)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise ValueError("its body is not an object of JSON")
    return body


@dataclass(eq=False, slots=True)
class OutgoingCommand(Outgoing):
    """A command on its way to a backplane, among the messages."""

    command: Command | None = None

    @classmethod
    def of(cls, command: Command) -> OutgoingCommand:
        """Raises `UsageError` for a body that is too large."""
        body = encode_body(command.body)
        return cls(COMMANDS_PATH, Opcode.TEXT, body, RETAINED, author=command.by, command=command)

    @property
    def fields(self) -> list[str | bytes]:
        assert self.command is not None
        return self.command.fields

    @property
    def described(self) -> str:
        assert self.command is not None
        return f"the command {self.command.kind} to other nodes"


class SeenCommands:
    """The commands of others that a node has taken. Of too many, the oldest are forgotten."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, int], None] = OrderedDict()

    @property
    def held_bytes(self) -> int:
        return SEEN_BYTES * len(self._seen)

    def is_new(self, author: Author) -> bool:
        """Return whether a command comes for the first time, and remember it."""
        name = (author.node, author.serial)
        if name in self._seen:
            return False
        self._seen[name] = None
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        return True


@dataclass(eq=False, slots=True)
class _Kept:
    outgoing: OutgoingCommand
    given_at: float
    is_back: bool = False  # it has been read from the stream
    is_lost: bool = False


class KeptCommands:
    """A node's own commands, by their numbers, which it sends again when Redis has lost them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._are_lost = False
        self._again_at = -math.inf  # when all may be sent again
        self.held_bytes = 0

    def add(self, command: Command, now: float) -> OutgoingCommand:
        """Keep a command, and return it as it goes out. Of too many, the oldest is forgotten.

        Raises `UsageError` for a body that is too large.
        """
        outgoing = OutgoingCommand.of(command)
        self._kept[command.by.serial] = _Kept(outgoing, now)
        self.held_bytes += COMMAND_BYTES + len(outgoing.payload)
        if len(self._kept) > MAX_KEPT:
            _, oldest = self._kept.popitem(last=False)
            self.held_bytes -= COMMAND_BYTES + len(oldest.outgoing.payload)
        return outgoing

    def note_back(self, serial: int) -> None:
        """Record that a command has been read from the stream."""
        if (kept := self._kept.get(serial)) is not None:
            kept.is_back = True

    @property
    def confirmed(self) -> set[int]:
        """The numbers of the commands that Redis has confirmed and that haven't been read from the stream."""
        kept = self._kept.items()
        return {serial for serial, each in kept if each.outgoing.id is not None and not each.is_back}

    def lose(self, serials: Collection[int]) -> None:
        """Record that Redis has lost some commands."""
        for serial in serials:
            if (kept := self._kept.get(serial)) is not None:
                kept.is_lost = True

    def lose_all(self) -> None:
        """Record that Redis may have lost any command."""
        self._are_lost = True

    def send_again(self, now: float) -> list[OutgoingCommand]:
        """Return the lost commands, to be sent again. None is too old, and none waits to be sent anyway."""
        if all_of_them := self._are_lost and now >= self._again_at:
            self._are_lost, self._again_at = False, now + AGAIN_S
        found = []
        for each in self._kept.values():
            if (each.is_lost or all_of_them) and each.outgoing.is_done and each.outgoing.command is not None:
                each.is_lost = each.is_back = False
                if each.given_at >= now - KEPT_S:
                    each.outgoing = OutgoingCommand.of(each.outgoing.command)
                    found.append(each.outgoing)
        return found
