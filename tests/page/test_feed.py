"""The records that the page gets, and the cost of watching."""

from __future__ import annotations

import json
import re
import socket
from functools import partial
from importlib.resources import files
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import tracing
from rawws.hub.queues import NO_STORE, why_none
from rawws.inspection.conformance import CASES
from rawws.limits import MIB
from rawws.page import TRACE, About, Access, Page, feed
from rawws.page.questions import group_of
from rawws.relay.loop import current_loop
from rawws.server.server import Server
from rawws.tracing import Tracer
from rawws.wire.deflate import Deflater
from rawws.wire.frames import RSV1, Frame, Opcode, encode_frame, parse_header
from rawws.wire.trace import DIRECTIONS, IN, OUT
from tests.page.asking import TOKEN, cookie_of, records_until, trace_of, watched
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get, text, upgrade


async def test_a_page_gets_a_list_of_the_connections_that_are_open_already(nursery: trio.Nursery) -> None:
    tracer = Tracer()
    page = Page(tracer, About(""), access=Access(TOKEN))

    async def handler(ws: rawws.WebSocket) -> None:
        async for _ in ws:
            pass

    hub = rawws.Hub()
    routes: dict[str, Any] = {**page.routes, "/shout": handler}
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, http=rawws.rooms(hub), routes=routes, tracer=tracer)
    server: Server = await nursery.start(start)

    async def hello() -> dict[str, Any]:
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as trace:
            greeting: dict[str, Any] = json.loads(await trace.recv())
            return greeting

    with trio.fail_after(PATIENCE_S):
        at = f"ws://{LOOPBACK}:{server.port}"
        async with rawws.connect(f"{at}/room?a=b"), rawws.connect(f"{at}/shout"):
            reader = await Client.unconnected().connect(server.port)
            await reader.send(get("/room", "Accept: text/event-stream"))
            while server.peer_count < 3:
                await trio.sleep(0.01)
            greeting = await hello()
            assert [(each["path"], each["websocket"]) for each in greeting["open"]] == [
                *(("/room", True), ("/shout", True), ("/room", False)),
            ]
            numbers = [each["connection"] for each in greeting["open"]]
            assert numbers == sorted(numbers)
            assert greeting["open"][2]["from"] == "{}:{}".format(*reader.stdlib_socket.getsockname())
            assert greeting["unlisted"] == 0
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(feed, "KEPT_CONNECTIONS", 1)
                greeting = await hello()
            assert [each["connection"] for each in greeting["open"]] == numbers[-1:]
            assert greeting["unlisted"] == 2
            reader.reset()
        while greeting["open"]:
            greeting = await hello()
        assert greeting["unlisted"] == 0
    server.stop()


async def test_the_story_of_a_connection(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, _):
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room") as ws:
            await ws.send("hello", compress=True)
            await ws.recv()
        records = await records_until(trace, "end")
        assert [record["kind"] for record in records] == [
            *("open", "head", "checks", "head", "checks", "switch", "frame", "frame", "frame", "frame", "end"),
        ]
        request, response = (record for record in records if record["kind"] == "checks")
        assert all(check["holds"] for check in request["checks"] + response["checks"])
        assert request["accept"]["value"] in records[3]["head"]
        sent, back = records[6:8]
        assert (sent["header"][:2], sent["message_size"], sent["text"]) == ("c1", 5, "hello")
        assert (back["header"], bytes.fromhex(back["payload"]), "text" in back) == ("8105", b"hello", False)
        asked = {key: sent[key] for key in ("sender", "header", "payload")}
        await trace.send(json.dumps({"ask": 7, "for": "frame", "frame": asked}))
        answer = json.loads(await trace.recv())
        assert answer["answer"] == 7
        assert [field["name"] for field in answer["fields"]][-1] == "masking key"


async def test_a_refused_request_has_a_record_with_the_sentence_of_its_answer(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, _):
        client = await Client(socket.socket()).connect(server.port)
        refused = await client.ask(upgrade("/room", "Origin: http://elsewhere.example"))
        client.hang_up()
        records = await records_until(trace, "end")
        assert refused.status == 403
        (refusal,) = [record for record in records if record["kind"] == "refused"]
        assert (refusal["status"], refusal["code"], refusal["told"]) == (403, "origin", refused.body.decode().strip())
        assert [record["kind"] for record in records][:5] == ["open", "head", "checks", "refused", "head"]


async def test_the_handshake_of_a_connection_that_was_open_before_the_page(nursery: trio.Nursery) -> None:
    tracer = Tracer()
    page = Page(tracer, About(""), access=Access(TOKEN))
    start = partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, routes=page.routes, tracer=tracer)
    server: Server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        client = await Client(socket.socket()).connect(server.port)
        await client.open("/room?token=abc", "User-Agent: tester/1", "Cookie: a=b")
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as trace:
            greeting = json.loads(await trace.recv())
            (listed,) = greeting["open"]
            assert (listed["agent"], listed["path"]) == ("tester/1", "/room")

            async def ask(number: int) -> list[dict[str, Any]]:
                await trace.send(json.dumps({"ask": 1, "for": "handshake", "connection": number}))
                answer = json.loads(await trace.recv())
                found: list[dict[str, Any]] = answer["records"]
                return found

            records = await ask(listed["connection"])
            assert [(each["kind"], each["sender"]) for each in records] == [
                *(("head", "client"), ("checks", "client"), ("head", "server"), ("checks", "server")),
            ]
            assert all(check["holds"] for each in records if each["kind"] == "checks" for check in each["checks"])
            assert "GET /room?token=(masked) HTTP/1.1" in records[0]["head"]
            assert "Cookie: (masked, 3 bytes)" in records[0]["head"]
            assert await ask(1000) == []
            client.hang_up()
            await records_until(trace, "end")
            assert await ask(listed["connection"]) == []
    server.stop()


def test_handshakes_are_kept_within_bounds() -> None:
    tracer = Tracer()
    tracer.upgraded(1, b"GET", b"HTTP/1.1")
    assert tracer.handshake_of(1) is None, "nobody wants them"
    tracer.keep_handshakes(2)
    for number in (1, 2, 3):
        tracer.upgraded(number, b"GET", b"HTTP/1.1")
    tracer.upgraded(4, bytes(tracing.MAX_KEPT_BYTES), b"HTTP/1.1")
    assert [tracer.handshake_of(number) is not None for number in (1, 2, 3, 4)] == [False, True, True, False]
    assert tracer.held_bytes() == 2 * (tracing.KEPT_BYTES + len(b"GET" + b"HTTP/1.1"))


async def test_kept_handshakes_count_as_memory_of_the_server(nursery: trio.Nursery) -> None:
    tracer = Tracer()
    tracer.keep_handshakes(2)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, tracer=tracer))
    async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room"):
        assert_counted(tracer)
    server.stop()


def assert_counted(tracer: Tracer) -> None:
    held, usage = tracer.held_bytes(), current_loop().memory.extra_usage
    assert held > tracing.KEPT_BYTES
    used = current_loop().memory.used_bytes()
    usage.discard(tracer.held_bytes)
    assert used - current_loop().memory.used_bytes() == held


def test_each_case_is_in_one_of_four_groups() -> None:
    by_name = {case.name: group_of(case) for case in CASES}
    assert list(dict.fromkeys(by_name.values())) == ["The handshake", "Legal frames", "Broken frames", "Closing"]
    assert [by_name[name] for name in ("version-12", "ping-empty", "rsv1", "half-a-frame", "close-empty")] == [
        *("The handshake", "Legal frames", "Broken frames", "Broken frames", "Closing"),
    ]


@pytest.mark.parametrize(
    "question", ["{", "[]", "1", '{"ask": 1}', '{"ask": 1, "for": "frame"}', '{"ask": 1, "for": "case", "name": "x"}',
                 '{"ask": 1, "for": "frame", "frame": {"header": "81", "payload": ""}}',
                 '{"ask": 1, "for": "case", "name": "handshake", "path": "/a b"}',
                 '{"ask": 1, "for": "handshake", "connection": Infinity}',
                 '{"ask": [1], "for": "case", "name": "x"}', "[" * 50_000, '"' + "x" * 100_000 + '"'],
)  # fmt: skip
async def test_a_question_without_an_answer(nursery: trio.Nursery, question: str) -> None:
    async with watched(nursery) as (_, trace, _):
        await trace.send(question)
        assert json.loads(await trace.recv())["error"].startswith("this can't be answered: ")
        await trace.send('{"ask": 2, "for": "cases"}')
        assert json.loads(await trace.recv())["answer"] == 2


async def test_a_page_that_asks_and_does_not_read_is_held_back(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, _, _):
        asker = await Client.unconnected().connect(server.port)
        await asker.open(TRACE, f"Cookie: rawws-page={TOKEN}")
        question = text('{"ask": 1, "for": "cases"}')
        await asker.send(question)
        while b'"cases"' not in await asker.take_some():
            pass
        sent = 0
        # The server accepts no more than the buffers on the way hold.
        while (took := asker.try_send(question * 1000)) and sent < 32 * MIB:
            sent += took
            await wait_all_tasks_blocked()
        assert sent < 16 * MIB
        asker.reset()


async def test_a_case_is_tried_without_a_proxy(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    tried = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK))
    page = Page(Tracer(), About(f"ws://{LOOPBACK}:{tried.port}"), access=Access(TOKEN))
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, routes=page.routes))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(trace_of(server), proxy=None, headers=cookie_of(server)) as trace:
            await trace.recv()
            await trace.send('{"ask": 1, "for": "case", "name": "handshake"}')
            assert json.loads(await trace.recv())["verdict"] == "good"
    server.stop()
    tried.stop()


@pytest.mark.parametrize("keeps_jobs", [False, True])
async def test_the_page_is_told_why_there_are_no_groups(nursery: trio.Nursery, *, keeps_jobs: bool) -> None:
    hub = rawws.Hub(queue_in_memory=keeps_jobs)
    page = Page(Tracer(), About("", why_no_groups=lambda: why_none(hub.queues)), access=Access(TOKEN))
    server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, routes=page.routes))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as trace:
            about = json.loads(await trace.recv())["about"]
    assert about["no_groups"] == (None if keeps_jobs else NO_STORE.advice)
    server.stop()


async def test_the_feed_itself_is_not_shown(nursery: trio.Nursery) -> None:
    async with watched(nursery) as (server, trace, tracer):
        async with rawws.connect(trace_of(server), headers=cookie_of(server)) as other:
            await other.recv()
            await other.send('{"ask": 2, "for": "cases"}')
            await other.recv()
        kinds = [record["kind"] for record in await records_until(trace, "end")]
        assert "frame" not in kinds
        assert tracer.is_watched
    while tracer.is_watched:
        await trio.sleep(0.01)


async def test_the_first_record_is_sent_at_once_and_the_next_ones_together(
    nursery: trio.Nursery, mock_clock: MockClock
) -> None:
    async with watched(nursery) as (_, trace, tracer):
        await wait_all_tasks_blocked()
        mock_clock.jump(feed.GATHER_S)  # since the hello
        await wait_all_tasks_blocked()
        for number in (1, 2, 3):
            tracer.opened(number, "somewhere")
            await wait_all_tasks_blocked()
        batches = [json.loads(await trace.recv())["records"]]
        mock_clock.jump(feed.GATHER_S)
        batches.append(json.loads(await trace.recv())["records"])
        assert [[record["connection"] for record in records] for records in batches] == [[1], [2, 3]]


# The cost of watching


async def test_excess_records_are_dropped_and_counted(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_RECORDS", 100)
    async with watched(nursery) as (server, trace, tracer):
        room = f"ws://{LOOPBACK}:{server.port}/room"
        async with rawws.connect(room, compression=None) as ws:
            for number in range(500):
                await ws.send(str(number))
            for number in range(500):
                assert await ws.recv() == str(number)
            assert tracer.is_watched
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            records = await records_until(trace, "lost")
            (lost,) = [record["records"] for record in records if record["kind"] == "lost"]
            sent = len(records) - 1
            assert sent == 100
            assert sent + lost >= 1000
            # The dropped records may have announced connections that began or ended.
            listed = json.loads(await trace.recv())
            assert ([each["path"] for each in listed["open"]], listed["unlisted"]) == (["/room"], 0)
            # Records are sent again when there are fewer.
            await ws.send("and now?")
            await ws.recv()
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            assert b"and now?".hex() in [record.get("payload") for record in await records_until(trace, "frame")]


async def test_ends_of_connections_are_sent_later_if_there_are_too_many_at_once(
    nursery: trio.Nursery, mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_RECORDS", 100)
    async with watched(nursery) as (_, trace, tracer):
        for number in range(1, 51):
            tracer.opened(number, "somewhere")
        for number in range(1, 1001):
            tracer.ended(number, "gone")
        records: list[dict[str, Any]] = []
        while sum(record["kind"] == "end" for record in records) < 50 + feed.KEPT_CONNECTIONS:
            await wait_all_tasks_blocked()
            mock_clock.jump(feed.REST_S)
            records += json.loads(await trace.recv()).get("records", [])
        ended = [record["connection"] for record in records if record["kind"] == "end"]
        assert ended == [*range(1, 51), *range(1001 - feed.KEPT_CONNECTIONS, 1001)]
        (lost,) = [record["records"] for record in records if record["kind"] == "lost"]
        assert lost == 1000 - len(ended)


async def test_a_page_that_does_not_read_costs_no_more_than_its_budget(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "BURST_BYTES", 100_000)
    seen: list[feed.Feed] = []
    add = Tracer.add

    def note(tracer: Tracer, sink: feed.Feed) -> None:
        seen.append(sink)
        add(tracer, sink)

    monkeypatch.setattr(Tracer, "add", note)
    async with watched(nursery) as (server, _, _):  # the page's records are not read
        has_rested = False
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room", compression=None) as ws:
            for _ in range(2000):
                await ws.send("x" * 4000)
                await ws.recv()
                (sink,) = seen
                has_rested = has_rested or not sink.wants_frames
                assert sum(map(len, sink._waiting)) < 120_000
        assert has_rested


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 4100, 4200, 65536, 65540, 100_000])
def test_a_frame_is_shortened_to_its_ends(size: int) -> None:
    payload = bytes(number % 251 for number in range(size))
    raw = encode_frame(2, payload)
    header = parse_header(raw)
    assert header is not None
    kept = 65536
    frame = Frame(header, payload[:kept], payload[kept:][-64:])
    short = feed.shortened(frame)
    assert short.payload_head == payload[:4096]
    assert short.payload_tail == (payload[4096:][-64:] if not frame.payload_tail else frame.payload_tail)
    assert short.left_out_bytes == size - len(short.payload_head) - len(short.payload_tail) >= 0


def test_the_page_names_directions_as_the_log_does() -> None:
    marks = files("rawws.page").joinpath("static", "marks.js").read_text("utf-8")
    directions = {role.name.lower(): words for role, words in DIRECTIONS.items()}
    for name, expected in (("DIRECTIONS", directions), ("MARKS", {"received": IN, "sent": OUT})):
        (pairs,) = re.findall(rf"export const {name} = {{ (.*) }};", marks)
        assert dict(re.findall(r'(\w+): "([^"]*)"', pairs)) == expected


async def test_a_record_of_a_frame_has_the_message_that_ends_with_it(nursery: trio.Nursery) -> None:
    deflated = Deflater(15).deflate(b"hello " * 1000)
    said = [
        encode_frame(Opcode.TEXT, deflated[:5], fin=False, rsv=RSV1, mask_key=bytes(4)),
        encode_frame(Opcode.CONTINUATION, deflated[5:], mask_key=bytes(4)),
        encode_frame(Opcode.TEXT, b"as it is", mask_key=bytes(4)),
        encode_frame(Opcode.CLOSE, b"", mask_key=bytes(4)),
    ]
    async with watched(nursery) as (server, trace, _):
        client = await Client(socket.socket()).connect(server.port)
        await client.open("/room", "Sec-WebSocket-Extensions: permessage-deflate", then=b"".join(said))
        client.end_stream()  # otherwise the server waits for it
        records = await records_until(trace, "end")
        client.hang_up()
    begun, ended, plain, _ = (each for each in records if each["kind"] == "frame" and each["sender"] == "client")
    assert "text" not in begun
    assert ended["text"] == "hello " * 682 + "hell"
    assert "message_size" not in ended
    assert ("text" in plain, bytes.fromhex(plain["payload"])) == (False, b"as it is")
