"""Publishing from other threads in rooms that are shared: the id is that of the stream, and nothing is lost."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio

import rawws
from rawws import Hub, PublishError, PublishUnsure, UsageError
from rawws.broadcast.stream_entries import key_of
from rawws.relay import thread_queue
from tests.redis_server import RedisServer, redis_server
from tests.serving.machine import LOOPBACK, PATIENCE_S

pytestmark = pytest.mark.usefixtures("bounded")


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncIterator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path) as server:
        yield server


async def test_a_thread_gets_the_id_of_the_stream(redis: RedisServer) -> None:
    hub = Hub(history=10)
    room = hub.room("/x")
    async with rawws.share(hub, redis.url):
        room.publish("from trio")
        given = await trio.to_thread.run_sync(lambda: room.publish("from a thread", wait=True))
        assert await redis.ask("XLEN", key_of("/x")) == 2
        assert await redis.ask("XDEL", key_of("/x"), str(given)) == 1
        with pytest.raises(UsageError, match=r"would block the event loop; use await trio\.to_thread"):
            room.publish("from trio", wait=True)


async def test_messages_that_were_accepted_reach_redis_when_the_server_ends(redis: RedisServer) -> None:
    hub = Hub(history=10_000)
    room = hub.room("/x")
    accepted = [0]

    def publish() -> None:
        try:
            while True:
                room.publish("x" * 100)
                accepted[0] += 1
        except rawws.NotServing:
            pass

    async with rawws.share(hub, redis.url), trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, drain=0))
        thread = threading.Thread(target=publish)
        thread.start()
        while accepted[0] < 1000:
            await trio.sleep(0.001)
        server.stop()
    thread.join(PATIENCE_S)
    marker = await redis.ask("EVAL", "return redis.call('GET', redis.call('KEYS', 'rawws:node:*')[1])", "0")
    assert int(str(marker).partition(":")[2]) == accepted[0] >= 1000  # the number of the last message of this node


async def test_a_thread_does_not_wait_for_ever_for_a_redis_that_is_away(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(history=10)
    room = hub.room("/x")
    async with rawws.share(hub, redis.url):
        await trio.to_thread.run_sync(lambda: room.publish("one", wait=True))
        redis.pause()
        monkeypatch.setattr(thread_queue, "PATIENCE_S", 0.2)
        with pytest.raises(PublishUnsure, match="there is no answer of the backplane"):
            await trio.to_thread.run_sync(lambda: room.publish("two", wait=True))
        redis.go_on()


async def test_a_message_that_the_backplane_refuses_is_an_error_in_its_thread(redis: RedisServer) -> None:
    hub = Hub(history=10)
    room = hub.room("/x")
    await redis.ask("SET", key_of("/x"), "no stream")
    async with rawws.share(hub, redis.url):
        with pytest.raises(PublishError, match="this message can't be published: WRONGTYPE"):
            await trio.to_thread.run_sync(lambda: room.publish("one", wait=True))
        with pytest.raises(UsageError, match="a message's key is sent as UTF-8"):
            await trio.to_thread.run_sync(lambda: room.publish("one", key="\ud800"))
