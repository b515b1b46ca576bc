"""Administration over HTTP: who may, what the answers have, and what becomes of those who are ended."""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.server import administration
from tests.room_serving import Reader, post
from tests.serving.client import Answer, Client
from tests.serving.machine import LOOPBACK
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get, seen_close, seen_text, text, upgrade

TOKEN = "operator-12345678"
OPERATOR = f"Authorization: Bearer {TOKEN}"
ENDED = "an operator has ended this connection"


class Administered:
    """A server with an operator and users, and its clients."""

    def __init__(self, port: int, hub: rawws.Hub) -> None:
        self._port = port
        self.hub = hub
        self.clients: list[Client] = []

    async def connect(self) -> Client:
        client = await Client.unconnected().connect(self._port)
        self.clients.append(client)
        return client

    async def open(self, path: str, *lines: str) -> Client:
        return await (await self.connect()).open(path, *lines)

    async def ask(self, target: str, *lines: str, method: str = "GET") -> Answer:
        client = await self.connect()
        return await client.ask(get(target, OPERATOR, *lines, method=method))

    async def list(self, target: str) -> Any:
        answer = await self.ask(target)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/json"), answer
        assert answer.headers["cache-control"] == "no-store"
        return json.loads(answer.body)

    async def delete(self, target: str) -> Any:
        answer = await self.ask(target, method="DELETE")
        assert answer.status == 200, answer
        return json.loads(answer.body)


def _authenticate(request: rawws.Request) -> object:
    name = request.query.partition("as=")[2].partition("&")[0]
    return rawws.User(name, read=["*"], write=["*"]) if name else None


@asynccontextmanager
async def administered(nursery: trio.Nursery, **settings: Any) -> AsyncIterator[Administered]:
    hub = rawws.Hub(**{"history": 10, **settings})
    http = rawws.rooms(hub, admin_token=TOKEN, is_local=True)
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, authenticate=_authenticate)
    server: rawws.Server = await nursery.start(start)
    running = Administered(server.port, hub)
    try:
        yield running
    finally:
        for client in running.clients:
            client.hang_up()
    server.stop()


# Lists


async def test_rooms_have_their_readers_by_kind_and_their_history(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        peer = await running.open("/x")
        await peer.send(text("hello"))
        await peer.frame()
        await Reader.open(await running.connect(), "/x")
        poller = await running.connect()
        await poller.send(get("/y?last=0&wait=50"))
        while "/y" not in running.hub.rooms:
            await wait_all_tasks_blocked()
        listed = await running.list("/_rawws/rooms")
        x, y = listed["rooms"]
        last_id = running.hub.room("/x").last_id
        assert listed["next"] is None
        assert x | {"node": ""} == {
            "room": "/x",
            "node": "",
            "websockets": 1,
            "events": 1,
            "polls": 0,
            "messages": 1,
            "bytes": 7,
            "last_id": last_id,
        }
        assert (y["room"], y["polls"], y["messages"]) == ("/y", 1, 0)
        assert (await running.list("/_rawws/rooms?room=/x"))["rooms"] == [x]
        first = await running.list("/_rawws/rooms?limit=1")
        assert first == {"rooms": [x], "next": f"{x['node']}/x"}
        assert await running.list(f"/_rawws/rooms?limit=1&after={first['next']}") == {"rooms": [y], "next": None}


async def test_connections_have_their_user_room_kind_and_address(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        await running.open("/x?as=alice")
        await Reader.open(await running.connect(), "/x?as=bob")
        poller = await running.connect()
        await poller.send(get("/y?last=0&wait=50&as=alice"))
        while "/y" not in running.hub.rooms:
            await wait_all_tasks_blocked()
        peers = (await running.list("/_rawws/peers"))["peers"]
        assert [(each["user"], each["kind"], each["rooms"]) for each in peers] == [
            ("alice", "websocket", ["/x"]),
            ("bob", "events", ["/x"]),
            ("alice", "poll", ["/y"]),
        ]
        assert all(each["address"].startswith(f"{LOOPBACK}:") for each in peers)
        numbers = [each["number"] for each in peers]
        assert numbers == sorted(numbers)
        assert (await running.list("/_rawws/peers?user=alice"))["peers"] == [peers[0], peers[2]]
        assert (await running.list("/_rawws/peers?user=carol"))["peers"] == []
        assert (await running.list("/_rawws/peers?room=/x"))["peers"] == peers[:2]
        assert (await running.list(f"/_rawws/peers?number={numbers[1]}"))["peers"] == [peers[1]]
        assert (await running.list("/_rawws/peers?node=elsewhere"))["peers"] == []
        assert (await running.list("/_rawws/peers?limit=1"))["next"] == f"{peers[0]['node']}/{numbers[0]}"


async def test_a_list_is_bounded_in_bytes_and_goes_on_where_it_stopped(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(administration, "MAX_LIST_BYTES", 600)
    paths = [f"/{'long' * 50}/{number:03}" for number in range(7)]
    async with administered(nursery) as running:
        for path in paths:
            running.hub.room(path).publish("x")
        found: list[str] = []
        listed = await running.list("/_rawws/rooms?limit=5")
        for _ in paths[1:]:  # a single entry has more than half of the bytes
            found += [each["room"] for each in listed["rooms"]]
            listed = await running.list(f"/_rawws/rooms?limit=5&after={listed['next']}")
        found += [each["room"] for each in listed["rooms"]]
        assert (found, listed["next"]) == (paths, None)


# Ends


async def test_a_user_is_ended_whatever_the_way_in(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with administered(nursery) as running:
        alice, bob = await running.open("/x?as=alice"), await running.open("/x?as=bob")
        reader = await running.connect()
        await Reader.open(reader, "/x?as=alice")
        poller = await running.connect()
        await poller.send(get("/y?last=0&wait=50&as=alice"))
        while "/y" not in running.hub.rooms:
            await wait_all_tasks_blocked()
        ended = await running.delete("/_rawws/peers?user=alice")
        assert ended["ended"] == 3
        assert list(ended["nodes"].values()) == [3]
        assert await alice.frame() == seen_close(1008, ENDED)
        await reader.wait_lost()
        answer = await poller.answer()
        assert (answer.status, answer.body.decode()) == (403, f"This poll was ended by the server: {ENDED}.\n")
        assert (await poller.ask(get("/y?last=0&as=alice"))).status == 200, "only that request was ended"
        running.hub.room("/x").publish("still")
        assert await bob.frame() == seen_text("still")
        assert (await running.delete("/_rawws/peers?user=alice"))["ended"] == 0
        assert "administration: ended connections of user 'alice' with 1008 (connections: 3)" in caplog.text
        assert TOKEN not in caplog.text


async def test_one_connection_is_ended_with_a_code_and_a_reason(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        first, second = await running.open("/x?as=alice"), await running.open("/x?as=alice")
        peers = (await running.list("/_rawws/peers"))["peers"]
        target = f"/_rawws/peers?number={peers[1]['number']}"
        assert (await running.delete(f"{target}&code=4403&reason=go+home"))["ended"] == 1
        assert await second.frame() == seen_close(4403, "go home")
        again = await running.ask(target, method="DELETE")
        assert (again.status, again.body.decode().partition("#")[0]) == (404, "No connection ")
        assert (await running.list("/_rawws/peers"))["peers"] == [peers[0]]
        running.hub.room("/x").publish("still")
        assert await first.frame() == seen_text("still")


async def test_the_program_ends_a_poll_that_waits_too(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        poller = await running.connect()
        await poller.send(get("/y?last=0&wait=50&as=alice"))
        while "/y" not in running.hub.rooms:
            await wait_all_tasks_blocked()
        assert running.hub.disconnect(user="alice") == 1
        answer = await poller.answer()
        assert (answer.status, answer.body) == (403, b"This poll was ended by the server.\n")
        assert not list(running.hub.polls)


# Histories


@pytest.mark.parametrize("store", [None, "rooms.db"])
async def test_a_cleared_history_is_gone_for_later_readers_alone(
    nursery: trio.Nursery, tmp_path: Path, store: str | None
) -> None:
    async with administered(nursery, store=store and tmp_path / store) as running:
        peer = await running.open("/x")
        publisher = await running.connect()
        key = "Idempotency-Key: once"
        first = json.loads((await publisher.ask(post("/x", b"one", key))).body)["id"]
        last = json.loads((await publisher.ask(post("/x", b"two"))).body)["id"]
        cleared = await running.delete("/_rawws/history?room=/x")
        assert cleared == {"room": "/x", "messages": 2, "last_id": last}
        assert json.loads((await running.ask("/x?last=10")).body)["messages"] == []
        assert json.loads((await running.ask(f"/x?since={first}")).body)["gap"] == {"since": first, "after": last}
        assert json.loads((await running.ask(f"/x?since={last}")).body)["gap"] is None, "it misses nothing"
        again = json.loads((await publisher.ask(post("/x", b"one", key))).body)["id"]
        assert again == first, "the key is still known"
        following = json.loads((await publisher.ask(post("/x", b"three"))).body)["id"]
        assert following == f"{last.partition('-')[0]}-3", "the ids go on"
        assert [(await peer.frame()).payload for _ in range(3)] == [b"one", b"two", b"three"]
        assert (await running.delete("/_rawws/history?room=/x"))["messages"] == 1


async def test_a_stored_history_is_cleared_though_nobody_has_read_it(nursery: trio.Nursery, tmp_path: Path) -> None:
    async with administered(nursery, store=tmp_path / "rooms.db") as running:
        publisher = await running.connect()
        last = json.loads((await publisher.ask(post("/x", b"one"))).body)["id"]
        assert not running.hub.rooms
        assert (await running.delete("/_rawws/history?room=/x")) == {"room": "/x", "messages": 1, "last_id": last}
        assert json.loads((await running.ask("/x?since=0-0")).body)["messages"] == []
        assert (await running.ask("/_rawws/history?room=/y", method="DELETE")).status == 404


async def test_the_ids_go_on_in_a_cleared_room_that_nobody_is_in(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        room = running.hub.room("/x")
        room.publish("one")
        last = room.last_id
        del room
        await running.delete("/_rawws/history?room=/x")
        running.hub.room("/x").publish("two")
        (message,) = json.loads((await running.ask(f"/x?since={last}")).body)["messages"]
        assert message == {"id": f"{last.partition('-')[0]}-2", "text": "two"}


async def test_a_poll_that_waits_and_a_slow_reader_lose_nothing(nursery: trio.Nursery) -> None:
    async with administered(nursery, history=1000, history_bytes=1 << 26, max_lag_bytes=1 << 26) as running:
        slow = await running.open("/x")
        large = "x" * 100_000
        for _ in range(100):  # more than the buffers of a socket hold
            running.hub.room("/x").publish(large)
        poller = await running.connect()
        await poller.send(get(f"/x?since={running.hub.room('/x').last_id}&wait=50"))
        while not list(running.hub.polls):
            await wait_all_tasks_blocked()
        assert (await running.delete("/_rawws/history?room=/x"))["messages"] == 100
        running.hub.room("/x").publish("after")
        polled = json.loads((await poller.answer()).body)
        assert ([each["text"] for each in polled["messages"]], polled["gap"]) == (["after"], None)
        for _ in range(100):
            assert len((await slow.frame()).payload) == len(large)
        assert await slow.frame() == seen_text("after")


async def test_a_room_that_does_not_exist_is_404(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        for method, target in (("GET", "/_rawws/rooms?room=/x"), ("DELETE", "/_rawws/history?room=/x")):
            answer = await running.ask(target, method=method)
            assert (answer.status, answer.body.decode().partition(" /x ")[0]) == (404, "There is no room")
        assert not running.hub.rooms


# HTTP


@pytest.mark.parametrize("path", ["/_rawws/rooms", "/_rawws/peers", "/_rawws/history"])
async def test_methods(nursery: trio.Nursery, path: str) -> None:
    allowed = {"rooms": "GET, HEAD, OPTIONS", "peers": "DELETE, GET, HEAD, OPTIONS", "history": "DELETE, OPTIONS"}
    async with administered(nursery) as running:
        running.hub.room("/x").publish("x")
        client = await running.connect()
        preflight = ("Origin: https://a.example", "Access-Control-Request-Method: DELETE")
        options = await client.ask(get(path, *preflight, method="OPTIONS"))
        assert (options.status, options.headers["allow"]) == (204, allowed[path.rpartition("/")[2]])
        assert not any(name.startswith("access-control") for name in options.headers)
        for method in ("GET", "HEAD", "DELETE", "POST", "PUT", "PATCH", "TRACE", "get"):
            answer = await running.ask(path, method=method)
            if method in options.headers["allow"].split(", "):
                assert answer.status in (200, 400)
            else:
                assert (answer.status, answer.headers["allow"]) == (405, options.headers["allow"])
            assert (await client.ask(get(path, method=method))).status == 401, "without the token"


async def test_head_is_get_without_the_body(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        running.hub.room("/x").publish("x")
        whole, head = [await running.ask("/_rawws/rooms", method=method) for method in ("GET", "HEAD")]
        assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.body))
        assert head.body == b""


@pytest.mark.parametrize(
    "lines",
    [
        ["Origin: https://a.example"],
        ["Origin: null"],
        ["Origin: "],
        ["Origin: http://localhost:1"],
        ["Sec-Fetch-Site: cross-site"],
        ["Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate"],
    ],
)
async def test_a_page_of_another_site_may_do_nothing_even_with_the_token(
    nursery: trio.Nursery, lines: list[str]
) -> None:
    async with administered(nursery) as running:
        peer = await running.open("/x?as=alice")
        for method in ("GET", "DELETE"):
            answer = await running.ask("/_rawws/peers?user=alice", *lines, method=method)
            assert (answer.status, answer.body) == (403, b"Pages of other sites may not administer this server.\n")
            assert "access-control-allow-origin" not in answer.headers
        running.hub.room("/x").publish("still")
        assert await peer.frame() == seen_text("still")


async def test_a_page_of_the_same_host_may(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        own = ("Origin: http://localhost", "Sec-Fetch-Site: same-origin")
        assert (await running.ask("/_rawws/peers?user=alice", *own, method="DELETE")).status == 200


@pytest.mark.parametrize("query", ["usr=alice", "user=", "user=alice&user=bob", "user=%FF", "", "a=" + "b" * 5000])
async def test_a_query_that_is_not_understood_ends_nobody(nursery: trio.Nursery, query: str) -> None:
    async with administered(nursery) as running:
        peer = await running.open("/x?as=alice")
        answer = await running.ask(f"/_rawws/peers?{query}", method="DELETE")
        assert answer.status == 400
        assert answer.body.startswith(b"This query can't be answered: ")
        assert len(answer.body) < 300
        running.hub.room("/x").publish("still")
        assert await peer.frame() == seen_text("still")


async def test_a_body_is_passed_over_and_pipelined_requests_are_answered_in_turn(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        client = await running.connect()
        body = b"x" * 1000
        with_body = get("/_rawws/peers?user=a", OPERATOR, f"Content-Length: {len(body)}", method="DELETE") + body
        chunked = get("/_rawws/rooms", OPERATOR, "Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n"
        await client.send((with_body + chunked) * 3)
        answers = [await client.answer() for _ in range(6)]
        assert [each.status for each in answers] == [200] * 6
        assert [b"ended" in each.body for each in answers] == [True, False] * 3


async def test_http_1_0_is_answered(nursery: trio.Nursery) -> None:
    async with administered(nursery) as running:
        client = await running.connect()
        await client.send(f"GET /_rawws/rooms HTTP/1.0\r\n{OPERATOR}\r\n\r\n".encode())
        assert (await client.answer()).status == 200
        await client.assert_end()


@pytest.mark.parametrize(
    "path",
    [
        "/_rawws/rooms/",
        "/_rawws/rooms/x",
        "/_rawws/../_rawws/rooms/..",
        "/_rawws",
        "/_rawws/",
        "/_rawws/peers%3Fuser=a",
        "/_rawws/ROOMS",
        "/_rawws/%72ooms",
    ],
)
async def test_another_path_below_is_neither_administration_nor_the_application(
    nursery: trio.Nursery, path: str
) -> None:
    async with administered(nursery) as running:
        for method in ("GET", "DELETE", "POST"):
            assert (await running.ask(path, method=method)).status == 404


@pytest.mark.parametrize("path", ["/_rawws/rooms", "/_rawws/peers", "/_rawws/x"])
async def test_no_websocket_is_there(nursery: trio.Nursery, path: str) -> None:
    async with administered(nursery) as running:
        client = await running.connect()
        assert (await client.ask(upgrade(path, OPERATOR))).status == 404


# The program


def write_token(folder: Path, token: str = TOKEN) -> str:
    path = folder / "admin-token"
    path.write_text(token + "\n")
    return str(path)


async def ask(program: Program, target: str, *lines: str, method: str = "GET") -> Answer:
    return await (await program.connect()).ask(get(target, *lines, method=method))


APPLICATION = """
async def app(scope, receive, send):
    if scope['type'] == 'http':
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'the application'})
"""


@pytest.mark.parametrize("flags", [[], ["--no-page"], ["--root-path", "/api"], ["--metrics"]], ids=" ".join)
async def test_beside_an_application(start_program: StartProgram, tmp_path: Path, flags: list[str]) -> None:
    (tmp_path / "pages.py").write_text(APPLICATION)
    token = ("--admin-token-file", write_token(tmp_path))
    program = start_program("--app", "pages:app", *token, *flags, directory=tmp_path)
    assert (await ask(program, "/elsewhere")).body == b"the application"
    listed = await ask(program, "/_rawws/rooms", OPERATOR)
    assert json.loads(listed.body) == {"rooms": [], "next": None}
    for target in ("/_rawws/rooms", "/_rawws/rooms/", "/_rawws/x", "/_rawws/", "/_rawws"):
        for method in ("GET", "POST", "DELETE"):
            assert b"the application" not in (await ask(program, target, method=method)).body
    # Paths that another server might take for it are the application's, and never ours.
    assert (await ask(program, "/x/../_rawws/rooms", OPERATOR)).body == b"the application"
    assert (await ask(program, "//_rawws/rooms", OPERATOR)).body == b"the application"


async def test_the_token_comes_from_a_file_that_is_read_anew(start_program: StartProgram, tmp_path: Path) -> None:
    path = write_token(tmp_path)
    program = start_program("--admin-token-file", path)

    async def statuses(*tokens: str) -> list[int]:
        return [(await ask(program, "/_rawws/rooms", f"Authorization: Bearer {token}")).status for token in tokens]

    page_token = program.page_link().partition("=")[2]
    other = "operator-87654321"
    assert await statuses(TOKEN, other, page_token) == [200, 401, 401]
    write_token(tmp_path, "short")
    program.signal(signal.SIGHUP)
    line = program.wait_for_line("stays in force")
    assert "--admin-token-file" in line
    assert "fewer than 16 characters" in line
    assert "short" not in line.partition("fewer")[2]
    assert await statuses(TOKEN, other) == [200, 401]
    write_token(tmp_path, other)
    program.signal(signal.SIGHUP)
    program.wait_for_line("is read anew, for requests from now on")
    assert await statuses(TOKEN, other) == [401, 200]
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert not any(secret in line for line in program.lines for secret in (TOKEN, other))


async def test_a_server_without_any_secret_has_no_administration(start_program: StartProgram) -> None:
    program = start_program("--no-page")
    for target in ("/_rawws/rooms", "/_rawws/peers", "/_rawws/history"):
        for method in ("GET", "DELETE"):
            answer = await ask(program, target, method=method)
            assert (answer.status, b"closed here" in answer.body) == (403, True)
            assert b"to open it, start the server with --admin-token-file" in answer.body


async def test_the_token_is_masked_wherever_traffic_is_shown(start_program: StartProgram, tmp_path: Path) -> None:
    recording = tmp_path / "recording"
    flags = ("-vv", "--record", str(recording), "--admin-token-file", write_token(tmp_path))
    program = start_program(*flags)
    assert (await ask(program, "/_rawws/peers?user=alice", OPERATOR, method="DELETE")).status == 200
    assert (await ask(program, f"/_rawws/peers?access_token={TOKEN}")).status == 401
    refused = await ask(program, f"/_rawws/peers?token={TOKEN}", OPERATOR)
    assert (refused.status, TOKEN.encode() in refused.body) == (400, False)
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert any("DELETE /_rawws/peers" in line for line in program.lines)
    assert not any(TOKEN in line for line in program.lines)
    assert recording.stat().st_size
    assert TOKEN not in recording.read_text()
