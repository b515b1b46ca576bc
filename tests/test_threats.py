"""Faults of other implementations that have no test elsewhere; and a check of the manual's list of tests."""

from __future__ import annotations

import hmac
import re
import time

import pytest

from rawws.access.shared_token import SharedToken
from rawws.broadcast.message_ids import parse_id
from rawws.broadcast.query import read_query
from rawws.errors import UsageError
from rawws.server.room_posts import PublishPolicy
from rawws.wire.allowed_hosts import is_local_name
from rawws.wire.deflate import answer_offers
from rawws.wire.forwarded import Forwarded
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins
from tests.manual import ROOT, page

ATTACKS = page("explanation/attacks")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", ATTACKS)))


def test_the_manual_names_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize(("file", "name"), NAMED, ids=[name for _, name in NAMED])
def test_the_tests_that_the_manual_names_exist(file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE)


def took_s(size: int) -> float:
    """Return the time that all readers of a header's value need for values of that size."""
    spaces, semicolons, digits = " " * size, ";" * size, "1" * size
    began = time.perf_counter()
    for value in (
        f"a{spaces}b",
        f"permessage-deflate{semicolons}",
        f'permessage-deflate; x="{spaces}',
        f",{spaces}," * 2,
        'for="' + "\\" * size,
        'for="a,' + semicolons,
    ):
        Forwarded.of(Headers([("Forwarded", value)]))
        Request("GET", "/", "1.1", Headers([("Accept", value)])).accepts("text/event-stream")
        Headers([("Upgrade", value)]).tokens("Upgrade")
        answer_offers([value])
        Origins(["https://a.example"]).allow(f"https://{value}", value)
        is_local_name(value)
    for text in (digits, f"{digits}-{digits}", f"a-{digits}x"):
        with pytest.raises(UsageError):
            parse_id(text)
    read_query("&" * size)
    return time.perf_counter() - began


def test_a_long_header_takes_no_longer_than_its_length() -> None:
    # A backtracking pattern takes a hundred or a million times as long for an input ten times as long.
    few = min(took_s(2_000) for _ in range(5))
    many = min(took_s(20_000) for _ in range(5))
    assert many < max(60 * few, 0.5)


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    compare = hmac.compare_digest

    def note(given: bytes, right: bytes) -> bool:
        compared.append((given, right))
        return compare(given, right)

    monkeypatch.setattr(hmac, "compare_digest", note)
    policy = PublishPolicy(SharedToken("right"))
    for given, refused in (("right", False), ("wrong", True), ("rig", True)):
        request = Request("POST", "/", "1.1", Headers([("Authorization", f"Bearer {given}")]))
        assert (policy.refuse_writing(request) is not None) is refused
    assert compared == [(b"right", b"right"), (b"wrong", b"right"), (b"rig", b"right")]
