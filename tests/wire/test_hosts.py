"""Which names a request may give its server."""

from __future__ import annotations

import shlex

import pytest

from rawws.errors import UsageError
from rawws.wire.hosts import Hosts, is_local_name, name_of
from rawws.wire.messages import Headers, Request


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("chat.example", "chat.example"),
        ("Chat.Example:8080", "chat.example"),
        ("chat.example.", "chat.example"),
        ("chat.example.:8080", "chat.example"),
        ("[::1]:8080", "::1"),
        ("::1", "::1"),
        (" localhost ", "localhost"),
        ("", ""),
    ],
)
def test_the_name_in_a_host(host: str, name: str) -> None:
    assert name_of(host) == name


@pytest.mark.parametrize(
    ("host", "is_local"),
    [
        ("localhost", True),
        ("LOCALHOST:8080", True),
        ("app.localhost:8080", True),
        ("127.0.0.1:8080", True),
        ("192.0.2.7", True),
        ("[::1]", True),
        ("[::1]:8080", True),
        ("evil.example:8080", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("", False),
    ],
)
def test_addresses_and_localhost_are_recognized(host: str, is_local: bool) -> None:
    assert is_local_name(host) is is_local


def asked_of(*hosts: str) -> Request:
    return Request("GET", "/", "1.1", Headers([("Host", host) for host in hosts]))


def test_a_request_for_another_host_gets_advice() -> None:
    hosts = Hosts(["chat.example", "[2001:db8::1]"])
    for host in ("chat.example", "CHAT.example:443", "localhost:8080", "203.0.113.1", "[2001:db8::1]:80"):
        assert hosts.refuse(asked_of(host)) is None
    refusal = hosts.refuse(asked_of("evil.example:8080"))
    assert refusal is not None
    assert (refusal.status, refusal.code) == (421, "host_unknown")
    assert refusal.sentence == "This server is not called evil.example."


@pytest.mark.parametrize("host", ["evil.example", "x_y:80", "a'b", "$(reboot)", "1.2.3", "xn--bcher-kva.example."])
def test_the_advice_lets_that_name_in(host: str) -> None:
    refusal = Hosts().refuse(asked_of(host))
    assert refusal is not None
    flag, name = shlex.split(refusal.hint.partition("start it with ")[2])
    assert flag == "--allow-host"
    assert Hosts([name]).refuse(asked_of(host)) is None
    assert Hosts([name]).refuse(asked_of("other.example")) is not None


@pytest.mark.parametrize("host", ["*", "-x", "[1:2]", "x" * 256])
def test_a_host_that_no_flag_names_gets_no_advice(host: str) -> None:
    refusal = Hosts().refuse(asked_of(host))
    assert refusal is not None
    assert refusal.hint == ""


def test_9112_3_2_2_the_host_in_a_target_is_the_one_that_counts() -> None:
    def asked_for(authority: str, host: str) -> Request:
        return Request("GET", f"http://{authority}/room", "1.1", Headers([("Host", host)]))

    assert Hosts().refuse(asked_for("localhost:80", "evil.example")) is None
    refusal = Hosts().refuse(asked_for("evil.example", "localhost"))
    assert refusal is not None
    assert refusal.sentence == "This server is not called evil.example."
    assert refusal.hint == "if it is, start it with --allow-host evil.example"


def test_any_name_and_none() -> None:
    assert Hosts(["*"]).refuse(asked_of("evil.example")) is None
    assert Hosts().refuse(asked_of()) is None, "HTTP/1.0"
    assert Hosts().refuse(asked_of("chat.example")) is not None


@pytest.mark.parametrize("name", ["", "https://chat.example", "chat.example:443", "a b", "/"])
def test_an_invalid_host_name_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is no host's name"):
        Hosts([name])


def test_its_names_are_told_in_their_order() -> None:
    assert repr(Hosts(["c.example", "b.example", "e.example", "d.example", "A.example."])) == (
        "<Hosts a.example, b.example, c.example, d.example, e.example>"
    )
    assert repr(Hosts()) == "<Hosts of this machine>"
