"""Message ids: ``epoch-number``, such as ``9f2c41d7-42``.

The number counts the messages of one log, in the order in which everybody gets them. The epoch is the log's own, so
that an id of a log which is gone (the server was started again, a room was forgotten) is known for what it is, and not
taken for a place in another one.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from rawws.errors import UsageError

_ID = re.compile(r"([0-9a-z]{1,32})-([0-9]{1,19})")


class MessageId(NamedTuple):
    """A place in a log: behind the message of that number. 0 is the beginning."""

    epoch: str
    number: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.number}"


class Gap(NamedTuple):
    """Messages that are missing: those behind ``since``, up to the one before ``first``. Both are ids."""

    since: str
    first: str


def new_epoch() -> str:
    """Return an epoch that no other log has."""
    return os.urandom(4).hex()


def parse_id(text: str) -> MessageId:
    """Read an id. Raises `UsageError` for what can't be one."""
    found = _ID.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:60]!r} is not a message's id, such as 9f2c41d7-42")
    return MessageId(found[1], int(found[2]))
