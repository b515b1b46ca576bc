"""The one line that the log has at INFO about each request that doesn't upgrade."""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import rawws
from rawws import Request, Response
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK
from tests.serving.wire import get, upgrade


def access_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the lines say, with any time below a second replaced."""
    messages = [record.getMessage() for record in caplog.records if record.name == "rawws.http"]
    return [re.sub(r"\d+\.\d ms$", "MS", message) for message in messages if re.match(r"#\d+ = [A-Z]+ \S+: ", message)]


async def answer(request: Request) -> Response | str | None:
    if request.path == "/slow":
        await trio.sleep(2.5)
    if request.path == "/bug":
        raise ValueError("a bug")
    return "" if request.path in ("/", "/slow") else None


async def start(nursery: trio.Nursery, hub: rawws.Hub | None = None, **options: Any) -> rawws.Server:
    server = await nursery.start(partial(rawws.serve, hub or rawws.Hub(), 0, host=LOOPBACK, **options))
    assert isinstance(server, rawws.Server)
    return server


async def connect(server: rawws.Server) -> Client:
    return await Client(socket.socket()).connect(server.port)


@pytest.mark.parametrize(
    ("target", "line"),
    [
        ("/", "#1 = GET /: 200 in MS"),
        ("/?q=1", "#1 = GET /?q=1: 200 in MS"),
        ("/?token=secret", "#1 = GET /?token=(masked): 200 in MS"),
        ("/none", "#1 = GET /none: 404 in MS"),
        ("/bug", "#1 = GET /bug: 500 in MS"),
    ],
)
async def test_the_line_has_method_target_status_and_time(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, target: str, line: str
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    client = await connect(await start(nursery, http=answer))
    await client.ask(get(target))
    assert access_lines(caplog) == [line]
    client.hang_up()


async def test_the_time_is_that_of_the_whole_answer(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    autojump_clock.autojump_threshold = 0.05  # the sockets have to have had their turn before the clock jumps
    caplog.set_level(logging.INFO, "rawws")
    client = await connect(await start(nursery, http=answer))
    await client.ask(get("/slow"))
    assert access_lines(caplog) == ["#1 = GET /slow: 200 in 2.5 s"]
    client.hang_up()


async def test_a_request_without_an_answer_has_a_line_too(
    nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")

    async def read(request: Request) -> str:
        return str(request.body)

    client = await connect(await start(nursery, http=read))
    await client.send(get("/upload", "Content-Length: 5", method="POST"))
    await wait_all_tasks_blocked()
    client.reset()
    await wait_all_tasks_blocked()
    assert access_lines(caplog) == ["#1 = POST /upload: no answer after MS"]
    assert "lost in the HTTP phase" in caplog.text


async def test_events_have_a_line_when_they_begin(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rawws")
    hub = rawws.Hub()
    client = await connect(await start(nursery, hub, http=rawws.rooms(hub)))
    await client.ask(get("/room/x", "Accept: text/event-stream"))
    assert access_lines(caplog) == ["#1 = GET /room/x: 200 in MS"]
    client.hang_up()


async def test_an_upgrade_has_no_such_line(nursery: trio.Nursery, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rawws")
    server = await start(nursery)
    client = await (await connect(server)).open("/room/x")
    refused = await connect(server)
    assert (await refused.ask(upgrade("/room/x", "Origin: https://evil.example"))).status == 403
    assert access_lines(caplog) == []
    for each in (client, refused):
        each.hang_up()


# A refusal's advice for the operator

ORIGIN = "Origin: https://hoppscotch.io"
SENTENCE = "Pages from https://hoppscotch.io may not connect to this server"
ADVICE = "to allow it, start the server with --allow-origin https://hoppscotch.io"


async def refusal(server: rawws.Server, *lines: str, host: str = "localhost") -> str:
    client = await connect(server)
    refused = await client.ask(upgrade("/room/x", ORIGIN, *lines).replace(b"Host: localhost", f"Host: {host}".encode()))
    client.hang_up()
    assert refused.status == 403
    return refused.body.decode()


async def test_a_refusal_of_a_local_server_names_the_flag_that_would_help(nursery: trio.Nursery) -> None:
    server = await start(nursery)
    assert await refusal(server) == f"{SENTENCE}; {ADVICE}\n"
    assert await refusal(server, host="127.0.0.1:8080") == f"{SENTENCE}; {ADVICE}\n"


@pytest.mark.parametrize(
    ("options", "lines", "host"),
    [
        ({"host": "0.0.0.0"}, [], "localhost"),
        ({"trusted_proxies": ["127.0.0.1"]}, [], "localhost"),
        ({}, ["X-Forwarded-For: 192.0.2.1"], "localhost"),
        ({}, ["Via: 1.1 proxy"], "localhost"),
        ({"hosts": ["chat.example"]}, [], "chat.example"),
    ],
    ids=["on every interface", "after a trusted proxy", "forwarded", "via a proxy", "under another name"],
)
async def test_a_client_that_may_be_a_stranger_gets_no_advice(
    nursery: trio.Nursery,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    lines: Sequence[str],
    host: str,
) -> None:
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, **({"host": LOOPBACK} | options)))
    assert await refusal(server, *lines, host=host) == f"{SENTENCE}.\n"
    assert ADVICE in caplog.text
