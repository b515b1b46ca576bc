"""The bounds of a store's file, sans-IO: its limit, and the free space in it that is given back to the disk.

Publishers are refused at a part of the limit already. The rest is for the messages that were accepted before, and for
the changes of groups. These make the store smaller in the end, so they must not wait for space.
"""

from __future__ import annotations

from typing import NamedTuple

from rawws.limits import MIB

PAGE_BYTES = 4096
# The rest of the limit for what was accepted: this part of it, and at most so many bytes.
REST_PART, MOST_REST_BYTES = 8, 32 * MIB
# This part of the rest is for groups alone, since publishers may be so many that their messages fill the other one.
GROUPS_PART = 2
# Once publishers are refused, this part of the rest has to be free in addition before they go on.
SLACK_PART = 8
# The WAL is some MiB, unless another program reads for long. Then it may take this part of the limit.
WAL_PART, LEAST_WAL_BYTES = 4, 16 * MIB
# Free pages that a file keeps for what comes: this part of it, and at least so many. The others are given back, so many
# at a time, since commits wait for it.
FREE_PART, LEAST_FREE_PAGES = 16, 256
MOST_GIVEN_BACK = 256


class Pages(NamedTuple):
    """The pages of a file."""

    all: int = 0
    free: int = 0

    @property
    def used(self) -> int:
        """The pages that are not free."""
        return self.all - self.free


class FileLimit(NamedTuple):
    """The limit of a file, with the log beside it."""

    most_bytes: int

    @property
    def pages(self) -> int:
        """The most pages that the file may have."""
        return self.most_bytes // PAGE_BYTES

    @property
    def rest_bytes(self) -> int:
        """The bytes for what was accepted before publishers are refused."""
        return min(self.most_bytes // REST_PART, MOST_REST_BYTES)

    def is_reached(self, pages: Pages, wal_bytes: int, *, was_reached: bool) -> bool:
        """Return whether publishers are to be refused."""
        slack = self.rest_bytes // SLACK_PART if was_reached else 0
        used = pages.used * PAGE_BYTES + self.rest_bytes + slack
        return used > self.most_bytes or wal_bytes > max(self.most_bytes // WAL_PART, LEAST_WAL_BYTES)

    def is_too_much(self, pages: Pages) -> bool:
        """Return whether a commit with messages leaves too little of the rest for groups."""
        return pages.used * PAGE_BYTES > self.most_bytes - self.rest_bytes // GROUPS_PART

    def fits(self, size: int) -> bool:
        """Return whether a message of this size can be stored at all."""
        return size <= self.most_bytes - self.rest_bytes


def pages_to_give_back(pages: Pages) -> int:
    """Return how many free pages are to be given back to the disk now."""
    kept = max(LEAST_FREE_PAGES, pages.all // FREE_PART)
    return min(MOST_GIVEN_BACK, max(0, pages.free - kept))
