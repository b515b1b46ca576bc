"""Answers of all nodes to a question of one of them: who has to answer, what each says, and who hasn't in time.

A question is a command (`rawws.broadcast.node_commands`). The node that asks has a stream for the answers, with the key
``rawws:answers:`` and its name. An entry has these fields:

=========  ================================================================================
``to``     the number of the question
``node``   the name of the node that answers
``host``   its machine and process
``items``  the answer, an array of JSON
``left``   the number of items that were left out, since the answer is bounded in bytes
=========  ================================================================================

Each node adds an entry with ``node`` and ``host`` to the stream ``rawws:nodes`` every `BEAT_S` seconds, and one with
``gone`` at its end. The entries of the last `ROLL_S` seconds are the *roll*: the nodes of which an answer is expected.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rawws.broadcast.json_messages import as_compact_json
from rawws.broadcast.stream_entries import PREFIX
from rawws.limits import KIB, MIB

NODES_KEY = f"{PREFIX}nodes"
BEAT_S = 20.0
ROLL_S = 300.0
MAX_ANSWER_BYTES = 64 * KIB
# The answers to one question together. Items beyond that are left out.
MAX_ANSWERS_BYTES = 8 * MIB
MAX_HOST = 255  # characters
# The memory of an answer's items for each byte of their JSON (measured with entries of lists).
PARSED = 5

_NODE = re.compile(rb"[0-9A-Za-z_-]{1,64}")
_COUNT = re.compile(rb"[0-9]{1,18}")


class NodeName(NamedTuple):
    """The name of a node, which is unique, and where it runs: ``machine:process``, without a slash."""

    node: str
    host: str


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The answer of one node. ``left_out`` is the number of items that were too much for it."""

    name: NodeName
    items: tuple[Any, ...]
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Gathered:
    """The answers of other nodes, and the names of those that haven't answered in time.

    ``problem`` says why it is unknown which nodes there are; it is empty if that is known.
    """

    answers: tuple[NodeAnswer, ...] = ()
    silent: tuple[NodeName, ...] = ()
    problem: str = ""


def answers_key(node: str) -> str:
    """Return the key of the stream with the answers to a node's questions."""
    return f"{PREFIX}answers:{node}"


def encode_items(items: Iterable[object], most: int = MAX_ANSWER_BYTES) -> tuple[bytes, int]:
    """Return an array of JSON with the first items, as many as ``most`` bytes hold, and the number of the others."""
    encoded: list[bytes] = []
    size, left_out = 2, 0
    for item in items:
        one = b"" if left_out else as_compact_json(item)
        size += len(one) + 1
        if left_out or size > most:
            left_out += 1
        else:
            encoded.append(one)
    return b"[%b]" % b",".join(encoded), left_out


def fields_of_answer(to: int, name: NodeName, items: Iterable[object]) -> list[str | bytes]:
    """Return the fields of an answer's entry, names and values in turn."""
    encoded, left_out = encode_items(items)
    return ["to", str(to), "node", name.node, "host", name.host, "items", encoded, "left", str(left_out)]


def read_name(fields: Mapping[bytes, bytes]) -> NodeName | None:
    """Return the name in an entry; None if no node has written it."""
    node, host = fields.get(b"node", b""), fields.get(b"host", b"").decode(errors="replace")
    if not _NODE.fullmatch(node) or not host.isprintable() or not host or "/" in host:
        return None
    return NodeName(node.decode("ascii"), host[:MAX_HOST])


def read_roll(entries: Iterable[Mapping[bytes, bytes]]) -> dict[str, NodeName]:
    """Return the nodes that are there, by the entries of the roll in their order."""
    roll: dict[str, NodeName] = {}
    for fields in entries:
        name = read_name(fields)
        if name is not None and b"gone" in fields:
            roll.pop(name.node, None)
        elif name is not None:
            roll[name.node] = name
    return roll


def question_of(fields: Mapping[bytes, bytes]) -> int | None:
    """Return the number of the question that an entry answers; None if it answers none."""
    to = fields.get(b"to", b"")
    return int(to) if _COUNT.fullmatch(to) else None


class Gathering:
    """A question that was asked, and the answers that have come so far."""

    def __init__(self) -> None:
        self._roll: dict[str, NodeName] | None = None
        self._answers: dict[str, NodeAnswer] = {}
        self._bytes = 0
        self.problem = ""

    @property
    def held_bytes(self) -> int:
        """The memory of the items of the answers."""
        return PARSED * min(self._bytes, MAX_ANSWERS_BYTES)

    def expect(self, roll: Mapping[str, NodeName]) -> None:
        """Note the nodes that have to answer. Answers may have come already."""
        self._roll = dict(roll)

    def take(self, fields: Mapping[bytes, bytes]) -> None:
        """Take an entry of the answers. One that no node has written is passed over, and so is a second of one node."""
        name, encoded = read_name(fields), fields.get(b"items", b"")
        if name is None or name.node in self._answers or len(encoded) > MAX_ANSWER_BYTES:
            return
        try:
            items = json.loads(encoded)
        except (ValueError, RecursionError):
            return
        left = fields.get(b"left", b"")
        if not isinstance(items, list) or not _COUNT.fullmatch(left):
            return
        left_out = int(left)
        self._bytes += len(encoded)
        if self._bytes > MAX_ANSWERS_BYTES:
            items, left_out = [], left_out + len(items)
        self._answers[name.node] = NodeAnswer(name, tuple(items), left_out)

    @property
    def is_whole(self) -> bool:
        """Whether it is known which nodes there are, and all of them have answered, or nothing more can come."""
        return bool(self.problem) or (self._roll is not None and not self._silent)

    @property
    def _silent(self) -> list[NodeName]:
        return [name for node, name in (self._roll or {}).items() if node not in self._answers]

    @property
    def result(self) -> Gathered:
        """The answers and the silent nodes by now, in the order of their hosts."""
        problem = self.problem or ("" if self._roll is not None else "the backplane is away")
        answers = sorted(self._answers.values(), key=lambda answer: (answer.name.host, answer.name.node))
        silent = sorted(self._silent, key=lambda name: (name.host, name.node))
        return Gathered(tuple(answers), tuple(silent), problem)
