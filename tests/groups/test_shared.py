"""Groups whose leases are in Redis: what several nodes share, and a Redis that goes away or loses its data."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
from rawws.backplane import connector
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal
from rawws.groups.doors import Doors
from rawws.groups.leases import Worker
from rawws.groups.shelf import StoredMessage
from rawws.hub.hub import Hub
from tests.groups.test_push import Hook, hook  # noqa: F401
from tests.groups.test_workers import SUBPROTOCOLS, Running, _redis, receive, serving
from tests.redis_server import RedisServer, network, redis_server
from tests.serving.machine import LOOPBACK
from tests.serving.programs import StartProgram

DURABLE = ("--appendonly", "yes", "--appendfsync", "always")


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncGenerator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path, *DURABLE) as server:
        yield server


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set short timeouts and pauses for the connections to Redis."""
    monkeypatch.setattr(connector, "TIMEOUT_S", 0.5)
    monkeypatch.setattr(connector, "MAX_REST_S", 0.1)
    monkeypatch.setattr("rawws.groups.shared_queue.REST_S", 0.05)


@asynccontextmanager
async def node(url: str, **settings: Any) -> AsyncGenerator[Running]:
    hub = Hub(**settings)
    _redis[hub] = url
    try:
        async with serving(hub) as running:
            yield running
    finally:
        del _redis[hub]


def working(at: Running, query: str = "group=sms") -> Any:
    return rawws.connect(at.uri(query), subprotocols=SUBPROTOCOLS)


async def until(condition: Callable[[], Awaitable[Any]]) -> None:
    while not await condition():
        await trio.sleep(0.05)


async def take(at: Running, query: str = "group=sms&wait=9") -> tuple[str, str]:
    """Take a job by GET, and return its id and its lease."""
    answer = await at.ask("GET", f"/pay?{query}")
    assert answer.status == 200, answer
    return answer.fields["Rawws-Id"], answer.fields["Rawws-Lease"]


# Several nodes


async def test_a_worker_at_one_node_gets_at_once_what_is_published_at_another(redis: RedisServer) -> None:
    async with node(redis.url) as a, node(redis.url) as b, working(a) as worker:
        await until(lambda: has(b, workers=1))
        for number in range(3):
            (given,) = await b.say(f"{number}")
            assert await receive(worker) == ({"id": given, "try": 1}, f"{number}")
            await worker.send(json.dumps({"ack": given}))
        assert int(await redis.ask("XLEN", "rawws:groups:bell")) >= 1


async def has(at: Running, **wanted: Any) -> bool:
    answer = await at.ask("GET", "/pay?group=sms&state")
    if answer.status != 200:
        return False
    state = json.loads(answer.body)
    return all(state[name] == value for name, value in wanted.items())


async def test_a_job_that_is_given_back_at_one_node_goes_to_a_worker_at_another(redis: RedisServer) -> None:
    async with node(redis.url) as a, node(redis.url) as b:
        (given,) = await a.say("1")
        async with working(a) as first:
            assert (await receive(first))[0] == {"id": given, "try": 1}
            async with working(b) as second:
                await until(lambda: has(a, workers=2))
                await first.aclose()
                assert (await receive(second))[0] == {"id": given, "try": 2}


async def test_of_each_key_one_job_is_out_over_all_nodes(redis: RedisServer) -> None:
    async with node(redis.url) as a, node(redis.url) as b:
        for text in ("1", "2"):
            await a.ask("POST", "/pay", text, Rawws_Key="k", Content_Type="text/plain")
        first, lease = await take(a)
        assert (await b.ask("GET", "/pay?group=sms")).status == 204
        assert (await b.ask("POST", f"/pay?group=sms&ack={first}&lease={lease}")).status == 204
        assert (await b.ask("GET", "/pay?group=sms")).body == b"2"


async def test_a_late_worker_is_told_at_whatever_node(redis: RedisServer) -> None:
    async with node(redis.url) as a, node(redis.url) as b:
        (given,) = await a.say("1")
        async with working(a, "group=sms&ack=1&tries=1000") as late:
            await receive(late)
            taken, lease = await take(b, "group=sms&wait=60&ack=100&tries=1000")
            assert taken == given
            await late.send(json.dumps({"ack": given}))
            while "lost" not in (head := (await receive(late))[0]):  # it may have had the job once more
                assert head["id"] == given
            assert head["lost"] == given
        assert (await a.ask("POST", f"/pay?group=sms&ack={given}&lease=other")).status == 404
        assert (await a.ask("POST", f"/pay?group=sms&ack={given}&lease={lease}")).status == 204
        assert (await b.ask("POST", f"/pay?group=sms&ack={given}&lease={lease}")).status == 404


async def test_a_group_that_is_ended_at_one_node_is_ended_at_all(redis: RedisServer) -> None:
    async with node(redis.url) as a, node(redis.url) as b, working(a) as worker:
        await until(lambda: has(b, workers=1))
        assert await b.hub.queues.end("/pay", "sms") is True
        with pytest.raises(rawws.ConnectionClosed):
            await worker.recv()
        assert worker.close_code == 4410
        assert await b.hub.queues.end("/pay", "sms") is False
        assert (await b.ask("GET", "/pay?group=sms&state")).status == 404
        assert (await b.ask("POST", "/pay?group=sms&ack=1-1")).status == 404
        keys = await redis.ask("EVAL", "return table.concat(redis.call('KEYS', 'rawws:group*'), ' ')", "0")
        assert set(keys.split()) <= {"rawws:groups:bell", "rawws:group:sms:ended/pay"} | {
            key for key in keys.split() if ":turn:" in key
        }


async def test_a_group_that_has_been_ended_begins_again_at_once(redis: RedisServer) -> None:
    async with node(redis.url) as a:
        for number in range(5):
            (given,) = await a.say(str(number))
            taken, lease = await take(a)
            assert taken == given
            assert (await a.ask("POST", f"/pay?group=sms&ack={given}&lease={lease}")).status == 204
        assert await a.hub.queues.end("/pay", "sms") is True
        assert (await a.ask("GET", "/pay?group=sms&last=0")).status == 204, "its first turn isn't called too late"


async def test_jobs_are_pushed_by_one_of_the_nodes(
    redis: RedisServer,
    hook: Hook,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rawws.groups.push.FIRST_WAIT_S", 0.01)
    push = [f"/pay sms {hook.url}"]
    async with node(redis.url, push=push) as a, node(redis.url, push=push) as b:
        ids = [(await at.say(f"pay {number}"))[0] for number in range(5) for at in (a, b)]
        await until(lambda: _is_over(a, len(ids)))
        state = await a.state()
        # The hook answers 503 and 404 to some.
        assert len(hook.got) == state["delivered"]
        assert {given for given, _, _ in hook.got} == set(ids)
        assert len({(given, tried) for given, tried, _ in hook.got}) == len(hook.got), "no delivery is doubled"


@pytest.mark.usefixtures("impatient")
async def test_jobs_are_pushed_when_redis_comes_after_the_server(
    redis: RedisServer,
    hook: Hook,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in ("redis_streams", "leases"):
        monkeypatch.setattr(f"rawws.backplane.{module}.START_S", 0.1)
    monkeypatch.setattr("rawws.groups.opening.PUSH_RETRY_S", 0.05)
    redis.kill()
    async with node(redis.url, push=[f"/pay sms {hook.url}"]) as a:
        assert (await a.ask("GET", "/pay?group=sms")).status == 503
        await redis.start()
        await until(lambda: has(a, workers=1))
        await until(lambda: can_publish(a))
        (given,) = await a.say("pay 1")
        await until(lambda: has(a, done=1))
        assert hook.got[0] == (given, "1", b"pay 1")


async def can_publish(at: Running) -> bool:
    """Return whether messages are published, which is another connection to Redis."""
    return at.hub.backplane is not None and not at.hub.backplane.is_away


async def _is_over(at: Running, count: int) -> bool:
    state = await at.state()
    return bool(state["done"] + state["dead"] == count)


async def test_a_dead_room_is_where_its_group_is(tmp_path: Path, redis: RedisServer) -> None:
    (tmp_path / "other").mkdir()
    async with redis_server(tmp_path / "other") as other:
        hubs = [Hub(), Hub()]
        for hub in hubs:
            _redis[hub] = redis.url
        async with rawws.share(hubs[0], redis.url, other.url) as shards:
            paths = [f"/{number}" for number in range(40)]
            assert len({id(shards.of(path)) for path in paths}) == 2
            for path in paths:
                assert shards.of(f"{path}.a.dead.b.dead") is shards.of(f"{path}.a.dead") is shards.of(path)


async def test_a_dead_room_that_a_program_has_had_before_keeps_dead_jobs_too(redis: RedisServer) -> None:
    hub = Hub()
    held = hub.room("/pay.sms.dead")
    _redis[hub] = redis.url
    try:
        async with serving(hub) as running:
            settings = hub.registry.get(held.path).settings
            assert settings.history == hub.for_dead_jobs(hub.settings).history
            async with rawws.connect(running.uri("").replace("/pay?", "/pay.sms.dead?")) as stranger:
                await stranger.send("forged")
                with pytest.raises(rawws.ConnectionClosed):
                    await stranger.recv()
            assert await redis.ask("EXISTS", "rawws:/pay.sms.dead") == 0
    finally:
        del _redis[hub]


async def test_the_number_of_groups_is_bounded_over_all_nodes(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.groups.shared.MAX_GROUPS_OF_ROOM", 2)
    async with node(redis.url) as a, node(redis.url) as b:
        assert (await a.ask("GET", "/pay?group=a")).status == 204
        assert (await b.ask("GET", "/pay?group=b")).status == 204
        assert (await a.ask("GET", "/pay?group=b")).status == 204
        for at in (a, b):
            refused = await at.ask("GET", "/pay?group=c")
            assert (refused.status, b"as many groups" in refused.body) == (503, True)


async def test_a_new_group_begins_where_it_says(redis: RedisServer) -> None:
    async with node(redis.url) as a:
        ids = await a.say("1", "2", "3")
        for query, first in (
            ("group=all", "1"),
            ("group=one&last=1", "3"),
            (f"group=since&since={ids[0]}", "2"),
            ("group=foreign&since=9f2c41d7-2", "1"),
        ):
            assert (await a.ask("GET", f"/pay?{query}")).body.decode() == first, query
        assert (await a.ask("GET", "/pay?group=none&last=0")).status == 204
        waiting = [
            json.loads((await a.ask("GET", f"/pay?group={name}&state")).body)["waiting"]
            for name in ("all", "one", "since", "none")
        ]
        assert waiting == [2, 0, 1, 0]


async def test_a_message_that_another_program_adds_is_a_job_too(redis: RedisServer) -> None:
    async with node(redis.url) as a, working(a) as worker:
        await redis.ask("XADD", "rawws:/pay", "*", "data", "from elsewhere")
        assert (await receive(worker))[1] == "from elsewhere"


async def test_a_message_that_a_group_has_not_finished_is_not_trimmed(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.broadcast.stream_entries.LEAST_ENTRIES", 10)
    async with node(redis.url) as a, node(redis.url) as b:
        assert (await a.ask("GET", "/pay?group=sms")).status == 204
        published = a.hub.room("/pay")
        for number in range(500):
            published.publish(f"{number}")
        await until(lambda: has(b, waiting=500))
        assert await redis.ask("XLEN", "rawws:/pay") == 500
        assert await redis.ask("TTL", "rawws:/pay") == -1
        async with working(b, "group=sms&max=100") as worker:
            for number in range(500):
                head, payload = await receive(worker)
                assert payload == f"{number}"
                await worker.send(json.dumps({"ack": head["id"]}))
            await until(lambda: has(a, done=500))
        published.publish("and on")
        await until(lambda: has(b, waiting=1))
        assert int(await redis.ask("XLEN", "rawws:/pay")) < 250  # Redis trims whole nodes of a hundred entries


async def test_messages_that_were_deleted_by_hand_are_lost_a_bounded_number_at_once(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with node(redis.url) as a:
        published = a.hub.room("/pay")
        assert (await a.ask("GET", "/pay?group=sms&last=0")).status == 204
        for number in range(3000):
            published.publish(f"{number}")
        async with working(a, "group=sms&max=1000") as one, working(a, "group=sms&max=1000") as two:
            for ws in (one, two):
                for _ in range(1000):
                    await receive(ws)
        await redis.ask("XTRIM", "rawws:/pay", "MAXLEN", "0")
        assert (await a.ask("GET", "/pay?group=sms")).status == 204
        lost = [
            int(each.partition("lost in Redis: ")[2].split(",")[0]) for each in caplog.messages if "are lost" in each
        ]
        assert max(lost) <= 1024
        (given,) = await a.say("new")
        assert (await take(a))[0] == given


@pytest.mark.parametrize("how", ["the group is ended", "DEL rawws:/pay", "XTRIM rawws:/pay MAXLEN 0"])
async def test_a_full_room_has_space_when_nothing_is_kept_any_more(redis: RedisServer, how: str) -> None:
    async with node(redis.url, queue_bytes=10_000) as a, node(redis.url, queue_bytes=10_000) as b:
        for name in ("slow", "sms"):
            assert (await a.ask("GET", f"/pay?group={name}&last=0")).status == 204
        async with working(b, "group=sms&max=100") as worker, trio.open_nursery() as nursery:
            status = 202
            while status == 202:
                status = (await a.ask("POST", "/pay", "x" * 1000, Content_Type="text/plain")).status
            assert status == 507

            async def work() -> None:
                while True:
                    await worker.send(json.dumps({"ack": (await receive(worker))[0]["id"]}))

            nursery.start_soon(work)
            await until(lambda: has(a, waiting=0, leased=0))
            if how == "the group is ended":
                assert await b.hub.queues.end("/pay", "slow") is True
            else:
                await redis.ask(*how.split())
            for at in (a, b):
                await until(partial(takes_posts, at))
            nursery.cancel_scope.cancel()


async def takes_posts(at: Running) -> bool:
    return (await at.ask("POST", "/pay", "1", Content_Type="text/plain")).status == 202


class Leaving:
    """A worker that goes while it is given its first job."""

    def __init__(self, queue: Any) -> None:
        self.worker = Worker("#1 leaving", most=3, ack_s=1000, tries=5)
        self.queue = queue
        self.got: list[str] = []

    def refuse(self) -> None:
        return None

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        self.got.append(str(job))
        self.queue.leave(self.worker)

    def flush(self) -> None:
        pass

    def end(self, refusal: Refusal) -> None:
        raise AssertionError(refusal)


async def test_the_jobs_of_a_worker_that_goes_while_it_is_given_them_go_to_others(redis: RedisServer) -> None:
    async with node(redis.url) as a:
        assert (await a.ask("GET", "/pay?group=sms&last=0")).status == 204
        ids = await a.say("1", "2", "3")
        assert isinstance(a.hub.queues, Doors)
        queue: Any = a.hub.queues._home.known("/pay", "sms")
        leaving = Leaving(queue)
        queue.join(leaving.worker, leaving)
        async with working(a, "group=sms&max=3") as worker:
            heads = [(await receive(worker))[0] for _ in ids]
        assert leaving.got == ids[:1]
        assert heads == [{"id": given, "try": 2 if given == ids[0] else 1} for given in ids]


# Nodes that end


async def test_a_node_that_ends_gives_the_jobs_of_its_workers_back_at_once(redis: RedisServer) -> None:
    async with node(redis.url) as b:
        (first,) = await b.say("1")
        async with node(redis.url) as a:
            worker = working(a, "group=sms&ack=1000")
            ws = await worker.__aenter__()
            assert (await receive(ws))[0] == {"id": first, "try": 1}
        assert await has(b, waiting=1, leased=0, workers=0)
        with pytest.raises(rawws.ConnectionClosed):
            await ws.recv()
        await worker.__aexit__(None, None, None)
        async with working(b) as other:
            assert (await receive(other))[0] == {"id": first, "try": 2}


async def test_the_jobs_of_a_node_that_is_killed_are_done_when_their_leases_end(
    redis: RedisServer, start_program: StartProgram
) -> None:
    program = start_program("--backplane", redis.url)
    async with node(redis.url) as b:
        # Nobody has the group at the other node before.
        (poison,) = await b.say("poison")
        uri = f"ws://{LOOPBACK}:{program.port}/pay?group=sms&ack=1&tries=1"
        async with rawws.connect(uri, subprotocols=SUBPROTOCOLS) as worker:
            assert (await receive(worker))[0] == {"id": poison, "try": 1}
            program.process.send_signal(signal.SIGKILL)
            dead = f"{(await b.ask('GET', '/pay.sms.dead?last=1&wait=20')).body!r}"
            assert "no answer within 1 s" in dead
            assert "poison" in dead
        state = await b.state()
        assert (state["dead"], state["leased"], state["waiting"]) == (1, 0, 0)


# Redis goes away, and loses its data


@pytest.mark.usefixtures("impatient")
async def test_an_answer_while_redis_is_away_counts_when_it_is_back(redis: RedisServer) -> None:
    async with node(redis.url) as a, working(a) as worker:
        first, second = await a.say("1", "2")
        await receive(worker)
        _, lease = await take(a)
        redis.kill()
        await worker.send(json.dumps({"ack": first}))
        for method, target in (
            ("POST", f"/pay?group=sms&ack={second}&lease={lease}"),
            ("GET", "/pay?group=sms"),
            ("GET", "/pay?group=sms&state"),
        ):
            refused = await a.ask(method, target)
            assert (refused.status, refused.fields["Retry-After"]) == (503, "1")
        await redis.start()
        await until(lambda: has(a, done=1, leased=1))
        assert (await a.ask("POST", f"/pay?group=sms&ack={second}&lease={lease}")).status == 204
        await until(lambda: can_publish(a))
        (third,) = await a.say("3")
        assert (await receive(worker))[0] == {"id": third, "try": 1}


@pytest.mark.usefixtures("impatient")
async def test_an_answer_while_redis_is_away_comes_too_late_if_another_worker_has_the_job(redis: RedisServer) -> None:
    async with (
        network(redis.port) as between,
        node(between.url) as a,
        node(redis.url) as b,
        working(a, "group=sms&ack=1") as worker,
    ):
        (first,) = await b.say("1")
        await receive(worker)
        between.cut()
        await until(lambda: is_away(a))
        await worker.send(json.dumps({"ack": first}))
        taken, _ = await take(b, "group=sms&wait=30&ack=1000")
        assert taken == first
        between.heal()
        while "lost" not in (head := (await receive(worker))[0]):  # it may have had the job once more before the cut
            assert head["id"] == first
        assert head["lost"] == first


async def is_away(at: Running) -> bool:
    return (await at.ask("GET", "/pay?group=sms&state")).status == 503


@pytest.mark.usefixtures("impatient")
async def test_a_worker_that_answers_first_after_redis_has_lost_its_data_is_told_so(redis: RedisServer) -> None:
    async with node(redis.url) as a, working(a) as worker:
        (first,) = await a.say("1")
        await receive(worker)
        await redis.ask("FLUSHALL")
        await worker.send(json.dumps({"ack": first}))
        assert (await receive(worker))[0]["lost"] == first


@pytest.mark.usefixtures("impatient")
async def test_jobs_in_an_answer_that_was_lost_are_given_out_again_and_not_counted(redis: RedisServer) -> None:
    async with network(redis.port) as between, node(between.url) as a, node(redis.url) as b:
        worker: Any
        async with working(a, "group=sms&max=2") as worker:
            (first,) = await b.say("1")
            await receive(worker)
            release = between.hold(to_server=False)
            await worker.send(json.dumps({"ack": first}))
            (second,) = await b.say("2")
            await until(lambda: has(b, done=1, delivered=2))
            between.cut()
            release()
            between.heal()
            assert await receive(worker) == ({"id": second, "try": 1}, "2"), "and the answer isn't called late"
            await worker.send(json.dumps({"ack": second}))
            await until(lambda: has(b, done=2, delivered=2, redelivered=0))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("loss", ["FLUSHALL", "DEL rawws:/pay"])
async def test_a_redis_that_has_lost_a_group_begins_it_anew(
    redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, loss: str
) -> None:
    monkeypatch.setattr("rawws.groups.shared_queue.BEAT_S", 0.2)
    async with node(redis.url) as a, node(redis.url) as b, working(a) as worker, working(b) as other:
        (first,) = await a.say("1")
        async with trio.open_nursery() as nursery:
            got: list[tuple[Any, Any]] = []

            async def wait(ws: Any) -> None:
                got.append((ws, await receive(ws)))
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait, worker)
            nursery.start_soon(wait, other)
        holder = got[0][0]
        await redis.ask(*loss.split())
        await until(lambda: has(b, leased=0, workers=2))
        await holder.send(json.dumps({"ack": first}))
        assert (await receive(holder))[0]["lost"] == first
        (second,) = await b.say("2")
        (third,) = await b.say("3")
        ids = {(await receive(ws))[0]["id"] for ws in (worker, other)}
        assert ids == {second, third}
        assert 1 <= caplog.text.count("Redis has lost the group sms of /pay with its leases; it begins anew") <= 2


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("what", ["DEL state", "DEL jobs", "DEL due", "SET jobs text", "SET state text"])
async def test_a_group_that_has_lost_a_part_in_redis_begins_anew_with_what_it_has_not_finished(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Redis evicts keys when it has too little memory, if it is configured so."""
    monkeypatch.setattr("rawws.groups.shared_queue.BEAT_S", 0.2)
    async with node(redis.url) as a, node(redis.url) as b, working(a, "group=sms&last=0&max=2&ack=1000") as worker:
        ids = await b.say("1", "2", "3", "4")
        for given in ids[:2]:
            assert (await receive(worker))[0] == {"id": given, "try": 1}
        await worker.send(json.dumps({"ack": ids[0]}))
        assert (await receive(worker))[0] == {"id": ids[2], "try": 1}
        command, part, *value = what.split()
        await redis.ask(command, f"rawws:group:sms:{part}/pay", *value)
        for given in ids[1:3]:
            assert (await receive(worker))[0] == {"id": given, "try": 1}
            await worker.send(json.dumps({"ack": given}))
        assert (await receive(worker))[0] == {"id": ids[3], "try": 1}


async def test_rooms_that_are_shared_too_late_have_no_groups(redis: RedisServer) -> None:
    hub = Hub()
    async with serving(hub) as running, rawws.share(hub, redis.url):
        refused = await running.ask("GET", "/pay?group=sms")
        assert (refused.status, b"were shared after it had begun" in refused.body) == (501, True)


async def test_a_worker_waits_by_redis_clock_for_a_job_that_was_put_off(redis: RedisServer) -> None:
    async with node(redis.url) as a, working(a) as worker:
        (first,) = await a.say("1")
        await receive(worker)
        began = time.monotonic()
        await worker.send(json.dumps({"nak": first, "in": 0.3}))
        assert (await receive(worker))[0] == {"id": first, "try": 2}
        assert time.monotonic() - began > 0.25


async def test_an_ended_connection_to_redis_takes_no_groups(redis: RedisServer) -> None:
    async with node(redis.url) as a:
        assert (await a.ask("GET", "/pay?group=sms")).status == 204
        assert repr(a.hub.queues) == "<Doors of <SharedGroups 1>>"
