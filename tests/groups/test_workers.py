"""Workers of a server with a store: WebSockets, HTTP, `rawws.work`, refusals, metrics, and administration."""

from __future__ import annotations

import http.client
import itertools
import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio

import rawws
from rawws.access.grant import Action, Grant
from rawws.access.patterns import EVERY_ROOM, NO_ROOM
from rawws.client.work import Job, _UnderWay
from rawws.hub.hub import Hub
from rawws.hub.regranting import regrant_all
from rawws.relay.loop import current_loop
from rawws.server.metrics import MetricsApp
from rawws.store.engine import StoreFull
from rawws.store.entries import Entry, Outcome
from rawws.store.memory_engine import MemoryEngine
from tests.redis_server import redis_server
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S
from tests.serving.wire import close, upgrade

SUBPROTOCOLS = ["rawws.id.v1"]


class Answer(NamedTuple):
    status: int
    fields: Any
    body: bytes


class Running:
    """A server, its hub, and requests to it."""

    def __init__(self, hub: Hub, *ports: int) -> None:
        """With several nodes, each request goes to another one than that before."""
        self.hub = hub
        self._ports = itertools.cycle(ports)

    @property
    def port(self) -> int:
        return next(self._ports)

    def uri(self, query: str = "group=sms", path: str = "/pay") -> str:
        return f"ws://127.0.0.1:{self.port}{path}?{query}"

    async def ask(self, method: str, target: str, body: str = "", **fields: str) -> Answer:
        def ask() -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
            named = {name.replace("_", "-"): value for name, value in fields.items()}
            connection.request(method, target, body, named)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
            connection.close()
            return answer

        return await trio.to_thread.run_sync(ask)

    async def say(self, *texts: str) -> list[str]:
        """Publish, and return the ids."""
        ids = []
        for text in texts:
            answer = await self.ask("POST", "/pay", text, Content_Type="text/plain")
            assert answer.status == 202, answer
            ids.append(json.loads(answer.body)["id"])
        return ids

    async def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((await self.ask("GET", "/pay?group=sms&state")).body)
        return state


@asynccontextmanager
async def serving(hub: Hub, app: Any = None, **options: Any) -> AsyncGenerator[Running]:
    async with AsyncExitStack() as stack:
        ports = []
        for each in (hub, *_other_nodes.get(hub, ())):
            if each in _redis:
                await stack.enter_async_context(rawws.share(each, _redis[each]))
            nursery = await stack.enter_async_context(trio.open_nursery())
            http = app or rawws.rooms(each, is_local=True, admin_token="a" * 20)
            server = await nursery.start(partial(rawws.serve, each, 0, host="127.0.0.1", http=http, **options))
            ports.append(server.port)
            stack.callback(nursery.cancel_scope.cancel)
        with trio.fail_after(PATIENCE_S):
            yield Running(hub, *ports)


_redis: dict[Hub, str] = {}  # the backplane of hubs that have one
_other_nodes: dict[Hub, list[Hub]] = {}  # hubs that are served beside another one


@asynccontextmanager
async def shared_hub(directory: Path, nodes: int, **settings: Any) -> AsyncGenerator[Hub]:
    """A hub that `serving` shares through a Redis of its own, with as many nodes."""
    async with redis_server(directory) as server:
        hub, *others = hubs = [Hub(**settings) for _ in range(nodes)]
        _redis.update(dict.fromkeys(hubs, server.url))
        _other_nodes[hub] = others
        yield hub
        for each in hubs:
            del _redis[each]
        del _other_nodes[hub]


PLACES = ["file", "memory", pytest.param("redis", marks=pytest.mark.thorough), "two nodes on Redis"]


@pytest.fixture(params=PLACES)
async def hub(bounded: None, request: pytest.FixtureRequest, tmp_path: Path) -> AsyncGenerator[Hub]:  # noqa: ARG001
    if request.param == "memory":
        yield Hub(queue_in_memory=True)
    elif request.param == "file":
        yield Hub(store=tmp_path / "rooms.db", store_sync="never")
    else:
        async with shared_hub(tmp_path, 1 if request.param == "redis" else 2) as made:
            yield made


@pytest.fixture(params=PLACES)
async def small_hub(
    bounded: None,  # noqa: ARG001
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> AsyncGenerator[Hub]:
    """A hub whose groups keep little."""
    if request.param == "memory":
        yield Hub(queue_in_memory=True, queue_bytes=1000)
    elif request.param == "file":
        yield stored(tmp_path, queue_bytes=1000)
    else:
        async with shared_hub(tmp_path, 1 if request.param == "redis" else 2, queue_bytes=1000) as made:
            yield made


def stored(tmp_path: Path, **settings: Any) -> Hub:
    return Hub(store=tmp_path / "rooms.db", store_sync="never", **settings)


async def receive(ws: rawws.WebSocket) -> tuple[dict[str, Any], str | bytes]:
    message = await ws.recv()
    newline: Any = "\n" if isinstance(message, str) else b"\n"
    head, _, payload = message.partition(newline)
    return json.loads(head), payload


# WebSockets


async def test_a_message_goes_to_one_worker_until_it_is_acknowledged(hub: Hub) -> None:
    async with serving(hub) as running:
        one, two = [rawws.connect(running.uri("group=sms&max=1"), subprotocols=SUBPROTOCOLS) for _ in "12"]
        async with one as a, two as b:
            first, second = await running.say("pay 1", "pay 2")
            got = {(await receive(a))[0]["id"]: a}
            head, payload = await receive(b)
            got[head["id"]] = b
            assert got.keys() == {first, second}
            assert (head["try"], payload) == (1, "pay 2" if got[second] is b else "pay 1")
            (third,) = await running.say("pay 3")
            await got[second].send(json.dumps({"ack": second}))
            assert await receive(got[second]) == ({"id": third, "try": 1}, "pay 3")
            state = await running.state()
            assert (state["leased"], state["done"], state["workers"], state["oldest"]) == (2, 1, 2, first)


async def test_the_jobs_of_a_worker_whose_socket_ends_go_to_others_at_once(hub: Hub) -> None:
    async with serving(hub) as running:
        async with rawws.connect(running.uri("group=sms&max=2&ack=1000"), subprotocols=SUBPROTOCOLS) as a:
            first, second = await running.say("1", "2")
            await receive(a)
            await receive(a)
        async with rawws.connect(running.uri("group=sms&max=2"), subprotocols=SUBPROTOCOLS) as b:
            assert await receive(b) == ({"id": first, "try": 2}, "1")
            assert await receive(b) == ({"id": second, "try": 2}, "2")


async def test_readers_of_the_room_get_all_messages_and_workers_do_not_count_among_them(hub: Hub) -> None:
    async with serving(hub) as running:
        reader = rawws.connect(running.uri(""), subprotocols=SUBPROTOCOLS)
        worker = rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS)
        async with reader as ws, worker as a:
            await ws.send("hello")
            assert (await receive(a))[1] == "hello"
            assert (await receive(ws))[0].keys() == {"at"}
            assert (await receive(ws))[1] == "hello"
            assert json.loads((await running.ask("GET", "/pay?peers")).body) == {"peers": 1}


async def test_a_binary_message_stays_one(hub: Hub) -> None:
    async with serving(hub) as running, rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
        await running.ask("POST", "/pay", "\0\1", Content_Type="application/octet-stream")
        assert (await receive(a))[1] == b"\0\1"


async def test_a_late_answer_is_told(hub: Hub) -> None:
    async with serving(hub) as running, rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
        (first,) = await running.say("1")
        await receive(a)
        for _ in range(2):
            await a.send(json.dumps({"ack": first}))
        assert (await receive(a))[0]["lost"] == first
        await a.send('{"ack":"0-7"}')
        assert (await receive(a))[0]["lost"] == "0-7"


async def test_a_message_that_is_no_answer_closes_the_connection_and_gives_the_job_back(
    hub: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(hub) as running:
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
            await running.say("1")
            await receive(a)
            await a.send("done!")
            with pytest.raises(rawws.ConnectionClosed):
                await a.recv()
            assert a.close_code == 1008
            assert "not 'done!'" in str(a.close_reason)
        assert "! a worker's mistake: a worker sends" in caplog.text
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as b:
            assert (await receive(b))[0]["try"] == 2


async def test_a_worker_that_reads_nothing_is_not_sent_more_than_it_takes(hub: Hub) -> None:
    async with serving(hub) as running:
        worker = rawws.connect(running.uri("group=sms&max=100"), subprotocols=SUBPROTOCOLS, max_queue=1)
        async with worker as a:
            big = "x" * 900_000
            await running.say(*[big] * 20)
            for _ in range(20):
                assert len((await receive(a))[1]) == len(big)
            after = await running.state()
            assert after["leased"] == 20
            assert after["redelivered"] == 0


@pytest.mark.parametrize(
    ("query", "subprotocols", "status", "sentence"),
    [
        ("group=sms", None, 400, "A worker of a group needs the subprotocol rawws.id.v1"),
        ("group=s.ms", SUBPROTOCOLS, 400, "a group's name has 1 to 32 letters"),
        ("group=sms&max=0", SUBPROTOCOLS, 400, "max='0' in the query is not a number from 1 to 1000"),
    ],
)
async def test_a_request_that_can_not_be_a_workers_is_refused(
    hub: Hub, query: str, subprotocols: list[str] | None, status: int, sentence: str
) -> None:
    async with serving(hub) as running:
        with pytest.raises(rawws.InvalidStatus, match=sentence) as caught:
            async with rawws.connect(running.uri(query), subprotocols=subprotocols):
                pass
        assert caught.value.response.status == status


async def test_without_a_store_there_are_no_groups() -> None:
    hub = Hub()
    async with serving(hub) as running:
        with pytest.raises(rawws.InvalidStatus, match="This server keeps no jobs: a group needs a store"):
            async for _ in rawws.work(running.uri(""), group="sms"):
                pass
        for method, target in (("GET", "/pay?group=sms"), ("POST", "/pay?group=sms&ack=1-1")):
            assert (await running.ask(method, target)).status == 501


async def test_a_read_only_room_has_workers_on_its_own_machine_alone(tmp_path: Path) -> None:
    hub = stored(tmp_path, read_only=True)
    async with serving(hub) as running:
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
            await running.say("1")
            assert (await receive(a))[1] == "1"
        forwarded = rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS, headers={"X-Forwarded-For": "192.0.2.1"})
        with pytest.raises(rawws.InvalidStatus, match="one takes jobs with a grant alone"):
            await forwarded.open()
        answer = await running.ask("GET", "/pay?group=sms", X_Forwarded_For="192.0.2.1")
        assert answer.status == 403


async def test_a_page_of_another_site_takes_no_jobs(hub: Hub) -> None:
    async with serving(hub) as running:
        await running.say("1")
        answer = await running.ask("GET", "/pay?group=sms", Sec_Fetch_Site="cross-site")
        assert answer.status == 403
        assert (await running.ask("GET", "/pay?group=sms")).fields["Rawws-Try"] == "1"


# HTTP


async def test_jobs_over_http(hub: Hub) -> None:
    async with serving(hub) as running:
        assert (await running.ask("GET", "/pay?group=sms")).status == 204
        first, second = await running.say("pay 1", "pay 2")
        answer = await running.ask("GET", "/pay?group=sms&wait=5")
        assert (answer.status, answer.body) == (200, b"pay 1")
        assert answer.fields["Rawws-Id"] == first
        assert answer.fields["Rawws-Try"] == "1"
        assert answer.fields["Content-Type"] == "text/plain; charset=utf-8"
        acked = await running.ask("POST", f"/pay?group=sms&ack={first}&lease={answer.fields['Rawws-Lease']}")
        assert (acked.status, acked.body) == (204, b"")
        again = await running.ask("POST", f"/pay?group=sms&ack={first}")
        assert again.status == 404
        assert b"no longer leased to you" in again.body
        await running.ask("GET", "/pay?group=sms")
        assert (await running.ask("POST", f"/pay?group=sms&nak={second}&in=100&why=busy")).status == 204
        assert (await running.ask("GET", "/pay?group=sms")).status == 204
        state = await running.state()
        assert (state["waiting"], state["leased"], state["done"]) == (1, 0, 1)
        assert (await running.ask("POST", "/pay?group=other&ack=1-1")).status == 404
        assert (await running.ask("GET", "/pay?group=other&state")).status == 404
        assert (await running.ask("POST", "/pay?group=sms")).status == 400
        assert (await running.ask("HEAD", "/pay?group=sms")).status == 405


async def test_a_get_waits_for_a_job(hub: Hub) -> None:
    async with serving(hub) as running:
        answers: list[Answer] = []

        async def wait() -> None:
            answers.append(await running.ask("GET", "/pay?group=sms&wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not (await running.ask("GET", "/pay?group=sms&state")).body.count(b'"workers":1'):
                await trio.sleep(0.01)
            await running.say("late")
        assert answers[0].body == b"late"


async def test_a_job_that_a_worker_gives_up_is_in_the_dead_room_with_its_reason(hub: Hub) -> None:
    async with serving(hub) as running, rawws.connect(running.uri("", "/pay.sms.dead")) as dead:
        (first,) = await running.say("poison")
        await running.ask("GET", "/pay?group=sms")
        await running.ask("POST", f"/pay?group=sms&term={first}&why=no+such+number")
        head, payload = await receive(dead)
        worker = head.pop("worker")
        assert head == {"id": first, "group": "sms", "tries": 1, "reason": "no such number"}
        assert worker.startswith("#")
        assert payload == "poison"
        assert (await running.state())["dead"] == 1


async def test_a_post_is_refused_while_the_groups_keep_too_much(small_hub: Hub) -> None:
    async with serving(small_hub) as running:
        await running.ask("GET", "/pay?group=sms")
        await running.say("x" * 600, "y" * 600)
        # Another node hears of it soon.
        while (full := await running.ask("POST", "/pay", "z")).status != 507:
            await trio.sleep(0.01)
        full = await running.ask("POST", "/pay", "z")
        assert full.status == 507
        assert full.fields["Retry-After"] == "1"
        answer = await running.ask("GET", "/pay?group=sms")
        await running.ask("POST", f"/pay?group=sms&ack={answer.fields['Rawws-Id']}")
        answer = await running.ask("GET", "/pay?group=sms")
        await running.ask("POST", f"/pay?group=sms&ack={answer.fields['Rawws-Id']}")
        while (await running.ask("POST", "/pay", "z")).status == 507:
            await trio.sleep(0.01)


async def test_a_websocket_publisher_waits_while_the_groups_keep_too_much(small_hub: Hub) -> None:
    async with serving(small_hub) as running:
        await running.ask("GET", "/pay?group=sms")
        async with rawws.connect(running.uri("")) as ws:
            await ws.send("x" * 1000)
            assert await ws.recv() == "x" * 1000
            await ws.send("held")
            with trio.move_on_after(0.2):
                await ws.recv()
                raise AssertionError("it was published")
            answer = await running.ask("GET", "/pay?group=sms")
            await running.ask("POST", f"/pay?group=sms&ack={answer.fields['Rawws-Id']}")
            assert await ws.recv() == "held"


async def test_a_user_who_is_disconnected_works_no_more(tmp_path: Path) -> None:
    hub = stored(tmp_path)

    async def authenticate(request: rawws.Request) -> str:
        return request.headers.get("X-User") or "bob"

    async with serving(hub, authenticate=authenticate) as running:
        worker = rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS, headers={"X-User": "ann"})
        async with worker as a:
            await running.say("1")
            await receive(a)
            assert hub.disconnect(user="bob") == 0
            assert hub.disconnect(user="ann") == 1
            with pytest.raises(rawws.ConnectionClosed):
                await a.recv()
            assert a.close_code == 1008


async def test_an_operator_sees_workers_and_ends_them(tmp_path: Path) -> None:
    token = {"Authorization": "Bearer " + "a" * 20}

    async def workers(query: str = "") -> list[dict[str, Any]]:
        found = json.loads((await running.ask("GET", f"/_rawws/peers{query}", **token)).body)["peers"]
        return [each for each in found if each["kind"] == "worker"]

    async with serving(stored(tmp_path)) as running, trio.open_nursery() as nursery:
        async with rawws.connect(running.uri("group=sms&max=2"), subprotocols=SUBPROTOCOLS) as a:
            await running.say("1", "2")
            await receive(a)
            await receive(a)
            nursery.start_soon(running.ask, "GET", "/pay?group=mail&wait=20&last=0")
            while len(found := await workers()) < 2:
                await trio.sleep(0.01)
            first, second = sorted(found, key=lambda each: str(each["group"]), reverse=True)
            assert (first["group"], first["jobs"], first["rooms"]) == ("sms", 2, ["/pay"])
            assert (second["group"], second["jobs"], second["user"]) == ("mail", 0, None)
            assert first["address"].startswith("127.0.0.1:")
            assert first["since"].endswith("Z")
            assert await workers("?room=/pay") == found
            assert await workers("?room=/other") == []
            assert await workers(f"?number={first['number']}") == [first]
            for each in found:
                ended = await running.ask("DELETE", f"/_rawws/peers?number={each['number']}&reason=bye", **token)
                assert json.loads(ended.body)["ended"] == 1
            with pytest.raises(rawws.ConnectionClosed, match="bye"):
                await a.recv()
        assert await workers() == []
        assert await next_job(running) == "1"


async def next_job(running: Running) -> str:
    return (await running.ask("GET", "/pay?group=sms&wait=5")).body.decode()


async def test_a_user_who_may_only_read_takes_no_jobs(tmp_path: Path) -> None:
    hub = stored(tmp_path)
    reader = rawws.User("ann", read=["/pay"])

    async def authenticate(request: rawws.Request) -> rawws.User | None:
        return reader if request.path else None

    async with serving(hub, authenticate=authenticate) as running:
        with pytest.raises(rawws.InvalidStatus, match="A worker of a group needs the right to read and to write"):
            await rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS).open()
        assert (await running.ask("GET", "/pay?group=sms")).status == 403


# rawws.work


async def test_work_acknowledges_what_is_done_and_gives_back_what_fails(
    hub: Hub, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.client.work.FIRST_RETRY_S", 0.01)
    async with serving(hub) as running:
        first, second = await running.say("good", "bad once")
        done = []
        async for job in rawws.work(running.uri(""), group="sms"):
            async with job:
                if job.data == "bad once" and job.tried == 1:
                    raise ValueError("not yet")
                done.append((job.id, job.tried, job.data))
            if len(done) == 2:
                break
        assert done == [(first, 1, "good"), (second, 2, "bad once")]
        assert f"job {second} has failed, and is tried again in 0.01 s" in caplog.text
        while (await running.state())["done"] < 2:
            await trio.sleep(0.01)


async def test_work_connects_again_and_gets_its_jobs_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.client.reconnect.FIRST_BACKOFF_S", 0.01)
    hub = stored(tmp_path)
    async with serving(hub) as running:
        await running.say("1", "2")
        tries = []
        async for job in rawws.work(running.uri(""), group="sms"):
            tries.append((job.data, job.tried))
            if len(tries) == 1:
                for peer in list(current_loop().peers.values()):
                    if isinstance(peer.owner, rawws.CallbackWebSocket):
                        peer.owner.close(1012)
                continue
            async with job:
                pass
            if len(tries) == 3:
                break
        assert tries == [("1", 1), ("1", 2), ("2", 1)]


async def test_a_job_in_its_block_is_kept_up(hub: Hub) -> None:
    async with serving(hub) as running:
        await running.say("slow")
        async for job in rawws.work(running.uri(""), group="sms", ack=1):
            async with job:
                await trio.sleep(1.8)
            break
        while (await running.state())["done"] < 1:
            await trio.sleep(0.01)
        assert (await running.state())["redelivered"] == 0


async def test_a_job_says_what_its_worker_says(hub: Hub) -> None:
    async with serving(hub) as running:
        await running.say("a", "b", "c")
        async for job in rawws.work(running.uri(""), group="sms"):
            if job.data == "a":
                assert await job.more()
                assert await job.term("no use")
            elif job.data == "b":
                async with job:
                    assert await job.ack()
            elif job.tried == 1:
                assert await job.nak(why="later")
            else:
                assert repr(job) == f"<Job {job.id} try=2>"
                break
        state = await running.state()
        assert (state["done"], state["dead"]) == (1, 1)


NO_JOBS = {
    "a long id": '{"id":"' + "x" * 60_000 + '","try":1}\n',
    "a list as the id": '{"id":["9f2c41d7-1"],"try":1}\n',
    "a text as the try": '{"id":"9f2c41d7-1","try":"1"}\n',
    "a list as the try": '{"id":"9f2c41d7-1","try":[1]}\n',
    "no try": '{"id":"9f2c41d7-1"}\n',
    "a try below 1": '{"id":"9f2c41d7-1","try":0}\n',
    "a long try": '{"id":"9f2c41d7-1","try":"' + "9" * 5000 + '"}\n',
    "an endless try": '{"id":"9f2c41d7-1","try":Infinity}\n',
    "nested lists": "[" * 60_000,
    "a long lost one": '{"lost":"' + "y" * 60_000 + '"}\n',
    "a text": '"lost"',
    "binary data": b"\xff\xfe\n",
}


@pytest.mark.parametrize("message", NO_JOBS.values(), ids=NO_JOBS)
async def test_a_server_that_sends_no_jobs_ends_the_work(message: str | bytes) -> None:
    async def send(ws: rawws.WebSocket) -> None:
        await ws.send(message)
        await ws.recv()

    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, send, 0, host="127.0.0.1", subprotocols=SUBPROTOCOLS)
        server = await nursery.start(start)
        with pytest.raises(rawws.InvalidResponse, match="the server's message doesn't begin as a job does") as caught:
            await anext(rawws.work(f"ws://127.0.0.1:{server.port}/pay", group="sms"))
        assert len(str(caught.value)) < 200
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("wrong", [{"group": "a.b"}, {"max_jobs": 0}, {"ack": 0}, {"longest": -1}])
def test_a_worker_that_can_not_be_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(rawws.UsageError):
        rawws.work("ws://localhost/pay", **({"group": "sms"} | wrong))


# Operators


async def test_groups_in_the_metrics_and_for_operators(hub: Hub) -> None:
    rooms = rawws.rooms(hub, is_local=True, admin_token="a" * 20)
    async with serving(hub, MetricsApp(hub, rooms)) as running:
        await running.say("1", "2")
        await running.ask("GET", "/pay?group=sms")
        metrics = (await running.ask("GET", "/metrics")).body.decode()
        assert 'rawws_group_waiting_messages{group="sms"} 1.0' in metrics
        assert 'rawws_group_leased_jobs{group="sms"} 1.0' in metrics
        assert 'rawws_group_oldest_seconds{group="sms"}' in metrics
        token = {"Authorization": "Bearer " + "a" * 20}
        (group,) = json.loads((await running.ask("GET", "/_rawws/groups", **token)).body)["groups"]
        assert (group["room"], group["group"], group["waiting"]) == ("/pay", "sms", 1)
        target = "/_rawws/groups?room=/pay&group=sms"
        assert (await running.ask("DELETE", target, **token)).status == 200
        assert (await running.ask("DELETE", target, **token)).status == 404
        assert (await running.ask("DELETE", "/_rawws/groups?room=/pay", **token)).status == 400
        assert (await running.ask("GET", "/_rawws/groups?x", **token)).status == 400
        assert "rawws_group" not in (await running.ask("GET", "/metrics")).body.decode()


async def test_a_group_goes_on_after_a_restart_of_the_server(tmp_path: Path) -> None:
    async with serving(stored(tmp_path)) as running:
        first, second = await running.say("1", "2")
        answer = await running.ask("GET", "/pay?group=sms&ack=100")
        lease = answer.fields["Rawws-Lease"]
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
            assert (await receive(a))[0]["id"] == second
    async with serving(stored(tmp_path)) as running:
        worker = rawws.connect(running.uri("group=sms&max=9"), subprotocols=SUBPROTOCOLS)
        async with worker as a:
            assert await receive(a) == ({"id": second, "try": 2}, "2")
            assert (await running.ask("POST", f"/pay?group=sms&ack={first}&lease={lease}")).status == 204


# Grants that end or change, and a store that takes nothing


class Changing:
    """A source of one grant, which may become another one."""

    def __init__(self, later: Grant | None) -> None:
        self.is_changed = False
        self._later = later
        self._now = Grant("sms", EVERY_ROOM, EVERY_ROOM, renew=self._renew)

    def _renew(self) -> Grant | None:
        return self._later if self.is_changed else self._now

    async def grant(self, request: rawws.Request, room: str, action: Action) -> Grant:
        return self._now


@pytest.mark.parametrize(
    ("later", "code", "reason"),
    [
        (None, 4401, "the token has been withdrawn"),
        (Grant("sms", EVERY_ROOM, NO_ROOM), 1008, "This user may not write in this room."),
    ],
)
async def test_a_worker_whose_rights_are_withdrawn_is_sent_away_and_its_job_goes_to_others(
    tmp_path: Path, later: Grant | None, code: int, reason: str
) -> None:
    hub, source = stored(tmp_path), Changing(later)
    async with serving(hub, access=source) as running:
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as a:
            await running.say("1")
            await receive(a)
            source.is_changed = True
            assert (await regrant_all()).closed == 1
            with pytest.raises(rawws.ConnectionClosed):
                await a.recv()
            assert (a.close_code, a.close_reason) == (code, reason)
        source.is_changed = False
        async with rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS) as b:
            assert (await receive(b))[0]["try"] == 2


async def test_a_get_that_waits_gets_no_job_when_its_right_is_withdrawn(tmp_path: Path) -> None:
    hub, source = stored(tmp_path), Changing(None)
    async with serving(hub, access=source) as running:
        answers: list[Answer] = []

        async def wait() -> None:
            answers.append(await running.ask("GET", "/pay?group=sms&wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not (await running.ask("GET", "/pay?group=sms&state")).body.count(b'"workers":1'):
                await trio.sleep(0.01)
            source.is_changed = True
            hub.room("/pay").publish("secret")
        assert answers[0].status == 401
        assert b"secret" not in answers[0].body


class Lasting:
    """A source of grants that end after a while."""

    def __init__(self, lasts_s: float) -> None:
        self.lasts_s = lasts_s

    async def grant(self, request: rawws.Request, room: str, action: Action) -> Grant:
        return Grant("sms", EVERY_ROOM, EVERY_ROOM, expires_at=time.time() + self.lasts_s)


async def test_a_worker_whose_token_expires_is_closed_with_4401(tmp_path: Path) -> None:
    access = Lasting(0.2)
    async with serving(stored(tmp_path), access=access) as running:
        while True:
            try:
                a = await rawws.connect(running.uri(), subprotocols=SUBPROTOCOLS).open()
                break
            except rawws.InvalidStatus:  # a busy machine has not opened the group by then
                access.lasts_s *= 2
        with pytest.raises(rawws.ConnectionClosed):
            await a.recv()
        assert a.close_code == 4401


class StuckEngine(MemoryEngine):
    """Has no space from some time on."""

    is_full = False

    def commit(self, entries: Sequence[Entry]) -> list[Outcome]:
        if self.is_full:
            raise StoreFull("no space")
        return super().commit(entries)


async def test_workers_over_http_are_told_when_nothing_can_be_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rawws.groups.runner.PATIENCE_S", 0.2)
    engine = StuckEngine()
    monkeypatch.setattr("rawws.store.opening.MemoryEngine", lambda *_: engine)
    async with serving(Hub(queue_in_memory=True)) as running:
        first, _ = await running.say("1", "2")
        await running.ask("GET", "/pay?group=sms")
        engine.is_full = True
        acked = await running.ask("POST", f"/pay?group=sms&ack={first}")
        assert (acked.status, acked.fields["Retry-After"]) == (503, "1")
        assert (await running.ask("GET", "/pay?group=sms")).status == 503
        assert (await running.state())["workers"] == 0
        engine.is_full = False
        while (await running.ask("GET", "/pay?group=sms&wait=1")).status != 200:
            pass


@pytest.mark.parametrize("fails", [True, False])
async def test_a_dead_job_is_kept_whatever_the_application_says_about_its_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, *, fails: bool
) -> None:
    def choose(path: str) -> rawws.RoomSettings | None:
        if path == "/pay":
            return None
        if fails:
            raise LookupError("no such room")
        return rawws.RoomSettings()

    async with serving(stored(tmp_path, settings=choose)) as running:
        first, second = await running.say("poison", "good")
        await running.ask("GET", "/pay?group=sms")
        assert (await running.ask("POST", f"/pay?group=sms&term={first}")).status == 204
        assert (await running.ask("GET", "/pay?group=sms")).fields["Rawws-Id"] == second
        assert "an error in rawws itself" not in caplog.text
        assert ("settings('/pay.sms.dead') failed" in caplog.text) is fails
    async with serving(stored(tmp_path)) as running:
        assert b"poison" in (await running.ask("GET", "/pay.sms.dead?last=5")).body


async def test_leaving_the_loop_ends_the_worker_even_if_the_last_job_is_kept(hub: Hub) -> None:
    async with serving(hub) as running:
        await running.say("1", "2")
        async for job in rawws.work(running.uri(""), group="sms"):
            async with job:
                break
        while (await running.state())["workers"]:
            await trio.sleep(0.01)
        assert job.data == "1"
        state = await running.state()
        assert (state["done"], state["leased"], state["waiting"]) == (1, 0, 1)


async def test_the_same_job_twice_in_one_program_is_kept_up_for_both() -> None:
    ws: Any = object()
    under_way = _UnderWay(1000, 1000)
    first, again = Job(under_way, object(), "a-1", 1, ""), Job(under_way, ws, "a-1", 2, "")  # type: ignore[arg-type]
    under_way.begin(first)
    under_way.begin(again)
    under_way.end(first)
    assert list(under_way.jobs) == [again]
    under_way.note_lost(ws, "a-1")
    assert again.is_lost
    assert not first.is_lost
    under_way.end(again)


async def test_a_get_that_waits_is_ended_with_its_user(tmp_path: Path) -> None:
    hub = stored(tmp_path)
    async with serving(hub, access=Changing(None)) as running:
        answers: list[Answer] = []

        async def wait() -> None:
            answers.append(await running.ask("GET", "/pay?group=sms&wait=20"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            while not (await running.ask("GET", "/pay?group=sms&state")).body.count(b'"workers":1'):
                await trio.sleep(0.01)
            assert hub.disconnect(user="bob") == 0
            assert hub.disconnect(user="sms", reason="bye") == 1
            hub.room("/pay").publish("secret")
        assert (answers[0].status, answers[0].body) == (403, b"This poll was ended by the server: bye.\n")
        assert (await running.state())["workers"] == 0


async def test_a_worker_does_not_begin_again_a_group_that_an_operator_has_ended(hub: Hub) -> None:
    async with serving(hub) as running:
        await running.say("1", "2")
        jobs = rawws.work(running.uri(""), group="sms")
        async with await anext(jobs):
            assert await hub.queues.end("/pay", "sms")
        with pytest.raises(rawws.ConnectionClosed, match="This group has been ended") as caught:
            await anext(jobs)
        assert caught.value.code == 4410
        assert (await running.ask("GET", "/pay?group=sms&state")).status == 404


async def test_a_worker_that_is_being_closed_gets_nothing_and_costs_no_try(tmp_path: Path) -> None:
    async with serving(stored(tmp_path)) as running:
        workers = []
        for _ in range(7):
            worker = await Client.unconnected().connect(running.port)
            fields = "Sec-WebSocket-Protocol: rawws.id.v1"
            assert (await worker.ask(upgrade("/pay?group=sms", fields))).status == 101
            workers.append(worker)
        await running.say("healthy")
        while not (await running.state())["delivered"]:
            await trio.sleep(0.01)
        for peer in list(current_loop().peers.values()):
            if isinstance(peer.owner, rawws.CallbackWebSocket):
                peer.owner.close(1001)
        for place, worker in enumerate(workers, 1):  # they answer the close one after the other
            await worker.send(close(1001))
            while (await running.state())["workers"] > 7 - place:
                await trio.sleep(0.01)
        state = await running.state()
        assert (state["delivered"], state["dead"]) == (1, 0)
        answer = await running.ask("GET", "/pay?group=sms&wait=2")
        assert (answer.body, answer.fields["Rawws-Try"]) == (b"healthy", "2")
        for worker in workers:
            worker.hang_up()
