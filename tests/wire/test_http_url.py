"""The addresses of HTTP servers."""

from __future__ import annotations

import pytest

from rawws.errors import UsageError
from rawws.wire.http_url import parse_http_url


@pytest.mark.parametrize(
    ("text", "secure", "authority", "resource"),
    [
        ("http://127.0.0.1:8000/auth?x=1", False, "127.0.0.1:8000", "/auth?x=1"),
        ("HTTPS://Example.org", True, "example.org", "/"),
        ("http://[::1]:80/a#part", False, "[::1]", "/a"),
    ],
)
def test_an_address_has_the_parts_of_a_websockets(text: str, secure: bool, authority: str, resource: str) -> None:
    uri = parse_http_url(text)
    assert (uri.secure, uri.authority, uri.resource_name) == (secure, authority, resource)


def test_an_address_may_be_a_unix_socket() -> None:
    uri = parse_http_url("http+unix:///run/app.sock:/auth")
    assert (uri.unix_path, uri.resource_name, uri.authority) == ("/run/app.sock", "/auth", "localhost")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("/auth", "doesn't begin with http:// or https://"),
        ("ws://localhost/", "doesn't begin with http:// or https://"),
        ("file:///etc/passwd", "doesn't begin with http:// or https://"),
        ("http://user:secret@localhost/", "a user name in it"),
        ("http://localhost:0/", "'http://localhost:0/' has a bad port"),
        ("http://a b/", "has a space"),
    ],
)
def test_an_address_that_can_not_be_asked_is_an_error(text: str, reason: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse_http_url(text)
    assert reason in str(raised.value)
    assert "secret" not in str(raised.value)
