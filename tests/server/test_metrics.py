"""The metrics: counts, and the format of the page."""

from __future__ import annotations

import re
from functools import partial

import pytest
import trio

import rawws
from rawws.broadcast.node_answers import Gathered, NodeAnswer, NodeName
from rawws.broadcast.token_bucket import TokenBucket
from rawws.hub.hub import Hub
from rawws.local.local_rooms import LocalRooms
from rawws.server.metrics import MetricsApp
from rawws.server.plain_apps import HelloApp
from tests.local.machine import Machine
from tests.room_serving import Reader, post, rooms
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.server import StartHub
from tests.serving.wire import close, get, text, upgrade


def values_of(body: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(rawws_.+) (\S+)$", body, re.MULTILINE)}


async def test_prometheus_can_read_the_metrics(start_program: StartProgram) -> None:
    program = start_program("--metrics", "--hello", "", "--history", "10")
    reader = await Reader.open(await program.connect(), "/room")
    ws = await program.connect()
    await ws.open("/room")
    await ws.send(text("hello") + text("again"))
    await ws.frames(2)
    await reader.data(2)
    refused = await program.connect()
    await refused.send(upgrade("/", "Origin: https://evil.example"))
    assert (await refused.answer()).status == 403
    asking = await program.connect()
    answer = await asking.ask(get("/metrics"))
    assert answer.headers["content-type"].startswith("text/plain; version=")
    values = values_of(answer.body.decode())
    expected = {
        'rawws_peers{kind="websocket"}': 1,
        'rawws_peers{kind="events"}': 1,
        "rawws_rooms": 1,
        'rawws_handshakes_total{status="101"}': 1,
        'rawws_handshakes_total{status="403"}': 1,
        "rawws_messages_received_total": 2,
        "rawws_received_bytes_total": len(text("hello") + text("again")),
        "rawws_skipped_messages_total": 0,
        "rawws_slowest_peer_lag_bytes": 0,
    }
    assert {name: values[name] for name in expected} == expected
    assert values["rawws_deliveries_total"] >= 4
    assert values["rawws_sent_bytes_total"] > 14
    assert values["rawws_loop_turn_seconds_count"] > 0
    await ws.send(close())
    await ws.frames_to_close()
    ws.hang_up()
    program.wait_for_line("closed by the client")
    body = (await asking.ask(get("/metrics"))).body.decode()
    assert values_of(body)['rawws_closes_total{cause="peer close"}'] == 1


async def test_tasks_are_those_of_connections_in_their_http_phase_and_few_more(start_program: StartProgram) -> None:
    program = start_program("--metrics", "--hello", "")
    asking = await program.connect()

    async def tasks() -> float:
        return values_of((await asking.ask(get("/metrics"))).body.decode())["rawws_tasks"]

    before = await tasks()
    relayed = await program.connect()
    await relayed.open("/room")
    assert await tasks() == before, "a relayed peer has no task"
    others = [await program.connect() for _ in range(3)]
    for other in others:
        await other.ask(get("/"))
    assert await tasks() == before + len(others)
    for other in others:
        other.hang_up()
    with trio.fail_after(PATIENCE_S):
        while await tasks() != before:
            await trio.sleep(0.01)


async def test_a_server_is_ready_until_it_stops(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        client = await running.connect()
        assert (await client.ask(get("/readyz"))).body == b"ready"
        assert (await client.ask(get("/healthz"))).body == b"ok"


@pytest.mark.parametrize("per_s", [10.0, 0.5])
def test_a_rate_and_a_burst(per_s: float) -> None:
    bucket = TokenBucket(per_s, 100.0)
    burst = max(int(per_s), 1)
    assert bucket.is_full(100.0)
    assert [bucket.try_take(100.0) for _ in range(burst)] == [0.0] * burst
    assert bucket.try_take(100.0) == pytest.approx(1 / per_s)
    assert bucket.try_take(100.0 + 1.001 / per_s) == 0.0
    assert bucket.take(burst, 200.0) == 0.0
    assert bucket.take(3, 200.0) == pytest.approx(3 / per_s)


async def test_a_peer_over_its_rate_is_read_later(start_hub: StartHub) -> None:
    from rawws.limits import Limits

    running = start_hub(limits=Limits(messages_per_s=100.0, ping_interval_s=0))
    talker, listener = running.join(), running.join()
    began = trio.current_time()
    with trio.fail_after(PATIENCE_S):
        # The data of one read is taken as a whole, but the next read comes a while later.
        await talker.send(b"".join(text(str(number)) for number in range(150)))
        assert [int((await listener.frame()).payload) for _ in range(150)] == list(range(150))
        await talker.send(text("later"))
        assert (await listener.frame()).payload == b"later"
    assert trio.current_time() - began >= 0.4, "a test about time: 100 at once, and 50 in half a second"


async def test_posts_over_the_rate_are_429(start_program: StartProgram) -> None:
    program = start_program("--rate", "2")
    client = await program.connect()
    answers = [await client.ask(post("/room", b"x")) for _ in range(3)]
    assert [answer.status for answer in answers] == [202, 202, 429]
    assert answers[2].headers["retry-after"] == "1"


# Workers that answer for all


@pytest.mark.parametrize(
    "items",
    [
        (),
        (1, ["rawws_rooms"]),
        (1, ["rawws_rooms", "many"]),
        (1, ["rawws_rooms", [["a"]]]),
        (1, ["rawws_rooms", None]),
        ("one", ["rawws_rooms", 1]),
        (1, 2),
    ],
)
async def test_a_worker_whose_answer_is_none_is_silent(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch, items: tuple[object, ...]
) -> None:
    async def ask(*_: object) -> Gathered:
        await trio.lowlevel.checkpoint()
        name = NodeName("n", "machine:1")
        good = (7, ["rawws_rooms", 5], ["rawws_peers", [["websocket", 3]]], ["unknown", 1])
        return Gathered((NodeAnswer(name, items), NodeAnswer(name, good)), (name,))

    machine = Machine(nursery)
    hub = Hub()
    async with machine(hub):
        monkeypatch.setattr(hub.backplane, "ask", ask)
        app = MetricsApp(hub, HelloApp([]), 1, of_all=True)
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=app))
        client = await Client.unconnected().connect(server.port)
        values = values_of((await client.ask(get("/metrics"))).body.decode())
        assert values['rawws_silent_workers{worker="1"}'] == 2
        assert values['rawws_rooms{worker="7"}'] == 5
        assert values['rawws_peers{kind="websocket",worker="7"}'] == 3
        assert values['rawws_rooms{worker="1"}'] == 0
        client.hang_up()
        server.stop()


async def test_one_worker_tells_what_the_first_process_has(nursery: trio.Nursery) -> None:
    """The histories of rooms that no worker follows any more would be seen nowhere else."""
    machine = Machine(nursery)
    hub = Hub(history=5)
    async with machine(hub):
        app = MetricsApp(hub, HelloApp([]), 1, of_all=True)
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=app))
        hub.room("/room/x").publish("kept")
        assert hub.backplane is not None
        await hub.backplane.flush()
        (shared,) = hub.backplane
        assert isinstance(shared, LocalRooms)
        with trio.fail_after(PATIENCE_S):
            while not shared.sequencer_rooms:  # its next sign of life tells
                await trio.sleep(0.01)
        client = await Client.unconnected().connect(server.port)
        values = values_of((await client.ask(get("/metrics"))).body.decode())
        assert values['rawws_first_process_rooms{worker="1"}'] == 1
        assert values['rawws_first_process_bytes{worker="1"}'] == shared.sequencer_bytes >= len("kept")
        client.hang_up()
        server.stop()


async def test_a_worker_that_does_not_serve_yet_has_no_figures(nursery: trio.Nursery) -> None:
    machine = Machine(nursery)
    first, second = Hub(), Hub()
    async with machine(first), machine(second):
        MetricsApp(first, HelloApp([]), 1, of_all=True)
        assert second.backplane is not None
        gathered = await second.backplane.ask("metrics/1", {}, PATIENCE_S)
        assert [answer.items for answer in gathered.answers] == [()]


async def test_the_figures_of_a_worker_end_with_its_backplane(nursery: trio.Nursery) -> None:
    hub = Hub()
    app = MetricsApp(hub, HelloApp([]), 1, of_all=True)
    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=app))
    client = await Client.unconnected().connect(server.port)
    values = values_of((await client.ask(get("/metrics"))).body.decode())
    assert 'rawws_rooms{worker="1"}' in values
    assert not [name for name in values if "silent" in name]
    client.hang_up()
    server.stop()
