"""Administration of several nodes that share their rooms: one of them answers for all."""

from __future__ import annotations

import hashlib
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import trio

from tests.redis_server import RedisServer, redis_server
from tests.room_serving import Reader, post
from tests.serving.client import Answer, Client
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get, seen_close

pytestmark = pytest.mark.usefixtures("bounded")

TOKEN = "operator-12345678"
OPERATOR = f"Authorization: Bearer {TOKEN}"
ALICE, BOB = ("Authorization: Bearer alice-token-1", "Authorization: Bearer bob-token-1")
ENDED = "an operator has ended this connection"


def flags(folder: Path, url: str) -> list[str]:
    """Write the files that the nodes need, and return their flags."""
    (folder / "admin-token").write_text(TOKEN)
    lines = []
    for name in ("alice", "bob"):
        lines += [f"token {name} sha256:{hashlib.sha256(f'{name}-token-1'.encode()).hexdigest()}"]
    (folder / "access").write_text("\n".join([*lines, "token * /* read write"]))
    files = ["--admin-token-file", str(folder / "admin-token"), "--access", str(folder / "access")]
    return ["--backplane", url, "--history", "5", "--hello", "", "--no-page", *files]


@asynccontextmanager
async def two_nodes(start_program: StartProgram, folder: Path) -> AsyncIterator[tuple[Program, Program]]:
    async with redis_server(folder) as redis:
        yield start_program(*flags(folder, redis.url)), start_program(*flags(folder, redis.url))


async def ask(node: Program, target: str, *lines: str, method: str = "GET") -> Answer:
    return await (await node.connect()).ask(get(target, *(lines or (OPERATOR,)), method=method))


async def ask_json(node: Program, target: str, method: str = "GET") -> Any:
    answer = await ask(node, target, method=method)
    assert answer.status == 200, answer
    return json.loads(answer.body)


async def peers_of_all(node: Program, wanted: int) -> list[dict[str, Any]]:
    """Return the connections of all nodes, when there are as many as wanted: a node is on the roll after a while."""
    while len(peers := (await ask_json(node, "/_rawws/peers"))["peers"]) != wanted:
        await trio.sleep(0.02)
    assert isinstance(peers, list)
    return peers


async def wait_for_poll(node: Program, room: str) -> None:
    while not (await ask_json(node, f"/_rawws/peers?room={room}"))["peers"]:
        await trio.sleep(0.02)


async def test_a_list_has_the_connections_and_rooms_of_all_nodes(start_program: StartProgram, tmp_path: Path) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        for node, user in ((a, ALICE), (a, BOB), (b, ALICE)):
            await (await node.connect()).open("/x", user)
        peers = await peers_of_all(a, 3)
        assert peers == await peers_of_all(b, 3), "whichever node is asked"
        assert len({each["node"] for each in peers}) == 2
        assert [each["node"] for each in peers] == sorted(each["node"] for each in peers)
        assert sorted(each["user"] for each in peers) == ["alice", "alice", "bob"]
        found: list[dict[str, Any]] = []
        piece = await ask_json(a, "/_rawws/peers?limit=1")
        while piece["next"] is not None:
            found += piece["peers"]
            piece = await ask_json(b, f"/_rawws/peers?limit=1&after={piece['next']}")
        assert found + piece["peers"] == peers, "piece by piece, and from one node after the other"
        rooms = (await ask_json(a, "/_rawws/rooms?room=/x"))["rooms"]
        assert [each["node"] for each in rooms] == sorted({each["node"] for each in peers})
        assert sum(each["websockets"] for each in rooms) == 3
        one = peers[-1]["node"]
        of_one = (await ask_json(a, f"/_rawws/peers?node={one}"))["peers"]
        assert of_one == [each for each in peers if each["node"] == one]


async def test_a_user_is_ended_at_all_nodes(start_program: StartProgram, tmp_path: Path) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        here, there = [await (await node.connect()).open("/x", ALICE) for node in (a, b)]
        bob = await (await b.connect()).open("/x", BOB)
        reader = await b.connect()
        await Reader.open(reader, "/x", ALICE)
        poller = await b.connect()
        await poller.send(get("/y?last=0&wait=50", ALICE))
        await wait_for_poll(b, "/y")
        answer = await ask_json(a, "/_rawws/peers?user=alice&code=4403&reason=out", method="DELETE")
        assert answer["ended"] == 1, "at the node that answers; others end theirs as soon as the command is there"
        for client in (here, there):
            assert await client.frame() == seen_close(4403, "out")
        await reader.wait_lost()
        polled = await poller.answer()
        assert (polled.status, polled.body) == (403, b"This poll was ended by the server: out.\n")
        await (await a.connect()).ask(post("/x", b"still", BOB))
        assert (await bob.frame()).payload == b"still"


async def test_one_connection_is_ended_wherever_it_is(start_program: StartProgram, tmp_path: Path) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        clients: list[Client] = [await (await node.connect()).open("/x", ALICE) for node in (a, b)]
        peers = await peers_of_all(a, 2)
        number = peers[0]["number"]
        unsure = await ask(a, f"/_rawws/peers?number={number}", method="DELETE")
        assert (unsure.status, b"say which node" in unsure.body) == (400, True)
        for peer in peers:
            target = f"/_rawws/peers?number={peer['number']}&node={peer['node']}"
            ended = await ask_json(a, target, method="DELETE")
            assert (ended["ended"], ended["nodes"][peer["node"]]) == (1, 1)
            assert (await ask(a, target, method="DELETE")).status == 404
        for client in clients:
            assert await client.frame() == seen_close(1008, ENDED)
        history = await ask(a, "/_rawws/history?room=/x", method="DELETE")
        assert (history.status, b"in Redis" in history.body) == (501, True)


async def test_a_node_that_does_not_answer_is_named(start_program: StartProgram, tmp_path: Path) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        for node in (a, b):
            await (await node.connect()).open("/x", ALICE)
        peers = await peers_of_all(a, 2)
        b.signal(signal.SIGSTOP)
        try:
            listed = await ask_json(a, "/_rawws/peers")
        finally:
            b.signal(signal.SIGCONT)
        (kept,) = listed["peers"]
        assert listed["silent"] == [each["node"] for each in peers if each["node"] != kept["node"]]
        assert await peers_of_all(a, 2) == peers


async def test_an_end_at_a_node_that_does_not_answer_is_not_said_to_be_none(
    start_program: StartProgram, tmp_path: Path
) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        await (await a.connect()).open("/x", ALICE)
        await (await b.connect()).open("/x", ALICE)
        peers = await peers_of_all(a, 2)
        (own,) = (await ask_json(a, f"/_rawws/peers?node={peers[0]['node']}"))["peers"]
        asked, other = (a, b) if (await _name_of(a)) != own["node"] else (b, a)
        other.signal(signal.SIGSTOP)
        try:
            answer = await ask(asked, f"/_rawws/peers?number={own['number']}&node={own['node']}", method="DELETE")
        finally:
            other.signal(signal.SIGCONT)
        assert (answer.status, "retry-after" in answer.headers) == (503, True)


async def _name_of(node: Program) -> str:
    """Return the name of a node, which counts what it ends of a user whom nobody is."""
    nodes = (await ask_json(node, "/_rawws/peers?user=nobody", method="DELETE"))["nodes"]
    assert isinstance(nodes, dict)
    return str(*nodes)


async def test_an_answer_that_no_node_writes_is_none(start_program: StartProgram, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        node = start_program(*flags(tmp_path, redis.url))
        client = await (await node.connect()).open("/x", ALICE)
        (own,) = await peers_of_all(node, 1)
        forged = {**own, "number": 1 << 60}
        for host, items in (
            ("forged:1", [None, 5]),
            ("forged:1", [None, {**forged, "user": "\ud800"}]),
            (own["node"], [None, forged]),
        ):
            await redis.ask("XADD", "rawws:nodes", "*", "node", "forged", "host", host)
            async with trio.open_nursery() as nursery:
                seen = await redis.ask("EVAL", NEWEST, "0")
                nursery.start_soon(_forge_an_answer, redis, seen, host, json.dumps(items))
                listed = await ask_json(node, "/_rawws/peers")
                nursery.cancel_scope.cancel()
            assert (listed["peers"], listed["silent"]) == ([own], [host])
        for kind, body in (("end/1", '{"wanted":{"limit":1},"close":[1008,"x"]}'), ("peers/1", "{}")):
            by = "forged.0.1"
            await redis.ask("XADD", "rawws:commands", "*", "kind", kind, "body", body, "by", by, "ask", "1")
            node.wait_for_line(f"the command {kind} of node forged")
        await (await node.connect()).ask(post("/x", b"still", ALICE))
        assert (await client.frame()).payload == b"still"
        assert not any("Traceback" in line for line in node.lines)


NEWEST = """
local newest = redis.call('XREVRANGE', 'rawws:commands', '+', '-', 'COUNT', 1)[1]
return newest and newest[2][6] or ''
"""


async def _forge_an_answer(redis: RedisServer, seen: str, host: str, items: str) -> None:
    """Answer the question after the one that was seen."""
    while (newest := await redis.ask("EVAL", NEWEST, "0")) == seen:
        await trio.sleep(0.02)
    by, _, number = newest.strip().split(".")
    key = f"rawws:answers:{by}"
    await redis.ask("XADD", key, "*", "to", number, "node", "forged", "host", host, "items", items, "left", "0")


async def test_a_list_goes_on_after_a_room_with_a_long_path(start_program: StartProgram, tmp_path: Path) -> None:
    async with two_nodes(start_program, tmp_path) as (a, b):
        paths = [f"/{'%2f' * 2000}{end}" for end in "abc"]
        for path in paths:
            await (await b.connect()).open(path, ALICE)
        await peers_of_all(a, 3)
        found: list[str] = []
        piece = await ask_json(a, "/_rawws/rooms?limit=1")
        while piece["next"] is not None:
            found += [each["room"] for each in piece["rooms"]]
            piece = await ask_json(a, f"/_rawws/rooms?limit=1&after={quote(piece['next'])}")
        found += [each["room"] for each in piece["rooms"]]
        assert sorted(found) == paths
        refused = await ask(a, f"/_rawws/rooms?room=/{'p' * 5000}")
        assert (refused.status, b"4096 bytes" in refused.body) == (400, True)
        refused = await ask(a, f"/_rawws/peers?user={'u' * 5000}", method="DELETE")
        assert (refused.status, b"4096 bytes" in refused.body) == (400, True)


async def test_the_backplane_is_away(start_program: StartProgram, tmp_path: Path) -> None:
    async with redis_server(tmp_path) as redis:
        node = start_program(*flags(tmp_path, redis.url))
        client = await (await node.connect()).open("/x", ALICE)
        await peers_of_all(node, 1)
        redis.kill()
        node.wait_for_line("the backplane is away")
        listed = await ask_json(node, "/_rawws/peers")
        assert (len(listed["peers"]), listed["silent"]) == (1, ["the backplane is away"])
        assert (await ask_json(node, "/_rawws/peers?user=alice", method="DELETE"))["ended"] == 1
        assert await client.frame() == seen_close(1008, ENDED)
