"""The web pages that may connect, by their origin (RFC 6455 §10.2)."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from rawws.errors import UsageError
from rawws.wire.origins import Origins, name_origin


@pytest.mark.parametrize(
    ("origin", "host", "allowed", "verdict"),
    [
        ("http://a.example", "a.example", [], True),
        ("https://a.example", "a.example", [], True),
        ("HTTPS://A.Example", "a.EXAMPLE", [], True),
        ("http://a.example:8080", "a.example:8080", [], True),
        ("http://a.example:80", "a.example", [], True),
        ("https://a.example", "a.example:443", [], True),
        ("http://[::1]:8080", "[::1]:8080", [], True),
        ("http://a.example:8080", "a.example", [], False),
        ("http://a.example", "a.example:8080", [], False),
        ("http://b.a.example", "a.example", [], False),
        ("http://a.example.evil.example", "a.example", [], False),
        ("null", "a.example", [], False),
        ("null", "null", [], False),
        ("*", "*", [], False),
        ("file://", "a.example", [], False),
        ("file://", "", [], False),
        ("", "", [], False),
        ("capacitor://localhost", "localhost", [], False),  # an app's own scheme is no site of this host's
        ("ionic://localhost", "localhost", [], False),
        ("tauri://localhost", "localhost", [], False),
        ("app://.", ".", [], False),
        ("http://localhost", "localhost", [], True),
        ("https://localhost", "localhost", [], True),  # as behind a proxy that ends TLS
        ("ws://localhost:8080", "localhost:8080", [], True),
        ("https://a.example", "a.example:80", [], False),
        ("http://[::1]:8080", "[0:0:0:0:0:0:0:1]:8080", [], True),
        ("http://[::1]", "[::2]", [], False),
        ("http://a.example:99999", "a.example:99999", [], False),
        ("http://a.example:8080", "a.example:08080", [], True),
        ("http://a.example", "a.example:", [], True),  # RFC 3986 §6.2.3
        ("http://", "", [], False),
        ("https://b.example", "a.example", ["https://b.example"], True),
        ("https://b.example", "a.example", ["HTTPS://B.example:443/"], True),
        ("http://b.example", "a.example", ["https://b.example"], False),
        ("https://b.example:8443", "a.example", ["https://b.example"], False),
        ("https://c.example", "a.example", ["https://b.example", "https://c.example"], True),
        ("null", "a.example", ["null"], True),
        ("NULL", "a.example", ["null"], True),
        ("null", "a.example", [""], False),
        ("", "a.example", [""], True),
        ("", "a.example", ["null", "file://"], False),
        ("file://", "a.example", ["file://"], True),
        ("file:///", "a.example", ["file://"], True),
        ("file://", "a.example", ["file:///"], True),
        ("file://server", "a.example", ["file://"], False),
        ("capacitor://localhost", "localhost", ["ionic://localhost"], False),
        ("http://[2001:db8::1]:8080", "a.example", ["http://[2001:DB8:0::1]:8080"], True),
        ("https://xn--bcher-kva.example", "a.example", ["https://Bücher.example"], True),
        ("https://anything", "a.example", ["*"], True),
        ("nonsense", "a.example", ["*"], True),
    ],
)
def test_10_2_pages_of_this_host_and_allowed_ones_may_connect(
    origin: str, host: str, allowed: list[str], verdict: bool
) -> None:
    assert Origins(allowed).allow(origin, host) is verdict


@pytest.mark.parametrize(
    "origin",
    [
        "b.example",
        "https://",
        "https://b.example/path",
        "https://u@b.example",
        "https://b.example:65536",
        "https://[b]",
        "https://[::1",
        "https://ü..example",
        "https://straße.example",  # strasse.example in one version of IDNA, and another site in the other
        "file:",
        "a b",
        "https://b.example https://c.example",
    ],
)
def test_10_2_a_malformed_origin_is_refused_when_it_is_configured(origin: str) -> None:
    with pytest.raises(UsageError, match="is not an origin"):
        Origins([origin])


@pytest.mark.parametrize(
    ("origins_given", "allowed", "refused"),
    [
        ((), [], ["https://a.example"]),
        ("https://a.example", ["https://a.example"], ["https://b.example"]),
        (["https://a.example", "null"], ["https://a.example", "null"], ["https://b.example"]),
        (Origins(["https://a.example"]), ["https://a.example"], ["https://b.example"]),
        (None, ["https://a.example", "null"], []),
    ],
)
def test_10_2_a_caller_gives_origins_by_name_or_none_for_any(
    origins_given: Any, allowed: list[str], refused: list[str]
) -> None:
    origins = Origins.of(origins_given)
    assert all(origins.allow(origin, "host.example") for origin in allowed)
    assert not any(origins.allow(origin, "host.example") for origin in refused)


@pytest.mark.parametrize("origin", ["https://a.example", "HTTP://B.Example:81", "", "file://", "https://x;reboot;$(x)"])
def test_10_2_the_advice_has_the_flag_that_allows_the_origin(origin: str) -> None:
    advice = Origins().advise(origin)
    assert advice.startswith("to allow it, start the server with ")
    flag, value = shlex.split(advice.partition("start the server with ")[2])
    assert flag == "--allow-origin"
    assert Origins([value]).allow(origin, "localhost")


def test_10_2_the_advice_says_that_null_is_any_page_that_hides_its_site() -> None:
    assert Origins().advise("null") == (
        "to allow it, and any page that hides its site, start the server with --allow-origin null"
    )


def test_10_2_the_advice_for_a_malformed_origin_is_to_send_none() -> None:
    assert Origins().advise("https://b.example/path") == (
        "a browser sends no such Origin (RFC 6454 §7.1): have the client send none, or start the server with "
        "--allow-origin '*'"
    )


def test_10_2_a_malformed_origin_is_not_allowed() -> None:
    assert not Origins(["https://a.example"]).allow("https://a.example/path", "a.example")


def test_10_2_no_origin_is_that_of_a_malformed_host() -> None:
    assert not Origins().allow("https://a.example", "a.example/path")


def test_an_origin_is_named_as_it_is_and_an_empty_one_in_words() -> None:
    assert name_origin("https://a.example") == "https://a.example"
    assert name_origin("") == "an empty Origin"
