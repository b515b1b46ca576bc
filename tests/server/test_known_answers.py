"""Answers that each request with the same head gets: what the apps say is so, and a connection shows no difference."""

from __future__ import annotations

import contextlib
import re
import socket
from functools import partial

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

import rawws
from rawws.limits import Limits
from rawws.page import HOME, About, Access, Page
from rawws.server.administration import METHODS
from rawws.server.apps import HttpApp, Middleware
from rawws.server.metrics import MetricsApp
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import rooms
from rawws.tracing import Tracer
from rawws.wire.http1 import HttpPhase
from rawws.wire.messages import Request, Response
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import get
from tests.wire.helpers import any_chunking

TOKEN = "a-token-of-sixteen-or-more"


def every_app(obstacle: str = "") -> HttpApp:
    """Return all the apps that the program may put in front of its own answer."""
    hub = rawws.Hub(rooms_at="/room/")
    answers = MetricsApp(hub, HelloApp(["POST"], lambda: obstacle))
    app = rooms(hub, elsewhere=answers, is_local=True, admin_token=TOKEN)
    return Page(Tracer(), About("ws://localhost/"), access=Access(TOKEN)).before(app)


def parse(raw: bytes) -> Request:
    phase = HttpPhase(Limits())
    phase.receive_data(raw)
    request = phase.next_clean_request()
    assert request is not None
    return request


PATHS = ["/", "/a", "/healthz", "/readyz", "/metrics", "/room/x", "/room", "/_rawws", HOME, HOME + "x", *METHODS]
QUERIES = ["", "?", "?token", f"?token={TOKEN}", "?token=x", "?peers", "?since=", "?last=1", "?group=a", "?x=1"]
FIELDS = [
    f"Cookie: rawws-page={TOKEN}",
    "Accept: text/event-stream",
    "Accept: text/html",
    f"Authorization: Bearer {TOKEN}",
    "X-Forwarded-For: 10.0.0.1",
]
heads = st.builds(
    lambda path, query, lines, method: get(path + query, *lines, method=method),
    st.sampled_from(PATHS),
    st.sampled_from(QUERIES),
    st.lists(st.sampled_from(FIELDS), max_size=2),
    st.sampled_from(["GET", "HEAD"]),
)


@given(heads)
def test_an_answer_that_is_always_the_same_is_the_one_at_any_time(head: bytes) -> None:
    request = parse(head)
    always = every_app().answer_always(request)
    if always is None:
        return
    assert always is every_app("no").answer_always(request)
    for obstacle in ("", "no"):
        app = every_app(obstacle)
        assert app.answer_now(request, stopping=False) is app.answer_now(request, stopping=True) is always
        assert isinstance(app, Middleware)
        assert not app.is_own(request), "it would not be logged"


@pytest.mark.parametrize(
    ("target", "is_always_the_same"),
    [
        ("/", True),
        ("/a?x=1", True),
        ("/healthz", True),
        ("/_rawws/nothing", False),
        ("/room/x", True),
        ("/readyz", False),
        ("/metrics", False),
        (f"/?token={TOKEN}", False),
        ("/room/x?peers", False),
        (next(iter(METHODS)), False),
    ],
)
def test_the_answers_that_are_always_the_same(target: str, is_always_the_same: bool) -> None:
    assert (every_app().answer_always(parse(get(target))) is not None) == is_always_the_same


def test_a_path_that_is_reserved_has_nothing_whenever_it_is_asked() -> None:
    app = rooms(rawws.Hub(), admin_token=TOKEN)
    answer = app.answer_always(parse(get("/_rawws/nothing")))
    assert isinstance(answer, Response)
    assert answer.status == 404
    assert app.answer_now(parse(get("/_rawws/nothing")), stopping=False) is answer


async def converse(chunks: list[bytes], *, fast_lane: bool) -> bytes:
    """Return what a server sends to a client that sends these chunks, each when all has been done about the last."""
    hub = rawws.Hub(rooms_at="/room/")
    serve = partial(rawws.serve, hub, 0, host=LOOPBACK, http=rooms(hub, is_local=True), fast_lane=fast_lane)
    received = bytearray()
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve)
            async with await trio.open_tcp_stream(LOOPBACK, server.port) as stream, trio.open_nursery() as reading:
                reading.start_soon(_receive, stream, received)
                with contextlib.suppress(OSError, trio.BrokenResourceError):  # the server has ended the connection
                    for chunk in chunks:
                        await stream.send_all(chunk)
                        await wait_all_tasks_blocked()
                    stream.socket.shutdown(socket.SHUT_WR)
            server.stop()
    return re.sub(rb"Date: [^\r]*", b"Date: now", received)


async def _receive(stream: trio.SocketStream, received: bytearray) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while data := await stream.receive_some():
            received += data


KNOWN = get("/known")
requests = st.sampled_from(
    [
        *[KNOWN] * 4,
        get("/known", method="HEAD"),
        get("/healthz"),
        get("/readyz"),
        get("/room/x?peers"),
        b"\r\n",
        b"POST /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx",
        get("/a", version="1.0"),
        get("/a", "Connection: close"),
        b"GET /bad HTTP/1.1\r\n\r\n",
    ]
)


def assert_no_difference(chunks: list[bytes]) -> None:
    assert trio.run(partial(converse, chunks, fast_lane=True)) == trio.run(partial(converse, chunks, fast_lane=False))


@pytest.mark.parametrize(
    "chunks",
    [
        [KNOWN] * 4,
        [KNOWN, KNOWN, KNOWN + KNOWN, KNOWN],
        [KNOWN, KNOWN, b"\r\n", KNOWN, KNOWN[:9], KNOWN[9:], KNOWN],
    ],
    ids=["again", "pipelined", "in pieces"],
)
def test_a_head_that_comes_again_has_the_answer_that_h11_gives(chunks: list[bytes]) -> None:
    assert_no_difference(chunks)


@pytest.mark.thorough
@settings(max_examples=50, deadline=None)
@given(st.lists(st.one_of(requests.map(lambda each: [each]), any_chunking(requests)), max_size=8))
def test_any_heads_have_the_answers_that_h11_gives(sent: list[list[bytes]]) -> None:
    assert_no_difference([chunk for each in sent for chunk in each])
