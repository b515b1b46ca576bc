"""GET requests of rawws's own, to real servers on loopback."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing
import trustme

from rawws.errors import NoResponse, RawwsError
from rawws.net.http_get import MAX_IDLE, HttpServer
from rawws.wire.http_url import parse_http_url
from tests.http_backend import Backend, answer
from tests.serving.machine import LOOPBACK

pytestmark = pytest.mark.usefixtures("bounded")


async def test_a_connection_is_used_again(nursery: trio.Nursery) -> None:
    backend = await Backend(answer(204, "X-Number: 1")).start(nursery)
    server = HttpServer(parse_http_url(backend.url + "?a=b"))
    for number in range(3):
        response = await server.get([("X-Asked", str(number))])
        assert (response.status, response.headers["X-Number"]) == (204, "1")
    server.close()
    assert backend.connections == 1
    assert [head.partition(b"\r\n")[0] for head in backend.asked] == [b"GET /auth?a=b HTTP/1.1"] * 3
    assert backend.fields() == {"Host": f"{LOOPBACK}:{backend.port}", "X-Asked": "2"}
    await backend.kill()


async def test_many_at_once_keep_few_connections(nursery: trio.Nursery) -> None:
    backend = await Backend().start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    async with trio.open_nursery() as asking:
        for _ in range(MAX_IDLE + 5):
            asking.start_soon(server.get)
    assert backend.connections == MAX_IDLE + 5
    assert len(server._idle) == MAX_IDLE
    server.close()
    assert not server._idle
    await backend.kill()


async def test_a_kept_connection_that_the_server_has_ended_is_replaced(nursery: trio.Nursery) -> None:
    async def answer_and_end(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        await stream.send_all(answer())
        await stream.aclose()

    backend = await Backend(answer_and_end).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    for _ in range(3):
        assert (await server.get()).status == 200
        await trio.testing.wait_all_tasks_blocked()
    assert backend.connections == 3
    server.close()
    await backend.kill()


async def test_a_kept_connection_that_ends_when_it_is_asked_is_replaced_once(nursery: trio.Nursery) -> None:
    async def answer_the_first(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        if len(backend.asked) in (2, 4):  # as if it had ended while the request was on its way
            await stream.aclose()
        else:
            await stream.send_all(answer())

    backend = await Backend(answer_the_first).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    for _ in range(2):
        assert (await server.get()).status == 200
    assert len(backend.asked) == 3
    assert (await server.get()).status == 200
    assert len(backend.asked) == 5
    server.close()
    await backend.kill()


async def test_an_answer_with_more_than_it_declares_is_the_last_on_its_connection(nursery: trio.Nursery) -> None:
    # The surplus would be taken for the next answer, which may be about another client.
    backend = await Backend(answer(403) + answer(200)).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    for _ in range(3):
        assert (await server.get()).status == 403
    assert backend.connections == 3
    server.close()
    await backend.kill()


async def test_bytes_that_come_later_are_no_answer_to_the_next_request(nursery: trio.Nursery) -> None:
    async def answer_twice(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        await stream.send_all(answer(403))
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(answer(200))

    backend = await Backend(answer_twice).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    for _ in range(3):
        assert (await server.get()).status == 403
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert backend.connections == 3
    server.close()
    await backend.kill()


async def test_a_body_is_cut_at_the_limit(nursery: trio.Nursery) -> None:
    backend = await Backend(answer(403, body=b"x" * 100_000)).start(nursery)
    server = HttpServer(parse_http_url(backend.url), max_body_bytes=1000)
    for _ in range(2):
        assert (await server.get()).body == b"x" * 1000
    assert backend.connections == 2
    server.close()
    await backend.kill()


async def test_a_redirect_is_not_followed(nursery: trio.Nursery) -> None:
    backend = await Backend(answer(302, "Location: /elsewhere")).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    assert (await server.get()).status == 302
    assert len(backend.asked) == 1
    server.close()
    await backend.kill()


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (b"", "the server closed the connection before it answered"),
        (b"SSH-2.0-OpenSSH\r\n", "the server's answer is not HTTP: it begins with 'SSH-2.0-OpenSSH"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "the body of its answer is cut off or garbled"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz", "the body of its answer is cut off or garbled"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "is over our limit of 16384 bytes"),
        (b"HTTP/1.1 999 Odd\r\n\r\n", "the status 999, which is not one of HTTP"),
    ],
)
async def test_an_answer_that_is_not_whole_is_an_error(nursery: trio.Nursery, reply: bytes, reason: str) -> None:
    async def reply_and_end(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
        await stream.send_all(reply)
        await stream.aclose()

    backend = await Backend(reply_and_end).start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    with pytest.raises(NoResponse) as raised:
        await server.get()
    assert reason in str(raised.value)
    assert f"{LOOPBACK}:{backend.port}" in str(raised.value)
    assert not server._idle
    await backend.kill()


async def test_a_server_that_is_not_there_is_an_error_with_its_address(nursery: trio.Nursery) -> None:
    backend = await Backend().start(nursery)
    server = HttpServer(parse_http_url(backend.url))
    assert (await server.get()).status == 200
    await backend.kill()
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(OSError, match=f"can't connect to {LOOPBACK}:{backend.port}"):
        await server.get()


async def test_the_certificate_of_a_server_is_checked(nursery: trio.Nursery) -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(LOOPBACK).configure_cert(context)

    async def reply(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            while await stream.receive_some():
                await stream.send_all(answer(204))
        except trio.BrokenResourceError:
            pass

    scope = trio.CancelScope()

    async def run(task_status: trio.TaskStatus[list[trio.SSLListener[trio.SocketStream]]]) -> None:
        with scope:
            await trio.serve_ssl_over_tcp(reply, 0, context, host=LOOPBACK, task_status=task_status)

    listeners = await nursery.start(run)
    port = listeners[0].transport_listener.socket.getsockname()[1]
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = HttpServer(parse_http_url(f"https://{LOOPBACK}:{port}/"), ssl=trusting)
    for _ in range(2):
        assert (await server.get()).status == 204
    assert len(server._idle) == 1
    server.close()
    with pytest.raises(RawwsError, match="authority that is not trusted"):
        await HttpServer(parse_http_url(f"https://{LOOPBACK}:{port}/")).get()
    scope.cancel()
