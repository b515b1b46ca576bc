"""A token that several requests share: where it is looked for, and how it is replaced."""

from __future__ import annotations

import pytest

from rawws.access.shared_token import SharedToken
from rawws.errors import UsageError
from tests.access.helpers import bearer, request_for


@pytest.mark.parametrize(
    ("field", "is_in"),
    [
        ("Bearer secret-1", True),
        ("bearer  secret-1 ", True),
        ("Bearer secret-12", False),
        ("Bearer secret-", False),
        ("Bearer", False),
        ("Basic secret-1", False),
        ("secret-1", False),
        ("Bearer secret-1\\xe9", False),
    ],
)
def test_a_request_carries_it_in_one_way(field: str, is_in: bool) -> None:
    assert SharedToken("secret-1").is_in(request_for("/", ("Authorization", field))) is is_in


def test_a_request_without_a_token_does_not_carry_it() -> None:
    assert not SharedToken("secret-1").is_in(request_for("/?access_token=secret-1"))


def test_another_takes_its_place() -> None:
    token = SharedToken("secret-1")
    token.replace("secret-2")
    assert [token.is_in(request_for("/", bearer(f"secret-{number}"))) for number in (1, 2)] == [False, True]


@pytest.mark.parametrize("given", ["", " ", "secret 1", "secret-1\n", "žluť"])
def test_one_that_can_not_be_sent_changes_nothing_and_is_not_repeated(given: str) -> None:
    token = SharedToken("secret-2")
    with pytest.raises(UsageError, match=r"the token is (empty|not printable ASCII without spaces)") as caught:
        token.replace(given)
    assert given.strip() == "" or given.strip() not in str(caught.value)
    assert token.is_in(request_for("/", bearer("secret-2")))


def test_it_does_not_show_itself() -> None:
    assert "secret-1" not in repr(SharedToken("secret-1"))
