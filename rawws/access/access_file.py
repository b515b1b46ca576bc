"""The access file: tokens and rules, one on each line.

::

    # token NAME sha256:HEX declares a token; sha256sum makes the number, so that the file holds no secret
    token alice sha256:2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90

    # anonymous | token NAME | token *    PATTERN    read | write | read write | deny
    anonymous    /public/*   read
    token alice  /room/*     read write
    token *      /public/*   read

The first rule that is for a client and matches a room decides; without one, the client may do nothing there.
A rule that keeps a client from a room keeps it from the dead rooms of its groups, unless an earlier one is for those.
``anonymous`` is a client without a token, and ``token *`` one with any token that is declared. A name may have several
tokens, so that a new one can be given out before the old one is withdrawn. Empty lines, and everything after a ``#`` at
the beginning of a word, are ignored. Nothing but a line feed ends a line, as in an editor: a comment goes on after a
form feed, or the other characters that Python takes for the end of a line.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

from rawws.access.credentials import find_token
from rawws.access.dead_rooms import rooms_of_dead
from rawws.access.grant import NOTHING, Action, Grant, check_user
from rawws.access.pattern_index import NO_PLACE, PatternIndex
from rawws.access.patterns import Pattern
from rawws.errors import Refusal, UsageError
from rawws.wire.messages import Request

# The bound of one file. Its rules take 2 to 15 MB then, and a tenth of a second of CPU time to read (measured).
MAX_LINES = 10_000
# The lines that are read in one step, which takes about a millisecond.
LINES_AT_ONCE = 50

_ANYBODY = "*"
_NO_TOKENS = {hashlib.sha256(nothing).digest() for nothing in (b"", b"\n", b"\r\n")}
_HASH = re.compile(r"sha256:([0-9a-fA-F]{64})")
_RIGHTS = {
    ("read",): Action.READ,
    ("write",): Action.WRITE,
    ("read", "write"): Action.READ | Action.WRITE,
    ("write", "read"): Action.READ | Action.WRITE,
    ("deny",): NOTHING,
}


class Rule(NamedTuple):
    """The rights of a line."""

    subject: str | None  # the name of a token, * for any, or None for a client without one
    pattern: Pattern
    rights: Action


class _Rooms:
    """The rooms in which the first rule that matches gives a right.

    An earlier rule that takes a right in a room takes it in the dead rooms of its groups, too. It gives none there.
    """

    __slots__ = ("_action", "_indexes", "_rights")

    def __init__(self, indexes: Sequence[PatternIndex], rights: Sequence[Action], action: Action) -> None:
        """``rights`` are those of all rules, by their place in the file."""
        self._indexes = indexes
        self._rights = rights
        self._action = action

    def __contains__(self, room: object) -> bool:
        if not isinstance(room, str):
            return False
        first = self._find(room)
        if first == NO_PLACE or self._action not in self._rights[first]:
            return False
        earlier = (place for own in rooms_of_dead(room) if (place := self._find(own)) < first)
        return all(self._action in self._rights[place] for place in earlier)

    def _find(self, room: str) -> int:
        return min([index.find(room) for index in self._indexes], default=NO_PLACE)


class AccessFile:
    """The tokens and rules of a file, as a source of grants."""

    def __init__(self, text: str = "", in_force: Callable[[], AccessFile] | None = None) -> None:
        """``in_force`` returns the file that takes the place of this one, if it may be replaced.

        Raises `UsageError` for a line that can't be read, and names its number. The error repeats no token.
        """
        self._in_force = in_force
        self._names: dict[bytes, tuple[bytes, str]] = {}  # the hashes of tokens, and what they are declared with
        self._rights: list[Action] = []  # of the rules, in their order
        self._indexes: dict[str | None, PatternIndex] = {}  # of the rules for each subject
        self._grants: dict[bytes | None, Grant] = {}  # those that were asked for, by the token's hash
        for _ in self._take(text):
            pass

    @classmethod
    def read_in_steps(cls, text: str, in_force: Callable[[], AccessFile] | None = None) -> Iterator[AccessFile]:
        """Read a file, and yield it after each step, so that the caller can do other things meanwhile.

        The file is complete when the iteration ends. Raises `UsageError` as the constructor does.
        """
        file = cls(in_force=in_force)
        for _ in file._take(text):
            yield file

    def _take(self, text: str) -> Iterator[None]:
        """Take in all lines of a file, and stop after each step, of which there is at least one."""
        lines = text.removesuffix("\n").split("\n", MAX_LINES)
        if len(lines) > MAX_LINES:
            raise UsageError(f"line {MAX_LINES + 1}: there are more lines than {MAX_LINES}")
        named: dict[str, int] = {}  # the first line with a rule for each token
        for number, line in enumerate(lines, 1):
            try:
                if name := self._add(_read(line)):
                    named.setdefault(name, number)
            except UsageError as error:
                raise UsageError(f"line {number}: {error}") from None
            if number % LINES_AT_ONCE == 0:
                yield
        declared = {name for _, name in self._names.values()}
        for name, number in named.items():
            if name not in declared:
                raise UsageError(f"line {number}: no line declares the token {name}, as 'token {name} sha256:HEX' does")
        yield

    @property
    def summary(self) -> str:
        """The numbers of its tokens and rules, in words."""
        return f"tokens: {len(self._names)}, rules: {len(self._rights)}"

    def _add(self, read: Rule | tuple[bytes, str] | None) -> str | None:
        """Add what a line has, and return the name of the token that it is a rule for, if it is for one."""
        if isinstance(read, Rule):
            self._indexes.setdefault(read.subject, PatternIndex()).add(read.pattern, len(self._rights))
            self._rights.append(read.rights)
            return None if read.subject == _ANYBODY else read.subject
        if read is not None and self._names.setdefault(read[0], read) != read:
            raise UsageError(f"this token is that of {self._names[read[0]][1]}, on an earlier line")
        return None

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        """Return the grant of a token, or that of a client without one.

        None for a token that isn't declared, and for a client without one if no rule is for such clients.
        """
        token = find_token(request)
        if isinstance(token, Refusal):
            return token
        if token is None:
            return self.grant_of(None) if None in self._indexes else None
        return self.grant_of(_hash(token))

    def grant_of(self, token: bytes | None) -> Grant | None:
        """Return the grant of the token with a hash; None if it isn't declared. Without a hash, that of nobody."""
        if token is not None and self._find(token) is None:
            return None
        if token not in self._grants:
            self._grants[token] = self._make_grant(token)
        return self._grants[token]

    def _make_grant(self, token: bytes | None) -> Grant:
        name = None if token is None else self._find(token)
        subjects = (None,) if name is None else (name, _ANYBODY)
        indexes = [self._indexes[subject] for subject in subjects if subject in self._indexes]
        read, write = [_Rooms(indexes, self._rights, action) for action in (Action.READ, Action.WRITE)]
        renew = None if self._in_force is None else partial(_renew, self._in_force, token)
        return Grant(name, read, write, renew=renew)

    def find_name(self, token: str) -> str | None:
        """Return the name that a token is declared with; None for an unknown one."""
        return self._find(_hash(token))

    def _find(self, token: bytes) -> str | None:
        """Return the name for a token's hash.

        The time for it says nothing about a token: it depends on the bits of its SHA-256, which nobody can choose.
        """
        declared, name = self._names.get(token, (b"", None))
        return name if hmac.compare_digest(token, declared) else None


def _renew(in_force: Callable[[], AccessFile], token: bytes | None) -> Grant | None:
    return in_force().grant_of(token)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _read(line: str) -> Rule | tuple[bytes, str] | None:
    """Read a line: a rule, the hash and the name of a token, or nothing."""
    words = []
    for word in line.split():
        if word.startswith("#"):
            break
        words.append(word)
    match words:
        case []:
            return None
        case ["anonymous", pattern, *rights]:
            return Rule(None, Pattern(pattern), _rights_of(rights))
        case ["token", name, declared] if declared.lower().startswith("sha256:"):
            return _hash_of(declared), _name_of(name)
        case ["token", _, pattern, *_] if not pattern.startswith(("/", _ANYBODY)):  # it may be the token itself
            raise UsageError(
                "after the name there has to be a pattern of rooms, as /room/*, or sha256:HEX of the token"
            )
        case ["token", name, pattern, *rights]:
            return Rule(name if name == _ANYBODY else _name_of(name), Pattern(pattern), _rights_of(rights))
        case ["anonymous" | "token", *_]:
            raise UsageError(f"{words[0]!r} lacks a pattern of rooms and the rights, as in 'anonymous /room/* read'")
        case _:
            raise UsageError("a line begins with 'anonymous', 'token NAME' or '#'")  # it may begin with a token itself


def _name_of(name: str) -> str:
    check_user(name)
    if name == _ANYBODY:
        raise UsageError("'token *' stands for any token, and can't have one of its own")
    return name


def _hash_of(declared: str) -> bytes:
    found = _HASH.fullmatch(declared)
    if found is None:
        raise UsageError("after 'sha256:' there have to be the 64 digits that sha256sum prints for the token")
    digest = bytes.fromhex(found[1])
    if digest in _NO_TOKENS:
        raise UsageError("this is the hash of an empty token, which anybody can send; give that of a long random one")
    return digest


def _rights_of(words: Sequence[str]) -> Action:
    rights = _RIGHTS.get(tuple(words))
    if rights is None:
        given = " ".join(words)[:40] or "nothing"
        raise UsageError(f"the rights are 'read', 'write', 'read write' or 'deny', not {given!r}")
    return rights
