"""Attacks by TLS alone: records without data, records of one byte, answers that the peer does not read.

The tests count the work of one step; they never time it.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.errors import Cause, ConnectionClosedError
from rawws.limits import Limits
from rawws.net.connection_errors import TlsFlood
from rawws.net.tls_transport import (
    DATALESS_S,
    LOOK_RECORDS,
    MAX_DATALESS_RECORDS,
    MAX_HANDSHAKE_BYTES,
    MAX_UNSENT_BYTES,
    STEP_RECORDS,
    TLS_BYTES,
    TlsTransport,
)
from rawws.net.transport import RECEIVE_BYTES
from rawws.relay.loop import current_loop
from rawws.wire.frames import Opcode
from rawws.wire.handshake import Accept
from rawws.wire.tls_records import MAX_RECORD_BYTES, find_records
from tests.net.test_tls import Certificate, join, tls_pair
from tests.openssl import RawTls
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.server import Running, Serve, StartHub
from tests.serving.wire import Seen, binary, masked, text, upgrade

MANY = 4000
FLOOD = f"over {MAX_DATALESS_RECORDS} TLS records in a row came without a byte of data"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return Certificate(tmp_path_factory.mktemp("tls"))


class Attacker:
    """One side of a connection that writes any TLS records, over the other end of a blocking socket."""

    def __init__(self, connected: socket.socket, files: tuple[Path, Path] | None = None, **settings: Any) -> None:
        self.tls = RawTls(files, **settings)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected))
        self.socket = connected

    def hang_up(self) -> None:
        self.stream.socket.close()

    async def do_handshake(self) -> None:
        while not self.tls.do_handshake():
            await self.flush()
            self.tls.receive(await self.stream.receive_some())
        await self.flush()

    async def flush(self) -> None:
        await self.stream.send_all(self.tls.to_send())

    async def read(self, end: bytes) -> bytes:
        """Return data up to the given end."""
        data = b""
        while not data.endswith(end):
            if piece := self.tls.read():
                data += piece
            else:
                received = await self.stream.receive_some()
                assert received, f"the stream ends after {data!r}"
                self.tls.receive(received)
        return data

    def send_at_once(self) -> int:
        """Send as much as the kernel takes, without a checkpoint; return how many bytes are left."""
        data = self.tls.to_send()
        self.socket.setblocking(False)
        return len(data) - self.socket.send(data)

    async def wait_lost(self) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some():
                pass


async def attack(running: Running, path: str | None = None) -> Attacker:
    """Connect; with a path, have the connection upgraded."""
    attacker = Attacker(socket.create_connection((LOOPBACK, running.port)))
    running.clients.append(attacker)
    await attacker.do_handshake()
    if path is not None:
        attacker.tls.write(upgrade(path))
        await attacker.flush()
        await attacker.read(b"\r\n\r\n")
    return attacker


async def attacked_pair(certificate: Certificate, *, send_buffer: int | None = None) -> tuple[TlsTransport, Attacker]:
    """Return a server's transport, and the client that attacks it."""
    ours, theirs = socket.socketpair()
    if send_buffer is not None:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    server, attacker = TlsTransport(ours, certificate.server), Attacker(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(attacker.do_handshake)
    return server, attacker


def update_keys(attacker: Attacker, count: int, *, request: bool = False) -> None:
    for _ in range(count):
        attacker.tls.update_key(request=request)


# One read


def test_the_records_of_a_read_are_a_whole_number_of_steps() -> None:
    assert LOOK_RECORDS % STEP_RECORDS == 0


async def test_one_read_takes_a_bounded_number_of_records_of_a_byte_each(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        sent = bytes(number % 256 for number in range(MANY))
        with client._buffers:
            for byte in sent:
                client._tls.write(bytes([byte]))
            records = client._buffers.outgoing.read()
        assert client._socket.send(records) == len(records)
        received: list[bytes] = []
        while len(b"".join(received)) < MANY:
            received.append(await server.receive())
            assert server.held_bytes <= TLS_BYTES + MAX_RECORD_BYTES + RECEIVE_BYTES
        assert max(map(len, received)) <= LOOK_RECORDS
        assert b"".join(received) == sent


async def test_one_read_takes_a_bounded_number_of_key_updates_with_or_without_data_between(
    certificate: Certificate,
) -> None:
    server, attacker = await attacked_pair(certificate)
    with contextlib.closing(server):
        for number in range(100):
            attacker.tls.write(bytes([number]))
            update_keys(attacker, MAX_DATALESS_RECORDS - STEP_RECORDS)
        assert not attacker.send_at_once()
        looks = []
        received = b""
        while len(received) < 100:
            data = server.try_receive()
            looks.append(data or b"")
            received += looks[-1]
            assert server.has_pending or len(received) == 100
        assert received == bytes(range(100))
        assert max(map(len, looks)) <= LOOK_RECORDS / (1 + MAX_DATALESS_RECORDS - STEP_RECORDS) + 1
        attacker.hang_up()


async def test_too_many_records_without_data_end_the_connection_after_the_data(certificate: Certificate) -> None:
    server, attacker = await attacked_pair(certificate)
    with contextlib.closing(server):
        update_keys(attacker, MAX_DATALESS_RECORDS)
        attacker.tls.write(b"still fine")
        await attacker.flush()
        assert await server.receive() == b"still fine"
        update_keys(attacker, MANY)
        assert not attacker.send_at_once()
        with pytest.raises(TlsFlood, match=FLOOD) as raised:  # noqa: PT012
            while await server.receive():
                pass
        assert raised.value.reason == str(raised.value)
        with pytest.raises(TlsFlood):
            server.try_receive()
        assert server.held_bytes == TLS_BYTES
        attacker.hang_up()


async def test_key_updates_count_anew_after_a_minute(certificate: Certificate) -> None:
    server, attacker = await attacked_pair(certificate)
    with contextlib.closing(server):
        for _ in range(3):
            update_keys(attacker, MAX_DATALESS_RECORDS)
            await attacker.flush()
            while server.try_receive() is not None or server.has_pending:
                pass
            server._dataless_since -= DATALESS_S
        attacker.tls.write(b"an event stream's reader, after days")
        await attacker.flush()
        assert await server.receive() == b"an event stream's reader, after days"
        attacker.hang_up()


async def test_unread_answers_to_key_updates_are_bounded(certificate: Certificate) -> None:
    server, attacker = await attacked_pair(certificate, send_buffer=1)
    with contextlib.closing(server), trio.fail_after(PATIENCE_S):
        most = 0
        with pytest.raises(TlsFlood, match=f"over {MAX_UNSENT_BYTES:,} bytes of TLS wait for the peer"):  # noqa: PT012
            while True:
                attacker.tls.write(b"x")
                attacker.tls.update_key(request=True)
                await attacker.flush()
                assert await server.receive() == b"x"
                most = max(most, server.held_bytes - TLS_BYTES)
        assert MAX_UNSENT_BYTES / 2 < most < MAX_UNSENT_BYTES + 100  # plus the answer over the limit
        attacker.hang_up()


# The loop


async def test_a_peer_that_floods_with_key_updates_is_dropped_with_one_line_and_others_are_served(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve(tls=certificate.server)
    other = await join(running, certificate)
    attacker = await attack(running, "/elsewhere")
    caplog.set_level("INFO", "rawws")
    caplog.clear()
    update_keys(attacker, MANY)
    attacker.send_at_once()
    await other.stream.send_all(text("and I?"))
    assert await other.frame() == Seen(Opcode.TEXT, b"and I?")
    await attacker.wait_lost()
    (line,) = [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"]
    assert FLOOD in line
    assert current_loop().stats.ends[Cause.LIMIT] == 1


async def test_others_are_served_while_a_flood_is_unread(serve: Serve, certificate: Certificate) -> None:
    running = await serve(tls=certificate.server)
    other = await join(running, certificate)
    attacker = await attack(running, "/elsewhere")
    pongs = masked(Opcode.PONG, b"x" * 79) * 2
    for number in range(len(pongs)):
        attacker.tls.write(pongs[number : number + 1])
        update_keys(attacker, MAX_DATALESS_RECORDS - STEP_RECORDS)
    read_before = current_loop().stats.bytes_in
    assert not attacker.send_at_once()  # all of it is in the server's kernel, and no checkpoint was passed
    await other.stream.send_all(text("and I?"))
    assert await other.frame() == Seen(Opcode.TEXT, b"and I?")
    assert current_loop().stats.bytes_in - read_before < len(pongs), "all of the flood was read first"
    while current_loop().stats.bytes_in - read_before < len(pongs):
        await trio.lowlevel.checkpoint()


async def test_a_key_update_is_no_answer_to_a_ping(
    autojump_clock: trio.testing.MockClock,  # noqa: ARG001
    start_hub: StartHub,
    certificate: Certificate,
) -> None:
    running = start_hub(limits=Limits(ping_interval_s=20, ping_timeout_s=20))
    server, attacker = await attacked_pair(certificate)
    running.adopt(server)
    began = trio.current_time()
    while running.endpoint.peer_count:
        attacker.tls.update_key()
        with contextlib.suppress(trio.BrokenResourceError):
            await attacker.flush()
        await trio.sleep(5)
    assert trio.current_time() - began < 60
    assert current_loop().stats.ends[Cause.PING_TIMEOUT] == 1
    attacker.hang_up()


# The HTTP phase


async def test_key_updates_before_a_request_end_the_connection(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve(tls=certificate.server)
    caplog.set_level("INFO", "rawws")
    attacker = await attack(running)
    update_keys(attacker, MANY)
    attacker.send_at_once()
    await attacker.wait_lost()
    (line,) = caplog.messages
    assert line.startswith(f"#1 ! TLS failed: {FLOOD}")


async def test_a_head_among_key_updates_has_to_arrive_in_time(
    serve: Serve, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.connection.LINGER_S", 0.2)
    running = await serve(tls=certificate.server, limits=Limits(header_timeout_s=0.2))
    attacker = await attack(running)
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            attacker.tls.write(b"G")
            update_keys(attacker, MAX_DATALESS_RECORDS - STEP_RECORDS)
            await attacker.flush()


async def test_a_server_stops_in_the_midst_of_a_flood(
    nursery: trio.Nursery, serve: Serve, certificate: Certificate
) -> None:
    running = await serve(tls=certificate.server, limits=Limits(drain_s=0.1))
    attacker = await attack(running, "/room")

    async def flood() -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while True:
                attacker.tls.write(masked(Opcode.PONG, b""))
                update_keys(attacker, MAX_DATALESS_RECORDS - STEP_RECORDS)
                await attacker.flush()

    nursery.start_soon(flood)
    before = current_loop().stats.bytes_in
    while current_loop().stats.bytes_in < before + 100:
        await trio.lowlevel.checkpoint()
    running.server.stop()
    await attacker.wait_lost()


async def test_a_tls_handshake_without_an_end_is_dropped(
    serve: Serve, certificate: Certificate, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve(tls=certificate.server)
    caplog.set_level("INFO", "rawws")
    client = await running.connect()
    # A ClientHello of 128 KiB, in records of one byte each (RFC 8446 §5.1 doesn't forbid them in plaintext).
    hello = b"\x01\x01\xff\xff" + bytes(MAX_HANDSHAKE_BYTES // 6)
    with contextlib.suppress(OSError):
        await client.send(b"".join(b"\x16\x03\x01\0\x01" + hello[at : at + 1] for at in range(len(hello))))
    await client.wait_lost()
    assert caplog.messages == [
        f"#1 ! TLS failed: over {MAX_HANDSHAKE_BYTES:,} bytes came, and the TLS handshake is not complete"
    ]


# Our client, against a hostile server


@contextlib.asynccontextmanager
async def hostile_server(certificate: Certificate, act: Callable[[Attacker], Any]) -> AsyncIterator[str]:
    """Serve one connection over TLS with this behaviour; yield the address."""
    listener = socket.create_server((LOOPBACK, 0))

    async def run() -> None:
        with trio.socket.from_stdlib_socket(listener) as accepting:
            connected, _ = await accepting.accept()
            attacker = Attacker(socket.socket(fileno=connected.detach()), (certificate.chain, certificate.key))
            try:
                await attacker.do_handshake()
                await act(attacker)
                await attacker.wait_lost()
            finally:
                attacker.hang_up()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield f"wss://{LOOPBACK}:{listener.getsockname()[1]}/"
        nursery.cancel_scope.cancel()


async def answer_the_upgrade(attacker: Attacker) -> None:
    request = await attacker.read(b"\r\n\r\n")
    key = request.lower().partition(b"sec-websocket-key: ")[2].partition(b"\r\n")[0]
    at = request.lower().index(key)
    accept = Accept.of(request[at : at + len(key)].decode()).value
    attacker.tls.write(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n".encode()
    )
    await attacker.flush()


async def test_a_server_that_floods_before_its_answer_fails_the_connect(certificate: Certificate) -> None:
    async def act(attacker: Attacker) -> None:
        update_keys(attacker, MANY)
        attacker.send_at_once()

    async with hostile_server(certificate, act) as uri:
        with pytest.raises(ssl.SSLError, match=FLOOD):
            await rawws.connect(uri, ssl=certificate.client, proxy=None).open()


async def test_a_server_that_floods_after_its_answer_is_dropped_with_a_clear_cause(certificate: Certificate) -> None:
    async def act(attacker: Attacker) -> None:
        await answer_the_upgrade(attacker)
        update_keys(attacker, MANY)
        attacker.send_at_once()

    async with hostile_server(certificate, act) as uri:
        async with rawws.connect(uri, ssl=certificate.client, proxy=None) as ws:
            with pytest.raises(ConnectionClosedError, match=FLOOD) as raised:
                await ws.recv()
        assert raised.value.closed.cause is Cause.LIMIT


# A message of TLS that has arrived in part


async def half_a_ticket(certificate: Certificate) -> tuple[TlsTransport, Attacker, bytes]:
    """Return a client that has received the first record of a long ticket, its server, and the remaining records.

    OpenSSL encrypts nothing before the client has the rest of the ticket.
    """
    ours, theirs = socket.socketpair()
    client = TlsTransport(ours, certificate.client, server_hostname=LOOPBACK)
    server = Attacker(theirs, (certificate.chain, certificate.key), ticket_bytes=4000, max_fragment=512)
    tickets = b""

    async def serve() -> None:
        nonlocal tickets
        server.tls.receive(await server.stream.receive_some())
        assert not server.tls.do_handshake()
        await server.flush()
        while not server.tls.do_handshake():
            server.tls.receive(await server.stream.receive_some())
        tickets = server.tls.to_send()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(serve)
    first, _ = find_records(tickets, 0, 0, 1)
    await server.stream.send_all(tickets[:first])
    assert client.try_receive() is None
    return client, server, tickets[first:]


async def test_data_sent_within_a_tls_message_waits_for_its_end(certificate: Certificate) -> None:
    client, server, rest = await half_a_ticket(certificate)
    with contextlib.closing(client), trio.fail_after(PATIENCE_S):
        assert client.try_send(b"too early") == 0
        assert client.reads_first
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"at last")
            await wait_all_tasks_blocked()
            await server.stream.send_all(rest)
            assert await server.read(b"at last") == b"at last"
        assert not client.reads_first
        server.hang_up()


async def test_an_end_within_a_tls_message_fails_the_send(certificate: Certificate) -> None:
    client, server, _ = await half_a_ticket(certificate)
    with contextlib.closing(client), trio.fail_after(PATIENCE_S):
        server.hang_up()
        with pytest.raises(BrokenPipeError, match="within a message of TLS"):
            await client.send_all(b"to nobody")


async def test_the_loop_does_not_spin_within_a_tls_message(start_hub: StartHub, certificate: Certificate) -> None:
    running = start_hub()
    client, server, rest = await half_a_ticket(certificate)
    running.adopt(client)
    room = running.hub.room("/")
    loop = current_loop()
    room.publish("a message")
    await wait_all_tasks_blocked()
    assert client.reads_first
    turns = loop.stats.turns
    for _ in range(50):
        await trio.lowlevel.checkpoint()
    assert loop.stats.turns == turns
    for record in (rest[:600], rest[600:]):
        await server.stream.send_all(record)
    with trio.fail_after(PATIENCE_S):
        assert (await server.read(b"a message")).endswith(b"a message")
    server.hang_up()


# The end


def read_all(tls: ssl.SSLObject) -> tuple[bytes, bool]:
    """Return the data that is there, and whether a close_notify follows it."""
    data = b""
    try:
        while piece := tls.read():
            data += piece
    except ssl.SSLWantReadError:
        return data, False
    return data, True


@pytest.mark.parametrize("how", ["lingers", "says so"])
async def test_the_end_follows_data_that_the_kernel_refused_at_first(certificate: Certificate, how: str) -> None:
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
    server = TlsTransport(ours, certificate.server)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = certificate.client.wrap_bio(incoming, outgoing, server_hostname=LOOPBACK)
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(theirs))
    with contextlib.closing(server), trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            while True:
                try:
                    client.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    await stream.send_all(outgoing.read())
                    incoming.write(await stream.receive_some())
            await stream.send_all(outgoing.read())
        data = bytes(range(256)) * 400
        sent = server.try_send(data)
        assert server.has_unsent
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.linger if how == "lingers" else server.send_eof)
            while received := await stream.receive_some():
                incoming.write(received)
            assert read_all(client) == (data[: sent + server.committed_bytes], True)
            await stream.aclose()


# One pair of buffers for all connections


async def test_a_send_within_a_call_for_another_connection_goes_out_later(certificate: Certificate) -> None:
    other, other_client = await tls_pair(certificate)
    done: list[object] = []

    def act(*_: object) -> None:
        done.append(other.try_send(b"too early"))
        done.append(other.try_receive())
        other.shutdown_write()
        done.append(other.has_unsent)

    certificate.server.sni_callback = act
    try:
        await other_client.send_all(b"unread")
        for transport in await tls_pair_by_name(certificate):
            transport.close()
    finally:
        certificate.server.sni_callback = None
    assert done == [0, None, True]
    with contextlib.closing(other), contextlib.closing(other_client):
        assert other.try_receive() == b"unread"
        assert other.try_flush()
        assert await other_client.receive() == b""


async def tls_pair_by_name(certificate: Certificate) -> tuple[TlsTransport, TlsTransport]:
    ours, theirs = socket.socketpair()
    server = TlsTransport(ours, certificate.server)
    client = TlsTransport(theirs, certificate.client, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        nursery.start_soon(client.do_handshake)
    return server, client


async def test_leftovers_of_a_failed_call_reach_no_other_connection(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        server._buffers.outgoing.write(b"another connection's")
        server._buffers.incoming.write(b"another connection's")
        await server.send_all(b"ours")
        assert await client.receive() == b"ours"


async def test_an_idle_connection_holds_no_buffer(certificate: Certificate) -> None:
    server, client = await tls_pair(certificate)
    with contextlib.closing(client), contextlib.closing(server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, bytes(1 << 20))
            received = 0
            while received < 1 << 20:
                received += len(await client.receive())
        assert server.held_bytes == client.held_bytes == TLS_BYTES
        assert server._buffers.outgoing.pending == server._buffers.incoming.pending == 0


async def test_held_ciphertext_counts_as_memory_of_the_peer(start_hub: StartHub, certificate: Certificate) -> None:
    running = start_hub()
    server, client = await tls_pair(certificate)
    running.adopt(server)
    before = current_loop().memory.used_bytes()
    await client.send_all(binary(bytes(5000)))  # the server sends it back
    await wait_all_tasks_blocked()
    part = client.detach()
    part.sendall(b"\x17\x03\x03\x10\x00" + bytes(1000))  # the beginning of a record
    await wait_all_tasks_blocked()
    assert current_loop().memory.used_bytes() - before >= 1005
    part.close()
