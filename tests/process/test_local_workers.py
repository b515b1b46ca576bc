"""Workers that share their rooms without a broker, as real processes that are killed and stopped."""

from __future__ import annotations

import argparse
import os
import re
import signal

import pytest
import trio

import rawws
from rawws.cli.arguments import workers as read_workers
from tests.process.test_workers import meet, workers_of
from tests.server.test_metrics import values_of
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get

pytestmark = pytest.mark.usefixtures("bounded")


def start(start_program: StartProgram, *flags: str, count: int = 2) -> Program:
    program = start_program("--workers", str(count), "--history", "1000", "--hello", "", *flags)
    program.wait_for_line(f"{count} workers listen on 127.0.0.1:")
    return program


async def connections(program: Program, count: int = 16) -> list[rawws.WebSocket]:
    """Open connections to one room, most likely at both workers."""
    found = []
    for _ in range(count):
        ws = await rawws.connect(f"ws://{LOOPBACK}:{program.port}/room/x", resume=True).__aenter__()
        found.append(ws)
    return found


async def receive_all(clients: list[rawws.WebSocket], expected: str) -> list[rawws.WebSocket]:
    """Return the clients whose connections are lost; all others get a message."""
    lost = []
    with trio.fail_after(PATIENCE_S):
        for client in clients:
            try:
                assert await client.recv() == expected
            except rawws.ConnectionClosed:
                lost.append(client)
    return lost


async def test_a_number_of_workers_is_read() -> None:
    assert read_workers("4") == 4
    assert read_workers("auto") == len(os.sched_getaffinity(0))
    with pytest.raises(argparse.ArgumentTypeError, match="'two' is not a number of workers; give a whole number such"):
        read_workers("two")


async def test_workers_share_their_rooms_without_a_broker(start_program: StartProgram) -> None:
    program = start(start_program)
    await meet(program.port)
    program.signal(signal.SIGTERM)
    program.wait_for_line("SIGTERM: the workers are to drain")
    assert program.wait() == 0


async def test_the_peers_of_a_worker_that_is_killed_resume_at_another(start_program: StartProgram) -> None:
    program = start(start_program, "--backplane", "local:")
    clients = await connections(program)
    await clients[0].send("one")
    assert await receive_all(clients, "one") == []
    os.kill(workers_of(program)[0], signal.SIGKILL)
    program.wait_for_line("ended (SIGKILL); another one comes in 0.4 s")
    writer = None
    with trio.fail_after(PATIENCE_S):
        while writer is None:
            try:
                writer = await rawws.connect(f"ws://{LOOPBACK}:{program.port}/room/x").__aenter__()
            except OSError:
                await trio.sleep(0.01)
        await writer.send("two")
        lost = await receive_all(clients, "two")
        assert 0 < len(lost) < len(clients)
        assert len({client.last_id for client in clients if client not in lost}) == 1
        program.wait_for_line("listening on")  # the new worker
        for client in lost:
            async with rawws.connect(f"ws://{LOOPBACK}:{program.port}/room/x", resume=client.last_id) as again:
                assert (await again.recv(), again.gap) == ("two", None)
    for client in clients:
        if client not in lost:
            await client.aclose()
    await writer.aclose()
    await meet(program.port)


async def test_workers_drain_when_the_first_process_is_killed_and_say_why(start_program: StartProgram) -> None:
    program = start(start_program)
    clients = await connections(program, 4)
    program.signal(signal.SIGKILL)
    for client in clients:
        with pytest.raises(rawws.ConnectionClosed) as closed, trio.fail_after(PATIENCE_S):
            await client.recv()
        assert closed.value.code == 1001
    for _ in range(2):
        program.wait_for_line("stopped")
    for part in ("the link to the first process is gone", "the first process is gone: accepting no more"):
        assert len([line for line in program.lines if part in line]) == 2, "in either order"
    assert not [line for line in program.lines if "Traceback" in line]


@pytest.mark.thorough
async def test_a_first_process_that_is_stopped_is_away_until_it_goes_on(start_program: StartProgram) -> None:
    program = start(start_program)
    clients = await connections(program)
    program.signal(signal.SIGSTOP)
    try:
        await clients[0].send("waits")
        for _ in range(2):
            program.wait_for_line("the backplane is away (the first process doesn't answer)")
        ready = await program.connect()
        answer = await ready.ask(get("/readyz"))
        assert (answer.status, answer.body) == (503, b"the backplane is away")
    finally:
        program.signal(signal.SIGCONT)
    assert await receive_all(clients, "waits") == []
    for _ in range(2):
        program.wait_for_line("the backplane is back")
    assert (await ready.ask(get("/readyz"))).status == 200
    ready.hang_up()
    for client in clients:
        await client.aclose()


@pytest.mark.thorough
async def test_a_worker_that_is_stopped_holds_nobody_up_and_reads_on(start_program: StartProgram) -> None:
    program = start(start_program, "--history-bytes", "1MiB", "--max-lag", "64MiB")
    clients = await connections(program, 32)
    await clients[0].send("hello")
    assert await receive_all(clients, "hello") == []
    stopped = workers_of(program)[0]
    os.kill(stopped, signal.SIGSTOP)
    try:
        alive = list[rawws.WebSocket]()

        async def find(client: rawws.WebSocket) -> None:
            await client.ping()
            alive.append(client)

        with trio.move_on_after(4):  # those of the worker that is stopped never answer
            async with trio.open_nursery() as pinging:
                for client in clients:
                    pinging.start_soon(find, client)
        assert 0 < len(alive) < len(clients)
        writer, reader, *others = alive
        number = 0
        with trio.fail_after(PATIENCE_S):
            for _ in range(400):  # some 26 MB
                number += 1
                await writer.send(f"{number:065536}")
                assert int((await reader.recv())[-9:]) == number
                for each in (writer, *others):
                    await each.recv()
    finally:
        os.kill(stopped, signal.SIGCONT)
    program.wait_for_line("this worker was too slow for what is published: it reads on, and readers may get a gap")
    (behind, *_) = (client for client in clients if client not in alive)
    with trio.fail_after(PATIENCE_S):
        while (last := int((await behind.recv())[-9:])) != number:
            assert last < number
    assert behind.gap is not None
    assert re.search(r"-\d+$", behind.last_id or "")
    await writer.send("and on")
    with trio.fail_after(PATIENCE_S):
        assert await behind.recv() == "and on"
    for client in clients:
        await client.aclose()


async def test_any_worker_has_the_metrics_of_all(start_program: StartProgram) -> None:
    program = start(start_program, "--metrics")
    clients = await connections(program)
    await clients[0].send("to all")
    assert await receive_all(clients, "to all") == []
    asking = await program.connect()
    body = (await asking.ask(get("/metrics"))).body.decode()
    values = values_of(body)
    peers = {worker: values[f'rawws_peers{{kind="websocket",worker="{worker}"}}'] for worker in (1, 2)}
    assert sum(peers.values()) == len(clients)
    assert all(peers.values()), peers
    for worker in (1, 2):
        assert values[f'rawws_handshakes_total{{status="101",worker="{worker}"}}'] == peers[worker]
        assert values[f'rawws_backplane_up{{worker="{worker}"}}'] == 1
        assert values[f'rawws_limit{{flag="--history",worker="{worker}"}}'] == 1000
        assert f'rawws_loop_turn_seconds_count{{worker="{worker}"}}' in values
    assert body.count("# HELP rawws_peers ") == 1
    (silent,) = (value for name, value in values.items() if name.startswith("rawws_silent_workers"))
    assert silent == 0
    (kept,) = (value for name, value in values.items() if name.startswith("rawws_first_process_bytes"))
    assert kept >= 0
    asking.hang_up()
    for client in clients:
        await client.aclose()
