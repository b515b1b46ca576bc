"""Jobs over HTTP whose answer doesn't reach the worker, and requests of browsers that may be another site's."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import trio

import rawws
from rawws.access.grant import Action, Grant
from rawws.access.patterns import EVERY_ROOM
from rawws.server.exchange import HttpExchange
from rawws.wire.messages import Request
from tests.groups.test_workers import Running, serving, stored

GET = b"GET /pay?group=sms&tries=9 HTTP/1.1\r\nHost: localhost\r\n\r\n"


def connect(running: Running, **options: int) -> socket.socket:
    connected = socket.socket()
    for name, value in options.items():
        connected.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
    connected.connect(("127.0.0.1", running.port))
    return connected


async def next_try(running: Running) -> str | None:
    answer = await running.ask("GET", "/pay?group=sms&wait=5")
    found: str | None = answer.fields["Rawws-Try"]
    return found


@pytest.mark.parametrize("query", ["", "&wait=5"])
async def test_a_worker_that_has_gone_gets_no_job(tmp_path: Path, query: str) -> None:
    async with serving(stored(tmp_path)) as running:
        await running.ask("GET", "/pay?group=sms")
        await running.say("1")
        with connect(running) as worker:  # all of it has arrived when the server looks
            worker.sendall(GET.replace(b"&tries=9", query.encode()))
        assert await next_try(running) == "1", "that was no try"
        assert (await running.state())["delivered"] == 1


async def test_a_worker_that_goes_while_its_answer_is_sent_loses_the_job_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(stored(tmp_path)) as running:
        await running.ask("GET", "/pay?group=sms")
        await running.say("1")
        with monkeypatch.context() as patch:
            patch.setattr(HttpExchange, "has_gone", lambda _: False)  # as if it went a moment later
            with connect(running) as worker:
                worker.sendall(GET)
            while not (await running.state())["delivered"]:
                await trio.sleep(0.01)
        assert await next_try(running) == "2"
        assert (await running.state())["redelivered"] == 1


async def test_a_worker_that_goes_between_its_job_and_the_answer_loses_the_job_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = [False, True]  # when the job is given out, and when it is to be sent
    monkeypatch.setattr(HttpExchange, "has_gone", lambda _: bool(gone and gone.pop(0)))
    async with serving(stored(tmp_path)) as running:
        await running.say("1")
        assert (await running.ask("GET", "/pay?group=sms")).status == 204
        assert not gone
        assert await next_try(running) == "2"


async def test_a_job_of_which_a_worker_has_read_a_part_is_given_to_another(tmp_path: Path) -> None:
    hub = stored(tmp_path)
    async with serving(hub, rawws.rooms(hub, is_local=True, max_size=12_000_000)) as running:
        await running.ask("GET", "/pay?group=sms")
        await running.say("x" * 12_000_000)  # more than the operating system takes
        with connect(running, SO_RCVBUF=4096) as worker:
            worker.sendall(GET)
            beginning = await trio.to_thread.run_sync(worker.recv, 1000)
        assert b"Rawws-Try: 1\r\n" in beginning
        assert await next_try(running) == "2"


# Browsers

IMAGE = {"User_Agent": "Mozilla/5.0 (X11; Linux) Firefox/80.0", "Accept": "image/webp,*/*"}


class Everybody:
    """Lets everybody in, as the cookie of a user does."""

    async def grant(self, request: Request, room: str, action: Action) -> Grant:
        return Grant("ann", EVERY_ROOM, EVERY_ROOM)


@pytest.mark.parametrize("access", [None, Everybody()], ids=["local", "with a cookie"])
async def test_an_image_of_another_site_takes_no_job(tmp_path: Path, access: Everybody | None) -> None:
    async with serving(stored(tmp_path), access=access) as running:
        await running.say("1")
        for fields in ({"Referer": "http://evil.example/"}, {}, {"Sec_Fetch_Site": "cross-site"}):
            refused = await running.ask("GET", "/pay?group=sms", **IMAGE, **fields)
            assert refused.status == 403
        own = await running.ask("GET", "/pay?group=sms", **IMAGE, Referer=f"http://127.0.0.1:{running.port}/app")
        assert (own.status, own.fields["Rawws-Try"]) == (200, "1")
