"""A stream's protocol is recognized by its first bytes."""

from __future__ import annotations

import pytest

from rawws.wire.first_bytes import is_http_answer, is_proxy_header, is_tls, may_become_tls, may_begin_tls


@pytest.mark.parametrize("first", [b"\x16\x03\x01\x02\x00", b"\x15\x03\x01\x00\x02\x02\x46"])
def test_tls_is_known_by_two_bytes(first: bytes) -> None:
    assert may_begin_tls(first)
    assert is_tls(first)
    assert may_become_tls(first[:1])
    assert not is_tls(first[:1])
    assert not may_become_tls(first)


def test_a_hello_in_the_form_of_ssl_2_is_for_openssl_to_judge() -> None:
    assert may_begin_tls(b"\x80\x2e\x01\x03\x01")


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n", b"HTTP/1.1 400", b"SSH-2.0-", b"\x03\x00", b"\r\n\r\n\0"])
def test_other_protocols_are_no_tls(first: bytes) -> None:
    assert not may_begin_tls(first)
    assert not is_tls(first)


def test_an_answer_of_http_is_known_by_as_much_of_it_as_there_is() -> None:
    assert all(is_http_answer(b"HTTP/1.1 400"[:size]) for size in range(1, 12))
    assert not is_http_answer(b"HELO")
    assert not is_http_answer(b"SSH-2.0-")


def test_both_versions_of_the_proxy_protocol_are_known() -> None:
    assert is_proxy_header(b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n")
    assert is_proxy_header(b"PROXY UNKNOWN\r\n")
    assert is_proxy_header(b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00")
    assert not is_proxy_header(b"PROPFIND / HTTP/1.1\r\n")
    assert not is_proxy_header(b"\r\n\r\nGET / HTTP/1.1\r\n")
