"""The place in the source at which an application is."""

from __future__ import annotations

import asyncio
import threading

from rawws.application.whereabouts import THREAD_NAME, place_of_blocked_loop, place_of_coroutine, place_of_thread


async def outer() -> None:
    await inner()


async def inner() -> None:
    await asyncio.sleep(1000)


def test_a_coroutine_is_at_the_innermost_place_outside_asyncio() -> None:
    async def main() -> None:
        task = asyncio.create_task(outer())
        assert place_of_coroutine(task.get_coro()).endswith(", in outer"), "it hasn't begun"
        await asyncio.sleep(0)
        coroutine = task.get_coro()
        place = place_of_coroutine(coroutine)
        assert place == f"{__file__}:{inner.__code__.co_firstlineno + 1}, in inner"
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert place_of_coroutine(coroutine) == ""

    asyncio.run(main())


def test_a_thread_is_where_its_innermost_frame_is() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait)
    assert place_of_thread(thread) == "", "it hasn't begun"
    thread.start()
    try:
        assert "threading.py:" in place_of_thread(thread)
    finally:
        release.set()
        thread.join()
    assert place_of_thread(thread) == ""


def test_only_a_loop_that_is_blocked_has_a_place() -> None:
    assert place_of_blocked_loop() == ""
    is_up, release = threading.Event(), threading.Event()

    async def main() -> None:
        is_up.set()
        release.wait()

    thread = threading.Thread(target=asyncio.run, args=(main(),), name=THREAD_NAME)
    thread.start()
    try:
        is_up.wait()
        assert "threading.py:" in place_of_blocked_loop()
    finally:
        release.set()
        thread.join()


def test_a_loop_that_waits_has_none() -> None:
    loop = asyncio.new_event_loop()
    is_up = threading.Event()

    def run() -> None:
        loop.call_soon(is_up.set)
        loop.run_forever()

    thread = threading.Thread(target=run, name=THREAD_NAME)
    thread.start()
    try:
        is_up.wait()
        while place_of_blocked_loop():  # it is about to wait
            pass
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
