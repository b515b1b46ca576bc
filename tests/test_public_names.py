"""The public names as a program meets them: each keyword's None, in every place that has the keyword."""

from __future__ import annotations

import enum
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import trio

import rawws
import rawws.testing
from rawws.errors import UsageError
from rawws.page import _PageFirst
from rawws.server.apps import HttpApp
from rawws.server.asgi import AsgiApp
from rawws.server.metrics import MetricsApp
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from tests.api_reference import INTERNAL
from tests.asgi_serving import echo, says_ok
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import upgrade

# Objects that a program is given, and tuples: their values are checked at their use.
GIVEN = {
    *("History", "Member", "Room", "Server", "WebSocket", "Request", "Gap", "CloseFrame", "Delivery", "Closed"),
    *("Sender", "Close", "Callbacks", "CallbackWebSocket", "Job"),
}
# The attributes of the objects that a program is given in a server. Attributes for the loop lie elsewhere.
ATTRIBUTES = {
    rawws.Room: {"is_held", "join", "last_id", "leave", "path", "publish", "publish_many", "ready", "settings"},
    rawws.Member: {
        *("close", "id", "is_behind", "path", "remote_address", "request", "send", "state", "subprotocol", "user"),
        "websocket",
    },
    rawws.CallbackWebSocket: {
        *("buffered_bytes", "close", "close_code", "close_reason", "closed", "extensions", "id", "latency"),
        *("max_buffered_bytes", "path", "remote_address", "request", "response", "send_nowait", "state", "subprotocol"),
    },
    rawws.Job: {"ack", "data", "id", "is_lost", "more", "nak", "term", "tried"},
    rawws.WebSocket: {
        *("aclose", "begin_close", "buffered_bytes", "close_code", "close_reason", "closed", "extensions", "gap"),
        *("has_messages", "id", "last_id", "latency", "path", "ping", "pong", "recv", "recv_streaming"),
        *("remote_address", "request", "response", "send", "send_raw", "skipped", "state", "subprotocol"),
        *("wait_closed", "wait_sent"),
    },
}


def functions() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the callables of the public API, with their names."""
    for name in rawws.__all__:
        found = getattr(rawws, name)
        if inspect.isfunction(found):
            yield name, found
        if not inspect.isclass(found) or issubclass(found, BaseException | enum.Enum):
            continue
        if name not in GIVEN:
            yield name, found
        for method_name, method in vars(found).items():
            if inspect.isfunction(method):
                yield f"{name}.{method_name}", method
    for name in ("open_pair", "open_raw"):
        yield name, getattr(rawws.testing, name)


def optional_keywords() -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield each keyword that may be left out, with the function that has it."""
    for name, function in functions():
        if name.rpartition(".")[2].startswith("_") or name in INTERNAL:
            continue
        for parameter in inspect.signature(function).parameters.values():
            is_flag = parameter.annotation == "bool" or parameter.name == "task_status"  # trio's own
            if parameter.default is not parameter.empty and not is_flag:
                yield name, parameter


KEYWORDS = list(optional_keywords())


# Keywords that have the name of another one, and another type: a `History`, and its number of messages.
OTHER_TYPES = {("RoomSettings", "history")}


def takes_none(parameter: inspect.Parameter) -> bool:
    """Return whether a type checker lets a program give None."""
    annotation: str = parameter.annotation
    return annotation == "object" or annotation.endswith("| None")


@pytest.mark.parametrize("keyword", sorted({parameter.name for _, parameter in KEYWORDS}))
def test_a_keyword_that_accepts_none_accepts_it_everywhere(keyword: str) -> None:
    given = [(name, parameter) for name, parameter in KEYWORDS if (name, keyword) not in OTHER_TYPES]
    places = {name: takes_none(parameter) for name, parameter in given if parameter.name == keyword}
    assert len(set(places.values())) == 1, places


async def _serve(**given: Any) -> None:
    keywords = {"port": 0, "host": LOOPBACK, **given}
    if keywords["port"] is None:
        keywords["listeners"] = [socket.create_server((LOOPBACK, 0))]
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, echo, **keywords))
        server.stop()


async def _attach(**given: Any) -> None:
    ours, theirs = socket.socketpair()
    lines = [line.partition(": ") for line in upgrade().decode().split("\r\n")[1:-2]]
    fields = rawws.Headers([(name, value) for name, _, value in lines])
    with theirs:
        async with rawws.attach(ours, rawws.Request("GET", "/", "1.1", fields), **given) as ws:
            theirs.shutdown(socket.SHUT_WR)
            await ws.wait_closed()


async def _open_pair(**given: Any) -> None:
    async with rawws.testing.open_pair(**given):
        pass


async def _open_raw(**given: Any) -> None:
    async with rawws.testing.open_raw(**given) as (peer, _):
        peer.hang_up()


async def _of_a_websocket(method: str, **given: Any) -> None:
    async with rawws.testing.open_pair() as (one, _):
        positional = ("message",) if method == "send" else ()
        called = getattr(one, method)(*positional, **given)
        if inspect.iscoroutine(called):
            await called


async def _of_a_room(method: str, **given: Any) -> None:
    hub = rawws.Hub()
    async with rawws.testing.open_pair() as (_, other):
        positional: dict[str, tuple[Any, ...]] = {"publish": ("x",), "publish_many": (["x"],), "join": (other,)}
        getattr(hub.room("/room"), method)(*positional[method], **given)


async def _of_a_member(method: str, **given: Any) -> None:
    hub = rawws.Hub()
    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK))
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
            await ws.ping()  # it is in its room
            (member,) = hub.room("/")
            if method == "send":
                await member.send("x", **given)
            else:
                getattr(member, method)(**given)
        server.stop()


async def _publish(publish: Callable[..., Any], **given: Any) -> None:
    hub = rawws.Hub()
    async with trio.open_nursery() as nursery:
        http = rawws.rooms(hub, is_local=True)
        server: rawws.Server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK, http=http))
        call = partial(publish, f"http://{LOOPBACK}:{server.port}/room", "x", **given)
        if publish is rawws.publish:
            await trio.to_thread.run_sync(call)
        else:
            await call()
        server.stop()


async def _of_callbacks(method: str, **given: Any) -> None:
    called: list[Any] = []

    class Once(rawws.Callbacks):
        def opened(self, ws: rawws.CallbackWebSocket, /) -> None:
            called.append(ws)

    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve, Once(), 0, host=LOOPBACK))
        async with rawws.connect(f"ws://{LOOPBACK}:{server.port}/") as ws:
            await ws.ping()  # it is open at the server, too
            getattr(called[0], method)(*(("x",) if method == "send_nowait" else ()), **given)
        server.stop()


async def _nak(**given: Any) -> None:
    hub = rawws.Hub(queue_in_memory=True)
    async with trio.open_nursery() as nursery:
        server: rawws.Server = await nursery.start(partial(rawws.serve, hub, 0, host=LOOPBACK))
        hub.room("/").publish("x")
        async for job in rawws.work(f"ws://{LOOPBACK}:{server.port}/", group="g"):
            try:
                await job.nak(**given)
            finally:
                server.stop()
            break


async def _disconnect(**given: Any) -> None:
    rawws.Hub().disconnect(user="alice", **given)


CALLS: dict[str, Callable[..., Any]] = {
    "Headers": rawws.Headers,
    "Headers.get": lambda **given: rawws.Headers().get("Name", **given),
    "Hub": rawws.Hub,
    "Hub.disconnect": _disconnect,
    "Request.accepts": partial(rawws.Request("GET", "/", "1.1", rawws.Headers()).accepts, "text/plain"),
    "Response": rawws.Response,
    "RoomSettings": rawws.RoomSettings,
    "User": partial(rawws.User, "alice"),
    "Member.send": partial(_of_a_member, "send"),
    "Member.close": partial(_of_a_member, "close"),
    "CallbackWebSocket.close": partial(_of_callbacks, "close"),
    "CallbackWebSocket.send_nowait": partial(_of_callbacks, "send_nowait"),
    "asgi": lambda **given: rawws.asgi(says_ok, **given),
    "wsgi": lambda **given: rawws.wsgi((lambda *_: []), **given),
    "attach": _attach,
    "connect": lambda **given: rawws.connect("ws://localhost/", **given),
    "open_pair": _open_pair,
    "open_raw": _open_raw,
    "Job.nak": _nak,
    "publish": partial(_publish, rawws.publish),
    "publish_async": partial(_publish, rawws.publish_async),
    "rooms": lambda **given: rawws.rooms(rawws.Hub(), **given),
    "serve": _serve,
    "work": lambda **given: rawws.work("ws://localhost/", **{"group": "g", **given}),
    **{f"Room.{each}": lambda each=each, **given: _of_a_room(each, **given)
       for each in ("publish", "publish_many", "join")},
    **{f"WebSocket.{each}": lambda each=each, **given: _of_a_websocket(each, **given)
       for each in ("send", "aclose", "ping", "pong", "begin_close")},
}  # fmt: skip


def test_every_function_with_optional_keywords_is_called_here() -> None:
    assert set(CALLS) == {name for name, _ in KEYWORDS}


@pytest.mark.parametrize(
    ("name", "parameter"), KEYWORDS, ids=[f"{name}({parameter.name})" for name, parameter in KEYWORDS]
)
async def test_none_is_accepted_or_refused_in_one_sentence(name: str, parameter: inspect.Parameter) -> None:
    refused = nullcontext() if takes_none(parameter) else pytest.raises(UsageError, match=f"{parameter.name}.*; give ")
    with trio.fail_after(PATIENCE_S), refused:
        try:
            called = CALLS[name](**{parameter.name: None})
            if inspect.iscoroutine(called):
                await called
        except* UsageError as errors:
            raise errors.exceptions[0] from None


@pytest.mark.parametrize("given", ATTRIBUTES)
def test_nothing_is_public_by_accident(given: type) -> None:
    assert {name for name in dir(given) if not name.startswith("_")} == ATTRIBUTES[given]


@pytest.mark.parametrize("app", [HelloApp, RoomApp, AsgiApp, MetricsApp, _PageFirst])
@pytest.mark.parametrize("method", ["max_body_bytes", "serve_exchange", "lifespan"])
def test_an_app_has_the_parameters_of_its_protocol(app: type, method: str) -> None:
    """A type checker may take a parameter with another name for another method, as pyright does."""
    expected = inspect.signature(getattr(HttpApp, method)).parameters
    assert list(inspect.signature(getattr(app, method)).parameters) == list(expected)
