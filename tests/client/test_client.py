"""`rawws.connect` over real sockets: against our own server, Python's websockets, and servers that get it wrong."""

from __future__ import annotations

import logging
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.trio.server import ServerConnection
from websockets.trio.server import serve as serve_with_websockets

import rawws
from rawws import Request, Response, UsageError, WebSocket
from rawws.net.dial import dial
from rawws.wire.frames import encode_frame
from rawws.wire.handshake import Accept
from tests.serving.machine import LOOPBACK


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the environment's proxies for the test."""
    for scheme in ("http", "https", "ws", "wss", "all", "no"):
        for name in (f"{scheme}_proxy", f"{scheme}_PROXY".upper()):
            monkeypatch.delenv(name, raising=False)


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def start(nursery: trio.Nursery, handler: Any = echo, **options: Any) -> str:
    server: rawws.Server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, **options))
    return f"{'wss' if server.uses_tls else 'ws'}://{LOOPBACK}:{server.port}"


async def start_raw(nursery: trio.Nursery, converse: Callable[[trio.SocketStream], Awaitable[None]]) -> str:
    """Start a server with the given behaviour."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await converse(stream)

    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=LOOPBACK))
    return f"ws://{LOOPBACK}:{listeners[0].socket.getsockname()[1]}"


async def read_head(stream: trio.abc.ReceiveStream) -> str:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return head.decode("ascii")


def key_of(head: str) -> str:
    return head.partition("Sec-WebSocket-Key: ")[2].partition("\r\n")[0]


def answering(head: str, after: bytes = b"", *, closes: bool = True) -> Callable[[trio.SocketStream], Awaitable[None]]:
    """Return a server that answers with this head; ACCEPT in it is replaced by the right value."""

    async def converse(stream: trio.SocketStream) -> None:
        accept = Accept.of(key_of(await read_head(stream))).value
        await stream.send_all(head.replace("ACCEPT", accept).encode() + after)
        if not closes:
            await stream.receive_some()

    return converse


GOOD = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"
)


# Talking


@pytest.mark.parametrize("compression", ["deflate", None])
async def test_connect_talks_to_a_server_of_python_s_websockets(nursery: trio.Nursery, compression: str | None) -> None:
    async def websockets_echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    server = await nursery.start(
        partial(serve_with_websockets, websockets_echo, 0, host=LOOPBACK, compression=compression)
    )
    port = server.listeners[0].socket.getsockname()[1]
    async with rawws.connect(f"ws://{LOOPBACK}:{port}/") as ws:
        # The server keeps its compression context between messages.
        assert ("server_no_context_takeover" in str(ws.extensions), bool(ws.extensions)) == (False, bool(compression))
        for message in ("text", b"binary", "é" * 5000, b"x" * 100_000, "é" * 5000, ""):
            await ws.send(message)
            assert await ws.recv() == message
        assert await ws.ping() > 0
    assert ws.close_code == 1000
    nursery.cancel_scope.cancel()


async def test_frames_right_after_the_101_are_not_lost(nursery: trio.Nursery) -> None:
    url = await start_raw(nursery, answering(GOOD + "\r\n", encode_frame(1, b"early"), closes=False))
    async with rawws.connect(url) as ws:
        assert await ws.recv() == "early"


async def test_the_request_carries_the_given_settings(nursery: trio.Nursery) -> None:
    heads = []

    async def listen(stream: trio.SocketStream) -> None:
        heads.append(await read_head(stream))

    url = (await start_raw(nursery, listen)).replace("ws://", "ws://alice:s%20cret@")
    with pytest.raises(
        rawws.NoResponse, match=f"^{re.escape(url.replace('alice:s%20cret@', ''))}/room.x=1: the server "
    ):
        await rawws.connect(
            f"{url}/room?x=1",
            headers={"X-Test": "1"},
            origin="https://example.org",
            subprotocols=["a", "b"],
            user_agent="a test",
            compression=None,
        ).open()
    (head,) = heads
    lines = head.split("\r\n")
    assert lines[0] == "GET /room?x=1 HTTP/1.1"
    for line in (
        "Origin: https://example.org",
        "Sec-WebSocket-Protocol: a, b",
        "User-Agent: a test",
        "X-Test: 1",
        "Authorization: Basic YWxpY2U6cyBjcmV0",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
    ):
        assert line in lines
    assert "Sec-WebSocket-Extensions" not in head


async def test_connect_accepts_a_unix_socket(nursery: trio.Nursery, tmp_path: Any) -> None:
    path = str(tmp_path / "app.sock")
    await nursery.start(partial(rawws.serve, echo, unix=path))
    async with rawws.connect(f"ws+unix://{path}:/room") as ws:
        assert ws.path == "/room"
        await ws.send("hello")
        assert await ws.recv() == "hello"
    with pytest.raises(FileNotFoundError, match=r"can't connect to /nowhere/app\.sock: No such file"):
        await rawws.connect("ws+unix:///nowhere/app.sock").open()


async def test_connect_accepts_an_open_socket(nursery: trio.Nursery) -> None:
    url = await start(nursery, hosts=["example.org"])
    connected = socket.create_connection((LOOPBACK, int(url.rpartition(":")[2])))
    async with rawws.connect("ws://example.org/room", socket=connected) as ws:
        assert ws.request.headers["Host"] == "example.org"
        await ws.send("hello")
        assert await ws.recv() == "hello"
    while connected.fileno() != -1:  # it stays open until the server has ended its side too (§7.1.1)
        await trio.sleep(0.01)


# Bad arguments


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "a line end in a header": ({"headers": {"X": "a\r\nHost: b"}}, "the X header can't have the value"),
    "a line end in a header's name": ({"headers": {"X\r\n": "a"}}, "is not the name of a header field"),
    "a header that is ours": ({"headers": {"Sec-WebSocket-Key": "a"}}, "is set by the handshake"),
    "headers as one text": ({"headers": "a: b"}, "headers can't be 'a: b'; give a dict, or pairs"),
    "a time before now": ({"open_timeout": -1}, "open_timeout can't be -1; give a number that is 0 or more"),
    "a time that is no number": ({"open_timeout": "5"}, "open_timeout can't be '5'"),
    "less than no redirects": ({"max_redirects": -1}, "max_redirects can't be -1; give a whole number"),
    "a line end in the origin": ({"origin": "a\r\nb"}, "the Origin header can't have the value"),
    "a line end in a subprotocol": ({"subprotocols": ["a\r\nb"]}, "can't be a subprotocol"),
    "a subprotocol twice": ({"subprotocols": ["a", "a"]}, "given twice"),
    "subprotocols as one text": ({"subprotocols": "chat"}, "subprotocols"),
    "another compression": ({"compression": "zstd"}, "there is no compression 'zstd'"),
    "a line end in the user agent": ({"user_agent": "a\nb"}, "the User-Agent header can't have the value"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
async def test_bad_arguments_are_refused_before_the_connection(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rawws.connect("ws://localhost/", **arguments)


@pytest.mark.parametrize("uri", ["http://localhost/", "ws://", "ws://h/#x", "ws://h\r\nX: y/", "localhost:8080"])
async def test_a_url_that_is_no_websocket_address_is_refused(uri: str) -> None:
    with pytest.raises(rawws.InvalidURI):
        rawws.connect(uri)


# Failed handshakes


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("", "closed the connection before it answered"),
        ("HTTP/1.1 101 Sw", "closed the connection in the middle of its answer"),
    ],
)
async def test_a_connection_that_ends_before_the_answer_raises_no_response(
    nursery: trio.Nursery, said: str, message: str
) -> None:
    url = await start_raw(nursery, answering(said))
    with pytest.raises(rawws.NoResponse, match=message) as caught:
        await rawws.connect(url).open()
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(rawws.NoResponse, match=f"^the proxy http://.*: the server {message}"):
        await rawws.connect("ws://example.org/", proxy=url.replace("ws:", "http:")).open()


async def test_a_refused_connection_is_reported_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        with pytest.raises(ConnectionRefusedError, match=rf"can't connect to 127.0.0.1:{port}: Connection refused"):
            await rawws.connect(f"ws://{LOOPBACK}:{port}").open()


ANSWERS = {
    "another protocol": ("SSH-2.0-OpenSSH\r\n", "the server's answer is not HTTP: it begins with"),
    "no Upgrade": (GOOD.replace("Upgrade: websocket\r\n", ""), "Upgrade header"),
    "no Connection": (GOOD.replace("Connection: Upgrade\r\n", ""), "its Connection header lacks 'Upgrade'"),
    "another accept": (GOOD.replace("ACCEPT", "AAAA"), "its Sec-WebSocket-Accept is AAAA, where"),
    "no accept": (GOOD.replace("Sec-WebSocket-Accept: ACCEPT\r\n", ""), "its Sec-WebSocket-Accept is none, where"),
    "a subprotocol": (GOOD + "Sec-WebSocket-Protocol: z\r\n", "it chose the subprotocol 'z', which was not offered"),
    "an extension": (GOOD + "Sec-WebSocket-Extensions: zip\r\n", "names the extension 'zip', which was not offered"),
    "bad bits": (
        GOOD + "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99\r\n",
        "can't have the parameter server_max_window_bits=99 in an answer",
    ),
}


@pytest.mark.parametrize(("head", "message"), ANSWERS.values(), ids=ANSWERS)
async def test_4_1_each_fault_in_the_servers_handshake_has_its_own_message(
    nursery: trio.Nursery, head: str, message: str
) -> None:
    url = await start_raw(nursery, answering(head + "\r\n" if head else ""))
    with pytest.raises(rawws.InvalidResponse, match=message):
        await rawws.connect(url).open()


async def test_an_error_status_carries_the_response(nursery: trio.Nursery) -> None:
    url = await start(nursery, http=None, process_request=lambda _: Response(403, "not you\n", {"X-Why": "because"}))
    with pytest.raises(
        rawws.InvalidStatus, match="the server answered 403 Forbidden instead of 101: 'not you'"
    ) as caught:
        await rawws.connect(url).open()
    assert caught.value.response.headers["X-Why"] == "because"
    assert caught.value.response.body == b"not you\n"


async def test_control_characters_in_a_refusal_are_escaped_in_the_error(
    nursery: trio.Nursery,
) -> None:
    body = "\x1b[2Jgone\r\n2026 ERROR forged\u202e café\n"
    url = await start(nursery, process_request=lambda _: Response(403, body))
    with pytest.raises(rawws.InvalidStatus) as caught:
        await rawws.connect(url).open()
    assert str(caught.value).endswith(r"instead of 101: '\x1b[2Jgone\r\n2026 ERROR forged\u202e café'")
    assert caught.value.response.body == body.encode()


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 10\r\n\r\n", b"who"),
        ("HTTP/1.1 401 Unauthorized\r\nTransfer-Encoding: chunked\r\n\r\n", b""),
        ("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n", b"data: x\n\n"),
    ],
)
@pytest.mark.parametrize("open_timeout", [10, 0.5])
@pytest.mark.parametrize("resets", [False, True])
async def test_an_answer_with_an_endless_body_is_still_reported(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    head: str,
    body: bytes,
    open_timeout: float,
    resets: bool,
) -> None:
    async def converse(stream: trio.SocketStream) -> None:
        await answering(head, body)(stream)
        await trio.sleep(0.1)
        if resets:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return
        await trio.sleep_forever()

    url = await start_raw(nursery, converse)
    with pytest.raises(rawws.InvalidStatus) as caught:
        await anext(aiter(rawws.connect(url, open_timeout=open_timeout)))
    assert caught.value.response.status == int(head.split()[1])
    assert caught.value.response.body == body
    assert trio.current_time() < 2
    nursery.cancel_scope.cancel()


async def test_a_redirect_is_followed_without_its_body(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    there = await start(nursery)
    began = trio.current_time()
    here = answering(f"HTTP/1.1 302 Found\r\nLocation: {there}/\r\nContent-Length: 9\r\n\r\n", closes=False)
    async with rawws.connect(await start_raw(nursery, here)):
        assert trio.current_time() == began


async def test_open_timeout_names_the_step_that_took_too_long(nursery: trio.Nursery, autojump_clock: MockClock) -> None:  # noqa: ARG001
    async def mute(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()
        await stream.aclose()

    url = await start_raw(nursery, mute)
    with pytest.raises(rawws.OpenTimeout, match=r"waiting for .* to answer took longer than 3 s in all"):
        await rawws.connect(url, open_timeout=3).open()
    nursery.cancel_scope.cancel()


# Redirects


async def mute_until_end(stream: trio.SocketStream) -> None:
    await stream.receive_some()


def redirecting(nursery: trio.Nursery, location: str) -> Awaitable[str]:
    return start(nursery, process_request=lambda _: Response(302, b"", {"Location": location}))


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_secrets_follow_a_redirect_only_within_the_same_server(nursery: trio.Nursery, elsewhere: bool) -> None:
    def process(request: Request) -> Response | None:
        return None if request.path == "/end" else Response(307, b"", {"Location": target})

    target = "/end"
    url = await start(nursery, process_request=process)
    if elsewhere:
        target = (await start(nursery)).replace("ws:", "http:") + "/end"
    secrets = {"Authorization": "Bearer secret", "Cookie": "a=b", "X-Other": "1"}
    async with rawws.connect(url, headers=secrets) as ws:
        assert ws.path == "/end"
        sent = {name for name in secrets if name in ws.request.headers}
        assert sent == ({"X-Other"} if elsewhere else set(secrets))


async def test_a_circle_of_redirects_raises_invalid_redirect(nursery: trio.Nursery) -> None:
    url = await redirecting(nursery, "/again")
    with pytest.raises(rawws.InvalidRedirect) as raised:
        await rawws.connect(url, max_redirects=3).open()
    again = f"to {url}/again (302)"
    assert str(raised.value) == (
        f"{url}/ sent us on {again}, then …, then {again}, then {again}: {url}/ redirects more than 3 times "
        "(max_redirects), in a circle"
    )


async def test_an_endless_chain_of_redirects_raises_invalid_redirect(nursery: trio.Nursery) -> None:
    url = await start(nursery, process_request=lambda asked: Response(302, b"", {"Location": f"{asked.path}x"}))
    with pytest.raises(
        rawws.InvalidRedirect, match=r": ws://.*/ redirects more than 10 times \(max_redirects\)$"
    ) as raised:
        await rawws.connect(url).open()
    first, most, last = (f"to {url}/{'x' * count} (302)" for count in (1, 10, 11))
    assert str(raised.value).startswith(f"{url}/ sent us on {first}, then …, then {most}, then {last}: ")
    with pytest.raises(rawws.InvalidRedirect, match=r"/ redirects more than 0 times \(max_redirects\)$"):
        await rawws.connect(url, max_redirects=0).open()


async def test_a_redirect_to_another_scheme_raises_invalid_redirect(nursery: trio.Nursery) -> None:
    url = await redirecting(nursery, "mailto:somebody")
    with pytest.raises(rawws.InvalidRedirect, match="redirects to where no WebSocket can be"):
        await rawws.connect(url).open()


async def test_every_failure_after_a_redirect_names_the_redirect(
    nursery: trio.Nursery, server_tls: ssl.SSLContext
) -> None:
    target = ""
    url = await start(nursery, process_request=lambda _: Response(307, b"", {"Location": target}))
    secure = (await start(nursery, ssl=server_tls)).replace(LOOPBACK, "localhost")
    mute = await start_raw(nursery, mute_until_end)
    gone = await start_raw(nursery, answering("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
    odd = await start_raw(nursery, answering("HTTP/1.1 101 Switching Protocols\r\n\r\n"))
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        refusing = f"ws://{LOOPBACK}:{taken.getsockname()[1]}"
        failures: list[tuple[str, type[Exception], str]] = [
            (refusing, ConnectionRefusedError, f"can't connect to {refusing[5:]}: Connection refused"),
            ("ws://no-such-host.invalid", OSError, "can't connect to no-such-host.invalid:80: "),
            (secure, rawws.CertificateError, f"the certificate of {secure[6:]} comes from an authority"),
            (url.replace("ws:", "wss:"), rawws.TlsError, f"{url[5:]} speaks plain HTTP, not TLS"),
            (mute, rawws.NoResponse, f"{mute}/: the server closed the connection before it answered"),
            (gone, rawws.InvalidStatus, f"{gone}/: the server answered 404 Not Found instead of 101"),
            (odd, rawws.InvalidResponse, f"{odd}/: the server's 101 is not valid: "),
        ]
        for target, kind, beginning in failures:
            with pytest.raises(kind) as raised:
                await rawws.connect(url).open()
            error = raised.value
            sentence = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            assert sentence.startswith(f"{url}/ sent us on to {target}/ (307): {beginning}")
            assert sentence in str(error)
            assert sentence in error.args


async def test_a_timeout_after_a_redirect_names_the_redirect(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    async def hear(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    silent = await start_raw(nursery, hear)
    url = await redirecting(nursery, f"{silent}/x?token=secret")
    with pytest.raises(rawws.OpenTimeout) as raised:
        await rawws.connect(url, open_timeout=3).open()
    assert str(raised.value).startswith(f"{url}/ sent us on to {silent}/x?token=")
    assert f" (302): {url}/: waiting for {silent}/x?token=" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("secret", ["a header", "the address"])
async def test_a_refusal_after_a_redirect_says_that_credentials_were_not_sent(
    nursery: trio.Nursery, secret: str
) -> None:
    second = await start(nursery, process_request=lambda _: Response(401))
    first = await redirecting(nursery, second)
    url = first if secret == "a header" else first.replace("ws://", "ws://user:secret@")
    headers = {"Authorization": "Bearer secret"} if secret == "a header" else {}
    with pytest.raises(rawws.InvalidStatus) as raised:
        await rawws.connect(url, headers=headers).open()
    assert str(raised.value) == (
        f"{first}/ sent us on to {second}/ (302, and credentials are not sent to another server): {second}/: the "
        "server answered 401 Unauthorized instead of 101"
    )
    assert raised.value.response.status == 401


# TLS


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", LOOPBACK).configure_cert(context)
    return context


async def test_connect_verifies_the_certificate_of_the_server(
    nursery: trio.Nursery, authority: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    url = await start(nursery, ssl=server_tls)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with rawws.connect(url, ssl=trusting) as ws:
        for message in ("hello", b"x" * 300_000):
            await ws.send(message)
            assert await ws.recv() == message
    with pytest.raises(ssl.SSLCertVerificationError):
        await rawws.connect(url).open()
    unencrypted = await redirecting(nursery, "ws://localhost/")
    assert unencrypted.startswith("ws:")


async def test_a_redirect_out_of_tls_is_not_followed(
    nursery: trio.Nursery, authority: trustme.CA, server_tls: ssl.SSLContext
) -> None:
    url = await start(nursery, ssl=server_tls, process_request=lambda _: Response(301, b"", {"Location": "ws://a/"}))
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with pytest.raises(rawws.InvalidRedirect, match="which isn't encrypted; that is not followed"):
        await rawws.connect(url, ssl=trusting).open()
    unencrypted = await redirecting(nursery, url)
    with pytest.raises(
        rawws.InvalidRedirect, match=f"^{unencrypted}/ sent us on to {url}/ .302.: {url}/ redirects to ws://a/"
    ):
        await rawws.connect(unencrypted, ssl=trusting).open()


# Proxies


class Proxy:
    """An HTTP proxy that connects, or gives the configured answer."""

    def __init__(self, answer: str = "HTTP/1.1 200 Connected") -> None:
        self.answer = answer
        self.heads: list[str] = []

    async def converse(self, stream: trio.SocketStream) -> None:
        self.heads.append(await read_head(stream))
        await stream.send_all(f"{self.answer}\r\n\r\n".encode())
        if " 200 " not in self.answer:
            return
        host, _, port = self.heads[-1].split()[1].rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as onward, trio.open_nursery() as nursery:
            nursery.start_soon(self._pass_on, onward, stream, nursery.cancel_scope)
            await self._pass_on(stream, onward, nursery.cancel_scope)

    @staticmethod
    async def _pass_on(source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope) -> None:
        async for data in source:
            await sink.send_all(data)
        both.cancel()


@pytest.mark.parametrize("how", ["given", "http_proxy", "HTTP_PROXY", "all_proxy"])
async def test_connect_uses_a_proxy(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    proxy = Proxy()
    url = await start(nursery)
    proxy_url = (await start_raw(nursery, proxy.converse)).replace("ws://", "http://user:pass@")
    if how != "given":
        monkeypatch.setenv(how, proxy_url)
    async with rawws.connect(url, proxy=proxy_url if how == "given" else True) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
    address = url.removeprefix("ws://")
    assert proxy.heads[0].startswith(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n")
    assert "Proxy-Authorization: Basic dXNlcjpwYXNz\r\n" in proxy.heads[0]


@pytest.mark.parametrize("how", ["no_proxy", "proxy=None"])
async def test_connect_avoids_the_proxy_if_asked_to(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    proxy = Proxy()
    url = await start(nursery)
    monkeypatch.setenv("http_proxy", (await start_raw(nursery, proxy.converse)).replace("ws://", "http://"))
    if how == "no_proxy":
        monkeypatch.setenv("no_proxy", LOOPBACK)
    async with rawws.connect(url, proxy=None if how == "proxy=None" else True) as ws:
        await ws.send("hello")
        assert await ws.recv() == "hello"
    assert proxy.heads == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (
            "HTTP/1.1 407 Proxy Authentication Required",
            "it answered 407 Proxy Authentication Required; give your user name and password in its address, as http://",
        ),
        (
            "HTTP/1.1 403 Forbidden",
            "it answered 403 Forbidden; its operator does not allow that",
        ),
        ("HTTP/1.1 502 Bad Gateway", "it answered 502 Bad Gateway; it has no connection to there itself"),
        ("HTTP/1.1 418 Teapot", "does not connect us to example.org:80: it answered 418 I'm a Teapot$"),
        (
            "\x15\x03\x01\0\x02\x02\x46",
            "the server speaks TLS on this port; only proxies that speak plain HTTP can be used",
        ),
        ("SMTP ready", "the server's answer is not HTTP"),
    ],
)
async def test_a_refusal_of_the_proxy_is_reported_with_its_reason(
    nursery: trio.Nursery, answer: str, message: str
) -> None:
    proxy_url = (await start_raw(nursery, Proxy(answer).converse)).replace("ws:", "http:")
    with pytest.raises(rawws.ProxyError, match=message):
        await rawws.connect("ws://example.org/", proxy=proxy_url).open()


async def test_a_password_that_the_proxy_refuses_is_reported(nursery: trio.Nursery) -> None:
    proxy_url = (await start_raw(nursery, Proxy("HTTP/1.1 407 No").converse)).replace("ws://", "http://user:pass@")
    with pytest.raises(
        rawws.ProxyError, match=r"; it does not accept the user name and password in its address$"
    ) as raised:
        await rawws.connect("ws://example.org/", proxy=proxy_url).open()
    assert "pass@" not in str(raised.value)


async def test_a_failure_behind_a_proxy_names_the_server_and_the_proxy(nursery: trio.Nursery) -> None:
    proxy = (await start_raw(nursery, Proxy().converse)).replace("ws:", "http:")
    plain = await start(nursery, process_request=lambda _: Response(404))
    with pytest.raises(rawws.TlsError) as raised:
        await rawws.connect(plain.replace("ws:", "wss:"), proxy=proxy).open()
    through = f"(through the proxy {proxy})"
    assert str(raised.value).startswith(f"{plain[5:]} {through} speaks plain HTTP, not TLS")
    with pytest.raises(rawws.InvalidStatus, match=re.escape(f"{plain}/ {through}: the server answered 404 Not Found")):
        await rawws.connect(plain, proxy=proxy).open()
    ending = await start_raw(nursery, mute_until_end)
    with pytest.raises(rawws.NoResponse, match=re.escape(f"{ending}/ {through}: the server closed the connection")):
        await rawws.connect(ending, proxy=proxy).open()
    nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("how", "whose"),
    [
        ("given", "that was given"),
        ("http_proxy", "of http_proxy in the environment, to which no_proxy makes exceptions"),
    ],
)
async def test_an_unreachable_proxy_is_named_in_the_error(
    monkeypatch: pytest.MonkeyPatch, how: str, whose: str
) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        if how != "given":
            monkeypatch.setenv(how, f"http://{address}")
        message = f"can't connect to {address}: Connection refused; .*; that is the proxy {whose}"
        with pytest.raises(ConnectionRefusedError, match=message):
            await rawws.connect("ws://example.org/", proxy=f"http://{address}" if how == "given" else True).open()


@pytest.mark.parametrize("host", ["proxy..corp", "a" * 64 + ".corp"])
async def test_an_invalid_host_name_raises_oserror(host: str) -> None:
    message = f"can't connect to {host}:3128: that is not the name of a host"
    with pytest.raises(OSError, match=f"{message}$"):
        await dial(host, 3128)
    with pytest.raises(OSError, match=f"{message}; that is the proxy that was given"):
        await rawws.connect("ws://example.org/", proxy=f"http://{host}:3128").open()


@pytest.mark.parametrize("proxy", ["socks5://localhost:1", "http://h:bad", "http://[bad", "https://localhost:1"])
async def test_an_unsupported_proxy_is_reported_in_one_sentence(proxy: str) -> None:
    with pytest.raises(rawws.ProxyError, match="can't be used"):
        await rawws.connect("ws://example.org/", proxy=proxy).open()


# Reconnecting


async def test_iteration_reconnects_after_a_lost_connection(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    codes = iter([1012, 1001, 1000])

    async def cut_off(ws: WebSocket) -> None:
        await ws.aclose(next(codes))

    url = await start(nursery, cut_off)
    seen = []
    async for ws in rawws.connect(url):
        await ws.wait_closed()
        seen.append(ws.close_code)
        if len(seen) == 3:
            break
    assert seen == [1012, 1001, 1000]
    assert len([message for message in caplog.messages if "cut off; connecting again in" in message]) == 2


async def test_the_delay_grows_while_the_server_is_away(
    nursery: trio.Nursery,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    monkeypatch.setattr("random.uniform", lambda _, most: most)
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        waits: list[float] = []
        sleep = trio.sleep

        async def note(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 9:
                nursery.cancel_scope.cancel()
            await sleep(seconds)

        monkeypatch.setattr("trio.sleep", note)
        async for _ in rawws.connect(f"ws://{LOOPBACK}:{port}/"):
            raise AssertionError("there is nobody")
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]


async def test_iteration_honours_retry_after(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    answers = iter([Response(503, b"", {"Retry-After": "30"}), Response(429, b"", {"Retry-After": "soon"}), None])
    url = await start(nursery, process_request=lambda _: next(answers))
    started = trio.current_time()
    async for _ in rawws.connect(url):
        break
    assert 30 <= trio.current_time() - started < 40


async def test_iteration_retries_after_a_connection_that_ended_before_an_answer(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    ends = iter(["nothing", "a reset", "HTTP/1.1 101 Sw", "HTTP/1.1 503 Busy\r\n\r\n", GOOD + "\r\n"])

    async def converse(stream: trio.SocketStream) -> None:
        match next(ends):
            case "nothing":
                pass
            case "a reset":
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            case head:
                await answering(head)(stream)

    url = await start_raw(nursery, converse)
    async for ws in rawws.connect(url):
        assert ws.response.status == 101
        break
    assert list(ends) == []


@pytest.mark.parametrize("status", [401, 403, 404])
async def test_iteration_stops_if_a_retry_cannot_help(nursery: trio.Nursery, status: int) -> None:
    url = await start(nursery, process_request=lambda _: Response(status))
    with pytest.raises(rawws.InvalidStatus):
        await anext(aiter(rawws.connect(url)))
    proxy_url = (await start_raw(nursery, Proxy(f"HTTP/1.1 {status} No").converse)).replace("ws:", "http:")
    with pytest.raises(rawws.ProxyError):
        await anext(aiter(rawws.connect(url, proxy=proxy_url)))


async def test_iteration_retries_if_the_proxy_cannot_connect_yet(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    proxy = Proxy()
    answers = iter(["HTTP/1.1 503 Later\r\nRetry-After: 30", "HTTP/1.1 502 Bad Gateway", "HTTP/1.1 200 Connected"])

    async def converse(stream: trio.SocketStream) -> None:
        proxy.answer = next(answers)
        await proxy.converse(stream)

    proxy_url = (await start_raw(nursery, converse)).replace("ws:", "http:")
    started = trio.current_time()
    async for _ in rawws.connect(await start(nursery), proxy=proxy_url):
        break
    assert 30 <= trio.current_time() - started < 40


async def test_leaving_the_loop_closes_the_connection(nursery: trio.Nursery) -> None:
    ends: list[Any] = []

    async def note_the_end(ws: WebSocket) -> None:
        await ws.wait_closed()
        ends.append(ws.closed)

    url = await start(nursery, note_the_end)
    async for _ in rawws.connect(url):
        break
    while not ends:
        await wait_all_tasks_blocked()
    assert (ends[0].code, ends[0].by_us) == (1000, False)


# The end


async def test_one_connect_is_one_connection_at_a_time(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
) -> None:
    connector = rawws.connect(await start(nursery))
    async with connector as first:
        with pytest.raises(UsageError, match=r"<connect to ws://.*> is used twice at a time; call connect once for"):
            async with connector:
                pass
        await first.send("still here")
        assert await first.recv() == "still here"
    async with connector as then:
        assert then is not first
    lost = rawws.connect(await start_raw(nursery, answering("")))
    for _ in range(2):
        with pytest.raises(rawws.NoResponse):
            await lost.__aenter__()


@pytest.mark.parametrize(("error", "code"), [(None, 1000), (ZeroDivisionError, 1011)])
async def test_the_close_code_says_how_the_block_was_left(
    nursery: trio.Nursery, error: type[Exception] | None, code: int
) -> None:
    ends: list[Any] = []

    async def note_the_end(ws: WebSocket) -> None:
        await ws.wait_closed()
        ends.append(ws.close_code)

    url = await start(nursery, note_the_end)
    try:
        async with rawws.connect(url) as ws:
            if error is not None:
                raise error
    except ZeroDivisionError:
        assert error is not None
    while not ends:
        await wait_all_tasks_blocked()
    assert ends == [code]
    assert ws.closed is not None
    assert ws.closed.cause is (rawws.Cause.OUR_CLOSE if error is None else rawws.Cause.ERROR)


async def test_the_log_shows_the_handshake_and_no_secrets(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rawws")
    url = await start_raw(nursery, answering(GOOD + "\r\n", closes=False))
    async with rawws.connect(f"{url}/room", headers={"Authorization": "Bearer secret"}):
        pass
    log = "\n".join(caplog.messages)
    for line in (
        "#1 > GET /room HTTP/1.1",
        "#1 < HTTP/1.1 101 Switching Protocols",
        "#1 = RFC 6455 §4.1 item 4: Sec-WebSocket-Accept belongs to the client's key? yes:",
        "#1 = HTTP ends, WebSocket begins: 0 bytes came after the response",
        "#1 > CLOSE fin=1",
    ):
        assert line in log
    assert "secret" not in log
