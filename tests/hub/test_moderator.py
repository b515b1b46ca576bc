"""A hub's functions: ``on_message`` for its WebSockets, ``on_join`` and ``on_leave``."""

from __future__ import annotations

import gc
import logging
import zlib
from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.access.grant import Action, Admitted, Grant
from rawws.access.patterns import Patterns
from rawws.errors import Cause, UsageError
from rawws.limits import Limits
from rawws.net.transport import Transport
from rawws.relay.loop import current_loop
from rawws.wire.frames import Opcode
from rawws.wire.handshake import Accept, Handshake
from tests.serving.client import Client
from tests.serving.server import RunningHub, StartHub
from tests.serving.wire import KEY, Seen, binary, close, masked, ping, seen_close, seen_text, text

WITH_IDS = "rawws.id.v1"


def stamp(sender: rawws.Sender, message: str | bytes) -> str | bytes:
    assert isinstance(message, str)
    return f"{sender.path} {message}"


async def ask_later(_: rawws.Sender, message: str | bytes) -> str | bytes:
    return message


def records_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the errors in the log."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


# Arguments


@pytest.mark.parametrize(
    ("keyword", "given", "words"),
    [
        ("on_message", ask_later, "on_message can't be async"),
        ("on_message", lambda _: None, r"2 arguments \(sender, message\)"),
        ("on_message", "f", "on_message can't be 'f'"),
        ("on_join", ask_later, "on_join is called with one argument"),
        ("on_leave", 1, "on_leave can't be 1"),
    ],
)
def test_a_function_that_cant_work_is_refused_at_once(keyword: str, given: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        rawws.Hub(**{keyword: given})


def test_a_hub_that_echoes_has_no_messages_to_ask_about() -> None:
    with pytest.raises(UsageError, match="mode='echo'"):
        rawws.Hub(mode="echo", on_message=stamp)


# Messages


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_a_changed_message_goes_to_everybody_and_is_kept(start_hub: StartHub, fast_lane: bool) -> None:
    running = start_hub(on_message=stamp, history=10, fast_lane=fast_lane)
    one, other = running.join("/a"), running.join("/a")
    await one.send(text("hi"))
    assert await one.frame() == await other.frame() == seen_text("/a hi")


async def test_fragments_come_as_one_message_and_binary_as_bytes(start_hub: StartHub) -> None:
    given: list[object] = []

    def note(_: rawws.Sender, message: str | bytes) -> str | bytes:
        given.append(message)
        return message

    running = start_hub(on_message=note)
    one = running.join()
    await one.send(masked(1, b"he", fin=False) + ping(b"p") + masked(0, b"llo") + binary(b"\xff"))
    frames = await one.frames(3)
    assert sorted(frames, key=lambda frame: frame.opcode)[:2] == [seen_text("hello"), Seen(Opcode.BINARY, b"\xff")]
    assert given == ["hello", b"\xff"]


async def test_a_compressed_message_comes_inflated(start_hub: StartHub) -> None:
    given: list[object] = []

    def note(_: rawws.Sender, message: str | bytes) -> None:
        given.append(message)

    running = start_hub(on_message=note)
    one = running.join(extensions="permessage-deflate")
    deflater = zlib.compressobj(wbits=-15)
    payload = deflater.compress(b"x" * 300) + deflater.flush(zlib.Z_SYNC_FLUSH)
    frame = masked(1, payload[:-4])  # RFC 7692 §7.2.1
    await one.send(bytes((frame[0] | 0x40,)) + frame[1:] + ping())
    assert (await one.frame()).opcode == 0xA
    assert given == ["x" * 300]


async def test_a_client_with_ids_gets_the_changed_message_with_its_id(start_hub: StartHub) -> None:
    running = start_hub(on_message=stamp)
    plain, with_ids = running.join("/a"), running.join("/a", subprotocol=WITH_IDS)
    await with_ids.frame()  # its position
    await with_ids.send(text("hi"))
    assert (await with_ids.frame()).payload.endswith(b"\n/a hi")
    assert await plain.frame() == seen_text("/a hi")


async def test_a_dropped_message_goes_to_nobody_and_the_others_do(start_hub: StartHub) -> None:
    running = start_hub(on_message=lambda _, message: None if message == "bad" else message)
    one, other = running.join(), running.join()
    received = current_loop().stats.messages_in
    await one.send(text("bad") + text("good") + text("bad"))
    assert await other.frame() == seen_text("good")
    assert current_loop().stats.messages_in == received + 3
    assert running.hub.room("/").last_id.endswith("-1")


async def test_a_close_comes_after_the_messages_before_it(start_hub: StartHub) -> None:
    def refuse(_: rawws.Sender, message: str | bytes) -> str | bytes | rawws.Close:
        return rawws.Close(4000, "enough") if message == "bad" else message

    running = start_hub(on_message=refuse)
    one, other = running.join(), running.join()
    await one.send(text("good") + ping() + text("bad") + text("late"))
    frames = [frame for frame in await one.frames_to_close() if frame.opcode != 0xA]
    assert frames == [seen_text("good"), seen_close(4000, "enough")]
    await one.send(text("later still") + close(4000))
    await one.assert_end()
    running.hub.room("/").publish("end")
    assert await other.frames(2) == [seen_text("good"), seen_text("end")]
    one.hang_up()
    while not current_loop().stats.ends[Cause.OUR_CLOSE]:
        await trio.lowlevel.checkpoint()


async def test_a_failure_costs_its_connection_alone(start_hub: StartHub, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: rawws.Sender, message: str | bytes) -> str | bytes:
        if message == "bad":
            raise ZeroDivisionError
        return message

    running = start_hub(on_message=fail)
    one, other = running.join(), running.join()
    await one.send(text("good") + text("bad") + text("bad"))
    assert await one.frames(2) == [seen_text("good"), seen_close(1011, "internal error")]
    await other.send(text("still here"))
    assert await other.frames(2) == [seen_text("good"), seen_text("still here")]
    (error,) = records_of(caplog)
    assert error == "#1 ! on_message failed; its connection is closed with 1011"
    assert caplog.text.count("Traceback") == 1
    one.hang_up()


async def test_an_answer_of_a_wrong_type_is_a_failure(start_hub: StartHub, caplog: pytest.LogCaptureFixture) -> None:
    wrong: Any = lambda _, message: {"text": message}  # noqa: E731
    running = start_hub(on_message=wrong)
    one = running.join()
    await one.send(text("a"))
    assert await one.frame() == seen_close(1011, "internal error")
    assert "on_message returned an object of the type dict" in caplog.text


async def test_messages_of_the_program_are_not_asked_about(start_hub: StartHub) -> None:
    running = start_hub(on_message=lambda *_: None)
    one = running.join()
    running.hub.room("/").publish("from the program")
    assert await one.frame() == seen_text("from the program")


async def test_a_function_may_publish_in_the_same_room(start_hub: StartHub) -> None:
    def announce(sender: rawws.Sender, message: str | bytes) -> str | bytes:
        running.hub.room(sender.path).publish(f"before {message!r}")
        return message

    running = start_hub(on_message=announce)
    one = running.join()
    await one.send(text("a") + text("b"))
    # A message that has passed is published when the rest of what came with it has been decided about.
    assert await one.frames(4) == [seen_text(each) for each in ("before 'a'", "before 'b'", "a", "b")]


async def test_a_function_may_close_the_sender_by_itself(start_hub: StartHub) -> None:
    asked: list[object] = []

    def throw_out(sender: rawws.Sender, message: str | bytes) -> str | bytes:
        asked.append(message)
        assert sender.member is not None
        sender.member.close(4001, "out")
        return message

    running = start_hub(on_message=throw_out)
    one, other = running.join(), running.join()
    await one.send(ping() + text("a") + text("b"))
    assert await one.frame() == seen_close(4001, "out")
    await one.send(close(4001))
    await one.assert_end()  # no pong after our close (§5.5.1)
    assert asked == ["a"]
    assert await other.frame() == seen_text("a")


async def test_a_message_and_a_close_that_come_together(start_hub: StartHub) -> None:
    running = start_hub(on_message=lambda *_: rawws.Close(4000))
    one = running.join()
    await one.send(text("a") + close(1000))
    assert await one.frame() == seen_close(1000)
    await one.assert_end()


async def test_a_message_and_a_close_for_a_room_that_is_for_reading_only(start_hub: StartHub) -> None:
    running = start_hub(read_only=True, on_message=stamp)
    one = running.join()
    await one.send(text("a") + close(1000))
    assert await one.frame() == seen_close(1000)
    await one.assert_end()


async def test_dropped_messages_count_for_the_rate(start_hub: StartHub, autojump_clock: trio.testing.MockClock) -> None:
    asked: list[float] = []
    running = start_hub(on_message=lambda *_: asked.append(trio.current_time()), limits=Limits(messages_per_s=10))
    one = running.join()
    began = trio.current_time()
    await one.send(text("a") * 40)
    while len(asked) < 40:
        await trio.sleep(0.1)
    assert asked[-1] - began > 1.5
    assert isinstance(autojump_clock, trio.testing.MockClock)


async def test_messages_that_were_held_back_are_asked_about_once_when_they_are_published(start_hub: StartHub) -> None:
    asked: list[str | bytes] = []

    def note(_: rawws.Sender, message: str | bytes) -> str | bytes:
        asked.append(message)
        return message

    running = start_hub(on_message=note, slow="wait", max_lag_bytes=4000)
    slow, one = running.join(send_buffer=4096), running.join()
    room = running.hub.room("/")
    while not room.is_held:
        room.publish("x" * 1000)
    await one.send(text("held"))
    await wait_all_tasks_blocked()
    assert asked == []
    while (await slow.frame()) != seen_text("held"):
        pass
    assert asked == ["held"]


async def test_messages_of_a_peer_that_is_lost_are_asked_about_with_their_path(start_hub: StartHub) -> None:
    senders: list[rawws.Sender] = []

    def note(sender: rawws.Sender, message: str | bytes) -> str | bytes:
        senders.append(sender)
        return message

    running = start_hub(on_message=note)
    one, other = running.join("/a"), running.join("/a")
    await one.send(text("last"))
    one.hang_up()
    running.hub.room("/a").publish("finds that it has gone")
    assert await other.frames(2) == [seen_text("finds that it has gone"), seen_text("last")]
    assert [sender.path for sender in senders] == ["/a"]


# Joins and leaves


class Journal:
    """Records the joins and leaves of a hub."""

    def __init__(self) -> None:
        self.joins: list[rawws.Member] = []
        self.leaves: list[rawws.Member] = []

    def start(self, start_hub: StartHub, **settings: Any) -> RunningHub:
        return start_hub(on_join=self.joins.append, on_leave=self.leaves.append, **settings)


async def end_by_its_close(_: RunningHub, client: Client) -> None:
    await client.send(close())


async def end_by_a_reset(_: RunningHub, client: Client) -> None:
    client.hang_up()


async def end_by_the_program(running: RunningHub, _: Client) -> None:
    for member in running.hub.room("/"):
        member.close()


async def end_by_a_broken_rule(_: RunningHub, client: Client) -> None:
    await client.send(b"\xff\xff")


async def end_by_a_failed_send(running: RunningHub, client: Client) -> None:
    client.hang_up()
    running.hub.room("/").publish("x")


async def end_by_the_server(running: RunningHub, _: Client) -> None:
    current_loop().drop_all(running.endpoint)


async def end_by_a_bug(running: RunningHub, _: Client) -> None:
    for peer in current_loop().peers_of(running.endpoint):
        current_loop().drop(peer, Cause.ERROR, "")


ENDS = [
    *(end_by_its_close, end_by_a_reset, end_by_the_program, end_by_a_broken_rule, end_by_a_failed_send),
    *(end_by_the_server, end_by_a_bug),
]


@pytest.mark.parametrize("end", ENDS)
async def test_each_join_has_one_leave_whatever_the_end(start_hub: StartHub, end: Callable[..., Any]) -> None:
    journal = Journal()
    running = journal.start(start_hub)
    client = running.join("/")
    assert [member.id for member in journal.joins] == [1]
    assert list(running.hub.room("/")) == journal.joins
    await end(running, client)
    while not journal.leaves:
        await trio.lowlevel.checkpoint()
    client.hang_up()
    await running.stop(1)
    assert journal.leaves == journal.joins
    assert len(running.hub.room("/")) == 0


async def test_a_peer_that_has_gone_before_it_could_join_has_neither(start_hub: StartHub) -> None:
    journal = Journal()
    running = journal.start(start_hub, hello="x")
    ours, client = running.pair()
    client.hang_up()
    running.adopt(Transport(ours))
    await running.stop(1)
    await wait_all_tasks_blocked()
    assert journal.joins == journal.leaves == []


async def test_a_peer_whose_grant_was_withdrawn_before_it_could_join_has_neither(start_hub: StartHub) -> None:
    journal = Journal()
    running = journal.start(start_hub)
    ours, client = running.pair()
    withdrawn = Grant("ann", Patterns(["/*"]), renew=lambda: None)
    handshake = Handshake((), "/a", Accept.of(KEY.decode()), None, None)
    admitted = Admitted(Action.READ, withdrawn)
    running.hub.adopt(1, Transport(ours), handshake, running.endpoint, admitted=admitted)
    assert (await client.frame()).opcode == Opcode.CLOSE
    client.hang_up()
    await running.stop(1)
    await wait_all_tasks_blocked()
    assert journal.joins == journal.leaves == []


async def test_a_program_may_close_the_others_when_one_leaves(start_hub: StartHub) -> None:
    left: list[int] = []

    def leave(member: rawws.Member) -> None:
        left.append(member.id)
        for other in running.hub.room("/"):
            other.close(4000)

    running = start_hub(on_leave=leave)
    clients = [running.join() for _ in range(3)]
    await clients[0].send(close())
    for client in clients[1:]:
        assert await client.frame() == seen_close(4000)
    await wait_all_tasks_blocked()
    assert sorted(left) == [1, 2, 3]


async def test_a_join_that_fails_costs_its_connection_and_has_a_leave(
    start_hub: StartHub, caplog: pytest.LogCaptureFixture
) -> None:
    left: list[int] = []

    def fail(_: rawws.Member) -> None:
        raise ZeroDivisionError

    running = start_hub(on_join=fail, on_leave=lambda member: left.append(member.id))
    client = running.join(trailing_data=text("a"))
    assert await client.frame() == seen_close(1011, "internal error")
    await wait_all_tasks_blocked()
    assert left == [1]
    assert records_of(caplog) == ["#1 ! on_join failed; its connection is closed with 1011"]


async def test_a_leave_that_fails_is_logged(start_hub: StartHub, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: rawws.Member) -> None:
        raise SystemExit(3)

    running = start_hub(on_leave=fail)
    client = running.join()
    client.hang_up()
    await running.endpoint.wait_empty()
    await wait_all_tasks_blocked()
    assert records_of(caplog) == ["#1 ! on_leave failed"]


async def test_nothing_of_a_member_is_kept_after_its_leave(start_hub: StartHub) -> None:
    running = start_hub(on_join=lambda _: None)
    client = running.join()
    client.hang_up()
    await running.endpoint.wait_empty()
    await wait_all_tasks_blocked()
    gc.collect()
    assert running.hub._attendance is not None
    assert running.hub._attendance._present == {}


def test_every_leave_is_told_of_when_the_program_ends() -> None:
    journal = Journal()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            running = journal.start(StartHub(nursery))
            client = running.join()
            client.stdlib_socket.detach()  # it stays open

    trio.run(main)
    assert journal.leaves == journal.joins
    assert len(journal.joins) == 1
