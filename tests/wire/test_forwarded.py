"""The header fields of proxies: ``Forwarded`` (RFC 7239), and ``X-Forwarded-For`` and ``-Proto``."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.wire.forwarded import Forwarded
from rawws.wire.messages import Headers


@pytest.mark.parametrize(
    ("value", "clients", "schemes"),
    [
        # The examples of RFC 7239 §4.
        ('for="_gazonk"', ["_gazonk"], [None]),
        ('For="[2001:db8:cafe::17]:4711"', ["[2001:db8:cafe::17]:4711"], [None]),
        ("for=192.0.2.60;proto=http;by=203.0.113.43", ["192.0.2.60"], ["http"]),
        ("for=192.0.2.43, for=198.51.100.17", ["192.0.2.43", "198.51.100.17"], [None, None]),
        ("by=203.0.113.43; PROTO=HTTPS", [""], ["https"]),
        ('for="192.0.2.\\43";proto="h\\ttps"', ["192.0.2.43"], ["https"]),
        ('for="a,b;c";proto=http', ["a,b;c"], ["http"]),
        ("for=192.0.2.43:47011", ["192.0.2.43:47011"], [None]),
        ("for=192.0.2.43;;proto=https;,, for=a", ["192.0.2.43", "a"], ["https", None]),
        ("for=a;for=b;proto=https", ["for=a;for=b;proto=https"], [None]),
        ("for=a proto=https", ["for=a proto=https"], [None]),
        ('for="a;proto=https', ['for="a;proto=https'], [None]),
        ("for=", ["for="], [None]),
        ('for="";proto=""', [""], [None]),
        ("", [], []),
    ],
)
def test_7239_4_each_element_has_a_client_and_perhaps_a_scheme(
    value: str, clients: list[str], schemes: list[str | None]
) -> None:
    forwarded = Forwarded.of(Headers([("forwarded", value)]))
    assert (forwarded.clients, forwarded.schemes, forwarded.is_ambiguous) == (clients, schemes, False)


@pytest.mark.parametrize(
    ("fields", "clients", "schemes", "is_ambiguous"),
    [
        ([("X-Forwarded-For", "a, b"), ("x-forwarded-for", "c")], ["a", "b", "c"], [], False),
        ([("X-Forwarded-Proto", "HTTPS , http")], [], ["https", "http"], False),
        ([("X-Forwarded-For", "a"), ("Forwarded", "for=b;proto=https")], ["a"], [], True),
        ([("X-Forwarded-For", " , "), ("Forwarded", "for=b;proto=https")], ["b"], ["https"], False),
    ],
)
def test_the_fields_that_most_proxies_write_come_first(
    fields: Sequence[tuple[str, str]], clients: list[str], schemes: list[str], is_ambiguous: bool
) -> None:
    forwarded = Forwarded.of(Headers(fields))
    assert (forwarded.clients, forwarded.schemes, forwarded.is_ambiguous) == (clients, schemes, is_ambiguous)


@pytest.mark.parametrize(
    ("schemes", "hops", "scheme"),
    [
        ([], 1, None),
        (["https"], 3, "https"),
        (["https", "http"], 1, "http"),
        (["https", "http"], 2, "https"),
        (["https", None], 1, None),
        ([None, "https"], 2, "https"),
        (["gopher", "https"], 2, "gopher"),
    ],
)
def test_the_scheme_is_that_of_the_farthest_trusted_hop(
    schemes: list[str | None], hops: int, scheme: str | None
) -> None:
    assert Forwarded([], schemes, "", "").scheme(hops) == scheme


@given(st.lists(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)), max_size=3))
def test_no_value_makes_it_raise(values: list[str]) -> None:
    fields = [(name, value) for value in values for name in ("Forwarded", "X-Forwarded-For")]
    Forwarded.of(Headers(fields)).scheme(1)
    Forwarded.of(Headers([("Forwarded", value) for value in values])).scheme(1)
