"""Routes of WebSockets, and a relay that is no hub: the server calls only the methods of `Relay`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import AsyncMock

import pytest
import trio

import rawws
from rawws.access.grant import Action
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal, UsageError
from rawws.hub.doors import Door
from rawws.hub.queues import NO_STORE, NoQueues, Queues
from rawws.net.listeners import open_listeners
from rawws.net.transport import Transport
from rawws.relay.peer import Peer, PeerGroup
from rawws.server.admission import Admission
from rawws.server.config import ServerConfig
from rawws.server.plain_apps import HelloApp
from rawws.server.routes import Relay, Route, RouteTable
from rawws.server.server import Server
from rawws.wire.handshake import Handshake
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S
from tests.serving.wire import text, upgrade


class Recorder:
    """A relay that records its calls, refuses every path named so, and closes each connection that it adopts."""

    queues: Queues = NoQueues(NO_STORE)

    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    @property
    def subprotocols(self) -> Sequence[str]:
        return ()

    def limits_by_flag(self) -> Mapping[str, float]:
        return {}

    def admit(self, request: Request) -> Refusal | None:
        self.calls.append(("admit", request.path))
        return Refusal(503, "full", "This relay is full.") if request.path == "/full" else None

    def action(self, door: Door, path: str) -> Action:
        self.calls.append(("action", (door, path)))
        return Action.READ | Action.WRITE

    async def prepare(self, path: str, since: MessageId | None = None) -> Refusal | None:
        self.calls.append(("prepare", (path, since)))
        return Refusal(503, "away", "The room can't be loaded.") if path == "/away" else None

    def adopt(
        self,
        number: int,
        transport: Transport,
        handshake: Handshake,
        endpoint: PeerGroup,
        *,
        trailing_data: bytes = b"",
        **_: Any,
    ) -> Peer | None:
        self.calls.append(("adopt", (handshake.path, trailing_data)))
        transport.close()
        return None


async def handle(_: rawws.WebSocket) -> None:
    """A handler that returns at once, so that its WebSocket is closed with 1000."""


def asked(target: str) -> Request:
    return Request("GET", target, "1.1", Headers())


@asynccontextmanager
async def serving(relay: Relay, *, max_connections: int | None = None) -> AsyncIterator[Server]:
    """Run a server whose WebSockets go to a relay."""
    config = ServerConfig(app=HelloApp().serve_exchange)
    listeners = await open_listeners(LOOPBACK, 0)
    server = Server(listeners, relay, config, admission=Admission(max_connections, None))
    async with trio.open_nursery() as nursery:
        await nursery.start(server.run)
        yield server
        nursery.cancel_scope.cancel()


async def ask(server: Server, path: str, then: bytes = b"") -> int:
    client = await Client.unconnected().connect(server.port)
    await client.send(upgrade(path) + then)
    status = (await client.answer(body=False)).status
    client.hang_up()
    return status


async def test_a_relay_is_asked_in_order_and_gets_the_bytes_after_the_request() -> None:
    relay = Recorder()
    async with serving(relay) as server:
        assert await ask(server, "/room", then=text("hello")) == 101
    assert relay.calls == [
        ("admit", "/room"),
        ("action", (Door.WEBSOCKET, "/room")),
        ("prepare", ("/room", None)),
        ("admit", "/room"),
        ("action", (Door.WEBSOCKET, "/room")),
        ("adopt", ("/room", text("hello"))),
    ]


@pytest.mark.parametrize("path", ["/full", "/away"])
async def test_a_refusal_of_a_relay_is_the_response_and_nothing_is_adopted(path: str) -> None:
    relay = Recorder()
    async with serving(relay) as server:
        assert await ask(server, path) == 503
    assert "adopt" not in [name for name, _ in relay.calls]


async def test_a_connection_that_a_relay_ends_is_counted_no_more() -> None:
    relay = Recorder()
    async with serving(relay, max_connections=1) as server:
        assert [await ask(server, "/room") for _ in range(3)] == [101] * 3


async def test_a_server_leaves_its_config_as_it_was() -> None:
    config = ServerConfig(app=HelloApp().serve_exchange)
    before = {name: getattr(config, name) for name in ServerConfig.__dataclass_fields__}
    listeners = await open_listeners(LOOPBACK, 0)
    Server(listeners, rawws.Hub(), config, routes={"/admin": Route(handle, Origins(["https://example.org"]))})
    assert {name: getattr(config, name) for name in ServerConfig.__dataclass_fields__} == before
    for listener in listeners:
        listener.close()


def test_a_hub_is_a_relay_and_a_handler_is_none() -> None:
    hub = rawws.Hub()
    assert hub.subprotocols
    assert Route(hub).relay is hub
    assert Route(handle).relay is None


async def test_a_subprotocol_of_a_hub_s_own_has_to_be_a_token() -> None:
    class OddHub(rawws.Hub):
        @property
        def subprotocols(self) -> tuple[str, ...]:
            return ("a b",)

    with trio.fail_after(PATIENCE_S), pytest.raises(UsageError, match="'a b' can't be a subprotocol; give a token"):
        await rawws.serve(OddHub(), 0, host=LOOPBACK)


def test_a_mock_that_can_be_called_is_a_handler() -> None:
    handler = AsyncMock()
    assert Route(handler).relay is None


async def test_a_path_has_its_own_route_or_that_of_all_others() -> None:
    elsewhere, relay = Route(handle), Recorder()
    closed = Route(relay, Origins(["null"]), refuse=lambda request: Refusal(404, "closed", f"No {request.target}."))
    table = RouteTable(elsewhere, {"/closed": closed})
    assert [table.at(path) for path in ("/closed", "/", "", None)] == [closed, elsewhere, elsewhere, elsewhere]
    assert table.origins_at == {"/closed": closed.origins}
    assert table.admit(asked("/")) == (Action(0), None)
    assert table.admit(asked("/closed?x")) == (Action(0), Refusal(404, "closed", "No /closed?x."))
    assert relay.calls == [], "a route's own refusal comes before its relay"
    assert await table.prepare(asked("/")) is None
