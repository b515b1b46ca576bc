"""`rawws.serve`: handlers, hooks of the handshake, plain HTTP, and limits on connections."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import Request, Response, UsageError, WebSocket
from rawws.relay.loop import current_loop
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import close, get, seen_close, seen_text, text, upgrade

connect = partial(rawws.connect, proxy=None)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


class Served:
    """A server in the test's nursery, and raw clients for it."""

    def __init__(self, server: rawws.Server) -> None:
        self.server = server
        self.url = f"ws://{LOOPBACK}:{server.port}"

    async def client(self) -> Client:
        return await Client(socket.socket()).connect(self.server.port)

    async def ask(self, request: bytes) -> tuple[int, str]:
        client = await self.client()
        answer = await client.ask(request)
        client.hang_up()
        return answer.status, answer.body.decode()


async def start(nursery: trio.Nursery, handler: Any = echo, **options: Any) -> Served:
    return Served(await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, **options)))


# Handlers


async def test_each_connection_has_its_own_handler(nursery: trio.Nursery) -> None:
    async def greet(ws: WebSocket) -> None:
        await ws.send(f"{ws.path} {ws.request.query}")
        await echo(ws)

    served = await start(nursery, greet)
    async with connect(f"{served.url}/a?x=1") as first, connect(f"{served.url}/b") as second:
        assert await first.recv() == "/a x=1"
        assert await second.recv() == "/b "
        await first.send("hello")
        assert await first.recv() == "hello"
        assert served.server.peer_count == 2


async def test_a_connection_is_closed_with_1000_when_its_handler_returns(nursery: trio.Nursery) -> None:
    async def one(ws: WebSocket) -> None:
        await ws.send("only this")

    served = await start(nursery, one)
    async with connect(served.url) as ws:
        assert [message async for message in ws] == ["only this"]
        assert (ws.close_code, ws.close_reason) == (1000, "")


async def test_a_handler_that_fails_costs_its_connection_alone(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(ws: WebSocket) -> None:
        if ws.path == "/fail":
            raise ZeroDivisionError("on purpose")
        await echo(ws)

    served = await start(nursery, fail)
    async with connect(served.url) as bystander:
        async with connect(f"{served.url}/fail") as ws:
            with pytest.raises(rawws.ConnectionClosedError) as caught:
                await ws.recv()
            assert (caught.value.code, caught.value.reason) == (1011, "internal error")
        await bystander.send("still here")
        assert await bystander.recv() == "still here"
    (error,) = [record for record in caplog.records if record.exc_info]
    assert "the handler failed; its connection is closed with 1011" in error.getMessage()


@pytest.mark.parametrize("in_nursery", [False, True])
async def test_a_handler_that_ends_because_its_peer_has_gone_is_no_error(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, in_nursery: bool
) -> None:
    async def insist(ws: WebSocket) -> None:
        if in_nursery:
            async with trio.open_nursery() as inner:
                inner.start_soon(ws.recv)
                inner.start_soon(ws.recv_streaming().__anext__)
        else:
            while True:
                await ws.recv()

    served = await start(nursery, insist)
    client = await served.client()
    await client.open()
    client.reset()
    while served.server.peer_count:
        await wait_all_tasks_blocked()
    if not in_nursery:  # there, one of the two tasks gets an error, since it may not wait too
        assert [record for record in caplog.records if record.exc_info] == []


async def test_frames_after_the_handshake_reach_the_handler(nursery: trio.Nursery) -> None:
    served = await start(nursery)
    client = await served.client()
    await client.open(then=text("early"))
    assert await client.frame() == seen_text("early")
    client.hang_up()


async def test_stopping_closes_with_1001_and_waits_for_handlers(nursery: trio.Nursery) -> None:
    finished = trio.Event()

    async def careful(ws: WebSocket) -> None:
        with pytest.raises(rawws.ConnectionClosedOK, match="closed by us with 1001"):
            await ws.recv()
        assert ws.closed is not None
        assert ws.closed.cause is rawws.Cause.SHUTDOWN
        finished.set()

    served = await start(nursery, careful)
    client = await served.client()
    await client.open()
    served.server.stop()
    assert await client.frame() == seen_close(1001, "the server is shutting down")
    await client.send(close(1001))
    await client.assert_end()
    client.hang_up()
    await finished.wait()


async def test_a_handler_that_never_returns_is_cancelled_after_the_drain(autojump_clock: MockClock) -> None:  # noqa: ARG001
    async with trio.open_nursery() as nursery:
        cancelled = trio.Event()

        async def stubborn(_: WebSocket) -> None:
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()

        served = await start(nursery, stubborn, drain=3)
        async with connect(served.url):
            served.server.stop()
            started = trio.current_time()
            await cancelled.wait()
    assert trio.current_time() - started < 10


async def test_cancelling_serve_closes_the_peers_and_ends_at_once() -> None:
    async with trio.open_nursery() as nursery:
        served = await start(nursery)
        client = await served.client()
        await client.open()
        nursery.cancel_scope.cancel()
    assert await client.frame() == seen_close(1001, "the server is shutting down")
    await client.assert_end()
    client.hang_up()


async def test_a_hub_in_place_of_a_handler_relays(nursery: trio.Nursery) -> None:
    served = await start(nursery, rawws.Hub(hello="welcome"))
    async with connect(f"{served.url}/room") as alice, connect(f"{served.url}/room") as bob:
        for ws in (alice, bob):
            assert await ws.recv() == "welcome"
        await alice.send("hello all")
        assert [await ws.recv() for ws in (alice, bob)] == ["hello all"] * 2


async def test_requests_and_handlers_under_way_are_completed_when_the_server_stops() -> None:
    may_go_on, ended = trio.Event(), []

    async def slow(_: Request) -> str:
        await may_go_on.wait()
        return "answered all the same"

    async def tidy(ws: WebSocket) -> None:
        async for _ in ws:
            raise AssertionError("nothing is sent")
        await may_go_on.wait()
        ended.append(ws.closed)

    async with trio.open_nursery() as nursery:
        served = await start(nursery, tidy, http=slow)
        asking, resting, talking = [await served.client() for _ in range(3)]
        await talking.open()
        await asking.send(get("/"))
        await wait_all_tasks_blocked()
        served.server.stop()
        await resting.wait_lost()
        assert await talking.frame() == seen_close(1001, "the server is shutting down")
        await talking.send(close(1001))
        await talking.assert_end()
        talking.hang_up()
        await wait_all_tasks_blocked()
        may_go_on.set()
        assert (await asking.answer()).body == b"answered all the same"
        await asking.assert_end()
        for client in (asking, resting):
            client.hang_up()
    assert len(ended) == 1


# Listening


async def test_serve_listens_on_given_sockets(nursery: trio.Nursery) -> None:
    listeners = await trio.open_tcp_listeners(0, host=LOOPBACK)
    server: rawws.Server = await nursery.start(partial(rawws.serve, echo, listeners=listeners))
    async with connect(f"ws://{LOOPBACK}:{server.port}") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
        assert repr(server) == f"<Server on {LOOPBACK}:{server.port}, peers=1>"


async def test_serve_listens_on_a_unix_socket_and_removes_it(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            server: rawws.Server = await nursery.start(partial(rawws.serve, echo, unix=path))
            assert server.addresses == [path]
            async with connect(f"ws+unix://{path}:/room") as ws:
                await ws.send("hello")
                assert await ws.recv() == "hello"
                assert ws.remote_address == path
            with pytest.raises(rawws.ListenError, match="Another program listens there"):
                await rawws.serve(echo, unix=path)
            server.stop()
        assert not Path(path).exists()


async def test_a_unix_socket_made_by_another_process_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "app.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve, echo, listeners=[listener]))
        server.stop()
    assert listener.fileno() < 0
    assert path.exists()


@pytest.mark.parametrize("by_trio", [False, True], ids=["socket", "trio"])
async def test_connections_of_a_given_listener_send_small_frames_at_once(nursery: trio.Nursery, by_trio: bool) -> None:
    delays = []

    async def handler(ws: WebSocket) -> None:
        with socket.socket(fileno=os.dup(ws._peer.transport.fileno())) as ours:
            delays.append(not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    if by_trio:
        listeners: Sequence[Any] = await trio.open_tcp_listeners(0, host=LOOPBACK)
    else:
        listeners = [socket.create_server((LOOPBACK, 0))]
    server = await nursery.start(partial(rawws.serve, handler, listeners=listeners))
    async with connect(f"ws://{LOOPBACK}:{server.port}") as ws:
        await ws.wait_closed()
    assert delays == [False]


async def test_a_listener_has_to_listen() -> None:
    with socket.socket() as silent, pytest.raises(UsageError, match="has to be a stream socket that listens already"):
        await rawws.serve(echo, listeners=[silent])


@pytest.mark.parametrize("options", [{}, {"port": 0, "unix": "x"}], ids=["nowhere", "twice"])
async def test_serve_needs_an_address_to_listen_on(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="say where to listen: port, listeners or unix"):
        await rawws.serve(echo, **options)


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "compression": ({"compression": "zstd"}, "there is no compression 'zstd'"),
    "subprotocol": ({"subprotocols": ["a b"]}, "'a b' can't be a subprotocol"),
    "origin": ({"origins": ["example.org"]}, "'example.org' is not an origin"),
    "server header": ({"server_header": "a\r\nSet-Cookie: b"}, "the Server header can't have the value"),
    "proxy": ({"trusted_proxies": ["here"]}, "'here' in trusted_proxies is neither an address nor a network"),
    "http": ({"http": 1}, "http is an async function or rawws.asgi"),
    "ssl": ({"ssl": "cert.pem"}, r"ssl can't be 'cert.pem'; give an ssl\.SSLContext, in which a certificate is loaded"),
    "routes": ({"routes": [("/x", None)]}, "routes is a dict of handlers by path"),
    **{
        f"port {bad!r}": (
            {"port": bad},
            f"port can't be {bad!r}; give a number from 0 to 65535, and a name or an address",
        )
        for bad in ("localhost", "8080", -1, 65536, 80.5)
    },
    **{
        f"{name} {bad}": ({name: bad}, f"^{name} can't be {bad!r}; give a number that is 0 or more")
        for name in ("open_timeout", "ping_interval", "ping_timeout", "close_timeout", "keep_alive", "drain", "rate")
        for bad in (-1, float("nan"), "5")
    },
    **{
        f"{name} {bad}": ({name: bad}, f"^{name} can't be {bad!r}; give a (whole )?number that is 1 or more")
        for name in (
            *("max_size", "max_queue", "max_connections", "max_connections_per_ip", "max_memory"),
            *("max_head", "max_headers", "max_target"),
        )
        for bad in (-1, 0, float("nan"), "5")
    },
    "body": ({"max_body": -1}, "^max_body can't be -1; give a whole number that is 0 or more"),
    **{
        f"{name} alone": ({name: "a.b"}, rf"^{name} can't be 'a.b' alone; give a list, such as \['a.b'\]")
        for name in ("subprotocols", "hosts", "trusted_proxies")
    },
    "subprotocol's type": ({"subprotocols": [b"a"]}, "b'a' can't be a subprotocol"),
}


@pytest.mark.parametrize(("options", "error"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
async def test_invalid_options_are_one_sentence(options: dict[str, Any], error: str) -> None:
    with pytest.raises(UsageError, match=error):
        await rawws.serve(echo, **{"port": 0, "host": LOOPBACK, **options})


# Hooks of the handshake


async def test_authenticate_refuses_before_the_101_or_returns_the_user(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")

    async def authenticate(request: Request) -> object:
        await trio.lowlevel.checkpoint()
        if request.headers.get("Authorization") != "Bearer secret":
            return Response(401, "Who are you?\n", {"WWW-Authenticate": "Bearer"})
        return "alice"

    async def whoami(ws: WebSocket) -> None:
        await ws.send(str(ws.user))

    served = await start(nursery, whoami, authenticate=authenticate)
    with pytest.raises(rawws.InvalidStatus) as caught:
        async with connect(served.url):
            pass
    assert caught.value.response.status == 401
    assert caught.value.response.headers["WWW-Authenticate"] == "Bearer"
    assert caught.value.response.body == b"Who are you?\n"
    assert any("answered by authenticate with 401" in message for message in caplog.messages)
    async with connect(served.url, headers={"Authorization": "Bearer secret"}) as ws:
        assert await ws.recv() == "alice"


async def test_a_bad_handshake_never_reaches_authenticate(nursery: trio.Nursery) -> None:
    asked: list[Request] = []
    served = await start(nursery, authenticate=asked.append)
    status, _ = await served.ask(upgrade("/", "Origin: https://evil.example"))
    assert (status, asked) == (403, [])


@pytest.mark.parametrize("hook", ["authenticate", "process_request", "process_response", "select_subprotocol"])
async def test_a_hook_that_fails_is_a_500_and_one_traceback_in_the_log(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, hook: str
) -> None:
    def stumble(*_: object) -> None:
        raise ZeroDivisionError("on purpose")

    served = await start(nursery, **{hook: stumble})
    assert (await served.ask(upgrade("/", "Sec-WebSocket-Protocol: a")))[0] == 500
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage() == "#1 ! stumble failed"


@pytest.mark.parametrize("hook", ["authenticate", "process_request"])
async def test_a_hook_has_open_timeout_to_decide(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    hook: str,
) -> None:
    async def ponder(_: Request) -> None:
        await trio.sleep(100)

    served = await start(nursery, open_timeout=10, **{hook: ponder})
    client = await served.client()
    answer = await client.ask(upgrade())
    assert (answer.status, answer.body) == (503, b"The server took too long to decide about this request.\n")
    assert answer.headers["retry-after"] == "1"
    client.hang_up()


async def test_process_request_may_answer_anything_itself(nursery: trio.Nursery) -> None:
    def only_get_in(request: Request) -> Response | None:
        return Response(200, "fine\n") if request.path == "/healthz" else None

    served = await start(nursery, process_request=only_get_in)
    assert await served.ask(get("/healthz")) == (200, "fine\n")
    assert (await served.ask(get("/other")))[0] == 426
    assert await served.ask(upgrade("/healthz")) == (200, "fine\n")
    async with connect(served.url) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def test_process_response_may_add_headers_or_refuse(nursery: trio.Nursery) -> None:
    async def process(request: Request, response: Response) -> Response:
        if request.path == "/no":
            return Response(429, "later\n", {"Retry-After": "1"})
        return Response(101, b"", [*response.headers, ("Set-Cookie", "a=b")])

    served = await start(nursery, process_response=process)
    async with connect(served.url) as ws:
        assert ws.response.headers["Set-Cookie"] == "a=b"
    assert await served.ask(upgrade("/no")) == (429, "later\n")


@pytest.mark.parametrize("answer", [1, "no", Response(101)])
async def test_a_hook_that_returns_an_invalid_value_is_a_500(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, answer: object
) -> None:
    served = await start(nursery, process_request=lambda _: answer)
    assert (await served.ask(upgrade()))[0] == 500
    assert "it must return a Response with a final status, or None" in caplog.text


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [(["a"], "a"), (["a", "b"], "b"), (["c", "a"], "a"), (["c"], None), ([], None)],
)
async def test_1_9_the_server_s_favourite_of_the_subprotocols_offered_is_chosen(
    nursery: trio.Nursery, offered: list[str], chosen: str | None
) -> None:
    served = await start(nursery, subprotocols=["b", "a"])
    async with connect(served.url, subprotocols=offered) as ws:
        assert ws.subprotocol == chosen


async def test_the_application_may_choose_the_subprotocol(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    def select(request: Request, offered: Sequence[str]) -> str | None:
        return offered[-1] if request.path != "/wrong" else "z"

    served = await start(nursery, select_subprotocol=select)
    async with connect(served.url, subprotocols=["a", "b"]) as ws:
        assert ws.subprotocol == "b"
    async with connect(f"{served.url}/wrong", subprotocols=["a"]) as ws:
        assert ws.subprotocol is None
    assert "select_subprotocol chose 'z', not one of those offered" in caplog.text


@pytest.mark.parametrize("header", ["a, a", "a b", "é"], ids=["twice", "no token", "no ASCII"])
async def test_11_3_4_a_bad_list_of_subprotocols_is_refused(nursery: trio.Nursery, header: str) -> None:
    served = await start(nursery, subprotocols=["a"])
    request = upgrade("/", "Sec-WebSocket-Protocol: X").replace(b"X", header.encode(), 1)
    assert (await served.ask(request))[0] == 400


async def test_origins_none_lets_every_page_in(nursery: trio.Nursery) -> None:
    by_default, served = await start(nursery), await start(nursery, origins=None)
    with pytest.raises(rawws.InvalidStatus, match="403"):
        await connect(by_default.url, origin="https://evil.example").open()
    async with connect(served.url, origin="https://evil.example") as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"


async def test_without_compression_none_is_agreed_on(nursery: trio.Nursery) -> None:
    served = await start(nursery, compression=None)
    async with connect(served.url) as ws:
        assert ws.extensions == ()


async def test_the_server_header_is_sent_if_there_is_one(nursery: trio.Nursery) -> None:
    served = await start(nursery, server_header="teapot/1")
    client = await served.client()
    assert (await client.ask(get())).headers["server"] == "teapot/1"
    assert (await client.ask(upgrade())).headers["server"] == "teapot/1"
    client.hang_up()


# Plain HTTP


async def test_an_http_handler_gets_the_body_and_answers_with_text_a_response_or_nothing(nursery: trio.Nursery) -> None:
    async def http(request: Request) -> Response | str | None:
        await trio.lowlevel.checkpoint()
        match request.path:
            case "/text":
                return "hello"
            case "/json":
                return Response(201, b'{"got": %d}' % len(request.body), {"Content-Type": "application/json"})
        return None

    served = await start(nursery, http=http, max_body=1000)
    client = await served.client()
    assert (await client.ask(get("/text"))).body == b"hello"
    post = get("/json", "Content-Length: 5", method="POST") + b"12345"
    answer = await client.ask(post)
    assert (answer.status, answer.headers["content-type"], answer.body) == (201, "application/json", b'{"got": 5}')
    waiting = get("/json", "Content-Length: 5", "Expect: 100-continue", method="POST")
    assert (await client.ask(waiting)).status == 100
    assert (await client.ask(b"12345")).body == b'{"got": 5}'
    assert (await client.ask(get("/other"))).status == 404
    answer = await client.ask(get("/json", "Content-Length: 1001", method="POST"))
    assert (answer.status, answer.body) == (
        413,
        b"A body of 1001 bytes is over the server's limit of 1000 bytes for one.\n",
    )
    await client.assert_end()
    client.hang_up()


@pytest.mark.parametrize("answer", ["raises", "returns 1", "finds no file", "has a body for a 204"])
async def test_an_http_handler_that_fails_is_a_500_and_the_connection_goes_on(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    async def http(request: Request) -> Any:
        if request.path == "/fine":
            return "fine"
        if answer == "raises":
            raise ZeroDivisionError("on purpose")
        if answer == "finds no file":
            raise FileNotFoundError("on purpose")
        return Response(204, "gone\n") if answer == "has a body for a 204" else 1

    served = await start(nursery, http=http)
    client = await served.client()
    assert (await client.ask(get("/"))).status == 500
    assert (await client.ask(get("/fine"))).body == b"fine"
    client.hang_up()
    (error,) = [record for record in caplog.records if record.exc_info]
    assert error.getMessage() == "#1 ! the http handler failed at /"


async def test_plain_requests_are_426_without_an_http_handler(nursery: trio.Nursery) -> None:
    served = await start(nursery)
    client = await served.client()
    answer = await client.ask(get("/"))
    assert (answer.status, answer.headers["upgrade"]) == (426, "websocket")
    answer = await client.ask(get(method="OPTIONS"))
    assert (answer.status, answer.headers["allow"]) == (204, "GET, OPTIONS")
    await client.open()
    client.hang_up()


# The right to connect


async def test_max_connections_is_a_503_that_names_the_limit(nursery: trio.Nursery) -> None:
    served = await start(nursery, max_connections=2)
    async with connect(served.url) as first, connect(served.url):
        status, body = await served.ask(get("/"))
        assert (status, body) == (503, "The server has as many connections as it takes (--max-connections 2).\n")
        await first.aclose()
        await wait_all_tasks_blocked()
        async with connect(served.url):
            pass


async def test_max_connections_per_ip_is_a_429(nursery: trio.Nursery) -> None:
    served = await start(nursery, max_connections_per_ip=1)
    async with connect(served.url):
        status, body = await served.ask(get("/"))
        assert status == 429
        assert body.startswith("There are as many connections from 127.0.0.1 as the server takes from one address ")
        assert body.endswith("(--max-connections-per-ip 1).\n")


async def test_connections_that_end_in_the_http_phase_are_counted_out(nursery: trio.Nursery) -> None:
    served = await start(nursery, max_connections=1)
    for _ in range(3):
        assert (await served.ask(get("/")))[0] == 426
        await wait_all_tasks_blocked()


async def test_a_trusted_proxy_names_the_client(nursery: trio.Nursery) -> None:
    async def whoami(ws: WebSocket) -> None:
        await ws.send(str(ws.remote_address))
        await ws.wait_closed()

    served = await start(nursery, whoami, trusted_proxies=["127.0.0.0/8"], max_connections_per_ip=1)
    async with connect(served.url, headers={"X-Forwarded-For": "203.0.113.9"}) as ws:
        assert await ws.recv() == "('203.0.113.9', 0)"
        forwarded = "X-Forwarded-For: 198.51.100.1, 203.0.113.9"
        assert (await served.ask(upgrade("/", forwarded)))[0] == 429
        async with connect(served.url, headers={"X-Forwarded-For": "203.0.113.10"}):
            pass


async def test_a_socket_for_both_versions_of_ip_knows_its_proxies_and_clients(nursery: trio.Nursery) -> None:
    listener = socket.socket(socket.AF_INET6)
    try:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
    except OSError:
        listener.close()
        pytest.skip("this machine has no IPv6")
    listener.listen()

    limits: dict[str, Any] = {"trusted_proxies": ["127.0.0.0/8"], "max_connections_per_ip": 1}
    server = await nursery.start(partial(rawws.serve, echo, listeners=[listener], **limits))
    served = Served(server)
    clients = [await served.client() for _ in range(3)]
    with trio.fail_after(PATIENCE_S):
        answers = [
            await client.ask(get("/", f"X-Forwarded-For: 203.0.113.{number}"))
            for client, number in zip(clients, (1, 2, 1), strict=True)
        ]
    assert [answer.status for answer in answers] == [426, 426, 429]
    assert b"from 203.0.113.1 as" in answers[2].body
    for client in clients:
        client.hang_up()
    server.stop()


@pytest.mark.parametrize("kind", ["a room", "events", "a handler"])
async def test_a_connection_that_cant_be_watched_is_counted_out(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    hub = rawws.Hub()
    handler = echo if kind == "a handler" else hub
    served = await start(nursery, handler, http=rawws.rooms(hub), max_connections=1)

    def fail(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with trio.fail_after(PATIENCE_S):
        for _ in range(2):
            client = await served.client()
            with monkeypatch.context() as full:
                full.setattr(current_loop().sockets, "add", fail)
                await client.send(get("/", "Accept: text/event-stream") if kind == "events" else upgrade())
                assert (await client.answer()).status == (200 if kind == "events" else 101)
                await client.wait_lost()
            client.hang_up()
        assert await served.ask(get("/")) == (200, "hi there")
    assert [message.partition("! ")[2] for message in caplog.messages] == [
        "can't be watched: No space left on device"
    ] * 2
    served.server.stop()


# The program, with a third-party application


async def test_serve_app_has_an_asgi_application_answer(start_program: StartProgram, tmp_path: Path) -> None:
    (tmp_path / "somebody.py").write_text(
        "async def app(scope, receive, send):\n"
        "    assert scope['type'] == 'http'\n"
        "    body = scope['path'].encode()\n"
        "    headers = [(b'content-length', str(len(body)).encode())]\n"
        "    await send({'type': 'http.response.start', 'status': 200, 'headers': headers})\n"
        "    await send({'type': 'http.response.body', 'body': body})\n"
    )
    program = start_program("--app", "somebody:app", directory=tmp_path)
    client = await program.connect()
    assert (await client.ask(get("/hello"))).body == b"/hello"
    await client.open("/room/x")
    assert (await client.frame()).payload == b"Hello! Message From Server!!"
