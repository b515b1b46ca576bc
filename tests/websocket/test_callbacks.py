"""WebSockets whose messages a program gets by callbacks, against a raw peer on a pair of sockets."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws.errors import Cause, UsageError
from rawws.hub.hub import Hub
from rawws.hub.room import state_of
from rawws.limits import KIB, MIB, Limits
from rawws.net.transport import Transport
from rawws.relay.actions import ForgetMessages
from rawws.relay.loop import current_loop
from rawws.relay.peer import PeerGroup
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.websocket.callbacks import BatchCallbacks, CallbackWebSocket, check_callbacks, has_callbacks
from rawws.websocket.internals import peer_of, send_together
from rawws.wire.frames import Opcode
from rawws.wire.handshake import Accept, Handshake
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.role import Role
from tests.serving.client import Client
from tests.serving.wire import KEY, Seen, binary, close, masked, ping, seen_close, seen_text, text

SMALL_BUFFER = 4096

Act = Callable[[CallbackWebSocket, Any], None]


class Journal(rawws.Callbacks):
    """Keeps the calls of its callbacks, and acts on each message as it is told to."""

    def __init__(self, act: Act = lambda *_: None) -> None:
        self.act = act
        self.calls: list[tuple[str, int, Any]] = []

    def opened(self, ws: CallbackWebSocket, /) -> None:
        self.calls.append(("opened", ws.id, None))

    def message(self, ws: CallbackWebSocket, data: str | bytes, /) -> None:
        self.calls.append(("message", ws.id, data))
        self.act(ws, data)

    def closed(self, ws: CallbackWebSocket, /) -> None:
        assert ws.closed is not None
        self.calls.append(("closed", ws.id, ws.closed.cause))

    def pause_writing(self, ws: CallbackWebSocket, /) -> None:
        self.calls.append(("pause_writing", ws.id, None))

    def resume_writing(self, ws: CallbackWebSocket, /) -> None:
        self.calls.append(("resume_writing", ws.id, None))

    def names(self, number: int = 1) -> list[str]:
        return [name for name, who, _ in self.calls if who == number]

    @property
    def messages(self) -> list[Any]:
        return [data for name, _, data in self.calls if name == "message"]


class CountingTransport(Transport):
    """A transport that counts what is sent at a time."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self.sends = 0
        self.send_now = self._send_and_count

    def _send_and_count(self, data: bytes | bytearray | memoryview) -> int:
        self.sends += 1
        return self._socket.send(data)


class Opener:
    """Opens connections with callbacks, and closes the clients at the end."""

    def __init__(self) -> None:
        self.endpoint = PeerGroup(Limits())
        self.clients: list[Client] = []
        self.transports: list[CountingTransport] = []
        self.opened: list[CallbackWebSocket] = []

    def __call__(
        self, callbacks: Any, *, send_buffer: int | None = None, trailing_data: bytes = b"", **settings: Any
    ) -> tuple[Client, CallbackWebSocket]:
        ours, theirs = socket.socketpair()
        if send_buffer is not None:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        client = Client(theirs)
        self.clients.append(client)
        self.transports.append(CountingTransport(ours))
        ws = CallbackWebSocket(
            callbacks,
            self.transports[-1],
            Role.SERVER,
            number=len(self.clients),
            endpoint=self.endpoint,
            request=Request("GET", "/path", "1.1", Headers([("Host", "a")])),
            response=Response(101),
            subprotocol=None,
            agreement=None,
            remote_address="",
            trailing_data=trailing_data,
            **settings,
        )
        self.opened.append(ws)
        return client, ws

    async def wait_empty(self) -> None:
        await self.endpoint.wait_empty()
        await wait_all_tasks_blocked()


@pytest.fixture
async def opener(bounded: None) -> Any:  # noqa: ARG001
    found = Opener()
    yield found
    for client in found.clients:
        client.hang_up()


def echo(ws: CallbackWebSocket, data: str | bytes) -> None:
    ws.send_nowait(data)


def fail(*_: object) -> None:
    raise ZeroDivisionError


async def wait_later(*_: object) -> None:
    """A callback must not be a function like this."""


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# Objects


def test_objects_with_a_callback_are_told_from_handlers() -> None:
    class Minimal:
        def message(self, ws: object, data: object) -> None:
            """Take a message."""

    class Handler(Minimal):
        async def __call__(self, ws: object) -> None:
            """Serve a connection."""

    assert has_callbacks(Minimal())
    assert has_callbacks(Journal())
    assert not any(map(has_callbacks, (Minimal, Handler(), Hub(), wait_later, 5, None, object())))


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("message", wait_later, "message of the handler can't be async"),
        ("message", lambda _: None, r"2 arguments \(ws, data\)"),
        ("closed", wait_later, "closed of the handler can't be async"),
        ("opened", 5, "opened of the handler can't be 5"),
        ("resume_writing", lambda: None, "one argument"),
    ],
)
def test_a_callback_that_cant_work_is_refused_at_once(name: str, given: Any, words: str) -> None:
    journal = Journal()
    setattr(journal, name, given)
    with pytest.raises(UsageError, match=words):
        check_callbacks("the handler", journal)


async def test_callbacks_that_are_left_out_do_nothing(opener: Opener) -> None:
    class Minimal:
        def message(self, ws: CallbackWebSocket, data: str | bytes) -> None:
            ws.send_nowait(data)

    client, _ = opener(Minimal())
    await client.send(text("a") + close())
    assert await client.frames(2) == [seen_text("a"), seen_close(1000)]
    client.hang_up()
    await opener.wait_empty()


async def test_an_object_without_message_drops_the_messages(opener: Opener) -> None:
    class Silent:
        def opened(self, ws: CallbackWebSocket) -> None:
            ws.send_nowait("hello")

    client, _ = opener(Silent(), trailing_data=text("a") + close())
    assert await client.frames(2) == [seen_text("hello"), seen_close(1000)]


# Messages


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_messages_come_whole_in_order_and_by_their_type(opener: Opener, fast_lane: bool) -> None:
    journal = Journal(echo)
    client, ws = opener(journal, fast_lane=fast_lane, trailing_data=text("first"))
    await client.send(masked(1, b"he", fin=False) + ping(b"p") + masked(0, b"llo") + binary(b"\xff") + text("é"))
    frames = [frame for frame in await client.frames(5) if frame.opcode != Opcode.PONG]
    assert frames == [seen_text("first"), seen_text("hello"), Seen(Opcode.BINARY, b"\xff"), seen_text("é")]
    await client.send(close(4000, "bye"))
    assert await client.frame() == seen_close(4000, "bye")
    client.hang_up()
    await opener.wait_empty()
    assert journal.names() == ["opened", *["message"] * 4, "closed"]
    assert journal.messages == ["first", "hello", b"\xff", "é"]
    assert (ws.close_code, ws.close_reason, ws.state) == (4000, "bye", rawws.State.CLOSED)


@pytest.mark.parametrize("size", [0, 125, 126, 70_000])
async def test_messages_of_all_sizes_are_answered(opener: Opener, size: int) -> None:
    client, _ = opener(Journal(echo))
    await client.send(masked(1, b"x" * size) + masked(2, b"y" * size))
    assert await client.frames(2) == [seen_text("x" * size), Seen(Opcode.BINARY, b"y" * size)]


async def test_the_answers_to_what_came_together_go_out_together(opener: Opener) -> None:
    def answer_twice(ws: CallbackWebSocket, data: str) -> None:
        ws.send_nowait(f"{data}1")
        ws.send_nowait(f"{data}2")

    client, _ = opener(Journal(answer_twice))
    sent = current_loop().stats.messages_out
    await client.send(text("a") + text("b") + text("c"))
    assert await client.frames(6) == [seen_text(each) for each in ("a1", "a2", "b1", "b2", "c1", "c2")]
    assert opener.transports[0].sends == 1
    assert current_loop().stats.messages_out == sent + 6


async def test_the_messages_for_another_connection_go_out_together_after_the_turn(opener: Opener) -> None:
    def pass_on(ws: CallbackWebSocket, data: str) -> None:
        assert other.send_nowait(f"{ws.id}: {data}")

    journal = Journal(pass_on)
    two, other = opener(journal)
    one, _ = opener(journal)
    three, _ = opener(journal)
    await one.send(text("a") + text("b"))
    await three.send(text("c"))
    assert sorted(await two.frames(3)) == [seen_text(each) for each in ("2: a", "2: b", "3: c")]
    assert opener.transports[0].sends <= 2


class Taking(Journal, BatchCallbacks):
    """Takes the messages before the first one that is ``"one"``, and fails with ``"fail"``."""

    def take(self, ws: CallbackWebSocket, events: Any, /) -> Any:
        payloads = [event[1] for event in events]
        self.calls.append(("take", ws.id, payloads))
        if b"fail" in payloads:
            raise ZeroDivisionError
        return events[payloads.index(b"one") :] if b"one" in payloads else ()


async def test_callbacks_of_rawws_may_take_the_messages_of_a_read_at_once(opener: Opener) -> None:
    taking = Taking(echo)
    client, _ = opener(taking)
    await client.send(text("a") + text("b") + text("one") + text("c"))
    assert await client.frames(2) == [seen_text("one"), seen_text("c")]
    assert taking.calls[1:] == [
        ("take", 1, [b"a", b"b", b"one", b"c"]),
        ("message", 1, "one"),
        ("message", 1, "c"),
    ]
    await client.send(text("fail"))
    assert await client.frame() == seen_close(1011, "internal error")


async def test_messages_that_rawws_sends_together_are_one_send(opener: Opener) -> None:
    client, ws = opener(Journal())
    sent = current_loop().stats.messages_out
    assert send_together(ws, [(Opcode.TEXT, b"a"), (Opcode.BINARY, b"b"), (Opcode.TEXT, b"c" * 70_000)])
    assert send_together(ws, [])
    assert await client.frames(3) == [seen_text("a"), Seen(Opcode.BINARY, b"b"), seen_text("c" * 70_000)]
    assert current_loop().stats.messages_out == sent + 3
    ws.close()
    assert not send_together(ws, [(Opcode.TEXT, b"d")])
    assert await client.frame() == seen_close(1000)


async def test_messages_that_are_sent_together_wait_for_a_slow_peer_within_its_limit(opener: Opener) -> None:
    journal = Journal()
    client, ws = opener(journal, send_buffer=SMALL_BUFFER)
    ws.max_buffered_bytes = 200 * KIB
    assert send_together(ws, [(Opcode.TEXT, b"x" * 100 * KIB)] * 3)
    assert journal.names() == ["opened", "pause_writing"]
    assert not send_together(ws, [(Opcode.TEXT, b"y")])
    assert (await client.frames_to_close())[-1].payload[:2] == (1013).to_bytes(2, "big")


async def test_messages_can_be_passed_round_in_a_ring(opener: Opener) -> None:
    found: list[CallbackWebSocket] = []

    def pass_on(ws: CallbackWebSocket, data: str) -> None:
        found[ws.id % len(found)].send_nowait(data)

    clients = []
    for _ in range(3):
        client, ws = opener(Journal(pass_on))
        clients.append(client)
        found.append(ws)
    await clients[0].send(text("round"))
    for client in (clients[1], clients[2]):
        assert await client.frame() == seen_text("round")
        await client.send(text("round"))
    assert await clients[0].frame() == seen_text("round")


async def test_any_task_may_send_and_a_thread_may_not(opener: Opener) -> None:
    client, ws = opener(Journal())
    assert ws.send_nowait("one")
    assert ws.send_nowait(b"two")
    assert ws.send_nowait("three", text=False)
    assert [frame.payload for frame in await client.frames(3)] == [b"one", b"two", b"three"]
    with pytest.raises(UsageError):
        await trio.to_thread.run_sync(ws.send_nowait, "four")
    with pytest.raises(TypeError):
        ws.send_nowait(5)  # type: ignore[arg-type]


async def test_a_message_of_a_wrong_type_costs_the_connection(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    client, _ = opener(Journal(lambda ws, data: ws.send_nowait({"a": data})))  # type: ignore[arg-type]
    await client.send(text("a"))
    assert await client.frame() == seen_close(1011, "internal error")
    assert "a message is a str or bytes-like, not dict" in caplog.text


async def test_a_program_may_keep_attributes_in_a_connection(opener: Opener) -> None:
    class Counting(rawws.Callbacks):
        def opened(self, ws: Any, /) -> None:
            ws.count = 0

        def message(self, ws: Any, data: str | bytes, /) -> None:
            ws.count += 1
            ws.send_nowait(f"{ws.count} {data!r} {ws.path} {ws.request.method} {ws.response.status}")

    client, _ = opener(Counting())
    await client.send(text("a") + text("b"))
    assert (await client.frames(2))[1] == seen_text("2 'b' /path GET 101")


# The end


async def test_messages_that_come_with_a_close_are_answered_before_it(opener: Opener) -> None:
    journal = Journal(echo)
    client, _ = opener(journal)
    await client.send(text("a") + text("b") + close(1000))
    assert await client.frames_to_close() == [seen_text("a"), seen_text("b"), seen_close(1000)]
    await client.assert_end()
    client.hang_up()
    await opener.wait_empty()
    assert journal.names() == ["opened", "message", "message", "closed"]


async def test_messages_before_a_fault_are_answered(opener: Opener) -> None:
    journal = Journal(echo)
    client, _ = opener(journal)
    await client.send(text("a") + b"\xff\xff")
    frames = await client.frames(2)
    assert frames[0] == seen_text("a")
    assert frames[1].payload[:2] == (1002).to_bytes(2, "big")
    client.hang_up()
    await opener.wait_empty()
    assert journal.calls[-1] == ("closed", 1, Cause.PROTOCOL_ERROR)


async def test_a_close_in_a_callback_comes_after_the_answers_and_ends_the_messages(opener: Opener) -> None:
    def answer_and_close(ws: CallbackWebSocket, data: str) -> None:
        assert ws.send_nowait(data)
        ws.close(4000, "enough")
        assert not ws.send_nowait("too late")
        assert ws.state is rawws.State.CLOSING

    journal = Journal(answer_and_close)
    client, _ = opener(journal)
    await client.send(ping() + text("a") + text("b"))
    assert await client.frames(2) == [seen_text("a"), seen_close(4000, "enough")]
    await client.send(text("c") + close(4000))
    await client.assert_end()  # no pong after our close (§5.5.1)
    client.hang_up()
    await opener.wait_empty()
    assert journal.calls == [("opened", 1, None), ("message", 1, "a"), ("closed", 1, Cause.OUR_CLOSE)]


async def test_a_close_in_a_callback_has_no_effect_after_the_peers(opener: Opener) -> None:
    client, ws = opener(Journal(lambda ws, _: ws.close(4000)))
    await client.send(text("a") + close(1001))
    assert await client.frame() == seen_close(1001)
    client.hang_up()
    await opener.wait_empty()
    assert ws.closed is not None
    assert ws.closed.cause is Cause.PEER_CLOSE


async def test_a_connection_that_is_closed_when_it_opens_gets_no_message(opener: Opener) -> None:
    class Full(Journal):
        def opened(self, ws: CallbackWebSocket, /) -> None:
            super().opened(ws)
            ws.close(1013, "full")

    journal = Full()
    client, _ = opener(journal, trailing_data=text("a"))
    assert await client.frame() == seen_close(1013, "full")
    client.hang_up()
    await opener.wait_empty()
    assert journal.names() == ["opened", "closed"]


async def test_sending_after_the_end_does_nothing(opener: Opener) -> None:
    taken: list[bool] = []

    class Late(Journal):
        def closed(self, ws: CallbackWebSocket, /) -> None:
            super().closed(ws)
            taken.append(ws.send_nowait("too late"))
            ws.close()

    journal = Late()
    client, ws = opener(journal)
    client.hang_up()
    await opener.wait_empty()
    assert taken == [False]
    assert not ws.send_nowait("too late")
    assert journal.names() == ["opened", "closed"]


async def end_by_its_close(opener: Opener) -> None:
    await opener.clients[0].send(close())
    await opener.clients[0].frame()
    opener.clients[0].hang_up()


async def end_by_a_reset(opener: Opener) -> None:
    opener.clients[0].hang_up()


async def end_by_the_program(opener: Opener) -> None:
    opener.opened[0].close()
    opener.clients[0].hang_up()


async def end_by_a_broken_rule(opener: Opener) -> None:
    await opener.clients[0].send(b"\xff\xff")
    opener.clients[0].hang_up()


async def end_by_a_failed_send(opener: Opener) -> None:
    opener.clients[0].hang_up()
    opener.opened[0].send_nowait("x")


async def end_by_the_server(opener: Opener) -> None:
    current_loop().drop_all(opener.endpoint)


async def end_by_a_bug(opener: Opener) -> None:
    current_loop().drop(peer_of(opener.opened[0]), Cause.ERROR, "")


async def end_in_its_own_message(opener: Opener) -> None:
    await opener.clients[0].send(text("drop") + text("and more"))


ENDS = [
    *(end_by_its_close, end_by_a_reset, end_by_the_program, end_by_a_broken_rule, end_by_a_failed_send),
    *(end_by_the_server, end_by_a_bug, end_in_its_own_message),
]


@pytest.mark.parametrize("end", ENDS)
async def test_each_opened_has_one_closed_whatever_the_end(opener: Opener, end: Callable[..., Any]) -> None:
    def act(ws: CallbackWebSocket, data: str) -> None:
        ws.send_nowait("answer")
        if data == "drop":
            current_loop().drop(peer_of(ws), Cause.ERROR, "")

    journal = Journal(act)
    opener(journal)
    await end(opener)
    await opener.wait_empty()
    names = journal.names()
    assert (names[0], names[-1]) == ("opened", "closed")
    assert names.count("opened") == names.count("closed") == 1
    assert current_loop().peer_count == 0


def test_every_end_is_told_of_when_the_program_ends() -> None:
    journal = Journal()

    async def main() -> None:
        client, _ = Opener()(journal)
        client.stdlib_socket.detach()  # it stays open

    trio.run(main)
    assert journal.names() == ["opened", "closed"]


async def test_a_connection_that_ends_may_end_all_the_others(opener: Opener) -> None:
    found: list[CallbackWebSocket] = []

    class Together(Journal):
        def closed(self, ws: CallbackWebSocket, /) -> None:
            super().closed(ws)
            for other in found:
                other.close(4000)

    journal = Together()
    clients = []
    for _ in range(300):
        client, ws = opener(journal)
        found.append(ws)
        clients.append(client)
    for client in clients:
        client.hang_up()
    await opener.wait_empty()
    assert sorted(who for name, who, _ in journal.calls if name == "closed") == list(range(1, 301))


# Failures


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(3), KeyboardInterrupt()])
async def test_a_failure_costs_its_connection_alone(
    opener: Opener, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def act(ws: CallbackWebSocket, data: str) -> None:
        ws.send_nowait(data)
        if data == "bad":
            raise error

    journal = Journal(act)
    client, _ = opener(journal)
    other, _ = opener(journal)
    await client.send(text("a") + text("bad") + text("late"))
    frames = await client.frames(3)
    assert frames == [seen_text("a"), seen_text("bad"), seen_close(1011, "internal error")]
    client.hang_up()
    await other.send(text("b"))
    assert await other.frame() == seen_text("b")
    assert errors_in(caplog) == ["#1 ! the callback message failed; its connection is closed with 1011"]
    assert caplog.text.count("Traceback") == 1
    while "closed" not in journal.names():
        await trio.lowlevel.checkpoint()
    assert journal.names() == ["opened", "message", "message", "closed"]


async def test_a_failure_when_it_opens_costs_the_connection(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    journal.opened = fail  # type: ignore[method-assign]
    client, _ = opener(journal, trailing_data=text("a"))
    assert await client.frame() == seen_close(1011, "internal error")
    client.hang_up()
    await opener.wait_empty()
    assert errors_in(caplog) == ["#1 ! the callback opened failed; its connection is closed with 1011"]
    assert journal.names() == ["closed"]


async def test_a_failure_at_the_end_is_logged(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal()
    journal.closed = fail  # type: ignore[method-assign]
    client, _ = opener(journal)
    client.hang_up()
    await opener.wait_empty()
    assert errors_in(caplog) == ["#1 ! the callback closed failed"]


@pytest.mark.parametrize("name", ["message", "opened", "closed"])
async def test_the_result_of_an_async_function_is_a_failure(
    opener: Opener, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    journal = Journal()
    setattr(journal, name, lambda *_: wait_later())
    client, _ = opener(journal, trailing_data=text("a"))
    client.hang_up()
    await opener.wait_empty()
    assert f"the callback {name} has returned something to be awaited; callbacks are plain functions" in caplog.text


async def test_the_result_of_a_callback_is_ignored_otherwise(opener: Opener) -> None:
    journal = Journal()
    journal.message = lambda ws, _: ws.send_nowait("a")  # type: ignore[method-assign, assignment]
    client, _ = opener(journal, trailing_data=text("a"))
    assert await client.frame() == seen_text("a")


# Peers that read slowly


def fill(ws: CallbackWebSocket, size: int = 1000) -> None:
    """Send until the program is asked to stop."""
    while ws.buffered_bytes <= MAX_OUTBOX_BYTES:
        assert ws.send_nowait("x" * size)


async def test_a_program_is_asked_to_stop_and_to_go_on(opener: Opener) -> None:
    journal = Journal()
    client, ws = opener(journal, send_buffer=SMALL_BUFFER)
    fill(ws)
    assert journal.names() == ["opened", "pause_writing"]
    waiting = ws.buffered_bytes
    assert ws.send_nowait("more")
    assert ws.buffered_bytes == waiting + 6
    assert journal.names() == ["opened", "pause_writing"]
    while await client.frame() != seen_text("more"):
        pass
    await wait_all_tasks_blocked()
    assert journal.names() == ["opened", "pause_writing", "resume_writing"]
    assert ws.buffered_bytes == 0
    fill(ws)
    assert journal.names()[-1] == "pause_writing"


async def test_a_program_that_goes_on_sends_a_stream_as_the_peer_takes_it(opener: Opener) -> None:
    left = list(range(2000, 0, -1))

    class Stream(rawws.Callbacks):
        def opened(self, ws: Any, /) -> None:
            ws.is_paused = False
            self.resume_writing(ws)

        def pause_writing(self, ws: Any, /) -> None:
            ws.is_paused = True

        def resume_writing(self, ws: Any, /) -> None:
            ws.is_paused = False
            while left and not ws.is_paused:
                ws.send_nowait(f"{left.pop()} {'x' * 500}")

    client, _ = opener(Stream(), send_buffer=SMALL_BUFFER)
    numbers = [int(frame.payload.split()[0]) for frame in await client.frames(2000)]
    assert numbers == list(range(1, 2001))


async def test_a_peer_that_takes_nothing_is_closed_when_too_much_waits(
    opener: Opener, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal()
    client, ws = opener(journal, send_buffer=SMALL_BUFFER)
    ws.max_buffered_bytes = 200 * KIB
    while ws.send_nowait("x" * 1000):
        assert ws.buffered_bytes <= 201 * KIB + 1000
    assert "reads too slowly" in caplog.text
    assert ws.state is rawws.State.CLOSING
    assert (await client.frames_to_close())[-1].payload[:2] == (1013).to_bytes(2, "big")
    client.hang_up()
    await opener.wait_empty()
    assert journal.calls[-1] == ("closed", 1, Cause.SLOW_PEER)


async def test_a_callback_may_send_one_message_of_any_size(opener: Opener) -> None:
    size = 20 * MIB  # more than may wait

    def send(ws: CallbackWebSocket, _: str) -> None:
        assert ws.send_nowait(bytes(size))

    client, ws = opener(Journal(send))
    await client.send(text("go"))
    received = 0
    while received < size:
        received += len(await client.take_some())
    assert received == size + 10
    assert ws.state is rawws.State.OPEN


async def test_a_callback_that_sends_without_end_costs_a_bounded_number_of_bytes(opener: Opener) -> None:
    most = 0

    def flood(ws: CallbackWebSocket, _: str) -> None:
        nonlocal most
        while ws.send_nowait(bytes(10_000)):
            most = max(most, ws.buffered_bytes)

    client, ws = opener(Journal(flood), send_buffer=SMALL_BUFFER)
    await client.send(text("go"))
    await wait_all_tasks_blocked()
    assert ws.state is rawws.State.CLOSING
    assert ws.max_buffered_bytes < most <= ws.max_buffered_bytes + MAX_OUTBOX_BYTES + 20_000


async def test_a_peer_that_reads_no_answers_is_read_no_further(opener: Opener) -> None:
    journal = Journal(echo)
    client, ws = opener(journal, send_buffer=SMALL_BUFFER)
    flood = await fill_with_answers(journal, client)
    read = len(journal.messages)
    for _ in range(10):
        flood.send_on()
        await wait_all_tasks_blocked()
    assert len(journal.messages) == read
    assert MAX_OUTBOX_BYTES < ws.buffered_bytes < 3 * MAX_OUTBOX_BYTES


class Flood:
    """Messages without end, each of the same size, sent as the socket takes them."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._frame = text("x" * 120)
        self._sent = 0  # of the present frame

    def send_on(self) -> None:
        sent = self._client.try_send((self._frame * 1000)[self._sent :])
        self._sent = (self._sent + sent) % len(self._frame)


async def fill_with_answers(journal: Journal, client: Client) -> Flood:
    """Send messages until so many answers wait that the program is asked to stop."""
    flood = Flood(client)
    while "pause_writing" not in journal.names():
        flood.send_on()
        await trio.lowlevel.checkpoint()
    return flood


@pytest.mark.parametrize("traffic", ["answers", "pushed"])
async def test_a_peer_that_reads_nothing_is_given_up_by_its_keepalive(
    opener: Opener, autojump_clock: MockClock, traffic: str
) -> None:
    opener.endpoint = PeerGroup(Limits(ping_interval_s=5, ping_timeout_s=5))
    journal = Journal(echo)
    client, ws = opener(journal, send_buffer=SMALL_BUFFER)
    if traffic == "pushed":
        fill(ws)
    else:
        await fill_with_answers(journal, client)
    began = trio.current_time()
    await ws_closed(journal)
    assert trio.current_time() - began < 30
    assert journal.calls[-1] == ("closed", 1, Cause.PING_TIMEOUT)
    assert isinstance(autojump_clock, MockClock)


async def ws_closed(journal: Journal) -> None:
    while "closed" not in journal.names():
        await trio.sleep(0.5)


# The loop


async def test_a_callback_that_blocks_is_told_of(opener: Opener, caplog: pytest.LogCaptureFixture) -> None:
    opener.endpoint = PeerGroup(Limits(ping_interval_s=0.4))  # so that the timers tick often
    client, _ = opener(Journal(lambda *_: time.sleep(0.7)))
    while "the event loop was blocked for at least" not in caplog.text:
        await client.send(text("a"))
        await trio.sleep(0.05)


async def test_the_slower_a_callback_the_fewer_messages_it_gets_in_a_turn(opener: Opener) -> None:
    turns: list[int] = []

    def work(_: CallbackWebSocket, data: str) -> None:
        turns.append(current_loop().stats.turns)
        if data == "work":
            time.sleep(0.001)

    client, _ = opener(Journal(work))
    await client.send(text("work") * 800 + text("quick") * 4000)
    while len(turns) < 4800:
        await trio.lowlevel.checkpoint()
    # The first turn takes what it gets. Then 10 ms are the aim, and more again when the program is quick.
    assert max(Counter(turns[500:800]).values()) <= 20
    assert max(Counter(turns[800:]).values()) > 100


async def test_the_memory_of_a_connection_is_counted(opener: Opener) -> None:
    before = current_loop().memory.used_bytes()
    _, ws = opener(Journal(), send_buffer=SMALL_BUFFER)
    idle = current_loop().memory.used_bytes() - before
    assert 2 * KIB < idle < 20 * KIB
    fill(ws)
    assert current_loop().memory.used_bytes() - before - idle > MAX_OUTBOX_BYTES


async def test_a_peer_that_is_closed_for_its_memory_is_read_until_its_close(opener: Opener) -> None:
    journal = Journal()
    client, ws = opener(journal)
    loop = current_loop()
    loop.close(peer_of(ws), 1013, "", Cause.LIMIT)
    inbox = peer_of(ws).inbox
    assert inbox is not None
    loop._carry_out(ForgetMessages(inbox))
    await client.send(text("a") * 100 + close(1013))
    await client.frame()
    await client.assert_end()
    client.hang_up()
    await opener.wait_empty()
    assert journal.calls[-1] == ("closed", 1, Cause.LIMIT)
    assert ws.close_code == 1013


async def test_a_pong_gives_the_latency(opener: Opener, autojump_clock: MockClock) -> None:
    opener.endpoint = PeerGroup(Limits(ping_interval_s=1))
    client, ws = opener(Journal())
    assert ws.latency is None
    frame = await client.frame()
    assert frame.opcode == Opcode.PING
    await client.send(masked(Opcode.PONG, frame.payload))
    while ws.latency is None:
        await trio.sleep(0.01)
    assert isinstance(autojump_clock, MockClock)


# Rooms


async def test_a_connection_joins_rooms_and_gets_everything_in_order(opener: Opener) -> None:
    hub = Hub(history=5)
    room = hub.room("/r")

    class Chat(Journal):
        def opened(self, ws: CallbackWebSocket, /) -> None:
            ws.send_nowait("hello")
            room.join(ws)
            ws.send_nowait("you are in")

        def message(self, ws: CallbackWebSocket, data: str | bytes, /) -> None:
            if data == "leave":
                room.leave(ws)
            ws.send_nowait("before")
            room.publish(f"{ws.id}: {data!r}")
            ws.send_nowait("after")

    chat = Chat()
    one, ws = opener(chat, user="ann")
    two, _ = opener(chat)
    (member, _) = list(room)
    assert (member.user, member.path, member.websocket) == ("ann", "/path", None)
    assert ws in room
    await one.send(text("hi") + text("leave") + text("gone"))
    assert [frame.payload.decode() for frame in await one.frames(9)] == [
        *("hello", "you are in"),
        *("before", "1: 'hi'", "after"),
        *("before", "after"),
        *("before", "after"),
    ]
    assert [frame.payload.decode() for frame in await two.frames(5)][2:] == ["1: 'hi'", "1: 'leave'", "1: 'gone'"]
    await one.send(text("x"))
    assert ws not in room
    one.hang_up()
    two.hang_up()
    await opener.wait_empty()
    assert len(room) == 0
    assert len(state_of(room).peers) == 0


async def test_a_connection_that_joins_in_a_turn_gets_what_is_published_from_then_on(opener: Opener) -> None:
    hub = Hub()

    def join(ws: CallbackWebSocket, data: str) -> None:
        hub.room("/r").publish(f"before {data}")
        hub.room("/r").join(ws)
        hub.room("/r").publish(f"after {data}")

    client, _ = opener(Journal(join))
    await client.send(text("a"))
    assert await client.frame() == seen_text("after a")


async def test_messages_before_a_join_and_a_leave_in_the_same_turn_count_as_earlier(opener: Opener) -> None:
    hub = Hub()
    room = hub.room("/r")

    def join_or_leave(ws: CallbackWebSocket, data: str) -> None:
        if data == "join":
            room.join(ws)
        else:
            room.leave(ws)
        room.publish(data)

    ours, theirs = socket.socketpair()
    relayed = Client(theirs)
    opener.clients.append(relayed)
    hub.adopt(9, Transport(ours), Handshake((), "/r", Accept.of(KEY.decode()), None, None), opener.endpoint)
    client, _ = opener(Journal(join_or_leave))
    await wait_all_tasks_blocked()
    for word in ("join", "leave"):
        # epoll reports sockets in the order in which they became ready.
        relayed.try_send(text(f"before the {word}"))
        client.try_send(text(word))
        assert await relayed.frames(2) == [seen_text(f"before the {word}"), seen_text(word)]
    room.publish("after")
    await relayed.frame()
    await client.send(ping())
    *texts, pong = await client.frames(3)
    assert texts == [seen_text("join"), seen_text("before the leave")]
    assert pong.opcode == Opcode.PONG
