"""The paths that are rooms. They are the same for WebSocket and HTTP."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote

from rawws.errors import Refusal, UsageError

BESIDE_AN_APPLICATION = "/room/"  # the default, since the application owns all other paths

OWN_PATHS = "/_rawws/"  # reserved, so that no application is called below it
METRICS = "/metrics"
# Load balancers and Prometheus request these. A room there would be mistaken for the answer, or the answer for a room.
PROBES = frozenset({"/healthz", "/readyz", METRICS})

_VISIBLE = re.compile(r"[!-\"$->@-~]*")  # the ASCII that a path may contain; "?" and "#" would end it


@dataclass(frozen=True, slots=True)
class RoomPaths:
    """A path and all paths below it, as they are in a request's target.

    ``/`` is every path. ``/room/`` is every path with this beginning. ``/room`` adds that path itself, but not
    ``/roomy``. Raises `UsageError` for a path that no request can have, and for one that is reserved (`is_own`).

    Paths are compared byte by byte (RFC 3986 §6.2.1), because a path that is merely equivalent to one of ours may
    belong to the application, and a proxy may have let it pass as such. So ``/%72oom/x``, ``//room/x`` and ``/Room/x``
    are not below ``/room/``, and neither is a path with dot segments, such as ``/room/../private``.
    """

    root: str

    def __post_init__(self) -> None:
        if not self.root.startswith("/"):
            raise UsageError(f"{self.root!r} is not the beginning of a path; give one such as /room/")
        if not _VISIBLE.fullmatch(self.root):
            raise UsageError(f"{self.root!r} is not a path as requests have it; percent-encode it (RFC 3986 §2.1)")
        if is_own(self.root):
            raise UsageError(f"{self.root!r} is the server's own, and never a room; give another, such as /room/")
        if _has_dot_segments(self.root):
            raise UsageError(f"{self.root!r} has dot segments, which clients resolve (RFC 3986 §5.2.4); leave them out")

    def __contains__(self, path: str) -> bool:
        if is_own(path):
            return False
        if self.root == "/":
            return True
        below = self.root if self.root.endswith("/") else f"{self.root}/"
        return (path == self.root or path.startswith(below)) and not _has_dot_segments(path)

    def __str__(self) -> str:
        return f"below {self.root}" if self.root.endswith("/") else f"at {self.root} and below it"

    @property
    def example(self) -> str:
        """The path of one room."""
        if self.root == "/":
            return "/room"
        return f"{self.root}x" if self.root.endswith("/") else self.root

    def refuse(self, path: str) -> Refusal | None:
        """Return a refusal for a WebSocket at a path that is not a room; None for a room."""
        if path in self:
            return None
        whose = ", which is the server's own" if self.root == "/" else ""
        message = f"No WebSocket is served at this path{whose}; connect to a room, {self} "
        return Refusal(404, "no_room_here", f"{message}(--rooms, or Hub(rooms_at=...)).")


def is_own(path: str) -> bool:
    """Return whether rawws itself answers at a path, so that it is never a room."""
    return path in PROBES or f"{path}/".startswith(OWN_PATHS)


def _has_dot_segments(path: str) -> bool:
    """Return whether a path has a segment ``.`` or ``..``, or one that decodes to it, as some servers do."""
    return not {".", ".."}.isdisjoint(unquote(path).split("/"))
