"""One requirement of the opening handshake, and whether a message meets it."""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from rawws.errors import Refusal

Problem = TypeVar("Problem", bound=Refusal | str)


class Check(NamedTuple, Generic[Problem]):
    """One requirement, the section that makes it, what was found, and the problem if it isn't met.

    The problem of a request is the `Refusal` that answers it, and that of an answer is a sentence. ``about`` names the
    header field that the requirement is about; it is empty for the start line, or for no part in particular.
    """

    section: str
    requirement: str
    found: str
    problem: Problem | None = None
    about: str = ""

    @property
    def holds(self) -> bool:
        """Whether the message meets the requirement."""
        return self.problem is None

    @property
    def refusal(self) -> Refusal | None:
        """The refusal of a request that doesn't meet the requirement."""
        return self.problem if isinstance(self.problem, Refusal) else None

    def __str__(self) -> str:
        verdict = "yes" if self.problem is None else "NO" if self.refusal is None else f"NO ({self.refusal.status})"
        return f"{self.section}: {self.requirement}? {verdict}: {self.found}"


RequestCheck = Check[Refusal]
AnswerCheck = Check[str]
AnyCheck = RequestCheck | AnswerCheck


def found(values: list[str]) -> str:
    """Return the values of a header field, as a check reports them."""
    return ", ".join(values) if values else "none"
