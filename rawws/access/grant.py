"""The grant: the rooms that a client may read and write, for how long, and the one decision about them."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from rawws.access.patterns import NO_ROOM
from rawws.broadcast.json_messages import as_compact_json
from rawws.errors import Refusal, UsageError
from rawws.limits import KIB

# The largest ``info`` of a grant, as JSON in UTF-8.
MAX_INFO_BYTES = KIB
MAX_USER_CHARACTERS = 255
# The year is 33658 then. An end beyond it is meant in milliseconds, and would come never.
LAST_SECOND = 1e12

# RFC 9110 §11.6.1: a 401 says how to authenticate. RFC 6750 §3.1 has the code for a token that has expired.
_ASK = ((b"WWW-Authenticate", b'Bearer realm="rooms"'),)
_ASK_AGAIN = ((b"WWW-Authenticate", b'Bearer realm="rooms", error="invalid_token"'),)


class Action(enum.Flag):
    """The things that a client may do in a room."""

    READ = enum.auto()
    WRITE = enum.auto()

    @property
    def words(self) -> str:
        """The action as the ``action`` of a request: ``read``, ``write``, or ``read write``."""
        return _WORDS[self._value_]


NOTHING = Action(0)
_WORDS = ("", "read", "write", "read write")


@dataclass(frozen=True, slots=True)
class Grant:
    """The rights of a client. By default it is nobody, and may do nothing."""

    user: str | None = None  # None is a client without a name
    read: Container[str] = NO_ROOM  # the paths of rooms; mostly `Patterns`
    write: Container[str] = NO_ROOM
    expires_at: float | None = None  # Unix seconds; None never ends
    info: object = field(default=None, hash=False)  # more about the user, as JSON has it
    # Asks the source for the grant that holds at present; None if the credential was withdrawn.
    renew: Callable[[], Grant | None] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raises `UsageError` for values that can't be used."""
        check_user(self.user)
        check_expiry(self.expires_at)
        check_info(self.info)

    def allowed(self, room: str) -> Action:
        """Return all that may be done in a room."""
        return (Action.READ if room in self.read else NOTHING) | (Action.WRITE if room in self.write else NOTHING)

    @property
    def present(self) -> Grant | None:
        """The grant that holds at present in place of this one, mostly itself; None if the credential was withdrawn."""
        return self if self.renew is None else self.renew()


def check_user(user: str | None) -> None:
    """Raise `UsageError` for what can't be the name of a user."""
    if user is None:
        return
    if not isinstance(user, str) or not user.isprintable() or not 0 < len(user) <= MAX_USER_CHARACTERS:
        raise UsageError(f"a user's name is a printable text of 1 to {MAX_USER_CHARACTERS} characters")


def check_expiry(expires_at: float | None) -> None:
    """Raise `UsageError` for what can't be the time of an end."""
    if expires_at is None:
        return
    is_number = isinstance(expires_at, int | float) and not isinstance(expires_at, bool)
    if not is_number or not 0 <= expires_at <= LAST_SECOND:
        raise UsageError(f"expires_at can't be {str(expires_at)[:40]!r}; it is a number, in Unix seconds, or None")


def check_info(info: object) -> None:
    """Raise `UsageError` for what isn't JSON, or too much of it."""
    if info is None:
        return
    try:
        size = len(as_compact_json(info))
    except (TypeError, ValueError, RecursionError):
        raise UsageError("the info about a user has to be what JSON can hold") from None
    if size > MAX_INFO_BYTES:
        raise UsageError(f"the info about a user is {size} bytes of JSON, and at most {MAX_INFO_BYTES} are taken")


def decide(grant: Grant, room: str, asked: Action, now: float) -> Action | Refusal:
    """Return the part of an action that a grant allows in a room at a time (Unix seconds), or why that isn't enough.

    A client that asks to read and write is let in to read: a WebSocket in a room that relays may be a mere reader's.
    """
    return refuse(grant, room, asked & Action.READ or asked, now) or asked & grant.allowed(room)


def refuse(grant: Grant, room: str, action: Action, now: float) -> Refusal | None:
    """Return why a grant doesn't allow an action in a room at a time (Unix seconds); None if it does."""
    if grant.expires_at is not None and now >= grant.expires_at:
        return EXPIRED
    missing = action & ~grant.allowed(room)
    if not missing:
        return None
    if grant.user is None:
        return Refusal(
            401,
            "login_required",
            f"Not everybody may {missing.words.replace(' ', ' and ')} in this room, and this request names no user; "
            "log in first.",
            _ASK,
        )
    return Refusal(
        403,
        "not_allowed",
        f"This user may not {missing.words.replace(' ', ' or ')} in this room.",
        hint=f"to allow it, add the room to what {grant.user!r} may {missing.words.replace(' ', ' and ')}",
    )


def refuse_by_now(user: object, room: str, action: Action, now: float) -> Refusal | None:
    """Return why a user that was let in may no longer do something in a room; None if it still may."""
    if not isinstance(user, Grant) or (present := user.present) is user:
        return None
    return UNKNOWN if present is None else refuse(present, room, action, now)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A client that a door has let in: what it may do there, its user, and the end of that by the caller's clock.

    ``may_read`` says whether it could read in the room too, whatever it is here for.
    """

    action: Action
    user: object = None
    ends_at: float = math.inf
    may_read: bool = True


def let_in(action: Action) -> Admitted:
    """Return the admission of a client that nobody has asked for a name. It is one object for all of them."""
    return _UNASKED[action._value_]


_UNASKED = tuple(Admitted(Action(value)) for value in range(len(_WORDS)))
ANYBODY = let_in(Action.READ | Action.WRITE)
NO_READER = Admitted(Action.WRITE, may_read=False)

EXPIRED = Refusal(401, "expired", "The right to use this room has expired; log in again.", _ASK_AGAIN)
NOBODY = Refusal(
    401,
    "login_required",
    "This room is for users alone, and this request names none: send a token, such as 'Authorization: Bearer TOKEN'.",
    _ASK,
)
UNKNOWN = Refusal(401, "unknown_token", "This token is not known here; it may have been withdrawn.", _ASK_AGAIN)
