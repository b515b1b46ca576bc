"""The requests that may administer a server."""

from __future__ import annotations

import pytest

import rawws
from rawws.access.shared_token import SharedToken
from rawws.errors import UsageError
from rawws.server.operators import MIN_TOKEN_CHARACTERS, Nobody, TokenHolders, check_admin_token
from rawws.wire.messages import Headers, Request

TOKEN = "operator-1234567"


def request(*fields: tuple[str, str]) -> Request:
    return Request("GET", "/_rawws/rooms", "1.1", Headers([("Host", "localhost"), *fields]))


@pytest.mark.parametrize(
    ("fields", "admitted"),
    [
        ([], False),
        ([("Authorization", f"Bearer {TOKEN}")], True),
        ([("Authorization", f"bearer  {TOKEN} ")], True),
        ([("Authorization", f"Bearer {TOKEN}x")], False),
        ([("Authorization", f"Bearer {TOKEN[:-1]}")], False),
        ([("Authorization", f"Basic {TOKEN}")], False),
        ([("Authorization", TOKEN)], False),
        ([("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")], False),
        ([("Cookie", f"token={TOKEN}")], False),
        ([("X-Forwarded-For", "203.0.113.5"), ("Authorization", f"Bearer {TOKEN}")], True),
    ],
)
def test_the_holder_of_the_token_may_administer_wherever_it_is(fields: list[tuple[str, str]], admitted: bool) -> None:
    refusal = TokenHolders(SharedToken(TOKEN)).refuse(request(*fields))
    assert (refusal is None) is admitted
    if refusal is not None:
        assert (refusal.status, refusal.code) == (401, "administration_token")
        assert refusal.headers == ((b"WWW-Authenticate", b'Bearer realm="administration"'),)


def test_a_token_that_is_replaced_is_of_no_use_any_more() -> None:
    token = SharedToken(TOKEN)
    holders = TokenHolders(token)
    token.replace("operator-7654321")
    assert holders.refuse(request(("Authorization", f"Bearer {TOKEN}"))) is not None
    assert holders.refuse(request(("Authorization", "Bearer operator-7654321"))) is None


def test_nobody_may_without_a_token_and_the_log_says_how_to_change_that() -> None:
    refusal = Nobody().refuse(request(("Authorization", f"Bearer {TOKEN}")))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (403, "administration_closed")
    assert refusal.hint == "to open it, start the server with --admin-token-file"


@pytest.mark.parametrize("token", ["", "x" * (MIN_TOKEN_CHARACTERS - 1), "x" * 15 + "\n", "with a space in it"])
def test_a_token_that_is_short_or_can_not_be_sent_is_not_taken(token: str) -> None:
    with pytest.raises(UsageError) as caught:
        rawws.rooms(rawws.Hub(), admin_token=token)
    assert "openssl rand -hex 16" in str(caught.value)
    assert not token or token not in str(caught.value)


def test_sixteen_characters_are_enough() -> None:
    assert check_admin_token(TOKEN) == TOKEN
    assert len(TOKEN) == MIN_TOKEN_CHARACTERS
