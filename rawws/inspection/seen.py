"""The parts of a connection that an observer sees: heads, frames, and bytes that are neither."""

from __future__ import annotations

from dataclasses import dataclass

from rawws.errors import Fault
from rawws.wire.checks import AnyCheck
from rawws.wire.frames import Frame, SeenMessage
from rawws.wire.handshake import Accept
from rawws.wire.role import Role

# The most bytes that a `Rest` keeps.
MAX_SHOWN_BYTES = 64


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an HTTP message, which begins ``at`` that byte of its direction.

    ``checks`` are those of the handshake, for a request for one or its response. ``accept`` is made of the request's
    key, if that is valid. ``problem`` says why the head can't be read.
    """

    sender: Role
    at: int
    raw: bytes
    checks: tuple[AnyCheck, ...] = ()
    accept: Accept | None = None
    problem: str = ""

    @property
    def is_fine(self) -> bool:
        return not self.problem and all(check.holds for check in self.checks)


@dataclass(frozen=True, slots=True)
class Switch:
    """HTTP ends here in both directions. Frames follow, or another ``protocol``, which isn't followed."""

    protocol: str = ""


@dataclass(frozen=True, slots=True)
class SeenFrame:
    """One frame, with the message that ends with it; ``fault`` is its receiver's objection, if any.

    It is ``ignored`` when it comes after a close, or a fault: the receiver reads no more by then (§5.5.1, §7.1.7).
    """

    sender: Role
    at: int
    frame: Frame
    fault: Fault | None = None
    ignored: bool = False

    @property
    def message(self) -> SeenMessage | None:
        return self.frame.message


@dataclass(frozen=True, slots=True)
class Rest:
    """Bytes that are no whole head or frame, or can't be followed; ``reason`` says why. Long ones are cut."""

    sender: Role
    at: int
    raw: bytes
    reason: str
    fault: Fault | None = None


Seen = Head | Switch | SeenFrame | Rest
