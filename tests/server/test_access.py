"""The rights of users at every way into a room: the table of `tests.access_table`, for each source of grants."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.access.access_file import AccessFile
from rawws.access.grant import Action, Grant
from rawws.access.patterns import Patterns
from rawws.access.source import Sources
from rawws.errors import UsageError
from tests.access_sites import SURROUNDINGS, site
from tests.access_table import DENIED, POSTER, READER, TABLE, WAYS, WRITER, Site, try_all
from tests.redis_server import redis_server
from tests.room_serving import Reader, post
from tests.serving.client import Answer, Client
from tests.serving.machine import FOR_THIS_RUN_S, LOOPBACK
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import close, get, seen_close, seen_text, text, upgrade


def hash_of(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_rules(folder: Path) -> Path:
    """Write an access file with the users of the table, and return its path."""
    lines = [f"token {token.partition('-')[0]} sha256:{hash_of(token)}" for token in (WRITER, READER, POSTER, DENIED)]
    lines += [
        "token writer /room/* read write",
        "token reader /room/* read",
        "token poster /room/* write",
        "token denied /room/* deny",
        "token *      /room/* read",  # too late for the others
    ]
    path = folder / "access.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("where", SURROUNDINGS)
async def test_the_access_file_decides_at_every_way_in(start_program: StartProgram, tmp_path: Path, where: str) -> None:
    async with site(where, start_program, tmp_path, "--access", str(write_rules(tmp_path))) as entered:
        await try_all(entered)


async def test_each_node_asks_at_its_own_doors(
    start_program: StartProgram,
    tmp_path: Path,
    nursery: trio.Nursery,  # noqa: ARG001
) -> None:
    (tmp_path / "redis").mkdir()
    async with redis_server(tmp_path / "redis") as redis:
        flags = ("--hello", "", "--history", "10", "--backplane", redis.url)
        closed = start_program("--access", str(write_rules(tmp_path)), *flags)
        open_to_all = start_program(*flags)
        await try_all(Site(closed.port, helper=open_to_all.port))
        everything = tuple(TABLE[WRITER])
        await try_all(Site(open_to_all.port, helper=closed.port), dict.fromkeys((None, DENIED), everything))
        for program in (closed, open_to_all):
            program.end()


ROOMS = ["/room/*"]


@pytest.mark.parametrize("nodes", [1, pytest.param(2, marks=pytest.mark.thorough)])
async def test_a_user_of_authenticate_is_limited_at_every_way_in(
    nursery: trio.Nursery, tmp_path: Path, nodes: int
) -> None:
    users = {
        WRITER: rawws.User("writer", read=ROOMS, write=ROOMS, expires_at=time.time() + FOR_THIS_RUN_S),
        READER: rawws.User("reader", read=ROOMS),
        POSTER: rawws.User("poster", write=ROOMS),
        DENIED: rawws.User("denied"),
        "expired-1": rawws.User("writer", read=ROOMS, write=ROOMS, expires_at=time.time() - 1),
    }

    def authenticate(request: rawws.Request) -> object:
        token = (request.headers.get("Authorization") or "").removeprefix("Bearer ")
        return users.get(token) or rawws.Response(401, "log in")

    async with AsyncExitStack() as stack:
        hubs = [rawws.Hub(history=10) for _ in range(nodes)]
        if nodes > 1:
            redis = await stack.enter_async_context(redis_server(tmp_path))
            for hub in hubs:
                await stack.enter_async_context(rawws.share(hub, redis.url))
        servers: list[rawws.Server] = []
        for hub in hubs:
            start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=rawws.rooms(hub, is_local=True))
            servers.append(await nursery.start(partial(start, authenticate=authenticate)))
        entered = Site(servers[0].port, helper=servers[-1].port)
        await try_all(entered, {**TABLE, "expired-1": (401,) * len(WAYS)})
        for server in servers:
            server.stop()


# The end of a grant


async def test_the_end_of_a_grant_ends_what_lasts(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    def authenticate(_: rawws.Request) -> rawws.User:
        return rawws.User("alice", read=["*"], write=["*"], expires_at=time.time() + 30)

    async with lasting(nursery, authenticate=authenticate) as (peer, reader, poller):
        mock_clock.jump(29)
        await peer.send(text("still here"))
        assert await peer.frame() == seen_text("still here")
        mock_clock.jump(3)
        mock_clock.rate = 10  # for the pauses between the ends
        assert await peer.frame() == seen_close(4401, "the token has expired")
        await reader.wait_lost()
        answer = await poller.answer()
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == 'Bearer realm="rooms", error="invalid_token"'
        assert (await poller.ask(get("/room/y?last=1"))).status == 200, "the connection can be used on"


async def test_a_poll_gets_no_message_from_after_the_end(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    def authenticate(_: rawws.Request) -> rawws.User:
        return rawws.User("alice", read=["*"], expires_at=time.time() + 30)

    hub = rawws.Hub(history=10)
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=rawws.rooms(hub), authenticate=authenticate)
    server: rawws.Server = await nursery.start(partial(start, ping_interval=None, keep_alive=60))
    pollers = [await Client.unconnected().connect(server.port) for _ in range(5)]
    paths = [f"/room/{number}" for number in range(len(pollers))]
    for poller, path in zip(pollers, paths, strict=True):
        await poller.send(get(f"{path}?last=0&wait=55"))
    while set(hub.rooms) != set(paths):
        await wait_all_tasks_blocked()
    mock_clock.jump(30.001)  # those that end together are answered some hundredths of a second after one another
    for path in paths:
        hub.room(path).publish("too late")
    for poller in pollers:
        answer = await poller.answer()
        assert (answer.status, b"too late" in answer.body) == (401, False)
        poller.hang_up()
    server.stop()


async def test_the_longest_lifetime_ends_what_lasts_but_no_poll(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    async with lasting(nursery, max_lifetime=30) as (peer, reader, poller):
        mock_clock.jump(31)
        mock_clock.rate = 10
        assert await peer.frame() == seen_close(1012, "the longest time for a connection is over; connect again")
        await reader.wait_lost()
        mock_clock.jump(30)
        assert (await poller.answer()).status == 200


@asynccontextmanager
async def lasting(nursery: trio.Nursery, **settings: Any) -> AsyncIterator[tuple[Client, Client, Client]]:
    """A server with a WebSocket and a reader of events in one room, and a poll that waits in another."""
    hub = rawws.Hub(history=10)
    http = rawws.rooms(hub, is_local=True)
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, ping_interval=None, **settings)
    server: rawws.Server = await nursery.start(start)
    peer, reader, poller = [await Client.unconnected().connect(server.port) for _ in range(3)]
    await peer.open("/room/x")
    await Reader.open(reader, "/room/x")
    await poller.send(get("/room/y?last=0&wait=55"))
    while set(hub.rooms) != {"/room/x", "/room/y"}:
        await wait_all_tasks_blocked()
    try:
        yield peer, reader, poller
    finally:
        for client in (peer, reader, poller):
            client.hang_up()
    server.stop()


async def test_the_end_of_a_grant_ends_the_websocket_of_a_handler(nursery: trio.Nursery, mock_clock: MockClock) -> None:
    ended = trio.Event()

    def authenticate(_: rawws.Request) -> rawws.User:
        return rawws.User("alice", expires_at=time.time() + 30)

    async def handle(ws: rawws.WebSocket) -> None:
        assert isinstance(ws.user, rawws.User)
        await ws.send(await ws.recv())
        with pytest.raises(rawws.ConnectionClosed):
            await ws.recv()
        ended.set()

    start = partial(rawws.serve, handle, 0, host=LOOPBACK, authenticate=authenticate, ping_interval=None)
    server: rawws.Server = await nursery.start(start)
    peer = await (await Client.unconnected().connect(server.port)).open("/x")
    await peer.send(text("hi"))
    assert await peer.frame() == seen_text("hi")
    mock_clock.jump(31)
    assert await peer.frame() == seen_close(4401, "the token has expired")
    await peer.send(close(4401))
    await ended.wait()
    peer.hang_up()
    server.stop()


# Users of a program


async def test_a_user_is_disconnected_everywhere(nursery: trio.Nursery) -> None:
    def authenticate(request: rawws.Request) -> object:
        name = request.query.partition("=")[2]
        return rawws.User(name, read=["*"], info={"of": name}) if name != "plain" else name

    hub = rawws.Hub()
    http = rawws.rooms(hub, is_local=True)
    server: rawws.Server = await nursery.start(
        partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, authenticate=authenticate)
    )
    alice, bob, plain, reader = [await Client.unconnected().connect(server.port) for _ in range(4)]
    await alice.open("/x?as=alice")
    await bob.open("/x?as=bob")
    await plain.open("/y?as=plain")
    await Reader.open(reader, "/y?as=alice")
    users: list[Any] = [member.user for room in hub for member in room]
    infos = [user.info for user in users if isinstance(user, rawws.User)]
    assert infos == [{"of": "alice"}, {"of": "bob"}, {"of": "alice"}]
    assert hub.disconnect(user="alice", code=4403, reason="banned") == 2
    assert await alice.frame() == seen_close(4403, "banned")
    await reader.wait_lost()
    assert hub.disconnect(user="plain") == 1
    assert await plain.frame() == seen_close(1008)
    assert hub.disconnect(user="nobody") == 0
    with pytest.raises(UsageError, match="a user is required"):
        hub.disconnect(user=None)
    assert [member.user for member in hub.room("/x")] == [rawws.User("bob", read=["*"], info={"of": "bob"})]
    for client in (alice, bob, plain, reader):
        client.hang_up()
    server.stop()


async def test_authenticate_is_asked_about_what_the_source_has_left(nursery: trio.Nursery) -> None:
    asked: list[str] = []

    class OnlyReads:
        async def grant(self, request: rawws.Request, room: str, action: Action) -> Grant:
            asked.append(f"source: {room} {action.words}")
            return Grant("alice", Patterns(["*"]))

    def authenticate(request: rawws.Request) -> None:
        asked.append(f"authenticate: {request.action}")

    hub = rawws.Hub()
    server: rawws.Server = await nursery.start(
        partial(rawws.serve, hub, 0, host=LOOPBACK, access=OnlyReads(), authenticate=authenticate)
    )
    client = await (await Client.unconnected().connect(server.port)).open("/x")
    assert asked == ["source: /x read write", "authenticate: read"]
    (member,) = hub.room("/x")
    assert member.user == Grant("alice", Patterns(["*"])), "what authenticate returned was nothing"
    client.hang_up()
    server.stop()


async def test_only_a_reader_learns_which_rooms_are_in_use(nursery: trio.Nursery, tmp_path: Path) -> None:
    hub = rawws.Hub(max_rooms=1, max_peers=1)
    access = Sources([AccessFile(write_rules(tmp_path).read_text())])
    server: rawws.Server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, access=access))
    opened = await Client.unconnected().connect(server.port)
    await opened.ask(upgrade("/room/x", f"Authorization: Bearer {READER}"))
    got = {}
    for token in (READER, DENIED, "unknown-1"):
        for path in ("/room/x", "/room/y"):
            client = await Client.unconnected().connect(server.port)
            got[token, path] = (await client.ask(upgrade(path, f"Authorization: Bearer {token}"))).status
            client.hang_up()
    assert list(got.values()) == [503, 503, 403, 403, 401, 401]
    opened.hang_up()
    server.stop()


async def test_a_source_that_fails_lets_nobody_in(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    class Broken:
        async def grant(self, request: rawws.Request, room: str, action: Action) -> Grant:
            raise ValueError("no database")

    hub = rawws.Hub()
    http = rawws.rooms(hub, is_local=True)
    server: rawws.Server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, access=Broken()))
    for request in (upgrade("/x"), get("/x?last=1"), post("/x", b"hi")):
        client = await Client.unconnected().connect(server.port)
        assert (await client.ask(request)).status == 500
        client.hang_up()
    assert "no database" in caplog.text
    server.stop()


async def test_a_source_is_for_the_rooms_of_a_hub() -> None:
    async def handle(_: rawws.WebSocket) -> None:
        """Never called."""

    with pytest.raises(UsageError, match="access is for the rooms of a hub"):
        await rawws.serve(handle, 0, host=LOOPBACK, access=Sources([]))


# The program


async def test_a_browser_has_two_places_for_a_token(start_program: StartProgram, tmp_path: Path) -> None:
    program = start_program("--access", str(write_rules(tmp_path)), "--hello", "", "--subprotocol", "chat")
    with_query = await (await program.connect()).open(f"/room/x?access_token={WRITER}")
    offer = f"Sec-WebSocket-Protocol: chat, rawws.token.{WRITER}"
    client = await program.connect()
    answer = await client.ask(upgrade("/room/x", offer))
    assert (answer.status, answer.headers["sec-websocket-protocol"]) == (101, "chat")
    await client.send(text("hi"))
    assert await with_query.frame() == seen_text("hi")
    stream = await program.connect()
    await Reader.open(stream, f"/room/x?access_token={READER}")
    both = get(f"/room/x?last=1&access_token={READER}", f"Authorization: Bearer {WRITER}")
    two = await (await program.connect()).ask(both)
    assert (two.status, b"two different tokens" in two.body) == (400, True)


async def test_rules_are_read_anew_at_a_signal(start_program: StartProgram, tmp_path: Path) -> None:
    path = write_rules(tmp_path)
    good = path.read_text()
    program = start_program("--access", str(path))

    async def status(token: str) -> int:
        return (await (await program.connect()).ask(get("/room/x?last=1", f"Authorization: Bearer {token}"))).status

    assert [await status(READER), await status("new-1")] == [200, 401]
    path.write_text(f"{good}\neverybody /room/* read\n")
    program.signal(signal.SIGHUP)
    line = program.wait_for_line("the file's earlier content stays in force")
    assert "access.txt: line 10: a line begins with 'anonymous', 'token NAME' or '#'" in line
    assert [await status(READER), await status("new-1")] == [200, 401]
    path.write_text(good.replace(hash_of(READER), hash_of("new-1")), encoding="utf-8-sig", newline="\r\n")
    for _ in range(3):  # more than one would end a program that took it for a signal to end
        program.signal(signal.SIGHUP)
        program.wait_for_line("is read anew: tokens: 4, rules: 5")
    assert [await status(READER), await status("new-1")] == [401, 200]
    path.unlink()
    program.signal(signal.SIGHUP)
    assert "can't be read: No such file" in program.wait_for_line("stays in force")
    program.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(program.wait) == 0


async def reread(program: Program, path: Path, rules: str) -> str:
    """Have a program read other rules, and return what it has done to open connections."""
    path.write_text(rules)
    program.signal(signal.SIGHUP)
    line = await trio.to_thread.run_sync(program.wait_for_line, "open connections that the new rules have closed")
    return line.partition("have closed: ")[2]


async def test_new_rules_hold_for_connections_that_are_open(start_program: StartProgram, tmp_path: Path) -> None:
    path = write_rules(tmp_path)
    good = path.read_text()
    path.write_text(good + "\nanonymous /room/* read write\n")
    program = start_program("--access", str(path), "--hello", "", "--history", "5")

    async def open_as(token: str | None, room: str = "/room/x") -> Client:
        return await (await program.connect()).open(
            room, *([] if token is None else [f"Authorization: Bearer {token}"])
        )

    writer, second_writer, reader, nobody = [await open_as(token) for token in (WRITER, WRITER, READER, None)]
    elsewhere = await open_as(READER, "/room/y")
    stream, poller = await program.connect(), await program.connect()
    await Reader.open(stream, "/room/x", f"Authorization: Bearer {READER}")
    await poller.send(get("/room/z?last=0&wait=55", f"Authorization: Bearer {READER}"))

    # Another right, and one right less
    changed = good.replace("token reader /room/* read", "token reader /room/* read write")
    changed = changed.replace("token writer /room/* read write", "token writer /room/* read")
    assert await reread(program, path, changed + "\nanonymous /room/* write\n") == "1, and given other rights: 5"
    assert await nobody.frame() == seen_close(1008, "this client may no longer read in this room")
    await reader.send(text("now I may"))
    for client in (writer, second_writer, reader):
        assert await client.frame() == seen_text("now I may")
    await writer.send(text("I may not any more"))
    assert await writer.frame() == seen_close(1008, "this client may not write in this room")

    # A token less, and rooms less
    lines = [line for line in changed.splitlines() if not line.startswith("token writer")]
    fewer = "\n".join(lines).replace("token reader /room/*", "token reader /room/y")
    fewer = fewer.replace("token *      /room/* read", "")
    assert await reread(program, path, fewer) == "3, and given other rights: 0"
    assert await second_writer.frame() == seen_close(4401, "the token has been withdrawn")
    assert await reader.frame() == seen_close(1008, "this client may no longer read in this room")
    await stream.wait_lost()
    await elsewhere.send(text("still here"))
    assert await elsewhere.frame() == seen_text("still here")
    posted = await (await program.connect()).ask(post("/room/z", b"too late", f"Authorization: Bearer {POSTER}"))
    polled = await poller.answer()
    assert (posted.status, polled.status, b"too late" in polled.body) == (202, 403, False)


async def test_the_operator_publishes_anywhere_with_a_token_from_a_file(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("operator-1\n")
    flags = ("--publish-token-file", str(tmp_path / "token"), "--access", str(write_rules(tmp_path)))
    program = start_program(*flags)

    async def ask(*lines: str) -> Answer:
        return await (await program.connect()).ask(post("/elsewhere", b"hi", *lines))

    async def publish(*lines: str) -> int:
        return (await ask(*lines)).status

    operator = "Authorization: Bearer operator-1"
    accepted = await ask(operator)
    assert (accepted.status, list(json.loads(accepted.body))) == (202, ["id"]), "the token is no right to read"
    assert await publish(f"Authorization: Bearer {WRITER}") == 403
    assert await publish() == 401
    keyed = post("/room/x", b"hi", "Idempotency-Key: k", operator)
    ids = [json.loads((await (await program.connect()).ask(request)).body)["id"] for request in (keyed, keyed)]
    by_another = post("/room/x", b"hi", "Idempotency-Key: k", f"Authorization: Bearer {WRITER}")
    ids.append(json.loads((await (await program.connect()).ask(by_another)).body)["id"])
    assert ids[0] == ids[1] != ids[2], "the key of another is another one"
    assert await publish(operator, "Origin: https://elsewhere.example") == 202, "no browser has the token by itself"
    assert await publish(f"Authorization: Bearer {WRITER}", "Origin: https://elsewhere.example") == 403
    assert not any("each WebSocket publishes" in line for line in program.lines)
