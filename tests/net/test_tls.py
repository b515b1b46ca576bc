"""TLS in the same loop: real handshakes, large segments, lagging peers, and faults."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import ssl
import struct
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from trio.testing import wait_all_tasks_blocked

import rawws.cli
from rawws.errors import UsageError
from rawws.hub.room import state_of
from rawws.limits import Limits
from rawws.net.tls_transport import TLS_RECORD_BYTES, TlsTransport
from rawws.process.program import load_tls
from rawws.relay.loop import current_loop
from rawws.server.connection import LINGER_S
from rawws.wire.frames import Opcode, encode_frame, parse_header
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import Running, Serve, StartHub
from tests.serving.wire import Seen, binary, close, get, ping, seen_text, text, upgrade


class Certificate:
    """A certificate for loopback, as files, and the authority that a client trusts."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        issued = authority.issue_cert(LOOPBACK, "localhost")
        self.chain, self.key = folder / "chain.pem", folder / "key.pem"
        issued.cert_chain_pems[0].write_to_path(self.chain)
        issued.private_key_pem.write_to_path(self.key)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)
        self.server = load_tls(str(self.chain), str(self.key))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


class TlsClient:
    """A WebSocket client over trio's own TLS stream."""

    def __init__(self, stream: trio.SSLStream[trio.SocketStream]) -> None:
        self.stream = stream
        self.unread = bytearray()
        self._socket = stream.transport_stream.socket

    def hang_up(self) -> None:
        self._socket.close()

    async def read(self, size: int) -> bytes:
        while len(self.unread) < size:
            data = await self.stream.receive_some(1 << 16)
            assert data, "the stream ends early"
            self.unread += data
        taken = bytes(self.unread[:size])
        del self.unread[:size]
        return taken

    async def head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await self.read(1)
        return head

    async def frame(self) -> Seen:
        raw = b""
        while (header := parse_header(raw)) is None:
            raw += await self.read(1)
        return Seen(Opcode(header.opcode), await self.read(header.payload_bytes))


async def connect(running: Running, certificate: Certificate) -> TlsClient:
    stream = await trio.open_tcp_stream(LOOPBACK, running.port)
    tls = trio.SSLStream(stream, certificate.client, server_hostname=LOOPBACK, https_compatible=True)
    client = TlsClient(tls)
    running.clients.append(client)
    await tls.do_handshake()
    return client


async def join(running: Running, certificate: Certificate, then: bytes = b"") -> TlsClient:
    client = await connect(running, certificate)
    await client.stream.send_all(upgrade("/room") + then)
    assert (await client.head()).startswith(b"HTTP/1.1 101 ")
    return client


async def tls_pair(certificate: Certificate, *, send_buffer: int | None = None) -> tuple[TlsTransport, TlsTransport]:
    """Return both ends of a connection, the server's first, after their TLS handshake."""
    ours, theirs = socket.socketpair()
    if send_buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    server = TlsTransport(ours, certificate.server)
    client = TlsTransport(theirs, certificate.client, server_hostname=LOOPBACK)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    return server, client


async def test_tls_carries_http_an_upgrade_and_a_broadcast(serve: Serve, certificate: Certificate) -> None:
    running = await serve(tls=certificate.server, hello="hi")
    client = await connect(running, certificate)
    await client.stream.send_all(get("/"))
    assert b"Content-Length: 8" in await client.head()
    assert await client.read(8) == b"hi there"
    await client.stream.send_all(upgrade("/room") + text("pipelined"))
    await client.head()
    assert await client.frame() == Seen(Opcode.TEXT, b"hi")
    assert await client.frame() == Seen(Opcode.TEXT, b"pipelined")
    other = await join(running, certificate)
    await other.frame()
    large = bytes(range(256)) * 3000  # many TLS records
    await client.stream.send_all(binary(large))
    assert await client.frame() == await other.frame() == Seen(Opcode.BINARY, large)


async def test_a_tls_peer_that_stalls_gets_everything_in_order_and_control_frames_between(
    serve: Serve, certificate: Certificate
) -> None:
    running = await serve(tls=certificate.server, max_lag_bytes=64 << 20)
    slow, busy = await join(running, certificate), await join(running, certificate)
    messages = [bytes([number]) * 300_000 for number in range(60)]
    for message in messages:  # 18 MB, more than the kernel buffers for a peer that doesn't read
        await busy.stream.send_all(binary(message))
        assert await busy.frame() == Seen(Opcode.BINARY, message)
    await slow.stream.send_all(ping(b"still here"))
    got = [await slow.frame() for _ in range(len(messages) + 1)]
    assert [frame.payload for frame in got if frame.opcode is Opcode.BINARY] == messages
    assert Seen(Opcode.PONG, b"still here") in got
    await slow.stream.send_all(close(1000))
    assert await slow.frame() == Seen(Opcode.CLOSE, b"\x03\xe8")


async def test_a_tls_peer_that_lags_too_far_is_closed_at_a_frame_boundary(
    serve: Serve, certificate: Certificate
) -> None:
    running = await serve(tls=certificate.server, max_lag_bytes=1 << 20)
    slow, busy = await join(running, certificate), await join(running, certificate)
    message = b"m" * 50_000
    count = 0
    while len(running.hub.rooms["/room"]) == 2:
        await busy.stream.send_all(binary(message))
        assert await busy.frame() == Seen(Opcode.BINARY, message)
        count += 1
    frames = [await slow.frame()]
    while frames[-1].opcode is not Opcode.CLOSE:
        frames.append(await slow.frame())
    *received, last = frames
    assert 0 < len(received) < count
    assert set(received) == {Seen(Opcode.BINARY, message)}
    assert last.payload[:2] == (1013).to_bytes(2, "big")


@pytest.mark.parametrize("policy", ["close", "skip", "latest"])
async def test_messages_that_a_slow_tls_peer_misses_leave_no_frame_incomplete(
    serve: Serve, certificate: Certificate, policy: str
) -> None:
    running = await serve(tls=certificate.server, slow=policy, key="k", max_lag_bytes=1 << 20)
    slow = await join(running, certificate)
    room = running.hub.rooms["/room"]
    messages = [json.dumps({"k": number % 60, "padding": f"{number:05}" * 3000}) for number in range(800)]
    for first in range(0, len(messages), 20):  # 12 MB; many frames in a segment, and records that end anywhere
        room.publish_many(tuple(messages[first : first + 20]))
        await trio.lowlevel.checkpoint()
    number_of = {seen_text(message): number for number, message in enumerate(messages)}
    frame = await slow.frame()
    got = []
    while frame.opcode is Opcode.TEXT:
        got.append(number_of[frame])
        if got[-1] == len(messages) - 1:
            break
        frame = await slow.frame()
    assert got == sorted(set(got))
    assert 0 < len(got) < len(messages)
    assert (frame.opcode is Opcode.CLOSE) is (policy == "close")


async def test_a_partial_send_commits_one_tls_record_and_any_data_may_follow_it(
    certificate: Certificate,
) -> None:
    server, client = await tls_pair(certificate, send_buffer=20_000)
    data = bytes(range(256)) * 1024
    gone = server.try_send(data)
    assert server.try_send(data[gone:]) == 0
    assert 0 < server.committed_bytes <= TLS_RECORD_BYTES
    kept = data[: gone + server.committed_bytes]
    rest = kept[gone:] + b"something else"
    received = b""
    while len(received) < len(kept) + len(b"something else"):
        rest = rest[server.try_send(rest) :]
        received += client.try_receive() or b""
    assert received == kept + b"something else"
    assert server.committed_bytes == 0
    server.close()
    client.close()


@pytest.mark.parametrize("why", ["it said too much", "publishers are held back", "it begins"])
async def test_buffered_plaintext_is_read_when_reading_resumes(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
    start_hub: StartHub,
    certificate: Certificate,
    why: str,
) -> None:
    limits = Limits(messages_per_s=10) if why == "it said too much" else Limits()
    running = start_hub(limits=limits)
    room = running.hub.room("/")
    server, client = await tls_pair(certificate)
    frames = [binary(bytes([number]) * 1979) for number in range(35)]
    for first in range(0, 35, 5):  # the last record begins within one read, and ends after it
        await client.send_all(b"".join(frames[first : first + 5]))
    if why == "publishers are held back":
        state_of(room).holds.add(why)
    trailing_data = await server.receive() if why == "it begins" else b""
    running.adopt(server, trailing_data=trailing_data)
    await wait_all_tasks_blocked()
    current_loop().slow.unblock(state_of(room), why)
    expected = b"".join(encode_frame(Opcode.BINARY, bytes([number]) * 1979) for number in range(35))
    received = b""
    with trio.fail_after(19):  # less than the ping interval
        while len(received) < len(expected):
            received += await client.receive()
    assert received == expected
    client.close()


async def test_a_close_notify_is_answered_with_one(serve: Serve, certificate: Certificate) -> None:
    running = await serve(tls=certificate.server)
    asks = await connect(running, certificate)
    await asks.stream.send_all(get("/"))
    await asks.head()
    await asks.read(len("hi there"))
    for client in (await connect(running, certificate), asks, await join(running, certificate)):
        await client.stream.unwrap()  # RFC 8446 §6.1: raises if there is no close_notify in answer


# The transport itself


async def test_a_close_notify_that_arrives_with_data_is_seen_after_it(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server), trio.fail_after(PATIENCE_S):
        await client.send_all(b"last words")
        client._send_close_notify()
        assert client.try_flush()  # without a FIN, which would be seen by itself
        while (received := server.try_receive()) is None:
            await trio.lowlevel.wait_readable(server)
        assert received == b"last words"
        assert server.has_pending, "or nobody looks"
        assert server.try_receive() == b""


async def receive_to_end(transport: TlsTransport) -> bytes:
    received = b""
    while data := await transport.receive():
        received += data
    return received


@pytest.mark.parametrize("unread", [b"", b"before" * 1000])
async def test_a_peer_that_ended_its_side_still_gets_all_data(certificate: Certificate, unread: bytes) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server), trio.fail_after(PATIENCE_S):
        await client.send_all(b"last words")
        await server.send_all(unread)
        client.shutdown_write()
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                assert await receive_to_end(server) == b"last words"
                await server.send_all(b"after" * 1000)
                server.shutdown_write()

            nursery.start_soon(answer)
            assert await receive_to_end(client) == unread + b"after" * 1000


async def test_decrypted_data_stays_readable_after_our_end(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        await server.send_all(b"a record")
        assert await client.receive(2) == b"a "
        client.shutdown_write()
        assert client.has_pending
        server.shutdown_write()
        assert await client.receive(3) == b"rec"
        assert await receive_to_end(client) == b"ord"


async def test_tls_1_2_carries_data_and_ends_in_both_directions(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificate.client, "maximum_version", ssl.TLSVersion.TLSv1_2)
    server, client = await tls_pair(certificate)
    data = bytes(range(256)) * 4096
    with contextlib.closing(client), contextlib.closing(server), trio.fail_after(PATIENCE_S):
        assert client._tls.version() == "TLSv1.2"
        for sender, receiver in ((server, client), (client, server)):
            async with trio.open_nursery() as nursery:

                async def send(sender: TlsTransport = sender) -> None:
                    await sender.send_all(data)
                    await sender.send_eof()

                nursery.start_soon(send)
                assert await receive_to_end(receiver) == data


async def test_the_server_refuses_renegotiation(certificate: Certificate) -> None:
    assert certificate.server.options & ssl.OP_NO_RENEGOTIATION


async def test_our_close_notify_arrives_in_either_order_of_ends(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        server.shutdown_write()
        assert await receive_to_end(client) == b""
        client.shutdown_write()
        assert await receive_to_end(server) == await receive_to_end(client) == b""


async def test_records_before_a_fault_are_not_lost(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        await server.send_all(b"whole")
        with server.detach() as bare:
            bare.sendall(b"no record at all")
            assert await client.receive() == b"whole"
            assert client.has_pending  # no poller reports it
            with pytest.raises(ssl.SSLError):
                await client.receive()


USE_TLS = "This port speaks TLS: use https:// or wss://."
NO_PROXY_PROTOCOL = "This server does not speak the PROXY protocol, which a proxy in front of it has sent."


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (get("/"), USE_TLS),
        (upgrade("/room"), USE_TLS),
        (get("/", "Content-Length: 3000000", method="POST") + b"x" * 3_000_000, USE_TLS),
        (b"P", USE_TLS),
        (b"\x03\x00\x00\x13", USE_TLS),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 443\r\n\x16\x03\x01", NO_PROXY_PROTOCOL),
        (b"\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00\x16\x03\x01", NO_PROXY_PROTOCOL),
    ],
    ids=["http", "upgrade", "with a body", "one letter", "another protocol", "PROXY 1", "PROXY 2"],
)
async def test_a_client_without_tls_gets_400_and_one_log_line(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture, said: bytes, message: str
) -> None:
    running = await serve(tls=certificate.server)
    caplog.set_level("INFO", "rawws")
    answer = b""
    async with await trio.open_tcp_stream(LOOPBACK, running.port) as stream:
        await stream.send_all(said)
        while data := await stream.receive_some():  # raises for a reset
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"\r\nConnection: close" in head
    assert body.decode() == f"{message}\n"
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("#1 ! refused with 400 (")
    assert message.removesuffix(".") in line
    assert (await join(running, certificate)).unread == b""


async def test_a_client_without_tls_that_never_stops_sending_is_disconnected(
    serve: Serve, certificate: Certificate, mock_clock: trio.testing.MockClock
) -> None:
    running = await serve(tls=certificate.server)
    client = await running.connect()
    assert (await client.ask(get("/"))).status == 400
    with pytest.raises(ConnectionError):  # noqa: PT012
        while True:
            await client.send(b"more")
            await wait_all_tasks_blocked()
            mock_clock.jump(LINGER_S / 4)


async def test_a_broken_record_within_a_websocket_is_one_log_line_without_a_traceback(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve(tls=certificate.server)
    client = await join(running, certificate)
    caplog.set_level("INFO", "rawws.hub")
    await client.stream.transport_stream.send_all(b"no record at all")
    while "/room" in running.hub.rooms and len(running.hub.rooms["/room"]):
        await wait_all_tasks_blocked()
    (line,) = caplog.messages
    assert line == "#1 ! lost without a close (1006): TLS failed (WRONG_VERSION_NUMBER)"


async def test_a_client_that_leaves_before_the_handshake_is_one_log_line_and_no_error(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve(tls=certificate.server)
    for says in (b"", b"hello"):
        # There is no checkpoint in between, so the client has gone when it is accepted.
        client = socket.create_connection((LOOPBACK, running.port))
        client.sendall(says)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        await wait_all_tasks_blocked()
    assert [record.levelname for record in caplog.records] == ["INFO"] * 2
    for number, message in enumerate(caplog.messages, 1):
        assert message.startswith((f"#{number} ! lost in the HTTP phase: ", f"#{number} ! TLS failed: "))


async def test_a_tls_handshake_has_a_time_limit(serve: Serve, certificate: Certificate) -> None:
    running = await serve(tls=certificate.server, limits=Limits(header_timeout_s=0.05))
    client = await running.connect()
    await client.wait_lost()


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--tls-cert", "nowhere.pem"], "can't be read: No such file or directory"),
        (["--tls-cert", __file__], "give a PEM certificate and the key that belongs to it"),
        (["--tls-key", "key.pem"], "--tls-key has no effect without --tls-cert"),
    ],
    ids=["no such file", "not a certificate", "a key alone"],
)
def test_a_bad_certificate_is_reported_in_one_sentence_with_exit_status_2(
    flags: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rawws.cli.main(["--port", "0", *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_key_of_another_certificate_is_reported(certificate: Certificate, tmp_path: Path) -> None:
    other = Certificate(tmp_path)
    with pytest.raises(UsageError, match="KEY_VALUES_MISMATCH"):
        load_tls(str(certificate.chain), str(other.key))
