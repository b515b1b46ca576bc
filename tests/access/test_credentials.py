"""The tokens of a request: their places, and several of them."""

from __future__ import annotations

import pytest

from rawws.access.credentials import TWO_TOKENS, find_token, find_tokens
from rawws.wire.messages import Request
from tests.access.helpers import bearer, request_for

OFFER = "Sec-WebSocket-Protocol"


@pytest.mark.parametrize(
    "request_",
    [
        request_for("/x", bearer("t")),
        request_for("/x", ("Authorization", "bearer  t ")),
        request_for("/x?last=1&access_token=t"),
        request_for("/x", (OFFER, "rawws.id.v1, rawws.token.t")),
        request_for("/x", (OFFER, "rawws.id.v1"), (OFFER, "rawws.token.t")),
        request_for("/x?access_token=t", bearer("t"), (OFFER, "rawws.token.t")),
    ],
)
def test_one_token_is_found_in_any_place(request_: Request) -> None:
    assert find_token(request_) == "t"


@pytest.mark.parametrize("fields", [(), (("Authorization", "Basic dDp0"),), ((OFFER, "rawws.id.v1"),)])
def test_no_token(fields: tuple[tuple[str, str], ...]) -> None:
    assert find_token(request_for("/x?last=1", *fields)) is None


@pytest.mark.parametrize(
    "request_",
    [
        request_for("/x?access_token=b", bearer("a")),
        request_for("/x?access_token=a&access_token=b"),
        request_for("/x", bearer("a"), bearer("b")),
        request_for("/x", bearer("a"), (OFFER, "rawws.token.b")),
    ],
)
def test_two_tokens_that_disagree_are_refused(request_: Request) -> None:
    assert find_tokens(request_) == ["a", "b"]
    assert find_token(request_) is TWO_TOKENS


def test_a_parameter_that_the_log_would_not_mask_is_no_token() -> None:
    assert find_tokens(request_for("/x?access%5Ftoken=t&Access_Token=t")) == []
    assert find_tokens(request_for("/x?access_token=a%20b+c")) == ["a b c"]


def test_an_empty_token_is_a_token() -> None:
    assert find_token(request_for("/x?access_token=")) == ""
