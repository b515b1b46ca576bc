"""Tokens as a source of grants, and keys that are fetched over real sockets."""

from __future__ import annotations

import json
import logging
import time
from typing import Any

import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.access.grant import Action, Grant
from rawws.access.jwt_tokens import OneKey, Rules
from rawws.errors import Refusal
from rawws.server.jwt_source import (
    FETCH_TIMEOUT_S,
    LEAST_FETCH_INTERVAL_S,
    LEAST_RETRY_INTERVAL_S,
    MAX_KEY_AGE_S,
    NO_KEYS,
    FetchedKeys,
    FixedKeys,
    JwtSource,
)
from tests.access.helpers import bearer, request_for
from tests.http_backend import Backend, answer
from tests.serving.machine import FOR_THIS_RUN_S

pytestmark = pytest.mark.usefixtures("bounded")

KEYS = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("a", "b")}


def key_set(*names: str) -> bytes:
    keys = [{**json.loads(jwt.algorithms.ECAlgorithm.to_jwk(KEYS[name].public_key())), "kid": name} for name in names]
    return answer(200, "Content-Type: application/json", body=json.dumps({"keys": keys}).encode())


def token(name: str, kid: str | None = None) -> str:
    claims = {"sub": "alice", "exp": time.time() + FOR_THIS_RUN_S, "rawws": {"read": ["/room/*"]}}
    return jwt.encode(claims, KEYS[name], "ES256", headers={"kid": kid or name})


async def ask(source: JwtSource, given: str | None) -> Any:
    request = request_for("/room/a", *([] if given is None else [bearer(given)]))
    return await source.grant(request, "/room/a", Action.READ)


def source_of(backend: Backend) -> tuple[JwtSource, FetchedKeys]:
    keys = FetchedKeys(backend.url, "ES256")
    return JwtSource(Rules("ES256"), keys), keys


async def test_a_token_is_checked_with_the_key_of_a_file() -> None:
    source = JwtSource(Rules("ES256"), FixedKeys(OneKey(KEYS["a"].public_key())))
    grant = await ask(source, token("a", kid="whatever"))
    assert isinstance(grant, Grant)
    assert grant.user == "alice"
    assert isinstance(await ask(source, token("b")), Refusal)
    assert await ask(source, None) is None
    assert await ask(source, "opaque") is None


async def test_other_keys_and_rules_take_the_place_of_the_first() -> None:
    source = JwtSource(Rules("ES256"), FixedKeys(OneKey(KEYS["a"].public_key())))
    source.use(Rules("ES256"), FixedKeys(OneKey(KEYS["b"].public_key())))
    assert [isinstance(await ask(source, token(name)), Grant) for name in "ab"] == [False, True]
    source.use(Rules("ES384"), FixedKeys(OneKey(KEYS["b"].public_key())))
    assert isinstance(await ask(source, token("b")), Refusal)


async def test_a_token_that_can_not_be_read_is_refused_before_any_key_is_fetched(nursery: trio.Nursery) -> None:
    backend = await Backend(key_set("a")).start(nursery)
    source, keys = source_of(backend)
    refusal = await ask(source, "a.b.c")
    assert isinstance(refusal, Refusal)
    assert refusal.code == "invalid_token"
    assert not backend.asked
    keys.close()
    await backend.kill()


async def test_the_keys_are_fetched_when_the_first_token_comes(nursery: trio.Nursery) -> None:
    backend = await Backend(key_set("a", "b")).start(nursery)
    source, keys = source_of(backend)
    assert await ask(source, None) is None
    assert not backend.asked
    async with trio.open_nursery() as asking:  # they wait for one another, and not for a fetch each
        for name in "abab":
            asking.start_soon(ask, source, token(name))
    assert isinstance(await ask(source, token("a")), Grant)
    assert len(backend.asked) == 1
    assert backend.fields()["Accept"] == "application/json"
    keys.close()
    await backend.kill()


async def test_an_unknown_key_has_the_set_fetched_once_a_minute_at_most(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    backend = await Backend(key_set("a")).start(nursery)
    source, keys = source_of(backend)
    assert isinstance(await ask(source, token("a")), Grant)
    for kid in ("../../etc/passwd", "http://169.254.169.254/", "b"):
        refusal = await ask(source, token("b", kid))
        assert refusal.sentence == "The token can't be used: its key is not known here."
    assert len(backend.asked) == 1
    backend.reply = key_set("b")  # the keys have been changed
    mock_clock.jump(LEAST_FETCH_INTERVAL_S)
    assert isinstance(await ask(source, token("b")), Grant)
    assert isinstance(await ask(source, token("a")), Refusal)
    assert len(backend.asked) == 2
    assert {head.split()[1] for head in backend.asked} == {b"/auth"}
    keys.close()
    await backend.kill()


async def test_a_key_that_was_withdrawn_is_forgotten_after_an_hour(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    backend = await Backend(key_set("a")).start(nursery)
    source, keys = source_of(backend)
    assert isinstance(await ask(source, token("a")), Grant)
    backend.reply = key_set("b")
    mock_clock.jump(MAX_KEY_AGE_S - 1)
    assert isinstance(await ask(source, token("a")), Grant)
    mock_clock.jump(1)
    assert isinstance(await ask(source, token("a")), Refusal)
    keys.close()
    await backend.kill()


async def test_the_hourly_fetch_holds_up_no_token_with_a_known_key(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async def hang(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        await trio.sleep_forever()

    backend = await Backend(key_set("a")).start(nursery)
    source, _ = source_of(backend)
    assert isinstance(await ask(source, token("a")), Grant)
    backend.reply = hang
    mock_clock.jump(MAX_KEY_AGE_S)
    answers = []

    async def note(kid: str) -> None:
        answers.append(await ask(source, token("a", kid)))

    nursery.start_soon(note, "a")  # it has the set fetched
    await wait_all_tasks_blocked()
    assert isinstance(await ask(source, token("a")), Grant)
    nursery.start_soon(note, "b")
    await wait_all_tasks_blocked()
    assert not answers
    mock_clock.jump(FETCH_TIMEOUT_S + 0.1)
    await wait_all_tasks_blocked()
    assert [isinstance(each, Grant) for each in answers] == [True, False]
    assert len(answers) == 2
    assert len(backend.asked) == 2
    await backend.kill()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(302, "Location: /keys"), "the answer has the status 302"),
        (answer(200, body=b"<html>"), "not a JSON Web Key Set"),
        (answer(200, body=b'{"keys": []}'), "it has no public key for ES256"),
        (answer(200, body=b'{"keys": [' + b" " * 300_000 + b"]}"), "not a JSON Web Key Set"),
        (b"garbage\r\n\r\n", "is not HTTP"),
    ],
)
async def test_keys_that_can_not_be_had_let_nobody_in(
    nursery: trio.Nursery, mock_clock: MockClock, caplog: pytest.LogCaptureFixture, reply: bytes, reason: str
) -> None:
    caplog.set_level(logging.WARNING, "rawws.server")
    backend = await Backend(reply).start(nursery)
    source, keys = source_of(backend)
    for _ in range(3):
        assert await ask(source, token("a")) is NO_KEYS
    assert len(backend.asked) == len(caplog.messages) == 1
    assert "the keys of --jwt-jwks could not be fetched: " in caplog.text
    assert reason in caplog.text
    backend.reply = key_set("a")
    mock_clock.jump(LEAST_RETRY_INTERVAL_S)
    assert isinstance(await ask(source, token("a")), Grant)
    backend.reply = reply  # the keys stay as they are
    mock_clock.jump(MAX_KEY_AGE_S)
    assert isinstance(await ask(source, token("a")), Grant)
    assert len(backend.asked) == 3
    keys.close()
    await backend.kill()


async def test_a_server_of_keys_that_hangs_is_given_up(
    nursery: trio.Nursery, mock_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def hang(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        await trio.sleep_forever()

    caplog.set_level(logging.WARNING, "rawws.server")
    backend = await Backend(hang).start(nursery)
    source, _ = source_of(backend)
    answers = []

    async def note() -> None:
        answers.append(await ask(source, token("a")))

    for _ in range(3):
        nursery.start_soon(note)
    await wait_all_tasks_blocked()
    mock_clock.jump(FETCH_TIMEOUT_S + 0.1)
    await wait_all_tasks_blocked()
    assert answers == [NO_KEYS] * 3
    assert len(backend.asked) == 1
    assert "no whole answer came within 5 s" in caplog.text
    await backend.kill()
