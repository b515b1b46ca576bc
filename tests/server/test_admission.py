"""Limits on connections, and the proxies whose fields name the client."""

from __future__ import annotations

import pytest

import rawws
from rawws import Request
from rawws.server.admission import Admission, Sender


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
        # Addresses in the form of a socket for both versions of IP.
        ("::ffff:10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
    ],
)
def test_the_client_is_the_nearest_address_that_is_not_a_proxy_of_ours(
    address: str, forwarded: str, client: str
) -> None:
    found = Admission(None, None, ["10.0.0.0/8"]).find_sender(1, forwarded_for(forwarded), (address, 1234))
    assert isinstance(found, Sender)
    assert found.address[0] == client


@pytest.mark.parametrize(
    ("fields", "client", "scheme"),
    [
        ({"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, "203.0.113.9", "https"),
        ({"X-Forwarded-Proto": " HTTPS "}, "10.0.0.1", "https"),
        ({"X-Forwarded-Proto": "wss"}, "10.0.0.1", "https"),
        ({"X-Forwarded-Proto": "ws"}, "10.0.0.1", "http"),
        ({"X-Forwarded-Proto": "on"}, "10.0.0.1", None),
        ({}, "10.0.0.1", None),
        # A client says https, and our proxy that it was http.
        ({"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https, http"}, "203.0.113.9", "http"),
        ({"X-Forwarded-Proto": "https,http"}, "10.0.0.1", "http"),
        # Two proxies of ours: both write the scheme, or the outer one does.
        ({"X-Forwarded-For": "203.0.113.9, 10.0.0.2", "X-Forwarded-Proto": "https, http"}, "203.0.113.9", "https"),
        ({"X-Forwarded-For": "203.0.113.9, 10.0.0.2", "X-Forwarded-Proto": "https"}, "203.0.113.9", "https"),
        ({"X-Forwarded-For": "evil, 203.0.113.9", "X-Forwarded-Proto": "https, http"}, "203.0.113.9", "http"),
        ({"X-Forwarded-For": "203.0.113.9, evil", "X-Forwarded-Proto": "https, http"}, "10.0.0.1", "http"),
        ({"Forwarded": "for=203.0.113.9;proto=https"}, "203.0.113.9", "https"),
        ({"Forwarded": 'For="203.0.113.9:4711"; Proto="HTTPS";by=10.0.0.1;host=a'}, "203.0.113.9", "https"),
        ({"Forwarded": 'for="[2001:db8::1]:443";proto=http'}, "2001:db8::1", "http"),
        ({"Forwarded": "for=203.0.113.9:4711"}, "203.0.113.9", None),
        ({"Forwarded": "proto=https"}, "10.0.0.1", "https"),
        ({"Forwarded": "for=unknown;proto=https"}, "10.0.0.1", "https"),
        ({"Forwarded": "for=evil;proto=https, for=203.0.113.9;proto=http"}, "203.0.113.9", "http"),
        ({"Forwarded": "for=203.0.113.9;proto=https, for=10.0.0.2"}, "203.0.113.9", "https"),
        ({"Forwarded": "for=203.0.113.9;proto=https, for=10.0.0.2;proto=http"}, "203.0.113.9", "https"),
        # An element that violates RFC 7239 §4 isn't trusted, nor is any before it.
        ({"Forwarded": 'for="evil, for=203.0.113.9;proto=https'}, "10.0.0.1", None),
        ({"Forwarded": "for=203.0.113.9;for=203.0.113.10;proto=https"}, "10.0.0.1", None),
        ({"Forwarded": "203.0.113.9;proto=https"}, "10.0.0.1", None),
        ({"Forwarded": 'for="a\\"b,;c", for=203.0.113.9'}, "203.0.113.9", None),
        # A client sends the one that our proxy doesn't write.
        ({"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=198.51.100.1;proto=https"}, "203.0.113.9", None),
        ({"X-Forwarded-Proto": "http", "Forwarded": "for=198.51.100.1;proto=https"}, "10.0.0.1", "http"),
        ({"X-Forwarded-Host": "evil.example", "X-Forwarded-Scheme": "https"}, "10.0.0.1", None),
    ],
)
def test_the_proxy_nearest_to_the_client_sets_the_scheme(
    fields: dict[str, str], client: str, scheme: str | None
) -> None:
    request = Request("GET", "/", "1.1", rawws.Headers(list(fields.items())))
    found = Admission(None, None, ["10.0.0.0/8"]).find_sender(1, request, ("10.0.0.1", 1234))
    assert isinstance(found, Sender)
    assert (found.address[0], found.scheme) == (client, scheme)
    assert Admission(None, None, ["10.0.0.0/8"]).find_sender(1, request, ("198.51.100.7", 1)) == (
        ("198.51.100.7", 1),
        None,
    )


def test_several_fields_are_one_list() -> None:
    fields = [("Forwarded", 'for="evil'), ("Forwarded", "for=203.0.113.9;proto=https")]
    found = Admission(None, None, ["10.0.0.0/8"]).find_sender(
        1, Request("GET", "/", "1.1", rawws.Headers(fields)), ("10.0.0.1", 1)
    )
    assert found == (("203.0.113.9", 0), "https")


@pytest.mark.parametrize(
    ("forwarded", "same"),
    [
        ("203.0.113.9:4711", "::ffff:203.0.113.9"),
        ("2001:db8::1", "2001:db8::ffff"),
        ("unknown", "garbage"),  # which are the proxy's, for want of anybody else
    ],
)
def test_a_client_counts_as_one_however_it_is_written(forwarded: str, same: str) -> None:
    gate = Admission(None, 1, ["10.0.0.0/8"])
    for number in range(3):
        assert gate.enter(number, ("10.0.0.1", number)) is None, "the proxy itself may come as often as it likes"
    assert isinstance(gate.find_sender(0, forwarded_for(forwarded), ("10.0.0.1", 0)), tuple)
    refusal = gate.find_sender(1, forwarded_for(same), ("10.0.0.1", 1))
    assert isinstance(refusal, rawws.errors.Refusal)
    assert (refusal.status, refusal.code) == (429, "max_connections_per_ip")
    assert isinstance(gate.find_sender(2, forwarded_for("203.0.113.10"), ("10.0.0.1", 2)), tuple)
    gate.leave(0)
    assert isinstance(gate.find_sender(1, forwarded_for(same), ("10.0.0.1", 1)), tuple)


def test_a_64_of_ipv6_is_one_client() -> None:
    gate = Admission(None, 2)
    refusals = [gate.enter(number, (f"2001:db8::{number:x}", 1)) for number in range(3)]
    assert refusals[:2] == [None, None]
    assert refusals[2] is not None
    assert "from 2001:db8::/64 as" in refusals[2].sentence
    assert gate.enter(3, ("2001:db8:0:1::1", 1)) is None


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        (
            {"X-Forwarded-For": "_hidden"},
            "sends '_hidden' in X-Forwarded-For, which is not an IP address: such clients are "
            "counted as one; have it write addresses",
        ),
        (
            {"Forwarded": "for=_hidden;proto=https"},
            "sends '_hidden' in Forwarded, which is not an IP address: such clients are "
            "counted as one; have it write addresses",
        ),
        (
            {"X-Forwarded-Proto": "on"},
            "sends the scheme 'on' in X-Forwarded-Proto, which is ignored; have it write http or https",
        ),
        (
            {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=198.51.100.1"},
            "sends both X-Forwarded-... and Forwarded, and Forwarded is ignored; "
            "have it remove the kind that it doesn't write",
        ),
    ],
)
def test_a_proxy_s_mistake_is_logged_once(caplog: pytest.LogCaptureFixture, fields: dict[str, str], fault: str) -> None:
    gate = Admission(None, None, ["10.0.0.0/8"])
    for number in range(3):
        gate.find_sender(number, Request("GET", "/", "1.1", rawws.Headers(list(fields.items()))), ("10.0.0.1", 1))
    assert caplog.messages == [f"#0 ! the proxy 10.0.0.1 {fault}"]
