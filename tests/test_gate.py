"""Who may connect, and whose word counts about who they are."""

from __future__ import annotations

import pytest

import rawws
from rawws import Request
from rawws.gate import Gate


@pytest.mark.parametrize(
    ("address", "forwarded", "client"),
    [
        ("198.51.100.1", "203.0.113.9", "198.51.100.1"),  # not a proxy of ours: not believed
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "evil, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "evil", "10.0.0.1"),
        ("10.0.0.1", "203.0.113.9, evil", "10.0.0.1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("10.0.0.1", "[2001:db8::1]", "2001:db8::1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_proxy_of_ours(
    address: str, forwarded: str, client: str
) -> None:
    gate = Gate(None, None, ["10.0.0.0/8"])
    headers = rawws.Headers([("X-Forwarded-For", forwarded)] if forwarded else [])
    found = gate.find_client(1, Request("GET", "/", "1.1", headers), (address, 1234))
    assert isinstance(found, tuple)
    assert found[0] == client
