"""One log, many ways in and out: events, polling and POST besides WebSockets."""

from __future__ import annotations

import gc
import json
import random
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.access.grant import Action, Grant
from rawws.access.patterns import EVERY_ROOM
from rawws.access.shared_token import SharedToken
from rawws.broadcast.idempotency import IdempotencyKey
from rawws.errors import Refusal, UsageError
from rawws.hub.room import state_of
from rawws.relay.settings import RoomSettings
from rawws.server.room_posts import PublishPolicy
from rawws.wire.frames import Opcode
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins
from tests.browser import need_node_module
from tests.room_serving import Rooms, post, rooms
from tests.serving.client import Answer, Client
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.server import StartHub
from tests.serving.wire import close, get, seen_text, text, upgrade
from tests.sse import Event, read_events

# Publishing and reading by every protocol


def fail(path: str) -> RoomSettings:
    raise OSError(f"nothing is known of {path}")


@pytest.mark.parametrize(
    ("settings", "error_start"),
    [
        (fail, "#0 ! settings('/room/x') failed"),
        (lambda _: {"history": 3}, "#0 ! settings('/room/x') returned {'history': 3}; it must return RoomSettings"),
    ],
)
async def test_settings_that_fail_cost_a_request_and_no_more(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, settings: Callable[[str], RoomSettings], error_start: str
) -> None:
    asked = []

    def choose(path: str) -> RoomSettings | None:
        asked.append(path)
        return settings(path) if path == "/room/x" else None

    requests = [upgrade("/room/x"), post("/room/x", b"hi"), get("/room/x?last=1")]
    requests.append(get("/room/x", "Accept: text/event-stream"))
    async with rooms(nursery, settings=choose) as running:
        for request in requests:
            caplog.clear()
            client = await running.connect()
            await client.send(request)
            assert (await client.answer()).status == 500
            (error,) = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
            assert error.startswith(error_start)
        asked.clear()
        ws = await running.open("/room/y")
        await ws.send(text("hi"))
        assert await ws.frame() == seen_text("hi")
        assert asked == ["/room/y"], "the settings are asked for once"


async def test_a_message_published_in_one_way_is_read_in_all_ways(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=10) as running:
        events, ws = await running.stream("/room/x"), await running.open("/room/x")
        named = await running.open("/room/x", "Sec-WebSocket-Protocol: rawws.id.v1")
        begin = json.loads((await named.frame()).payload)["at"]
        published = await running.publish("/room/x", "by POST")
        assert published["peers"] == 3
        await ws.send(text("by WebSocket"))
        assert await ws.frames(2) == [seen_text("by POST"), seen_text("by WebSocket")]
        assert await events.data(2) == ["by POST", "by WebSocket"]
        heads = [(await named.frame()).payload.split(b"\n", 1) for _ in range(2)]
        ids = [json.loads(head)["id"] for head, _ in heads]
        assert [payload for _, payload in heads] == [b"by POST", b"by WebSocket"]
        assert ids[0] == published["id"]
        assert events.last_id == ids[1]
        polled = await running.poll(f"/room/x?since={begin}")
        assert polled["messages"] == [{"id": ids[0], "text": "by POST"}, {"id": ids[1], "text": "by WebSocket"}]
        assert (polled["next"], polled["gap"]) == (ids[1], None)
        assert await running.poll("/room/x?peers") == {"peers": 3}
        assert await running.poll("/room/other?peers") == {"peers": 0}


@pytest.mark.parametrize(
    ("content_type", "body", "opcode"),
    [
        ("text/plain; charset=utf-8", "grüß dich".encode(), Opcode.TEXT),
        ("application/json", b'{"a": 1}', Opcode.TEXT),
        ("application/ld+json", b"{}", Opcode.TEXT),
        ("application/x-www-form-urlencoded", b"what curl -d says of any text", Opcode.TEXT),
        ("application/octet-stream", b"text as bytes", Opcode.BINARY),
        ("image/png", b"\x89PNG\r\n", Opcode.BINARY),
        ("text/plain", b"", Opcode.TEXT),
    ],
)
async def test_a_posts_content_type_decides_between_text_and_binary(
    nursery: trio.Nursery, content_type: str, body: bytes, opcode: Opcode
) -> None:
    async with rooms(nursery) as running:
        ws = await running.open("/")
        await running.publish("/", body, content_type=content_type)
        frame = await ws.frame()
        assert (frame.opcode, frame.payload) == (opcode, body)


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (post("/", b"\xff"), 400, "not UTF-8"),
        (post("/", b"x", content_type="text/plain; charset=latin1"), 415, "has to be in UTF-8, not in latin1"),
        (post("/", b"x" * ((1 << 20) + 1)), 413, "over the server's limit of 1048576 bytes"),
        (post("/", b"x", "Idempotency-Key: " + "k" * 256), 400, "of 1 to 255 characters"),
        (get("/?since=x"), 400, "'x' is not a message's id"),
        (get("/?last=many"), 400, "last='many' in the query is not a number"),
        (get("/?since=x", "Accept: text/event-stream"), 400, "is not a message's id"),
        (upgrade("/?last=many"), 400, "last='many' in the query is not a number"),
        (get("/", method="PUT"), 405, "use GET or HEAD or POST"),
    ],
)
async def test_an_invalid_request_is_refused_with_a_reason(
    nursery: trio.Nursery, request_: bytes, status: int, reason: str
) -> None:
    async with rooms(nursery) as running:
        answer = await running.ask(request_)
        assert answer.status == status
        assert reason in answer.body.decode()


@pytest.mark.parametrize(
    ("target", "accept", "content_type"),
    [
        ("/room", "text/event-stream;q=0", "text/plain"),
        ("/room", "text/event-stream;q=0, */*", "text/plain"),
        ("/room", "text/event-stream;q=0.1", "text/event-stream"),
        ("/room?last=1", "text/event-stream;q=0, */*", "application/json"),
        ("/room?last=1", "application/json, text/event-stream;q=0.5", "application/json"),
        ("/room?last=1", "application/json, text/event-stream", "text/event-stream"),
    ],
)
async def test_9110_12_5_1_events_are_sent_to_clients_that_accept_them(
    nursery: trio.Nursery, target: str, accept: str, content_type: str
) -> None:
    async with rooms(nursery) as running:
        answer = await running.ask(get(target, f"Accept: {accept}", method="HEAD"))
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (200, content_type)


# Ids and history


async def test_a_reader_resumes_where_it_was_cut_off(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=100) as running:
        events = await running.stream("/room")
        named = await running.open("/room", "Sec-WebSocket-Protocol: rawws.id.v1")
        at = json.loads((await named.frame()).payload)["at"]
        await running.publish("/room", "1")
        assert await events.data(1) == ["1"]
        for number in range(2, 6):
            await running.publish("/room", str(number))
        again = await running.stream("/room", f"Last-Event-ID: {events.last_id}")
        assert await again.data(4) == ["2", "3", "4", "5"]
        plain = await running.open(f"/room?since={events.last_id}")
        assert await plain.frames(4) == [seen_text(number) for number in "2345"]
        late = await running.open("/room?last=2")
        assert await late.frames(2) == [seen_text("4"), seen_text("5")]
        resumed = await running.open(f"/room?since={at}", "Sec-WebSocket-Protocol: rawws.id.v1")
        heads = [json.loads((await resumed.frame()).payload.split(b"\n")[0]) for _ in range(6)]
        assert heads[0] == {"at": at}
        assert [head["id"].rpartition("-")[2] for head in heads[1:]] == list("12345")
        await running.publish("/room", "6")
        for client in (plain, late):
            assert await client.frame() == seen_text("6")
        assert await again.data(1) == ["6"]


async def test_a_gap_is_reported_once(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=2) as running:
        first = (await running.publish("/room", "1"))["id"]
        for number in range(2, 6):
            await running.publish("/room", str(number))
        epoch = first.partition("-")[0]
        gap = {"since": first, "after": f"{epoch}-3"}
        events = await running.stream(f"/room?since={first}")
        assert [tuple(event[:2]) for event in await events.events(3)] == [
            ("gap", json.dumps(gap, separators=(",", ":"))),
            ("message", "4"),
            ("message", "5"),
        ]
        named = await running.open(f"/room?since={first}", "Sec-WebSocket-Protocol: rawws.id.v1")
        assert json.loads((await named.frame()).payload) == {"at": f"{epoch}-3", "gap": gap}
        polled = await running.poll(f"/room?since={first}")
        assert (polled["gap"], len(polled["messages"])) == (gap, 2)
        assert (await running.poll(f"/room?since={polled['next']}"))["gap"] is None
        # The id is of a log that is gone.
        assert (await running.poll("/room?since=0000abcd-4"))["gap"]["since"] == "0000abcd-4"


async def test_a_poll_waits_for_the_next_message(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:  # without a history
        at = (await running.poll("/room?last=0"))["next"]
        answers: list[Any] = []

        async def poll() -> None:
            answers.append(await running.poll(f"/room?since={at}&wait=20"))

        async with trio.open_nursery() as polling:
            for _ in range(3):
                polling.start_soon(poll)
            await wait_all_tasks_blocked(0.05)
            assert answers == []
            await running.publish("/room", "news")
        assert [[message["text"] for message in answer["messages"]] for answer in answers] == [["news"]] * 3
        assert all(answer["gap"] is None for answer in answers)
        assert (await running.poll(f"/room?since={at}"))["gap"] is not None, (
            "nothing is kept for a client that doesn't wait"
        )


@pytest.mark.parametrize(
    ("target", "lines"),
    [("/room?last=1", []), ("/room?wait=50", []), ("/room?peers", []), ("/room?last=x", []), ("/room", []),
     ("/room", ["Accept: text/event-stream"]), ("/room?since=x", ["Accept: text/event-stream"])],
)  # fmt: skip
async def test_9110_9_3_2_head_is_answered_as_get_is_without_waiting_and_the_connection_goes_on(
    nursery: trio.Nursery, target: str, lines: list[str]
) -> None:
    async with rooms(nursery) as running:
        client = await running.connect()
        head = await client.ask(get(target, *lines, method="HEAD"))
        assert (await client.ask(get("/healthz"))).body == b"ok"
        await client.send(get(target.replace("wait=50", "wait=0"), *lines))
        got = await client.answer()
        different = {"date", "connection", "transfer-encoding"} if lines and got.status == 200 else {"date"}
        assert head.status == got.status
        assert head.headers | dict.fromkeys(different) == got.headers | dict.fromkeys(different)


async def test_a_poll_without_news_is_answered_empty_after_its_wait(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=1) as running:
        at = (await running.publish("/room", "1"))["id"]
        polled = await running.poll(f"/room?since={at}&wait=1")
        assert polled == {"messages": [], "next": at, "gap": None}


async def test_a_stopping_server_ends_polls_and_streams(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=1) as running:
        at = (await running.publish("/room", "1"))["id"]
        events = await running.connect()
        await events.send(get("/room", "Accept: text/event-stream"))
        await events.answer()

        async def stop() -> None:
            await wait_all_tasks_blocked(0.05)
            running.server.stop()

        nursery.start_soon(stop)
        assert (await running.poll(f"/room?since={at}&wait=50"))["messages"] == []
        await events.wait_lost()


async def test_a_poll_that_begins_while_the_server_stops_is_answered_at_once(
    nursery: trio.Nursery,
) -> None:
    decided = trio.Event()

    async def authenticate(_: rawws.Request) -> None:
        await decided.wait()

    async with rooms(nursery, authenticate=authenticate) as running:
        client = await running.connect()
        await client.send(get("/room?since=&wait=50"))
        await wait_all_tasks_blocked()
        running.server.stop()
        await wait_all_tasks_blocked()
        decided.set()
        assert json.loads((await client.answer()).body)["messages"] == []


@pytest.mark.parametrize("leave", [Client.hang_up, Client.reset, Client.end_stream], ids=["FIN", "RST", "half-close"])
async def test_a_poll_ends_when_its_client_has_gone(nursery: trio.Nursery, leave: Callable[[Client], None]) -> None:
    async with rooms(nursery, max_connections=1) as running:
        client = await running.connect()
        await client.send(get("/room?since=&wait=50"))
        await wait_all_tasks_blocked()
        assert (await running.ask(get("/"))).status == 503
        leave(client)
        if leave is Client.end_stream:
            assert json.loads((await client.answer()).body)["messages"] == [], (
                "a client that has only ended its side still reads"
            )
            await client.assert_end()
        await wait_all_tasks_blocked()
        assert (await running.ask(get("/"))).status == 200


async def test_a_request_pipelined_after_a_waiting_poll_is_answered_next(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        client = await running.connect()
        await client.send(get("/room?since=&wait=50") + get("/readyz"))
        await wait_all_tasks_blocked()
        await client.send(get("/healthz"))
        await wait_all_tasks_blocked()
        await running.publish("/room", "news")
        answers = [(await client.answer()).body for _ in range(3)]
    assert [message["text"] for message in json.loads(answers[0])["messages"]] == ["news"]
    assert answers[1:] == [b"ready", b"ok"]


@pytest.mark.parametrize("history", [0, 3])
@pytest.mark.parametrize("is_read", [False, True], ids=["without a reader", "with a reader"])
async def test_a_retry_is_safe(nursery: trio.Nursery, history: int, is_read: bool) -> None:
    async with rooms(nursery, history=history) as running:
        reader = await running.stream("/") if is_read else None
        first = await running.publish("/", "pay", "Idempotency-Key: k")
        assert await running.publish("/", "pay", "Idempotency-Key: k") == first
        other = await running.ask(post("/", b"pay more", "Idempotency-Key: k"))
        assert other.status == 422
        for number in range(3):
            await running.publish("/", str(number))
        assert await running.publish("/", "pay", "Idempotency-Key: k") == first, "whatever became of the history"
        assert (await running.publish("/", "pay", "Idempotency-Key: l"))["id"] != first["id"]
        if reader is not None:
            assert await reader.data(5) == ["pay", "0", "1", "2", "pay"]


async def test_a_key_belongs_to_its_user(nursery: trio.Nursery) -> None:
    users = {"alice": rawws.User("alice", read=["*"], write=["*"]), "bob": "bob", "7": 7, "no name": object()}

    def authenticate(request: Request) -> object:
        return users.get(request.headers.get("Cookie") or "")

    async with rooms(nursery, authenticate=authenticate) as running:

        async def publish(cookie: str, body: str = "pay") -> str:
            published = await running.publish("/", body, "Idempotency-Key: k", *([f"Cookie: {cookie}"] * bool(cookie)))
            return str(published["id"])

        ids = {user: await publish(user) for user in ("", "alice", "bob", "7", "no name")}
        assert ids == {user: await publish(user) for user in ids}, "a retry is safe for each of them"
        assert ids[""] == ids["no name"], "they have no name, and so the same key"
        assert len(set(ids.values())) == 4
        refused = await running.ask(post("/", b"pay more", "Idempotency-Key: k", "Cookie: alice"))
        assert refused.status == 422


async def publish_slowly(running: Rooms, meanwhile: Callable[[], None], *lines: str) -> Answer:
    """Send a POST, and do something when the server has admitted it and waits for the rest of its body."""
    client = await running.connect()
    whole = post("/", b"pay", "Idempotency-Key: k", *lines)
    await client.send(whole[:-1])
    await wait_all_tasks_blocked(0.05)
    meanwhile()
    await client.send(whole[-1:])
    return await client.answer()


async def test_a_key_belongs_to_the_operator_that_was_admitted(nursery: trio.Nursery) -> None:
    token = SharedToken("old")
    async with rooms(nursery, policy=PublishPolicy(token)) as running:
        first = await publish_slowly(running, lambda: token.replace("new"), "Authorization: Bearer old")
        assert first.status == 202
        again = await running.publish("/", "pay", "Idempotency-Key: k", "Authorization: Bearer new")
        assert again == json.loads(first.body), "a retry with the new token is safe"


async def test_a_grant_that_is_withdrawn_meanwhile_neither_publishes_nor_polls(nursery: trio.Nursery) -> None:
    present: list[Grant | None] = []
    alice = Grant("alice", EVERY_ROOM, EVERY_ROOM, renew=lambda: present[0])
    present.append(alice)

    class OneUser:
        async def grant(self, request: Request, room: str, action: Action) -> Grant:
            return alice

    async with rooms(nursery, access=OneUser(), history=1) as running:
        for status, changed in ((202, alice), (403, Grant("alice", EVERY_ROOM)), (401, None)):
            change = partial(present.__setitem__, 0, changed)
            assert (await publish_slowly(running, change, f"X: {status}")).status == status
        present[0] = alice
        assert len((await running.poll("/?last=9"))["messages"]) == 1
        present[0] = None  # as between the decision and the loading of the room
        assert (await running.ask(get("/?last=9"))).status == 401


async def test_a_room_is_kept_for_its_keys_until_they_are_old(autojump_clock: MockClock) -> None:  # noqa: ARG001
    hub = rawws.Hub()
    room = hub.room("/")
    room.publish("pay")
    state_of(room).remember_idempotency_key(IdempotencyKey("k"), "digest")
    await trio.sleep(590)
    assert hub.rooms == {"/": room}
    assert state_of(room).find_idempotent(IdempotencyKey("k")) is not None
    await trio.sleep(15)
    assert hub.rooms == {}
    assert state_of(room).find_idempotent(IdempotencyKey("k")) is None


async def test_a_history_ends_with_its_age(nursery: trio.Nursery) -> None:
    async with rooms(nursery, history=5, history_age_s=0.2) as running:
        await running.publish("/room", "1")
        assert "/room" in running.hub.rooms
        while running.hub.rooms:
            await trio.sleep(0.05)  # a test about time


async def test_empty_rooms_leave_nothing_behind(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        client = await running.connect()
        for number in range(200):
            await client.ask(post(f"/room/{number}", b"to nobody"))
        assert running.hub.rooms == {}
        gc.collect()
        assert len(running.hub.registry) == 0


# Presence


async def test_presence_reports_joins_and_leaves(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        events = await running.stream("/room?presence")
        named = await running.open("/room?presence", "Sec-WebSocket-Protocol: rawws.id.v1")
        await named.frame()
        plain = await running.open("/room")
        await plain.send(close())
        received = await events.events(3)
        assert [event.kind for event in received] == ["join", "join", "leave"]
        assert [json.loads(event.data)["peers"] for event in received] == [2, 3, 2]
        joined, left = [json.loads((await named.frame()).payload) for _ in range(2)]
        assert joined == {"join": {"peer": json.loads(received[1].data)["peer"], "peers": 3}}
        assert left["leave"]["peers"] == 2


async def test_exclude_sender_sends_messages_to_others_only(nursery: trio.Nursery) -> None:
    async with rooms(nursery, exclude_sender=True) as running:
        a, b = await running.open("/room"), await running.open("/room")
        events = await running.stream("/room")
        await a.send(text("1") + text("2"))
        assert await b.frames(2) == [seen_text("1"), seen_text("2")]
        await b.send(text("3"))
        assert await a.frame() == seen_text("3")
        await running.publish("/room", "4")
        assert await a.frame() == await b.frame() == seen_text("4")
        assert await events.data(4) == ["1", "2", "3", "4"]


async def test_exclude_sender_holds_for_several_senders_in_one_turn(start_hub: StartHub) -> None:
    running = start_hub(exclude_sender=True, history=100)
    plain = [running.join() for _ in range(3)]
    named = running.join(subprotocol="rawws.id.v1")
    await named.frame()
    for number, client in enumerate([*plain, named, plain[0]]):
        assert client.try_send(text(f"{number % 4}a") + text(f"{number % 4}b"))
    await wait_all_tasks_blocked()
    log = state_of(running.hub.room("/")).log
    said = [(label.decode(), bytes(payload).decode()) for label, _, payload in log.messages(0, most=99, most_bytes=999)]
    assert len(said) == 10
    for number, client in enumerate(plain):
        others = [seen_text(payload) for _, payload in said if not payload.startswith(str(number))]
        assert await client.frames(len(others)) == others
    heard = [(await named.frame()).payload.decode().split("\n") for _ in range(8)]
    assert [(json.loads(head)["id"], payload) for head, payload in heard] == [
        (label, payload) for label, payload in said if not payload.startswith("3")
    ]


# The right to publish


@pytest.mark.parametrize(
    ("policy", "lines", "status"),
    [
        (PublishPolicy(is_local=True), [], 202),
        (PublishPolicy(is_local=True), ["Origin: http://localhost"], 202),
        (PublishPolicy(is_local=True), ["Origin: http://localhost", "Sec-Fetch-Site: same-origin"], 202),
        (PublishPolicy(is_local=True), ["Origin: https://evil.example"], 403),
        (PublishPolicy(is_local=True), ["Origin: null"], 403),
        (PublishPolicy(is_local=True), ["Sec-Fetch-Site: cross-site"], 403),
        (PublishPolicy(is_local=True), ["Sec-Fetch-Site: same-site"], 403),
        (PublishPolicy(is_local=True), ["Via: 1.1 proxy"], 403),
        (PublishPolicy(is_local=True), ["X-Forwarded-For: 203.0.113.5"], 403),
        (PublishPolicy(is_local=False), [], 403),
        (PublishPolicy(SharedToken("secret")), [], 401),
        (PublishPolicy(SharedToken("secret")), ["Authorization: Bearer secrets"], 401),
        (PublishPolicy(SharedToken("secret")), ["Authorization: Basic secret"], 401),
        (PublishPolicy(SharedToken("secret")), ["Authorization: Bearer secret"], 202),
        (PublishPolicy(SharedToken("secret"), is_local=True), [], 401),
        (PublishPolicy(is_local=True, origins=Origins(["https://app.example"])), ["Origin: https://app.example"], 202),
    ],
)
async def test_a_guard_decides_about_publishing(
    nursery: trio.Nursery, policy: PublishPolicy, lines: list[str], status: int
) -> None:
    async with rooms(nursery, policy=policy) as running:
        answer = await running.ask(post("/room", b"hello", *lines))
        assert answer.status == status
        allowed = answer.headers.get("access-control-allow-origin")
        assert allowed == ("https://app.example" if "app.example" in str(lines) else None)


@pytest.mark.parametrize("origin", ["https://a.example", "file://", "null", "", "capacitor://localhost"])
async def test_the_advice_for_a_page_that_may_not_publish_works(nursery: trio.Nursery, origin: str) -> None:
    request = Request("POST", "/room", "1.1", Headers([("Host", "localhost"), ("Origin", origin)]))
    refusal = PublishPolicy(is_local=True).refuse_writing(request)
    assert refusal is not None
    flag, value = shlex.split(refusal.hint.partition("start the server with ")[2])
    assert flag == "--allow-origin"
    async with rooms(nursery, policy=PublishPolicy(is_local=True, origins=Origins([value]))) as running:
        answer = await running.ask(post("/room", b"hello", f"Origin: {origin}"))
        assert answer.status == 202
        assert answer.headers["access-control-allow-origin"].strip() == origin


@pytest.mark.parametrize(
    ("policy", "headers", "code", "sentence", "hint"),
    [
        (
            PublishPolicy(is_local=True),
            {"Host": "chat.example"},
            "publish_host",
            "Without a token, only a request for localhost or an address may publish here; this one is for "
            "chat.example.",
            "to open it, start the server with --publish-token",
        ),
        (
            PublishPolicy(is_local=True),
            {},
            "publish_host",
            "Without a token, only a request for localhost or an address may publish here; this one has no Host.",
            "to open it, start the server with --publish-token",
        ),
        (
            PublishPolicy(is_local=True),
            {"Host": "chat.example", "Origin": "https://chat.example"},
            "publish_origin",
            "Pages from https://chat.example may not publish here.",
            "to allow it, start the server with --allow-origin https://chat.example",
        ),
        (
            PublishPolicy(is_local=True),
            {"Host": "localhost", "Sec-Fetch-Site": "cross-site"},
            "publish_origin",
            "Pages of other sites may not publish here.",
            "",
        ),
        (
            PublishPolicy(is_local=True),
            {"Host": "localhost", "Forwarded": "for=203.0.113.5"},
            "publishing_closed",
            "Publishing over HTTP is closed here, since this request came through a proxy and there is no token for "
            "it.",
            "to open it, start the server with --publish-token",
        ),
        (
            PublishPolicy(),
            {"Host": "localhost"},
            "publishing_closed",
            "Publishing over HTTP is closed here, since others can reach this server and there is no token for it.",
            "to open it, start the server with --publish-token",
        ),
    ],
)
def test_a_refusal_to_publish_has_a_reason_for_the_client_and_a_hint_for_the_operator(
    policy: PublishPolicy, headers: dict[str, str], code: str, sentence: str, hint: str
) -> None:
    refusal = policy.refuse_writing(Request("POST", "/", "1.1", Headers(list(headers.items()))))
    assert refusal == Refusal(403, code, sentence, hint=hint)


@pytest.mark.parametrize("token", ["", " ", "secret ", "se cret", "secret\n", "žluť"])
def test_a_token_that_all_or_no_clients_could_send_is_rejected(token: str) -> None:
    with pytest.raises(UsageError, match="the token is "):
        rawws.rooms(rawws.Hub(), publish_token=token)


OPEN_TO_WEBSOCKETS = (
    "only a POST needs the publish token: each WebSocket publishes in its room without it; to close that, "
    "add --read-only, or Hub(read_only=True)"
)


@pytest.mark.parametrize(
    ("flags", "warnings"),
    [
        (["--publish-token", "secret"], 1),
        (["--publish-token", "secret", "--metrics"], 1),
        (["--publish-token", "secret", "--read-only"], 0),
        (["--read-only"], 0),
        ([], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_token_for_posts_alone_is_warned_of_once(
    start_program: StartProgram, flags: list[str], warnings: int
) -> None:
    program = start_program(*flags)
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    assert sum(OPEN_TO_WEBSOCKETS in line for line in program.lines) == warnings


async def _authenticate(_: Request) -> None:
    pass


@pytest.mark.parametrize(
    ("hub", "options", "warns"),
    [
        (rawws.Hub(), {}, True),
        (rawws.Hub(read_only=True), {}, False),
        (rawws.Hub(settings=lambda _: RoomSettings(read_only=True)), {}, False),
        (rawws.Hub(), {"authenticate": _authenticate}, False),
        (rawws.Hub(), {"process_request": _authenticate}, False),
    ],
    ids=["open", "read only", "settings", "authenticate", "process_request"],
)
async def test_the_library_warns_of_a_token_for_posts_alone_too(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, hub: rawws.Hub, options: dict[str, Any], warns: bool
) -> None:
    http = rawws.rooms(hub, publish_token="secret")
    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http, **options))
    server.stop()
    assert (OPEN_TO_WEBSOCKETS in caplog.text) is warns


async def test_a_token_for_posts_alone_is_no_warning_with_a_handler(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(_: rawws.WebSocket) -> None:
        pass

    http = rawws.rooms(rawws.Hub(), publish_token="secret")
    server = await nursery.start(partial(rawws.serve, handler, 0, host=LOOPBACK, http=http))
    server.stop()
    assert OPEN_TO_WEBSOCKETS not in caplog.text


async def test_a_page_under_a_foreign_host_name_may_not_publish(nursery: trio.Nursery) -> None:
    async with rooms(nursery) as running:
        client = await running.connect()
        raw = post("/", b"x", "Origin: http://evil.example").replace(b"Host: localhost", b"Host: evil.example")
        assert (await client.ask(raw)).status == 421
    assert PublishPolicy(is_local=True).refuse_writing(Request("POST", "/", "1.1", Headers([("Host", "evil.example")])))


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/_rawws/x"])
async def test_the_servers_own_paths_are_no_rooms_for_any_method(nursery: trio.Nursery, path: str) -> None:
    async with rooms(nursery, history=10) as running:
        for method in ("POST", "PUT", "DELETE"):
            answer = await running.ask(post(path, b"hello").replace(b"POST", method.encode(), 1))
            assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
        for line in ("Accept: text/event-stream", "Last-Event-ID: x"):
            for query in ("", "?last=1", "?peers", "?since="):
                answer = await running.ask(get(path + query, line))
                assert (answer.status, answer.headers["content-type"]) == (200, "text/plain; charset=utf-8")
        answer = await running.ask(upgrade(path))
        assert answer.status == 404
        assert answer.body.startswith(
            b"No WebSocket is served at this path, which is the server's own; connect to a room"
        )
        assert not running.hub.rooms


@pytest.mark.parametrize("lines", [(), ("Origin: https://x.example",)])
async def test_9110_9_3_7_options_lists_a_rooms_methods(nursery: trio.Nursery, lines: tuple[str, ...]) -> None:
    async with rooms(nursery) as running:
        answer = await running.ask(get("/room", *lines, method="OPTIONS"))
        assert (answer.status, answer.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")
        assert "access-control-allow-methods" not in answer.headers


async def test_a_preflight_of_an_allowed_page_is_answered(nursery: trio.Nursery) -> None:
    policy = PublishPolicy(SharedToken("secret"), origins=Origins(["https://app.example"]))
    async with rooms(nursery, policy=policy) as running:
        asks = ("Origin: https://app.example", "Access-Control-Request-Method: POST")
        answer = await running.ask(get("/room", *asks, method="OPTIONS"))
        assert answer.status == 204
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        elsewhere = await running.ask(get("/room", "Origin: https://x.example", asks[1], method="OPTIONS"))
        assert "access-control-allow-origin" not in elsewhere.headers


async def test_the_application_is_asked_about_room_and_action(nursery: trio.Nursery) -> None:
    asked: list[tuple[str | None, str]] = []

    def authenticate(request: rawws.Request) -> rawws.Response | None:
        asked.append((request.path, request.action))
        return rawws.Response(403, "no\n") if request.path == "/secret" else None

    async with rooms(nursery, authenticate=authenticate) as running:
        assert (await running.ask(post("/secret", b"x"))).status == 403
        assert (await running.ask(get("/secret?last=1"))).status == 403
        assert (await running.ask(get("/secret", "Accept: text/event-stream"))).status == 403
        assert (await running.ask(upgrade("/secret"))).status == 403
        await running.open("/open")
    assert asked == [
        *(("/secret", "write"), ("/secret", "read"), ("/secret", "read"), ("/secret", "read write")),
        ("/open", "read write"),
    ]


# Each door, and the access to ask the application about: in a room that relays, and in one that doesn't.
DOORS = {
    "a WebSocket": (upgrade("/room"), "read write", "read"),
    "a WebSocket with ids": (upgrade("/room", "Sec-WebSocket-Protocol: rawws.id.v1"), "read write", "read"),
    "a WebSocket that resumes": (upgrade("/room?since=9f2c41d7-42"), "read write", "read"),
    "a WebSocket that watches": (upgrade("/room?presence"), "read write", "read"),
    "events": (get("/room", "Accept: text/event-stream"), "read", "read"),
    "events with presence": (get("/room?presence", "Accept: text/event-stream"), "read", "read"),
    "a poll": (get("/room?last=1"), "read", "read"),
    "a long poll": (get("/room?since=9f2c41d7-42&wait=1"), "read", "read"),
    "the number of peers": (get("/room?peers"), "read", "read"),
    "a HEAD": (get("/room?last=1", method="HEAD"), "read", "read"),
    "a POST": (post("/room", b"x"), "write", "write"),
}
HUBS: dict[str, tuple[bool, dict[str, Any]]] = {
    "relays": (True, {}),
    "is read-only": (False, {"read_only": True}),
    "has read-only rooms": (False, {"settings": lambda _: rawws.RoomSettings(read_only=True)}),
    "has other read-only rooms": (True, {"settings": lambda path: rawws.RoomSettings(read_only=path == "/other")}),
    "is read-only elsewhere": (True, {"read_only": True, "settings": lambda _: rawws.RoomSettings()}),
    "echoes": (False, {"mode": "echo"}),
}


@pytest.mark.parametrize("hub", HUBS)
async def test_the_application_is_asked_about_the_access_that_a_door_needs(nursery: trio.Nursery, hub: str) -> None:
    relays, settings = HUBS[hub]
    asked: list[str] = []

    def authenticate(request: rawws.Request) -> rawws.Response:
        asked.append(request.action)
        return rawws.Response(403, "no\n")

    async with rooms(nursery, authenticate=authenticate, **settings) as running:
        for raw, _, _ in DOORS.values():
            assert (await running.ask(raw)).status == 403
    expected = {door: where_relayed if relays else elsewhere for door, (_, where_relayed, elsewhere) in DOORS.items()}
    assert dict(zip(DOORS, asked, strict=True)) == expected


async def test_the_numbers_of_rooms_and_peers_are_limited(nursery: trio.Nursery) -> None:
    async with rooms(nursery, max_rooms=1, max_peers=2) as running:
        await running.open("/room")
        await running.stream("/room")
        for raw in (upgrade("/room"), get("/room", "Accept: text/event-stream;q=0.9"), upgrade("/other")):
            answer = await running.ask(raw)
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert (await running.ask(post("/other", b"x"))).status == 503
        assert (await running.ask(get("/other?last=1"))).status == 503
        assert (await running.ask(get("/room?last=1"))).status == 200
        assert (await running.ask(post("/room", b"x"))).status == 202


class Crowd:
    """Releases its waiting tasks when all of them have come."""

    def __init__(self, size: int) -> None:
        self._missing = size
        self._complete = trio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._complete.set()
        await self._complete.wait()


async def statuses(running: Any, requests: list[bytes]) -> list[int]:
    """Make some requests at the same time, and return the sorted statuses of their answers."""
    found = []

    async def ask(raw: bytes) -> None:
        found.append((await running.ask(raw)).status)

    async with trio.open_nursery() as asking:
        for raw in requests:
            asking.start_soon(ask, raw)
    return sorted(found)


async def test_limits_hold_for_clients_that_come_at_the_same_time(nursery: trio.Nursery) -> None:
    crowd = Crowd(8)

    async def authenticate(_: rawws.Request) -> None:
        await crowd.wait()

    async with rooms(nursery, max_rooms=1, max_peers=2, authenticate=authenticate) as running:
        requests = [upgrade(f"/{number % 2}") for number in range(8)]
        assert await statuses(running, requests) == [101] * 2 + [503] * 6
        assert [len(room) for room in running.hub] == [2]
        assert running.server._state.handshakes == {101: 2, 503: 6}


class SlowBackplane:
    """A backplane whose rooms become ready together, when all requests have come."""

    def __init__(self, size: int) -> None:
        self._crowd = Crowd(size)

    async def prepare(self, *_: object) -> None:
        await self._crowd.wait()

    def follow(self, *_: object) -> bool:
        return True

    def ids_before_loading(self) -> None:
        pass


@pytest.mark.parametrize(
    ("target", "line", "let_in", "status"),
    [
        ("/{}", "Upgrade: websocket", 2, 101),
        ("/{}", "Accept: text/event-stream", 2, 200),
        ("/{}?last=1", "Accept: */*", 4, 200),  # a poll is in no room, but keeps one
    ],
)
async def test_limits_hold_for_clients_that_wait_for_their_room_to_be_ready(
    nursery: trio.Nursery, target: str, line: str, let_in: int, status: int
) -> None:
    async with rooms(nursery, max_rooms=1, max_peers=2, backplane=SlowBackplane(8)) as running:
        targets = [target.format(number % 2) for number in range(8)]
        requests = [upgrade(each) if status == 101 else get(each, line) for each in targets]
        answered = await statuses(running, requests)
        assert answered == [status] * let_in + [503] * (8 - let_in)
        assert len(running.hub.rooms) == 1


# Independent clients


def test_curl(start_program: StartProgram) -> None:
    need(shutil.which("curl"), "curl")
    program = start_program("--history", "10")
    url = f"http://{program.address}/room/x"
    stream = subprocess.Popen(["curl", "-sN", "-H", "Accept: text/event-stream", url], stdout=subprocess.PIPE)
    program.wait_for_line("joined room /room/x")
    published = json.loads(subprocess.check_output(["curl", "-s", url, "-d", "hello"], timeout=PATIENCE_S))
    polled = json.loads(subprocess.check_output(["curl", "-s", f"{url}?last=1"], timeout=PATIENCE_S))
    assert polled["messages"] == [{"id": published["id"], "text": "hello"}]
    program.signal(signal.SIGTERM)
    out, _ = stream.communicate(timeout=PATIENCE_S)
    assert read_events(out) == [Event("message", "hello", published["id"])]


def test_httpx_sse(start_program: StartProgram) -> None:
    from httpx_sse import connect_sse

    program = start_program("--history", "10")
    url = f"http://{program.address}/room"
    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client, connect_sse(client, "GET", url) as source:
        for body in ("one", "two\nlines"):
            assert httpx.post(url, content=body, headers={"Content-Type": "text/plain"}, trust_env=False).is_success
        # To this library an id alone is an event too; to the standard it is not.
        events = (event for event in source.iter_sse() if event.data)
        first, second = next(events), next(events)
        assert (first.data, second.data) == ("one", "two\nlines")
    with httpx.Client(trust_env=False) as client:
        answer = client.get(url, params={"since": first.id}).json()
        assert [message["text"] for message in answer["messages"]] == ["two\nlines"]


EVENT_SOURCE = """
const { EventSource } = require("eventsource")
const source = new EventSource(process.argv[1])
for (const kind of ["message", "binary", "gap"])
  source.addEventListener(kind, (event) => console.log(JSON.stringify([kind, event.data, event.lastEventId])))
"""


def test_npms_eventsource_reconnects_by_itself(start_program: StartProgram, monkeypatch: pytest.MonkeyPatch) -> None:
    need(shutil.which("node"), "node")
    monkeypatch.setenv("NODE_PATH", str(need_node_module("eventsource").parent.resolve()))
    program = start_program("--history", "100")
    url = f"http://{program.address}/room"

    def publish(text: str) -> None:
        httpx.post(url, content=text, headers={"Content-Type": "text/plain"}, trust_env=False).raise_for_status()

    with subprocess.Popen(["node", "-e", EVENT_SOURCE, url], stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        program.wait_for_line("joined room /room")
        publish("one")
        kind, data, last_id = json.loads(client.stdout.readline())
        assert (kind, data) == ("message", "one")
        port = program.port
        program.end()
        again = start_program("--history", "100", "--port", str(port))
        again.wait_for_line("joined room /room")
        # The log is another one, so the reader is sent a gap.
        kind, data, _ = json.loads(client.stdout.readline())
        assert (kind, json.loads(data)["since"]) == ("gap", last_id)
        url = f"http://{again.address}/room"
        publish("two")
        assert json.loads(client.stdout.readline())[:2] == ["message", "two"]
        client.kill()


async def test_rooms_have_their_own_paths_alongside_an_application(start_program: StartProgram) -> None:
    program = start_program("--app", "rawws.examples.existing_app:app", "--history", "5")
    client, other = await program.connect(), await program.connect()
    assert (await client.ask(post("/room/x", b"hello"))).status == 202
    assert (await other.ask(post("/elsewhere", b"hello"))).status == 404
    polled = json.loads((await client.ask(get("/room/x?last=1"))).body)
    assert [message["text"] for message in polled["messages"]] == ["hello"]


async def test_a_stream_is_kept_alive_with_comments(nursery: trio.Nursery) -> None:
    async with rooms(nursery, ping_interval=0.05, ping_timeout=0.05) as running:
        client = await running.connect()
        await client.send(get("/room", "Accept: text/event-stream"))
        await client.answer()
        raw = b""
        while raw.count(b": rawws\n\n") < 4:  # they need no answer
            raw += await client.take_some()
        assert read_events(raw) == []


# All protocols at once


async def test_every_reader_ends_with_the_same_sequence(nursery: trio.Nursery) -> None:
    """Writers by WebSocket and POST, readers by all ways, cut at random: all end with the same."""
    per_writer = 60
    dice = random.Random(6455)
    async with rooms(nursery, history=10_000) as running:
        total = 4 * per_writer
        url = f"{LOOPBACK}:{running.server.port}/room"
        sequences: list[list[str]] = []

        async def write_ws(name: str) -> None:
            async with rawws.connect(f"ws://{url}") as ws:
                for number in range(per_writer):
                    await ws.send(f"{name}{number}")
                    await trio.lowlevel.checkpoint()

        async def write_post(name: str) -> None:
            client = await running.connect()
            for number in range(per_writer):
                assert (await client.ask(post("/room", f"{name}{number}".encode()))).status == 202

        async def read_ws(begin: str) -> None:
            got: list[str] = []
            at = begin
            while len(got) < total:
                async with rawws.connect(f"ws://{url}?since={at}", subprotocols=["rawws.id.v1"]) as ws:
                    for _ in range(dice.randrange(1, 40)):
                        head, _, payload = str(await ws.recv()).partition("\n")
                        control = json.loads(head)
                        assert "gap" not in control
                        if "id" in control:
                            at = control["id"]
                            got.append(payload)
                        if len(got) == total:
                            break
            sequences.append(got)

        async def read_events_(begin: str) -> None:
            got: list[str] = []
            at = begin
            while len(got) < total:
                client = await running.connect()
                await client.send(get("/room", "Accept: text/event-stream", f"Last-Event-ID: {at}"))
                await client.answer()
                raw = b""
                for _ in range(dice.randrange(1, 8)):
                    if len(got) + raw.count(b"data: ") >= total:
                        break
                    raw += await client.take_some()
                for event in read_events(raw[: raw.rfind(b"\n\n") + 2]):
                    assert event.kind == "message"
                    got.append(event.data)
                    at = event.last_id
                client.hang_up()
            sequences.append(got)

        async def poll(begin: str) -> None:
            got: list[str] = []
            at = begin
            while len(got) < total:
                polled = await running.poll(f"/room?since={at}&wait=5")
                assert polled["gap"] is None
                got += [message["text"] for message in polled["messages"]]
                at = polled["next"]
            sequences.append(got)

        begin = (await running.publish("/room", "begin"))["id"]
        async with trio.open_nursery() as everybody:
            for reader in (read_ws, read_ws, read_events_, read_events_, poll, poll):
                everybody.start_soon(reader, begin)
            for name in "ab":
                everybody.start_soon(write_ws, name)
            for name in "cd":
                everybody.start_soon(write_post, name)
        assert all(sequence == sequences[0] for sequence in sequences)
        assert sorted(sequences[0]) == sorted(f"{name}{number}" for name in "abcd" for number in range(per_writer))
        for name in "abcd":
            assert [said for said in sequences[0] if said[0] == name] == [f"{name}{n}" for n in range(per_writer)]
