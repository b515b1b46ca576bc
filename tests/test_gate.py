"""Who may connect, and whose word counts about who they are."""

from __future__ import annotations

import pytest

import rawws
from rawws import Request
from rawws.gate import Gate


def forwarded_for(forwarded: str) -> Request:
    return Request("GET", "/", "1.1", rawws.Headers([("X-Forwarded-For", forwarded)] if forwarded else []))


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
        ("10.0.0.1", "203.0.113.9:4711", "203.0.113.9"),
        ("10.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("10.0.0.1", "fe80::1%eth0", "fe80::1"),
        # What a socket for both versions of IP calls them.
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_proxy_of_ours(
    address: str, forwarded: str, client: str
) -> None:
    found = Gate(None, None, ["10.0.0.0/8"]).find_client(1, forwarded_for(forwarded), (address, 1234))
    assert isinstance(found, tuple)
    assert found[0] == client


@pytest.mark.parametrize(
    ("forwarded", "same"),
    [
        ("203.0.113.9:4711", "::ffff:203.0.113.9"),
        ("2001:db8::1", "2001:db8::ffff"),
        ("unknown", "garbage"),  # which are the proxy's, for want of anybody else
    ],
)
def test_a_client_counts_as_one_however_it_is_written(forwarded: str, same: str) -> None:
    gate = Gate(None, 1, ["10.0.0.0/8"])
    for number in range(3):
        assert gate.enter(number, ("10.0.0.1", number)) is None, "the proxy itself may come as often as it likes"
    assert isinstance(gate.find_client(0, forwarded_for(forwarded), ("10.0.0.1", 0)), tuple)
    refusal = gate.find_client(1, forwarded_for(same), ("10.0.0.1", 1))
    assert isinstance(refusal, rawws.errors.Refusal)
    assert (refusal.status, refusal.code) == (429, "max_connections_per_ip")
    assert isinstance(gate.find_client(2, forwarded_for("203.0.113.10"), ("10.0.0.1", 2)), tuple)
    gate.leave(0)
    assert isinstance(gate.find_client(1, forwarded_for(same), ("10.0.0.1", 1)), tuple)


def test_of_ipv6_all_of_a_64_is_one_client() -> None:
    gate = Gate(None, 2)
    refusals = [gate.enter(number, (f"2001:db8::{number:x}", 1)) for number in range(3)]
    assert refusals[:2] == [None, None]
    assert refusals[2] is not None
    assert "from 2001:db8::/64 as" in refusals[2].sentence
    assert gate.enter(3, ("2001:db8:0:1::1", 1)) is None


def test_a_proxy_that_doesnt_write_addresses_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(None, None, ["10.0.0.0/8"])
    for number in range(3):
        gate.find_client(number, forwarded_for("_hidden"), ("10.0.0.1", 1))
    (line,) = caplog.messages
    assert line == (
        "#0 ! the proxy 10.0.0.1 says in X-Forwarded-For that its client is '_hidden', which is no address: such "
        "clients are taken for the proxy, all together; have it write addresses"
    )
