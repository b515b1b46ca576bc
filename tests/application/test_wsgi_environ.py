"""The environment of a WSGI application, without a server."""

from __future__ import annotations

import io
from typing import Any

import pytest

from rawws.application.wsgi_environ import make_environ


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "GET",
        "scheme": "http",
        "http_version": "1.1",
        "path": "/",
        "raw_path": b"/",
        "query_string": b"",
        "root_path": "",
        "headers": [],
        "client": ("192.0.2.1", 1234),
        "server": ("192.0.2.2", 80),
        "state": {},
        **changes,
    }


def environ(**changes: Any) -> dict[str, Any]:
    return make_environ(scope(**changes), io.BytesIO())


def test_the_request_line_and_the_addresses() -> None:
    made = environ(method="POST", raw_path=b"/a/b", query_string=b"q=%C3%A4", scheme="https", http_version="1.0")
    assert made["REQUEST_METHOD"] == "POST"
    assert (made["SCRIPT_NAME"], made["PATH_INFO"], made["QUERY_STRING"]) == ("", "/a/b", "q=%C3%A4")
    assert (made["SERVER_NAME"], made["SERVER_PORT"]) == ("192.0.2.2", "80")
    assert (made["REMOTE_ADDR"], made["REMOTE_PORT"]) == ("192.0.2.1", "1234")
    assert (made["SERVER_PROTOCOL"], made["wsgi.url_scheme"]) == ("HTTP/1.0", "https")


def test_text_is_bytes_as_latin_1() -> None:
    """PEP 3333: frameworks encode it as Latin-1, and decode it as UTF-8 or as they like."""
    made = environ(raw_path=b"/%C3%A4%FF", root_path="/ä", headers=[(b"x-name", b"\xc3\xa4")])
    assert made["PATH_INFO"].encode("latin-1") == b"/\xc3\xa4\xff"
    assert made["SCRIPT_NAME"].encode("latin-1").decode() == "/ä"
    assert made["HTTP_X_NAME"].encode("latin-1").decode() == "ä"


def test_on_a_unix_socket_there_are_no_addresses() -> None:
    made = environ(client=None, server=("/run/rawws", None))
    assert (made["SERVER_NAME"], made["SERVER_PORT"], made["REMOTE_ADDR"]) == ("/run/rawws", "", "")
    assert environ(server=None)["SERVER_NAME"] == "localhost"


def test_fields_with_one_name_are_joined() -> None:
    headers = [(b"accept", b"a"), (b"cookie", b"c=1"), (b"accept", b"b"), (b"cookie", b"d=2")]
    made = environ(headers=headers)
    assert made["HTTP_ACCEPT"] == "a, b"
    assert made["HTTP_COOKIE"] == "c=1; d=2"


def test_fields_of_the_body_have_no_prefix() -> None:
    made = environ(headers=[(b"content-type", b"text/plain"), (b"content-length", b"3")])
    assert (made["CONTENT_TYPE"], made["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert not any(name.startswith("HTTP_") for name in made)


@pytest.mark.parametrize("name", [b"proxy", b"x_user", b"content_length", b"x_forwarded_for"])
def test_a_field_that_would_be_taken_for_another_is_dropped(name: bytes) -> None:
    """The first is httpoxy; the others would be the same as a field that a proxy in front has checked or set."""
    made = environ(headers=[(name, b"evil"), (b"x-user", b"good")])
    assert "evil" not in made.values()
    assert made["HTTP_X_USER"] == "good"


def test_the_hub_is_there_if_the_server_has_one() -> None:
    hub = object()
    assert environ(state={"rawws": hub})["rawws"] is hub
    assert "rawws" not in environ()
