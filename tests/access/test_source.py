"""Several sources as one."""

from __future__ import annotations

from rawws.access.grant import NOBODY, UNKNOWN, Action, Grant
from rawws.access.source import Source, Sources
from rawws.errors import Refusal
from rawws.wire.messages import Request
from tests.access.helpers import bearer, request_for

REFUSED = Refusal(401, "bad_signature", "This token is signed with another key.")


class Fixed:
    """A source that always answers the same, and counts how often it is asked."""

    def __init__(self, answer: Grant | Refusal | None) -> None:
        self.answer = answer
        self.asked = 0

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        self.asked += 1
        return self.answer


async def ask(*sources: Source, request: Request | None = None) -> Grant | Refusal:
    return await Sources(sources).grant(request or request_for(), "/room/x", Action.READ)


async def test_the_first_source_that_knows_the_sender_decides() -> None:
    unknown, alice, bob = Fixed(None), Fixed(Grant("alice")), Fixed(Grant("bob"))
    assert await ask(unknown, alice, bob) == Grant("alice")
    assert [unknown.asked, alice.asked, bob.asked] == [1, 1, 0]


async def test_a_refusal_is_final() -> None:
    assert await ask(Fixed(REFUSED), Fixed(Grant("bob"))) is REFUSED


async def test_a_sender_that_no_source_knows_is_refused() -> None:
    assert await ask() is NOBODY
    assert await ask(Fixed(None)) is NOBODY
    assert await ask(Fixed(None), request=request_for("/x", bearer("t"))) is UNKNOWN
