"""The server as a whole: its listeners, running out of descriptors, and how it ends."""

from __future__ import annotations

import contextlib
import errno
import logging
import math
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws.net.accept
import rawws.server.plain_apps
from rawws.errors import ListenError
from rawws.limits import Limits
from rawws.net.addresses import format_address
from rawws.net.listeners import connectable_address, is_loopback, open_listeners, open_unix_listener
from rawws.wire.frames import Opcode
from rawws.wire.messages import Response
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.server import Serve, make_server
from tests.serving.wire import close, get, seen_close, seen_text, text, upgrade

BOTH_SIGNALS = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
GOING_AWAY = seen_close(1001, "the server is shutting down")


def server_messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rawws.server"]


async def wait_for_end(program: Program) -> int:
    return await trio.to_thread.run_sync(program.wait)


# Listening


async def test_a_server_listens_on_every_address_of_a_name() -> None:
    listeners = await open_listeners("localhost", 0)
    try:
        ports = {listener.getsockname()[1] for listener in listeners}
        assert len(ports) == 1, "port 0 means one free port, the same for all addresses"
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.parametrize(("host", "alone"), [("::ffff:127.0.0.1", True), ("::1", True), ("::", False)])
def test_4291_2_5_5_2_loopback_in_ipv6_is_loopback(host: str, alone: bool) -> None:
    listener = socket.socket(socket.AF_INET6)
    try:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind((host, 0))
        assert is_loopback(listener) is alone
        assert connectable_address(listener) == (
            host.removeprefix("::ffff:") if alone else "::1",
            listener.getsockname()[1],
        )
    except OSError:
        pytest.skip("this machine has no IPv6")
    finally:
        listener.close()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (("::1", 80, 0, 0), "[::1]:80"),
        ("/run/rawws.sock", "/run/rawws.sock"),
        (
            "/run/\udcff\udcc3\udca4",
            "/run/\\xffä",
        ),  # a byte that is not UTF-8, and two that are
        (b"\0rawws\xff", "@rawws\\xff"),
        ("", "a Unix socket"),
    ],
)
def test_addresses_have_names(address: object, name: str) -> None:
    assert format_address(address) == name


def test_a_client_on_a_unix_socket_may_be_anybody_behind_a_proxy(tmp_path: Path) -> None:
    with contextlib.closing(open_unix_listener(str(tmp_path / "socket"))) as listener:
        assert not is_loopback(listener)


async def test_a_port_in_use_is_one_sentence_that_says_what_to_do() -> None:
    (taken,) = await open_listeners(LOOPBACK, 0)
    with taken:
        port = taken.getsockname()[1]
        with pytest.raises(ListenError) as caught:
            await open_listeners(LOOPBACK, port)
    assert str(caught.value) == (
        f"can't listen on 127.0.0.1:{port}: Address already in use. "
        "Another program has that port; stop it, or choose another."
    )


async def test_an_invalid_host_is_one_sentence() -> None:
    with pytest.raises(ListenError, match=r"'256\.0\.0\.1' is not a name or address of this machine"):
        await open_listeners("256.0.0.1", 0)


async def test_the_advice_without_descriptors_is_about_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def have_none(*_: object) -> None:
        raise OSError(errno.EMFILE, "run out, on purpose")

    monkeypatch.setattr(socket.socket, "bind", have_none)
    with pytest.raises(ListenError, match=r"Too many open files\. Allow more of them \(ulimit -n, LimitNOFILE\)"):
        await open_listeners(LOOPBACK, 0)


# Faults of one connection


async def test_an_error_of_our_own_in_the_http_phase_costs_its_connection_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()

    def stumble(*_: object) -> Response:
        raise ZeroDivisionError("on purpose")

    client = await running.connect()
    with monkeypatch.context() as stumbling:
        stumbling.setattr(rawws.server.plain_apps.HelloApp, "answer_now", stumble)
        assert (await client.ask(get())).status == 500
        assert (await client.ask(get())).status == 500  # now the connection rests when it comes
    errors = [record.getMessage() for record in caplog.records if record.exc_info]
    assert errors == ["#1 ! the http handler failed at /"] * 2
    assert (await client.ask(get())).body == b"hi there"
    assert (await (await running.connect()).ask(get())).body == b"hi there"


async def test_an_error_of_our_own_in_a_handshake_costs_its_connection_alone(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = await serve()
    bystander = await running.open()
    client = await running.connect()
    with monkeypatch.context() as stumbling:
        stumbling.setattr("rawws.server.upgrade.examine", lambda *_: 1 / 0)
        await client.send(upgrade())
        await client.wait_lost()
    await bystander.send(text("still here"))
    assert await bystander.frame() == seen_text("still here")


async def test_a_connection_that_is_reset_before_it_is_accepted_is_ignored(serve: Serve) -> None:
    running = await serve()
    for _ in range(10):
        (await running.connect()).reset()
    assert (await (await running.connect()).ask(get())).body == b"hi there"


# Running out of descriptors


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
async def test_a_server_without_descriptors_pauses_and_accepts_again(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    monkeypatch.setattr(rawws.net.accept, "EXHAUSTED_PAUSE_S", 0.01)
    monkeypatch.setattr(rawws.net.accept, "RECOVERED_S", 0.02)
    accept_batch = rawws.net.accept._accept_batch
    failures = iter(range(3))

    def fail_thrice(listener: socket.socket) -> Iterator[tuple[socket.socket, tuple[str, int] | str]]:
        for _ in failures:
            raise OSError(number, "run out, on purpose")
        return accept_batch(listener)

    running = await serve()
    bystander = await running.open()
    monkeypatch.setattr(rawws.net.accept, "_accept_batch", fail_thrice)
    client = await running.connect()
    assert (await client.ask(get())).body == b"hi there"
    while len(server_messages(caplog)) < 2:
        await trio.sleep(0.01)
    assert server_messages(caplog) == [
        "#0 ! can't accept connections: run out, on purpose; accepting rests until some are closed"
        + ", or more are allowed (ulimit -n, LimitNOFILE)" * (number == errno.EMFILE),
        "#0 = accepting again",
    ]
    await bystander.send(text("undisturbed"))
    assert await bystander.frame() == seen_text("undisturbed")


async def test_a_broken_listening_socket_is_logged_once_and_not_polled_again(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    running = await serve()
    client = await running.open()
    (listener,) = running.server.listeners
    listener.shutdown(socket.SHUT_RDWR)  # another process that shares it can do this
    while not server_messages(caplog):
        await trio.lowlevel.checkpoint()
    with trio.fail_after(PATIENCE_S):
        await wait_all_tasks_blocked()
    await client.send(text("undisturbed"))
    assert await client.frame() == seen_text("undisturbed")
    assert server_messages(caplog) == [
        "#0 ! can't accept connections: Invalid argument; the listening socket may be of no use any more"
    ]


async def test_an_error_of_a_connection_before_its_accept_is_not_ours(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    accept_batch = rawws.net.accept._accept_batch
    failures = iter(range(3))

    def fail_thrice(listener: socket.socket) -> Iterator[tuple[socket.socket, tuple[str, int] | str]]:
        for _ in failures:
            raise ConnectionAbortedError(errno.ECONNABORTED, "aborted, on purpose")
        return accept_batch(listener)

    running = await serve()
    monkeypatch.setattr(rawws.net.accept, "_accept_batch", fail_thrice)
    assert (await (await running.connect()).ask(get())).body == b"hi there"
    assert server_messages(caplog) == []


async def test_the_program_survives_its_limit_on_open_files(start_program: StartProgram) -> None:
    program = start_program(max_files=40)
    bystander = await (await program.connect()).open()
    await bystander.frame()
    crowd = [await program.connect() for _ in range(60)]
    program.wait_for_line("can't accept connections: Too many open files; accepting rests")
    await bystander.send(text("undisturbed"))
    assert await bystander.frame() == seen_text("undisturbed")
    for client in crowd:
        client.hang_up()
    program.wait_for_line("accepting again")
    assert (await (await program.connect()).ask(get())).body == b"hi there"


# The end


async def test_stopping_closes_every_peer_with_1001_after_the_published_messages(serve: Serve) -> None:
    running = await serve(limits=Limits(drain_s=PATIENCE_S))
    clients = [await running.open(f"/{number % 2}") for number in range(4)]
    for client in clients[:2]:
        await client.send(text("last words"))
        await client.frame()
    running.server.stop()
    for client, frames in zip(clients, (1, 1, 2, 2), strict=True):
        heard = await client.frames(frames)
        assert heard[-1] == GOING_AWAY
        await client.send(close(1001))
        await client.assert_end()
        client.hang_up()
    with pytest.raises(ConnectionRefusedError):
        await running.connect()


async def test_stopping_ends_connections_in_their_http_phase(serve: Serve) -> None:
    running = await serve()
    resting, halfway = await running.connect(), await running.connect()
    await resting.ask(get())
    await halfway.send(b"GET / HT")
    await wait_all_tasks_blocked()
    running.server.stop()
    await resting.wait_lost()
    await halfway.wait_lost()


async def test_stopping_doesnt_wait_beyond_the_drain_for_a_mute_peer() -> None:
    listeners = await open_listeners(LOOPBACK, 0)
    server = make_server(listeners, limits=Limits(drain_s=0.1, close_timeout_s=math.inf, ping_interval_s=math.inf))[0]
    with socket.socket() as mute, trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            await trio.to_thread.run_sync(mute.connect, listeners[0].getsockname())
            mute.sendall(upgrade())
            while not server.peer_count:
                await trio.lowlevel.checkpoint()
            started = trio.current_time()
            server.stop()
        assert trio.current_time() - started >= 0.1
    assert server.peer_count == 0


@BOTH_SIGNALS
async def test_a_signal_closes_the_peers_with_1001_and_exits_0(
    start_program: StartProgram, number: signal.Signals
) -> None:
    program = start_program("--hello", "")
    clients = [await (await program.connect()).open() for _ in range(3)]
    resting = await program.connect()
    await resting.ask(get())
    program.signal(number)
    for client in clients:
        assert await client.frame() == GOING_AWAY
        await client.send(close(1001))
        await client.assert_end()
        client.hang_up()
    assert await wait_for_end(program) == 0
    assert any(f"{number.name}: accepting no more, peers to close: 3" in line for line in program.lines)
    assert program.lines[-1].endswith("#0 = stopped")
    assert not any("Traceback" in line for line in program.lines)


@BOTH_SIGNALS
async def test_a_mute_peer_doesnt_hold_up_the_end_beyond_the_drain(
    start_program: StartProgram, number: signal.Signals
) -> None:
    program = start_program("--drain", "0.3", "--close-timeout", "3600", "--ping-interval", "3600", "--hello", "")
    mute = await (await program.connect()).open()
    started = time.monotonic()
    program.signal(number)
    assert await wait_for_end(program) == 0
    assert time.monotonic() - started >= 0.3
    assert await mute.frame() == GOING_AWAY


async def test_a_peer_that_keeps_flooding_doesnt_hold_up_the_end(start_program: StartProgram) -> None:
    program = start_program("--drain", "0.3", "--hello", "")
    flood = await (await program.connect()).open()

    async def send_for_ever() -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await flood.send(text("a" * 1000) * 100)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_for_ever)
        assert (await flood.frame()).opcode is Opcode.TEXT
        program.signal(signal.SIGTERM)
        assert await wait_for_end(program) == 0
        nursery.cancel_scope.cancel()


async def test_a_second_signal_ends_at_once(start_program: StartProgram) -> None:
    program = start_program("--drain", "1000")
    mute = await (await program.connect()).open()
    await mute.frame()
    program.signal(signal.SIGTERM)
    assert await mute.frame() == GOING_AWAY
    program.signal(signal.SIGTERM)
    await wait_for_end(program)
    assert any("SIGTERM again: ending at once" in line for line in program.lines)
    assert not any("Traceback" in line for line in program.lines)


async def test_an_idle_program_ends_at_the_first_signal(start_program: StartProgram) -> None:
    program = start_program("--drain", "1000")
    program.signal(signal.SIGINT)
    assert await wait_for_end(program) == 0


def test_a_port_in_use_ends_the_program_with_a_sentence_and_1(start_program: StartProgram) -> None:
    first = start_program()
    second = start_program.run("--port", str(first.port))
    assert second.returncode == 1
    assert second.stderr == (
        f"rawws: can't listen on 127.0.0.1:{first.port}: Address already in use. "
        "Another program has that port; stop it, or choose another.\n"
    )
