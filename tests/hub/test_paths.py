"""The paths of rooms: next to an application, an upgrade elsewhere is the application's or refused, never shared."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import trio
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.errors import UsageError
from rawws.hub.paths import RoomPaths
from rawws.server.asgi_endpoints import may_match_below, websocket_paths
from rawws.wire.frames import Opcode
from tests.asgi_serving import says_ok
from tests.room_serving import post
from tests.serving.client import Answer, Client
from tests.serving.machine import LOOPBACK
from tests.serving.programs import StartProgram
from tests.serving.wire import Seen, get, seen_close, seen_text, text, upgrade

NONE_OF_ROOM = [
    "/",
    "/ws",
    "/room",
    "/roommates",
    "/Room/x",
    "//room/x",
    "/%72oom/x",
    "/room%2Fx",
    "/./room/x",
    "/x/../room/x",
    "/room/../ws",
    "/room/./x",
    "/room/..",
    "/room/%2e%2E/ws",
    "/room/..%2fws",
    "/room;x/y",
]
ROOMS = ["/room/", "/room/x", "/room//x", "/room/x/y", "/room/..x", "/room/%2fx", "/room/x..", "/room/a.b"]


@pytest.mark.parametrize("path", NONE_OF_ROOM)
def test_a_path_that_only_resembles_a_room_is_not_one(path: str) -> None:
    assert path not in RoomPaths("/room/")


@pytest.mark.parametrize("path", ROOMS)
def test_a_path_below_the_root_is_a_room(path: str) -> None:
    assert path in RoomPaths("/room/")


@pytest.mark.parametrize("path", [*NONE_OF_ROOM, *ROOMS])
def test_every_path_is_a_room_without_an_application(path: str) -> None:
    assert path in RoomPaths("/")


@pytest.mark.parametrize(("path", "is_room"), [("/room", True), ("/room/", True), ("/room/x", True), ("/roomy", False)])
def test_a_root_without_a_slash_is_a_room_itself_and_claims_no_other_name(path: str, is_room: bool) -> None:
    assert (path in RoomPaths("/room")) is is_room


@pytest.mark.parametrize(
    ("path", "is_room"),
    [
        ("/healthz", False),
        ("/readyz", False),
        ("/metrics", False),
        ("/_rawws", False),
        ("/_rawws/", False),
        ("/_rawws/x", False),
        ("/healthz/", True),
        ("/healthz/x", True),
        ("/_rawwsx", True),
        ("/x/_rawws/", True),
    ],
)
def test_the_server_s_own_paths_are_never_rooms(path: str, is_room: bool) -> None:
    assert (path in RoomPaths("/")) is is_room


@pytest.mark.parametrize("root", ["/healthz", "/metrics", "/_rawws/", "/_rawws/x"])
def test_a_root_that_is_the_server_s_own_is_refused(root: str) -> None:
    with pytest.raises(UsageError, match="is the server's own, and never a room; give another, such as /room/"):
        RoomPaths(root)


@pytest.mark.parametrize("root", ["", "room", "/a?b", "/a#b", "/a b", "/räume/", "/a\n", "/a/../b", "/a/%2e/"])
def test_a_root_that_no_request_could_have_is_refused(root: str) -> None:
    with pytest.raises(UsageError):
        rawws.Hub(rooms_at=root)


# Over real sockets


async def page(_: rawws.Request) -> str:
    return "the application's"


class Site:
    """A server, and its answers one after the other."""

    def __init__(self, server: rawws.Server) -> None:
        self.server = server
        self._clients: list[Client] = []

    async def connect(self) -> Client:
        client = Client.unconnected()
        self._clients.append(client)
        return await client.connect(self.server.port)

    async def ask(self, request: bytes) -> Answer:
        return await (await self.connect()).ask(request)

    def end(self) -> None:
        for client in self._clients:
            client.hang_up()
        self.server.stop()


class StartSite:
    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.sites: list[Site] = []

    async def __call__(self, handler: Any, http: Any = None, **options: Any) -> Site:
        serve = partial(rawws.serve, handler, 0, host=LOOPBACK, http=http, **options)
        site = Site(await self._nursery.start(serve))
        self.sites.append(site)
        return site


@pytest.fixture
async def start(nursery: trio.Nursery, bounded: None) -> AsyncIterator[StartSite]:  # noqa: ARG001
    starting = StartSite(nursery)
    yield starting
    for site in starting.sites:
        site.end()


@pytest.mark.parametrize("path", [*NONE_OF_ROOM, "http://localhost/ws", "http://localhost/room"])
async def test_an_upgrade_outside_the_rooms_is_404_next_to_a_function(start: StartSite, path: str) -> None:
    hub = rawws.Hub(hello="hi")
    site = await start(hub, page)
    answer = await site.ask(upgrade(path))
    assert (answer.status, answer.headers["connection"]) == (404, "close")
    assert answer.body.decode() == (
        "No WebSocket is served at this path; connect to a room, below /room/ (--rooms, or Hub(rooms_at=...)).\n"
    )
    assert not hub.rooms


async def says_path(scope: Scope, receive: Receive, send: Send) -> None:
    """Accept any WebSocket, and say which path it is for."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": scope["raw_path"]})
        await receive()


@pytest.mark.parametrize("has_rooms_in_front", [False, True], ids=["asgi", "rooms in front"])
@pytest.mark.parametrize("path", [*NONE_OF_ROOM, "/healthz", "/_rawwsx", "http://localhost/ws"])
async def test_an_upgrade_outside_the_rooms_is_that_of_an_asgi_application(
    start: StartSite, has_rooms_in_front: bool, path: str
) -> None:
    hub = rawws.Hub(hello="hi")
    app: Any = rawws.asgi(says_path)
    site = await start(hub, rawws.rooms(hub, elsewhere=app) if has_rooms_in_front else app)
    client = await (await site.connect()).open(path)
    assert await client.frame() == Seen(Opcode.BINARY, path.removeprefix("http://localhost").encode())
    assert not hub.rooms


@pytest.mark.parametrize("path", ["/_rawws", "/_rawws/", "/_rawws/x"])
async def test_an_application_is_not_asked_about_the_server_s_own_paths(start: StartSite, path: str) -> None:
    site = await start(rawws.Hub(), rawws.asgi(says_path))
    answer = await site.ask(upgrade(path))
    assert (answer.status, answer.body) == (404, b"No WebSocket is served at this path, which is the server's own.\n")


@pytest.mark.parametrize("path", [*ROOMS, "http://localhost/room/x"])
async def test_a_room_is_served_next_to_an_application(start: StartSite, path: str) -> None:
    hub = rawws.Hub()
    site = await start(hub, rawws.asgi(says_path))
    client = await (await site.connect()).open(path)
    await client.send(text("hello"))
    assert await client.frame() == seen_text("hello")
    assert list(hub.rooms) == [path.removeprefix("http://localhost")]


async def test_a_refused_client_is_not_asked_for_credentials(start: StartSite) -> None:
    asked: list[str | None] = []
    site = await start(rawws.Hub(), page, authenticate=lambda request: asked.append(request.path))
    assert (await site.ask(upgrade("/ws"))).status == 404
    await (await site.connect()).open("/room/x")
    assert asked == ["/room/x"]


@pytest.mark.parametrize("path", ["/", "/ws", "/room/../x"])
async def test_every_path_is_a_room_if_nothing_else_is_served(start: StartSite, path: str) -> None:
    for http in (None, rawws.rooms(rawws.Hub())):
        site = await start(rawws.Hub(), http)
        await (await site.connect()).open(path)


@pytest.mark.parametrize(("rooms_at", "has_application"), [(None, True), ("/room/", True), ("/room/", False)])
async def test_http_and_websocket_have_the_same_rooms(
    start: StartSite, rooms_at: str | None, has_application: bool
) -> None:
    hub = rawws.Hub(history=1, rooms_at=rooms_at)
    app = rawws.rooms(hub, elsewhere=rawws.asgi(says_ok) if has_application else None, is_local=True)
    site = await start(hub, app)
    for path in (*ROOMS, *NONE_OF_ROOM):
        is_room = path in ROOMS
        posted = await site.ask(post(path, b"hello"))
        assert (posted.status == 202) is is_room, path
        assert ((await site.ask(upgrade(path))).status == 101) is is_room, path
    assert set(hub.rooms) == set(ROOMS)


async def test_a_program_may_claim_every_path_for_its_rooms(start: StartSite) -> None:
    site = await start(rawws.Hub(rooms_at="/"), page)
    await (await site.connect()).open("/ws")


async def test_a_handler_and_routes_get_the_paths_that_they_are_given(start: StartSite) -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.send(f"handler {ws.path}")

    site = await start(handler, page)
    assert await (await (await site.connect()).open("/ws")).frame() == seen_text("handler /ws")
    site = await start(rawws.Hub(), page, routes={"/ws": handler, "/hub": rawws.Hub(hello="hub")})
    assert await (await (await site.connect()).open("/ws")).frame() == seen_text("handler /ws")
    assert await (await (await site.connect()).open("/hub")).frame() == seen_text("hub")


# The application's own endpoints


async def endpoint(websocket: WebSocket) -> None:
    raise AssertionError(f"called for {websocket.url}")


async def home(_: Any) -> PlainTextResponse:
    return PlainTextResponse("home")


def site_of(*paths: str) -> Starlette:
    return Starlette(routes=[Route("/", home), *(WebSocketRoute(path, endpoint) for path in paths)])


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


async def test_a_warning_at_start_names_the_endpoints_that_a_handler_hides(
    start: StartSite, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.send(f"handler {ws.path}")

    app = site_of(*(f"/ws{number}" for number in range(7)), "/" + "x" * 5000)
    site = await start(handler, rawws.asgi(app))
    (message,) = warnings(caplog)
    assert message == (
        "#0 = the application's WebSocket endpoints aren't served: /ws0, /ws1, /ws2, /ws3, /ws4 and 3 more; the "
        "handler takes every WebSocket; give a hub, or routes, in its place"
    )
    client = await (await site.connect()).open("/ws0")
    assert await client.frame() == seen_text("handler /ws0")


async def test_a_warning_names_the_endpoints_that_may_match_rooms(
    start: StartSite, caplog: pytest.LogCaptureFixture
) -> None:
    site = await start(rawws.Hub(hello="a room"), rawws.asgi(site_of("/ws", "/{kind}/private")))
    (message,) = warnings(caplog)
    assert message == (
        "#0 = rooms are below /room/, where rawws doesn't ask the application; WebSocket endpoints of it may match "
        "such paths too: /{kind}/private"
    )
    client = await (await site.connect()).open("/room/private")
    assert await client.frame() == seen_text("a room")


@pytest.mark.parametrize(
    ("pattern", "root", "expected"),
    [
        ("/ws", "/room/", False),
        ("/ws/{x}", "/room/", False),
        ("/ws/(?P<x>.*)$", "/room/", False),
        ("/a/{x:path}", "/room/", False),
        ("/rox{x}/y", "/room/", False),
        ("/{x}", "/room/", False),
        ("/{path}", "/room/", False),
        ("/{x}/{y}", "/live/rooms/", False),
        ("/{x}", "/room", True),
        ("/{x}/y", "/room/", True),
        ("/<x>/y", "/room/", True),
        ("/ro{x}/y", "/room/", True),
        ("/{x:path}", "/room/", True),
        ("/<path:x>", "/room/", True),
        ("/(?P<x>.*)$", "/room/", True),
        ("/{x}/{y:path}", "/live/rooms/", True),
    ],
)
def test_endpoints_that_may_match_a_path_of_a_room_are_found(pattern: str, root: str, expected: bool) -> None:
    assert may_match_below(pattern, root) is expected


async def test_no_warning_if_no_endpoint_is_found_or_the_program_serves_it(
    start: StartSite, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(ws: rawws.WebSocket) -> None:
        await ws.send("handler")

    await start(rawws.Hub(), rawws.asgi(site_of()))
    await start(rawws.Hub(), rawws.asgi(site_of("/ws")), routes={"/ws": handler})
    assert warnings(caplog) == []


@pytest.mark.parametrize(("rooms_at", "path"), [(None, "/room/{name}"), ("/", "/ws"), ("/r%C3%A4ume", "/räume/x")])
async def test_the_server_does_not_start_with_an_endpoint_among_the_rooms(rooms_at: str | None, path: str) -> None:
    with pytest.raises(UsageError, match=r"the application has a WebSocket endpoint at .*put the rooms elsewhere"):
        await rawws.serve(rawws.Hub(rooms_at=rooms_at), 0, host=LOOPBACK, http=rawws.asgi(site_of(path)))


def test_endpoints_are_found_in_mounts_hosts_and_middleware() -> None:
    deep = Starlette(routes=[Mount("/deep", routes=[WebSocketRoute("/w", endpoint)])])
    hosts = Router([Host("a.example", Router([WebSocketRoute("/h", endpoint)]))])
    app = CORSMiddleware(CORSMiddleware(Starlette(routes=[Mount("/a", deep), Mount("/b", CORSMiddleware(hosts))])))
    assert websocket_paths(app) == ["/a/deep/w", "/b/h"]


def test_endpoints_of_fastapi_are_seen_in_its_routers() -> None:
    fastapi = pytest.importorskip("fastapi")
    app, router, inner = fastapi.FastAPI(), fastapi.APIRouter(prefix="/api"), fastapi.APIRouter()
    app.websocket("/ws")(endpoint)
    inner.websocket("/chat/{name}")(endpoint)
    router.include_router(inner, prefix="/inner")
    app.include_router(router, prefix="/v1")
    assert websocket_paths(app) == ["/ws", "/v1/api/inner/chat/{name}"]


class Bag:
    """An application of another framework, as far as the search for endpoints looks at it."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__ |= attributes

    def __call__(self) -> None: ...


def test_endpoints_of_other_frameworks_are_seen_in_the_lists_that_they_keep() -> None:
    rules = Bag(iter_rules=lambda: [Bag(rule="/http", websocket=False), Bag(rule="/q/<name>", websocket=True)])
    quart = Bag(url_map=rules)
    urls = Bag(routes=[Bag(pattern="ws/<int:x>/"), Bag(pattern="^re/$")])
    channels = Bag(application_mapping={"http": quart, "websocket": Bag(application=Bag(inner=urls))})
    assert websocket_paths(quart) == ["/q/<name>"]
    assert websocket_paths(channels) == ["/ws/<int:x>/", "/re/$"]
    assert websocket_paths(Bag(application_mapping={"websocket": endpoint})) == ["/"]
    assert websocket_paths(Bag(application_mapping={"http": quart})) == []
    assert websocket_paths(Bag(engineio_path="socket.io", other_asgi_app=quart)) == ["/socket.io/", "/q/<name>"]


class Hostile:
    """An object that raises for each attribute."""

    def __getattr__(self, name: str) -> Any:
        raise SystemError(name)


def test_the_search_for_endpoints_ends_and_raises_nothing() -> None:
    circle = Bag()
    circle.__dict__["app"] = circle.__dict__["asgi_app"] = circle
    endless = Bag(routes=iter(lambda: Bag(path="/x"), None))
    for application in (Hostile(), Bag(routes=5), Bag(routes=[Hostile(), None]), circle, endless, MagicMock(), None):
        assert websocket_paths(application) == []


# The program

APP = """
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute

async def private(websocket):
    await websocket.accept()
    await websocket.send_text("private")
    while await websocket.receive_text() != "end":
        pass

app = Starlette(routes=[WebSocketRoute("{}", private)])
"""


@pytest.mark.parametrize("mode", ["broadcast", "echo"])
@pytest.mark.parametrize("more", [[], ["--metrics"], ["--no-page"]], ids=" ".join)
async def test_a_private_endpoint_of_an_app_is_no_public_room(
    start_program: StartProgram, tmp_path: Path, mode: str, more: list[str]
) -> None:
    (tmp_path / "its_app.py").write_text(APP.format("/ws"))
    flags = ["--app", "its_app:app", "--mode", mode, "--rooms", "/live/", "--hello", "", *more]
    program = start_program(*flags, directory=tmp_path)
    assert [line for line in program.lines if "WARNING" in line] == []
    assert "(rooms are below /live/, other WebSockets are the application's" in program.lines[-1]
    private = [await (await program.connect()).open("/ws") for _ in range(2)]
    assert [await each.frame() for each in private] == [seen_text("private")] * 2
    await private[0].send(text("a secret") + text("end"))
    assert await private[0].frame() == seen_close(1000)
    await private[1].send(text("end"))
    assert await private[1].frame() == seen_close(1000), "nothing of the other's"
    client = await (await program.connect()).open("/live/x")
    await client.send(text("hello"))
    assert await client.frame() == seen_text("hello")


async def test_the_pages_own_paths_stay_where_they_are(start_program: StartProgram, tmp_path: Path) -> None:
    (tmp_path / "its_app.py").write_text(APP.format("/ws"))
    program = start_program("--app", "its_app:app", "--hello", "", directory=tmp_path)
    await (await program.connect()).open("/_rawws/break-it")
    assert (await (await program.connect()).ask(get("/_rawws/", "Accept: text/html"))).status == 403  # without a token
    assert (await (await program.connect()).ask(upgrade("/_rawws/elsewhere"))).status == 404
    own = await (await program.connect()).ask(upgrade("/elsewhere"))
    assert (own.status, own.body) == (403, b"The application has no WebSocket at /elsewhere, or refuses this one.\n")
    unseen = start_program("--app", "its_app:app", "--no-page", directory=tmp_path)
    assert (await (await unseen.connect()).ask(upgrade("/_rawws/break-it"))).status == 404


def test_a_program_whose_rooms_would_cover_an_endpoint_does_not_start(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "its_app.py").write_text(APP.format("/room/{name}"))
    ended = start_program.run("--port", "0", "--app", "its_app:app", directory=tmp_path)
    assert ended.returncode == 2
    message = (
        "rawws: the application has a WebSocket endpoint at /room/{name}, where rawws has its rooms (below /room/); "
    )
    assert message + "put the rooms elsewhere, with --rooms, or Hub(rooms_at=...)\n" in ended.stderr
    started = start_program("--app", "its_app:app", "--rooms", "/live", directory=tmp_path)
    assert "rooms are at /live and below it" in started.lines[-1]
