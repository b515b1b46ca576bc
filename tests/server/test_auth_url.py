"""A backend as a source of grants, over real sockets."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.access.grant import Action, Grant
from rawws.errors import Refusal
from rawws.server import auth_url
from rawws.server.auth_url import AuthBackend
from tests.access.helpers import request_for
from tests.http_backend import Backend, answer

pytestmark = pytest.mark.usefixtures("bounded")

ALICE = answer(200, "Rawws-User: alice", "Rawws-Allow: read=/room/*")


async def ask(source: AuthBackend, cookie: str = "a=1", room: str = "/room/a", client: str = "") -> Grant | Refusal:
    request = replace(request_for(room, ("Cookie", cookie)), client=client)
    return await source.grant(request, room, Action.READ)


def reason_of(decision: Grant | Refusal) -> str:
    assert isinstance(decision, Refusal), decision
    assert (decision.status, decision.code) == (503, "no_decision")
    return decision.hint


async def hang(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
    await trio.sleep_forever()


async def test_the_backend_is_asked_each_time_by_default(nursery: trio.Nursery) -> None:
    backend = await Backend(ALICE).start(nursery)
    source = AuthBackend(backend.url)
    for _ in range(2):
        grant = await ask(source)
        assert isinstance(grant, Grant)
        assert grant.user == "alice"
    assert len(backend.asked) == 2
    fields = backend.fields()
    assert (fields["Cookie"], fields["Rawws-Room"], fields["Rawws-Action"]) == ("a=1", "/room/a", "read")
    source.close()
    await backend.kill()


async def test_a_grant_is_remembered_if_that_is_wanted(nursery: trio.Nursery) -> None:
    backend = await Backend(ALICE).start(nursery)
    source = AuthBackend(backend.url, cache_s=60)
    assert await ask(source) is await ask(source)
    await ask(source, "a=2")
    await ask(source, room="/room/b")
    assert len(backend.asked) == 3
    backend.reply = answer(403)
    for _ in range(2):
        assert isinstance(await ask(source, "a=3"), Refusal)
    assert len(backend.asked) == 5
    source.close()
    await backend.kill()


async def test_a_backend_that_hangs_is_no_decision_after_the_timeout(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    backend = await Backend(hang).start(nursery)
    source = AuthBackend(backend.url, timeout_s=1)
    decisions: list[Grant | Refusal] = []

    async def note() -> None:
        decisions.append(await ask(source))

    nursery.start_soon(note)
    await wait_all_tasks_blocked()
    mock_clock.jump(0.9)
    await wait_all_tasks_blocked()
    assert not decisions
    mock_clock.jump(0.2)
    await wait_all_tasks_blocked()
    assert "no whole answer came within 1 s (--auth-timeout)" in reason_of(decisions[0])
    await backend.kill()


async def test_a_backend_that_drips_is_no_decision_after_the_timeout(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async def drip(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        for byte in ALICE * 10:
            await stream.send_all(bytes([byte]))
            await trio.sleep(0.1)

    backend = await Backend(drip).start(nursery)
    source = AuthBackend(backend.url, timeout_s=1)
    mock_clock.autojump_threshold = 0.02
    began = trio.current_time()
    assert "no whole answer came" in reason_of(await ask(source))
    assert trio.current_time() - began == pytest.approx(1, abs=0.01)
    await backend.kill()


async def test_only_so_many_questions_are_under_way(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auth_url, "MAX_UNDER_WAY", 2)
    backend = await Backend(hang).start(nursery)
    source = AuthBackend(backend.url, timeout_s=1)
    reasons: list[str] = []

    async def note(client: str) -> None:
        reasons.append(reason_of(await ask(source, client=client)))

    for number in range(5):
        nursery.start_soon(note, f"192.0.2.{number}")
    await wait_all_tasks_blocked()
    assert len(backend.asked) == 2
    mock_clock.jump(1.1)
    while len(reasons) < 5:
        await wait_all_tasks_blocked()
    assert sum("too many other questions were under way" in reason for reason in reasons) == 3
    backend.reply = ALICE
    assert isinstance(await ask(source), Grant)
    source.close()
    await backend.kill()


async def test_a_client_with_many_questions_does_not_keep_others_waiting(nursery: trio.Nursery) -> None:
    async def reply(stream: trio.SocketStream, head: bytes) -> None:
        if b"/room/slow" in head:
            await trio.sleep_forever()
        await stream.send_all(ALICE)

    backend = await Backend(reply).start(nursery)
    source = AuthBackend(backend.url, timeout_s=600)
    for number in range(200):  # one client may choose among the addresses of its /64
        nursery.start_soon(ask, source, "a=1", "/room/slow", f"2001:db8::{number:x}")
    await wait_all_tasks_blocked()
    assert len(backend.asked) == 50
    assert isinstance(await ask(source, client="2001:db8:0:1::1"), Grant)
    nursery.cancel_scope.cancel()
    source.close()


async def test_a_question_to_itself_ends_at_once(nursery: trio.Nursery) -> None:
    backend = await Backend().start(nursery)
    source = AuthBackend(backend.url)
    await ask(source)
    question = request_for("/auth", *backend.fields().items())
    refusal = await source.grant(question, "/auth", Action.READ)
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (508, "loop")
    assert len(backend.asked) == 1
    source.close()
    await backend.kill()


async def test_a_backend_that_is_killed_is_no_decision(nursery: trio.Nursery) -> None:
    backend = await Backend(ALICE).start(nursery)
    source = AuthBackend(backend.url)
    assert isinstance(await ask(source), Grant)
    await backend.kill()
    await wait_all_tasks_blocked()
    assert "can't connect" in reason_of(await ask(source))


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (answer(302, "Location: /login"), "it answered with 302"),
        (answer(500), "it answered with 500"),
        (b"\x16\x03\x01 garbage\r\n\r\n", "the server speaks TLS"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "over our limit"),
        (answer(200, "Rawws-Expires: soon"), "its answer can't be used"),
    ],
)
async def test_any_other_answer_is_no_decision(nursery: trio.Nursery, reply: bytes, reason: str) -> None:
    backend = await Backend(reply).start(nursery)
    source = AuthBackend(backend.url)
    assert reason in reason_of(await ask(source))
    source.close()
    await backend.kill()


async def test_ten_megabytes_are_not_read(nursery: trio.Nursery) -> None:
    sent = 0

    async def flood(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        nonlocal sent
        await stream.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 10000000\r\n\r\n")
        for _ in range(100):
            await stream.send_all(b"x" * 100_000)
            sent += 100_000

    backend = await Backend(flood).start(nursery)
    source = AuthBackend(backend.url)
    decision = await ask(source)
    assert isinstance(decision, Refusal)
    assert decision.body == b"x" * 65536
    await wait_all_tasks_blocked()
    assert sent < 10_000_000  # the rest met a closed connection
    source.close()
    await backend.kill()
