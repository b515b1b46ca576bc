"""The bounds of a hub's groups, wherever these live, and the answers beyond them."""

from __future__ import annotations

from rawws.errors import RETRY_SOON, Refusal

# A group is made by the first worker that names it, so their number is bounded.
MAX_GROUPS, MAX_GROUPS_OF_ROOM = 1000, 32

TOO_MANY = Refusal(
    503,
    "too_many_groups",
    f"There are as many groups as a server ({MAX_GROUPS}) or a room ({MAX_GROUPS_OF_ROOM}) has; end one first.",
)


def refuse_full(queue_bytes: int) -> Refusal:
    """Return the answer to a POST for a room whose groups keep as much as they may."""
    sentence = f"The groups of this room keep as many bytes as it takes (--queue-bytes {queue_bytes}); "
    return Refusal(507, "queue_full", sentence + "try again when its workers have done some.", RETRY_SOON)
