"""Publishing from another process: over real sockets, to a real server, and to servers that fail."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import rawws
from rawws import Hub, Published, PublishError, PublishRefused, PublishUnsure, UsageError
from rawws.client import publish as publishing
from tests.http_backend import Backend, answer
from tests.serving.machine import LOOPBACK, PATIENCE_S

pytestmark = pytest.mark.usefixtures("bounded")

ACCEPTED = answer(202, "Content-Type: application/json", body=b'{"id":"a-1","peers":3}')


@pytest.fixture(autouse=True)
def no_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.random", lambda: 0.0)


async def publish(url: str, message: Any = "hi", **given: Any) -> Published:
    """Publish in a thread of no event loop."""
    return await trio.to_thread.run_sync(partial(rawws.publish, url, message, **given), abandon_on_cancel=True)


def _listening(options: dict[str, Any]) -> dict[str, Any]:
    return {"port": 0, "host": LOOPBACK, **options}


@contextlib.asynccontextmanager
async def serving(hub: Hub, token: str | None = None, **options: Any) -> AsyncIterator[str]:
    """Serve a hub's rooms over HTTP, and yield the address of one."""
    async with trio.open_nursery() as nursery:
        http = rawws.rooms(hub, publish_token=token, is_local=True)
        server = await nursery.start(partial(rawws.serve, hub, http=http, **_listening(options)))
        yield f"http://{LOOPBACK}:{server.port}/room"
        server.stop()


# A real server


async def test_a_message_is_published_and_its_id_returned() -> None:
    hub = Hub(history=10)
    async with serving(hub) as url, rawws.connect(url.replace("http", "ws")) as ws:
        for message in ("grüße", b"\x00\xff", bytearray(b"x" * 100_000)):
            assert await publish(url, message) == Published(hub.room("/room").last_id, 1)
            assert await ws.recv() == message


async def test_a_message_is_published_once_for_each_key() -> None:
    hub = Hub(history=10)
    async with serving(hub) as url:
        first = await publish(url, "hi", idempotency_key="order-17")
        assert await publish(url, "hi", idempotency_key="order-17") == first
        with pytest.raises(PublishRefused, match=r"answered 422: This Idempotency-Key was used before") as caught:
            await publish(url, "ho", idempotency_key="order-17")
        assert caught.value.status == 422
        assert await publish(url, "hi") != first  # with a key of its own
    assert hub.room("/room").last_id.endswith("-2")


async def test_a_token_opens_a_room_and_is_never_shown() -> None:
    hub = Hub(history=10)
    async with serving(hub, "s3cret") as url:
        assert (await publish(url, token="s3cret")).id == hub.room("/room").last_id
        with pytest.raises(PublishRefused) as caught:
            await publish(f"{url}?access_token=an0ther", token="wr0ng")
    where = url.removeprefix("http://").removesuffix("/room")
    reason = "Publishing needs the token, as 'Authorization: Bearer TOKEN'; give a token that may publish there"
    assert str(caught.value) == f"{where}: the server answered 401: {reason}"


async def test_a_key_is_that_of_the_newest_messages() -> None:
    hub = Hub(slow="latest", key="symbol")
    async with serving(hub) as url:
        assert (await publish(url, "hi", key="AAPL")).peers == 0


async def test_a_unix_socket_is_an_address(tmp_path: Path) -> None:
    hub, path = Hub(history=1), tmp_path / "socket"
    async with serving(hub, port=None, host=None, unix=str(path)):
        assert (await publish(f"http+unix://{path}:/room")).id == hub.room("/room").last_id
    with pytest.raises(PublishError, match=r"No such file or directory; start the server"):
        await publish(f"http+unix://{path}:/room", tries=1)


async def test_tls_is_checked() -> None:
    authority, hub = trustme.CA(), Hub(history=1)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOOPBACK).configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with serving(hub, ssl=context) as url:
        secure = url.replace("http://", "https://")
        large = b"x" * 600_000
        assert (await publish(secure, large, ssl=trusting)).id == hub.room("/room").last_id
        with pytest.raises(rawws.CertificateError, match="authority that is not trusted"):
            await publish(secure)
        with pytest.raises(PublishRefused, match=r"answered 400: This port speaks TLS: use https:// or wss://$"):
            await publish(url)
    async with serving(hub) as url:
        with pytest.raises(rawws.TlsError, match=r"not a TLS record; use http:// if it speaks that, or check host"):
            await publish(url.replace("http://", "https://"))


async def test_a_large_message_is_refused_before_all_of_it_is_sent() -> None:
    async with serving(Hub(), max_size=1000) as url:
        with pytest.raises(PublishRefused, match=r"answered 413: A body of 20000000 bytes is over"):
            await publish(url, b"x" * 20_000_000)


async def test_a_room_over_websockets_alone_says_what_is_wrong() -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, Hub(), 0, host=LOOPBACK))
        with pytest.raises(PublishRefused, match=r"answered 4(04|05|26)"):
            await publish(f"http://{LOOPBACK}:{server.port}/room")
        server.stop()


# Both event loops


async def test_it_is_awaited_on_trio_and_on_asyncio() -> None:
    hub = Hub(history=10)
    async with serving(hub) as url:
        assert (await rawws.publish_async(url, "from trio")).id == hub.room("/room").last_id
        on_asyncio = rawws.publish_async(url, "from asyncio")
        found = await trio.to_thread.run_sync(asyncio.run, on_asyncio)
        assert found.id == hub.room("/room").last_id


async def test_the_blocking_one_is_refused_in_an_event_loop() -> None:
    with pytest.raises(UsageError, match=r"use await rawws\.publish_async\(url, message\)$"):
        rawws.publish("http://localhost:1/room", "hi")


async def test_the_other_one_needs_an_event_loop() -> None:
    coroutine = rawws.publish_async("http://localhost:1/room", "hi")
    with pytest.raises(UsageError, match=r"runs on trio or asyncio; elsewhere, use rawws\.publish"):
        await trio.to_thread.run_sync(coroutine.send, None)


class Silent:
    """A server that reads and never answers, in a thread-free way: the kernel takes what is sent."""

    def __init__(self) -> None:
        self.listener = socket.create_server((LOOPBACK, 0))
        self.url = f"http://{LOOPBACK}:{self.listener.getsockname()[1]}/room"

    def wait_ended(self) -> bytes:
        """Return what the first client has sent by the end of its connection."""
        self.listener.settimeout(PATIENCE_S)
        connected, _ = self.listener.accept()
        with connected:
            connected.settimeout(PATIENCE_S)
            received = b""
            while data := connected.recv(65536):
                received += data
            return received


@pytest.fixture
def silent() -> Iterator[Silent]:
    server = Silent()
    with server.listener:
        yield server


def cancel_on_trio(url: str) -> None:
    async def main() -> None:
        with trio.move_on_after(0.05) as scope:
            await rawws.publish_async(url, "hi")
        assert scope.cancelled_caught

    trio.run(main)


def cancel_on_asyncio(url: str) -> None:
    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rawws.publish_async(url, "hi"), 0.05)

    asyncio.run(main())


@pytest.fixture
async def endless_tries(monkeypatch: pytest.MonkeyPatch, bounded: None) -> None:  # noqa: ARG001
    """A try that isn't cancelled takes longer than a test may."""
    monkeypatch.setattr(publishing, "IDLE_S", 100 * PATIENCE_S)


@pytest.mark.usefixtures("endless_tries")
@pytest.mark.parametrize("cancel", [cancel_on_trio, cancel_on_asyncio])
async def test_a_cancelled_one_ends_at_once_and_closes_its_connection(
    cancel: Callable[[str], None], silent: Silent
) -> None:
    await trio.to_thread.run_sync(cancel, silent.url, abandon_on_cancel=True)
    assert b"POST /room HTTP/1.1" in await trio.to_thread.run_sync(silent.wait_ended)


@pytest.mark.usefixtures("endless_tries")
@pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer more clients than the backlog says")
async def test_a_cancelled_one_gives_up_to_connect() -> None:
    with socket.create_server((LOOPBACK, 0), backlog=0) as full, contextlib.ExitStack() as stack:
        for _ in range(3):  # the kernel answers no further client
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        url = f"http://{LOOPBACK}:{full.getsockname()[1]}/room"
        # It waits for its threads.
        await trio.to_thread.run_sync(cancel_on_asyncio, url, abandon_on_cancel=True)


# Tries


class Answers:
    """A server that gives one answer after the other; None ends the connection without one."""

    def __init__(self, *answers: bytes | None) -> None:
        self._answers = list(answers)

    async def __call__(self, stream: trio.SocketStream, head: bytes) -> None:
        reply = self._answers.pop(0)
        if reply is not None:
            await stream.send_all(reply)
        await stream.aclose()


def keys_of(backend: Backend) -> set[str]:
    return {backend.fields(at)["Idempotency-Key"] for at in range(len(backend.asked))}


@pytest.mark.parametrize(
    "setback", [None, b"HTTP/1.1 202 Acc", answer(408), answer(425), answer(429), answer(502), answer(503), answer(504)]
)
async def test_a_setback_that_may_pass_is_followed_by_a_try_with_the_same_key(
    nursery: trio.Nursery, setback: bytes | None
) -> None:
    backend = await Backend(Answers(setback, ACCEPTED)).start(nursery)
    assert await publish(backend.url) == Published("a-1", 3)
    assert len(backend.asked) == 2
    assert len(keys_of(backend)) == 1
    await backend.kill()


async def test_an_answer_that_is_cut_is_followed_by_another_try(nursery: trio.Nursery) -> None:
    backend = await Backend(Answers(ACCEPTED[:-3], ACCEPTED)).start(nursery)
    assert await publish(backend.url) == Published("a-1", 3)
    await backend.kill()


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 413, 422, 500])
async def test_a_refusal_is_final(nursery: trio.Nursery, status: int) -> None:
    backend = await Backend(answer(status)).start(nursery)
    with pytest.raises(PublishRefused) as caught:
        await publish(backend.url)
    assert caught.value.status == status
    assert len(backend.asked) == 1
    await backend.kill()


async def test_a_lost_answer_leaves_it_unknown(nursery: trio.Nursery) -> None:
    backend = await Backend(Answers(None, answer(503), answer(503))).start(nursery)
    with pytest.raises(PublishUnsure, match=r"answered 503 Service Unavailable \(after 3 tries\); it isn't known"):
        await publish(backend.url, tries=3)
    await backend.kill()


async def test_a_server_that_is_away_is_tried_until_it_is_there() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        url = f"http://{LOOPBACK}:{taken.getsockname()[1]}/room"
        with pytest.raises(
            PublishError, match=r"Connection refused; no program listens there.*\(after 2 tries\)$"
        ) as e:
            await publish(url, tries=2)
        assert type(e.value) is PublishError


async def test_a_name_that_nobody_has_is_looked_up_once() -> None:
    with pytest.raises(PublishError) as caught:
        await publish("http://nobody.invalid/room", tries=1)
    assert str(caught.value).startswith("nobody.invalid:80: can't connect: ")


async def test_the_time_is_bounded(silent: Silent) -> None:
    with pytest.raises(PublishUnsure, match=r"no answer within 10 s, or the timeout"):
        await publish(silent.url, timeout=0.1)
    with pytest.raises(PublishError, match=r"can't connect: timed out"):
        await publish(silent.url, timeout=0)


async def test_an_idle_server_is_given_up(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "IDLE_S", 0.05)
    with pytest.raises(PublishUnsure, match=r"no answer within 0\.05 s.*\(after 2 tries\)"):
        await publish(silent.url, tries=2)


async def test_a_message_of_which_a_part_was_sent_is_not_published(
    silent: Silent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "IDLE_S", 0.05)
    with pytest.raises(PublishError) as caught:
        await publish(silent.url, bytes(50_000_000), tries=1)
    assert type(caught.value) is PublishError


async def test_another_kind_of_server_is_named(nursery: trio.Nursery) -> None:
    backend = await Backend(Answers(b"SSH-2.0-OpenSSH\r\n")).start(nursery)
    with pytest.raises(PublishError, match=r"not HTTP: it begins with 'SSH-2.0-OpenSSH.*check host and port"):
        await publish(backend.url)
    await backend.kill()


async def test_a_port_that_speaks_tls_is_named(nursery: trio.Nursery) -> None:
    backend = await Backend(Answers(bytes.fromhex("15030100020246"))).start(nursery)  # an alert, RFC 8446 §6
    with pytest.raises(PublishError, match=r"speaks TLS on this port: use https://$"):
        await publish(backend.url)
    await backend.kill()


@pytest.mark.parametrize(("given", "reason"), [({"tries": 0}, "tries can't be 0"), ({"timeout": -1}, "timeout can't")])
async def test_a_bound_that_is_none_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        await rawws.publish_async("http://localhost:1/room", "hi", **given)
