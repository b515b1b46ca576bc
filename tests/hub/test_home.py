"""Publishing from other threads than trio's: order, ids, bounds, and the time before and after the server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import queue as queues
import signal
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws import Delivery, Hub, NotServing, PublishError, QueueFull, Room, UsageError
from rawws.hub.room import state_of
from rawws.relay import thread_queue
from rawws.relay.from_threads import Function, Publication
from rawws.relay.loop import current_loop
from rawws.testing import open_pair
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.traced_memory import traced_memory

BOUNDED = pytest.mark.usefixtures("bounded")
THREADS, MESSAGES = 8, 1000


def in_threads(count: int, work: Callable[[int], object]) -> list[threading.Thread]:
    """Start threads of no event loop."""
    threads = [threading.Thread(target=work, args=[number]) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def in_a_thread(work: Callable[[], Any]) -> Any:
    """Call a function in a thread, block this one until it returns, and return or raise what it does."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE_S)
    if isinstance(found[0], Exception):
        raise found[0]
    return found[0]


def hub_here(**settings: Any) -> Hub:
    """Return a hub in a program whose loop runs, as a server's does."""
    current_loop()
    return Hub(**settings)


def forget(room: Room) -> None:
    """Publish in a thread without an event loop, and have it end."""
    assert in_a_thread(lambda: room.publish("from a thread")) == Delivery(0, 0, 0)


# Order


@BOUNDED
async def test_eight_threads_publish_while_the_loop_is_blocked_and_each_keeps_its_order() -> None:
    room = Hub().room("/")

    def publish(number: int) -> None:
        for serial in range(MESSAGES):
            room.publish(f"{number} {serial}")

    async with open_pair(max_queue=None) as (client, server):
        room.join(server)
        for thread in in_threads(THREADS, publish):
            thread.join(PATIENCE_S)  # trio's thread does nothing else, so that no call may wait for it
            assert not thread.is_alive()
        heard: list[list[int]] = [[] for _ in range(THREADS)]
        for _ in range(THREADS * MESSAGES):
            number, serial = str(await client.recv()).split()
            heard[int(number)].append(int(serial))
        assert heard == [list(range(MESSAGES))] * THREADS


@BOUNDED
async def test_a_thread_keeps_its_order_if_it_also_publishes_in_the_thread_of_trio() -> None:
    room = Hub().room("/")

    def publish() -> None:
        for serial in range(0, 30, 3):
            room.publish(str(serial))
            assert trio.from_thread.run_sync(room.publish, str(serial + 1)) == Delivery(1, 0, 0)
            room.publish_many([str(serial + 2)])

    async with open_pair(max_queue=None) as (client, server):
        room.join(server)
        await trio.to_thread.run_sync(publish)
        assert [await client.recv() for _ in range(30)] == [str(serial) for serial in range(30)]


@BOUNDED
async def test_messages_of_threads_go_out_before_trio_publishes_or_joins() -> None:
    hub = Hub()
    a, b = hub.room("/a"), hub.room("/b")
    async with open_pair() as (client, server), open_pair() as (_, late):
        a.join(server)
        forget(a)
        b.join(late)  # not a member of the other room, whose message has gone out by now
        assert a.last_id.endswith("-1")
        forget(a)
        a.publish("from trio")
        assert [await client.recv() for _ in range(3)] == ["from a thread", "from a thread", "from trio"]


@BOUNDED
async def test_a_user_is_disconnected_after_what_the_thread_has_published(nursery: trio.Nursery) -> None:
    hub = Hub()
    start = partial(rawws.serve, hub, 0, host=LOOPBACK, authenticate=lambda _: "ann")
    server = await nursery.start(start)
    uri = f"ws://{LOOPBACK}:{server.port}/room"

    def publish_and_disconnect() -> int:
        hub.room("/room").publish("your last")
        assert hub.disconnect(user="bob") == 0
        assert hub.disconnect(user="bob", wait=True) == 0
        return hub.disconnect(user="ann", reason="logged out", wait=True)

    async with rawws.connect(uri) as ann:
        assert await trio.to_thread.run_sync(publish_and_disconnect) == 1
        assert await ann.recv() == "your last"
        await ann.wait_closed()
        assert (ann.close_code, ann.close_reason) == (1008, "logged out")
    with pytest.raises(UsageError, match=r"1005"):
        in_a_thread(lambda: hub.disconnect(user="ann", code=1005))
    server.stop()


@BOUNDED
async def test_threads_find_and_make_the_same_rooms() -> None:
    barrier, found = threading.Barrier(THREADS), queues.SimpleQueue[Room]()

    def settings(_: str) -> None:
        barrier.wait(PATIENCE_S)  # until all threads have seen that there is no such room

    hub = Hub(settings=settings)
    for thread in in_threads(THREADS, lambda _: found.put(hub.room("/x"))):
        thread.join(PATIENCE_S)
    rooms = {found.get() for _ in range(THREADS)}
    assert rooms == {hub.room("/x")}
    assert len(hub.registry) == 1


@BOUNDED
async def test_a_thread_looks_at_rooms_that_come_and_go() -> None:
    hub = Hub()
    over = threading.Event()

    def look() -> int:
        looks = 0
        while not over.is_set():
            looks += 1
            for room in hub:
                assert all(member.path == "/" for member in room)
            assert len(hub.rooms) <= 20
            assert all(path.startswith("/") for path in hub.rooms)
        return looks

    async with open_pair() as (_, server), trio.open_nursery() as nursery:
        looks: list[int] = []

        async def watch() -> None:
            looks.append(await trio.to_thread.run_sync(look))

        nursery.start_soon(watch)
        for _ in range(50):
            with contextlib.ExitStack() as stack:
                for number in range(20):
                    stack.enter_context(hub.room(f"/{number}").join(server))
                await trio.sleep(0)
        over.set()
    assert looks[0] > 0


# Ids


@BOUNDED
async def test_a_thread_that_waits_gets_the_id() -> None:
    room = hub_here(history=10).room("/")
    ids = [await trio.to_thread.run_sync(lambda: room.publish("hi", wait=True)) for _ in range(3)]
    assert [str(each).partition("-")[2] for each in ids] == ["1", "2", "3"]
    assert ids[-1] == room.last_id
    assert room.publish("from trio", wait=True) == room.last_id


@BOUNDED
async def test_a_thread_that_waits_is_held_back_as_other_publishers_are() -> None:
    room = hub_here(slow="wait").room("/")
    state_of(room).holds.add("a slow peer")
    given: list[str | None] = []

    async def publish() -> None:
        given.append(await trio.to_thread.run_sync(lambda: room.publish("hi", wait=True)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(publish)
        while not state_of(room).released:
            await trio.sleep(0.001)
        forget(room)  # one that doesn't wait isn't held back, as in the thread of trio
        await wait_all_tasks_blocked()
        assert (given, room.last_id[-2:]) == ([], "-1")
        state_of(room).holds.clear()
        state_of(room).released.unpark_all()
    assert given == [room.last_id]
    assert room.last_id.endswith("-2")


async def test_an_event_loop_is_not_blocked() -> None:
    room = hub_here().room("/")

    async def wait_in_asyncio() -> None:
        room.publish("hi", wait=True)

    with pytest.raises(UsageError) as caught:
        await trio.to_thread.run_sync(asyncio.run, wait_in_asyncio())
    advice = "use await asyncio.to_thread(room.publish, message, wait=True)"
    assert str(caught.value) == f"room.publish(..., wait=True) would block the event loop; {advice}"

    async def follow_the_advice() -> str | None:
        return await asyncio.to_thread(room.publish, "hi", wait=True)

    assert await trio.to_thread.run_sync(asyncio.run, follow_the_advice()) == room.last_id


@BOUNDED
async def test_a_wait_for_a_loop_that_waits_for_the_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thread_queue, "PATIENCE_S", 0.05)
    room = hub_here(history=1).room("/")
    with pytest.raises(PublishError, match=r"^nothing was published, .* such as a wait for this thread$"):
        in_a_thread(lambda: room.publish("hi", wait=True))
    room.publish("from trio")
    assert room.last_id.endswith("-1")


# Bounds


@BOUNDED
async def test_the_thread_of_an_event_loop_gets_an_error_if_too_much_waits() -> None:
    room = Hub().room("/")
    calls = current_loop().from_threads
    large = bytes(thread_queue.MAX_WAITING_BYTES)

    async def publish() -> None:
        room.publish(large)  # of any size, if there is space at all
        assert calls.held_bytes() > len(large)
        assert current_memory[0]() > len(large)
        room.publish("one too many")

    current_memory = [current_loop().memory.used_bytes]
    with pytest.raises(QueueFull, match=r"the thread of an event loop can't wait"):
        in_a_thread(lambda: asyncio.run(publish()))
    await wait_all_tasks_blocked()
    assert calls.held_bytes() == 0
    assert room.last_id.endswith("-1")


async def test_a_bound_to_all_memory_bounds_the_queue_too() -> None:
    loop = current_loop()
    loop.limit_memory(8_000_000)
    assert loop.from_threads.queue.max_bytes == 1_000_000
    loop.limit_memory(math.inf)
    assert loop.from_threads.queue.max_bytes == thread_queue.MAX_WAITING_BYTES


@BOUNDED
async def test_a_thread_that_publishes_faster_than_the_loop_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    room = Hub().room("/")
    monkeypatch.setattr(current_loop().from_threads.queue, "max_bytes", 5000.0)
    async with open_pair(max_queue=None) as (client, server):
        room.join(server)

        def publish() -> None:
            for serial in range(1000):
                room.publish(f"{serial:200}")
                assert current.held_bytes() < 5000 + 600

        current = current_loop().from_threads
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, publish)
            assert [int(await client.recv()) for _ in range(1000)] == list(range(1000))


async def test_the_memory_of_a_call_is_counted() -> None:
    state = state_of(Hub().room("/"))
    payload = bytes(range(100))
    with traced_memory() as count:
        calls = [Publication(state, [bytes((1, 2)) + payload], None) for _ in range(1000)]
        used, _ = count()
    counted = sum(call.held_bytes for call in calls)
    assert used * 0.8 < counted < used * 1.3


@BOUNDED
async def test_a_message_that_cannot_be_sent_is_refused_in_its_own_thread() -> None:
    room = Hub().room("/")
    with pytest.raises(TypeError, match=r"a message is a str or bytes-like, not int"):
        in_a_thread(lambda: room.publish(1))  # type: ignore[call-overload]
    with pytest.raises(UnicodeEncodeError):
        in_a_thread(lambda: room.publish("\ud800"))
    assert in_a_thread(lambda: room.publish_many([])) == Delivery(0, 0, 0)
    assert not current_loop().from_threads.has_work


@BOUNDED
async def test_a_call_that_fails_has_no_effect_on_later_ones(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub(history=1)
    room, home = hub.room("/"), hub.registry.home
    room.publish("first")
    outcome = thread_queue.Outcome()

    def fail() -> None:
        raise ZeroDivisionError

    def refuse() -> None:
        raise UsageError("not like this")

    def call() -> None:
        home.put(Function(fail))
        home.put(Function(refuse))
        home.put(Function(fail, outcome))
        room.publish("second")

    await trio.to_thread.run_sync(call)
    with pytest.raises(ZeroDivisionError):
        await trio.to_thread.run_sync(outcome.wait)
    await wait_all_tasks_blocked()
    assert room.last_id.endswith("-2")
    failed, refused = caplog.records
    assert failed.getMessage() == "#0 ! a call from another thread has failed"
    assert failed.exc_info is not None
    assert refused.getMessage() == "#0 ! a call from another thread has failed: not like this"
    assert refused.exc_info is None


# Before and after


def test_a_hub_that_nobody_serves_refuses() -> None:
    room = Hub().room("/")
    with pytest.raises(NotServing, match=r"^nobody serves this hub yet, .* start rawws\.serve first$"):
        room.publish("hi")


async def test_the_end_of_a_server_publishes_what_was_accepted_and_refuses_the_rest() -> None:
    hub = Hub(history=10)
    room = hub.room("/room")
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK))
            async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/room") as ws:
                server.stop()
                await ws.wait_closed()
                forget(room)  # the drain isn't over: requests may still be answered
        assert room.last_id.endswith("-1")
        with pytest.raises(NotServing, match=r"^the server has ended"):
            forget(room)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK))
            forget(room)
            server.stop()
    assert room.last_id.endswith("-2")


async def test_the_last_messages_are_published_before_the_server_has_ended() -> None:
    hub = Hub(history=10)
    room = hub.room("/")
    with hub.serving():
        forget(room)
    assert room.last_id.endswith("-1")


async def test_a_hub_of_two_servers_is_served_until_both_have_ended() -> None:
    hub = Hub(history=10)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            first = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK))
            http = rawws.rooms(hub)

            async def second(task_status: trio.TaskStatus[rawws.Server]) -> None:
                await rawws.serve(_wait, 0, host=LOOPBACK, http=http, task_status=task_status)

            other = await nursery.start(second)
            first.stop()
            await wait_all_tasks_blocked()
            forget(hub.room("/"))
            other.stop()
    assert hub.room("/").last_id.endswith("-1")
    with pytest.raises(NotServing):
        forget(hub.room("/"))


async def _wait(ws: rawws.WebSocket) -> None:
    await ws.wait_closed()


def test_the_end_of_a_run_publishes_what_was_accepted_and_refuses_the_rest() -> None:
    room = Hub(history=10).room("/")

    async def main() -> None:
        room.publish("from trio")
        forget(room)

    trio.run(main)
    assert room.last_id.endswith("-2")
    with pytest.raises(NotServing, match=r"^the message can't be published, since the program's trio\.run has ended$"):
        room.publish("hi")
    trio.run(main)
    assert room.last_id.endswith("-4")


def test_a_message_that_comes_while_a_run_ends_is_published() -> None:
    room = Hub(history=10).room("/")

    async def publish_at_the_end() -> None:
        try:
            await trio.sleep_forever()
        finally:  # the tasks of the loop are cancelled in the same moment
            forget(room)

    async def main() -> None:
        room.publish("from trio")
        trio.lowlevel.spawn_system_task(publish_at_the_end)
        await wait_all_tasks_blocked()

    trio.run(main)
    assert room.last_id.endswith("-2")


def test_a_thread_that_waits_learns_of_the_end_of_a_run() -> None:
    room = Hub(slow="wait").room("/")
    errors: list[Exception] = []

    def publish() -> None:
        try:
            room.publish("hi", wait=True)
        except NotServing as error:
            errors.append(error)

    async def main() -> None:
        room.publish("from trio")
        state_of(room).holds.add("a slow peer")
        thread.start()
        with trio.fail_after(PATIENCE_S):
            while not state_of(room).released:
                await trio.sleep(0.001)

    thread = threading.Thread(target=publish)
    trio.run(main)
    thread.join(PATIENCE_S)
    assert len(errors) == 1
    assert room.last_id.endswith("-1")


# Other runs, processes and signals


@contextlib.contextmanager
def running_elsewhere(hub: Hub) -> Iterator[None]:
    """Serve a hub in a `trio.run` of another thread."""
    started, servers = threading.Event(), list[rawws.Server]()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            servers.append(await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK)))
            tokens.append(trio.lowlevel.current_trio_token())
            started.set()

    tokens: list[trio.lowlevel.TrioToken] = []
    thread = threading.Thread(target=trio.run, args=[main])
    thread.start()
    try:
        assert started.wait(PATIENCE_S)
        yield
    finally:
        tokens[0].run_sync_soon(servers[0].stop)
        thread.join(PATIENCE_S)


def test_another_run_of_trio_is_another_thread() -> None:
    hub = Hub(history=10)
    room = hub.room("/")

    async def main() -> None:
        assert room.publish("hi") == Delivery(0, 0, 0)
        with pytest.raises(UsageError) as caught:
            room.publish("hi", wait=True)
        advice = "use await trio.to_thread.run_sync(lambda: room.publish(message, wait=True))"
        assert str(caught.value).endswith(advice)
        assert str(await trio.to_thread.run_sync(lambda: room.publish("hi", wait=True))).endswith("-2")

    with running_elsewhere(hub):
        trio.run(main)


def test_one_of_several_loops_is_not_guessed() -> None:
    refused = pytest.raises(NotServing, match=r"^several loops run in this process")
    with running_elsewhere(Hub()), running_elsewhere(Hub()), refused:
        Hub().room("/").publish("hi")


def test_a_signal_handler_publishes_if_trio_runs_in_another_thread() -> None:
    hub = Hub(history=10)
    room = hub.room("/")
    before = signal.signal(signal.SIGUSR1, lambda *_: room.publish("hi"))
    try:
        with running_elsewhere(hub):
            signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert room.last_id.endswith("-1")


def refused_in_a_fork(room: Room) -> str:
    """Fork this process, publish in the child, and return the exception's text."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12, since there are threads
        child = os.fork()
    if not child:
        try:
            room.publish("hi")
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as answer:
        return answer.read()


@BOUNDED
async def test_a_forked_child_refuses_whichever_thread_has_forked() -> None:
    room = Hub().room("/")
    async with open_pair() as (client, server):
        room.join(server)
        refusals = [refused_in_a_fork(room), await trio.to_thread.run_sync(refused_in_a_fork, room)]
        for refusal in refusals:
            assert refusal.startswith("NotServing: the message can't be published, since this process is a fork")
        room.publish("from the parent")
        assert await client.recv() == "from the parent"
