"""The division of a server's paths between the rooms of a hub and the WebSocket endpoints of an application.

The paths below the hub's root are rooms. Every other upgrade goes to the application, if it is one for ASGI; any other
application has no WebSockets, and then a path that isn't a room is refused. No path is both: the server doesn't start
with an endpoint that can be seen below the root, and the log names the endpoints that may match such a path.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import quote

from rawws import logs
from rawws.errors import Refusal, UsageError
from rawws.hub.hub import Hub
from rawws.hub.paths import OWN_PATHS, RoomPaths
from rawws.server import plain_apps
from rawws.server.asgi import AsgiApp
from rawws.server.asgi_endpoints import may_match_below
from rawws.server.routes import Area, Handler, Route
from rawws.server.server import name_some
from rawws.websocket.callbacks import Callbacks
from rawws.wire.messages import Request
from rawws.wire.trace import STATE, shorten

_AS_IN_TARGETS = "/%!$&'()*+,;=:@{}<>"  # RFC 3986 §3.3, and the brackets in which frameworks have parameters


def divide_paths(
    handler: Handler | Hub | Callbacks, http: object, routes: Mapping[str, Route]
) -> tuple[Route, tuple[Area, ...]]:
    """Return the route of WebSockets that have none of their own, and the areas with another one.

    Raises `UsageError` if the application has a WebSocket endpoint among the rooms.
    """
    application = plain_apps.find_application(http)
    endpoints = _endpoints(application, routes)
    if not isinstance(handler, Hub):
        _warn_of_handler(endpoints)
        return Route(handler), ()
    paths = handler.paths(beside_application=application is not None)
    if not isinstance(application, AsgiApp):
        return Route(handler, refuse=lambda request: paths.refuse(request.path or "")), ()
    _check_rooms(endpoints, paths)
    return Route(application, refuse=_refuse_own), (Area(paths, Route(handler)),)


def _endpoints(application: object, routes: Mapping[str, Route]) -> list[str]:
    """Return the paths of the application's endpoints that can be seen, without those that the program serves."""
    if not isinstance(application, AsgiApp):
        return []
    return [path for path in application.websocket_paths() if path not in routes]


def _check_rooms(endpoints: list[str], paths: RoomPaths) -> None:
    if claimed := next((path for path in endpoints if quote(path, safe=_AS_IN_TARGETS) in paths), None):
        raise UsageError(
            f"the application has a WebSocket endpoint at {shorten(claimed)}, where rawws has its rooms ({paths}); "
            "put the rooms elsewhere, with --rooms, or Hub(rooms_at=...)"
        )
    if shared := [path for path in endpoints if may_match_below(path, paths.root)]:
        message = (
            f"rooms are {paths}, where rawws doesn't ask the application; WebSocket endpoints of it may match such "
        )
        logs.server_line(logging.WARNING, STATE, f"{message}paths too: {name_some(shared)}")


def _warn_of_handler(endpoints: list[str]) -> None:
    if endpoints:
        message = (
            f"the application's WebSocket endpoints aren't served: {name_some(endpoints)}; the handler takes every "
        )
        logs.server_line(logging.WARNING, STATE, message + "WebSocket; give a hub, or routes, in its place")


def _refuse_own(request: Request) -> Refusal | None:
    """Refuse a path that is reserved, so that no application is called below it."""
    if not f"{request.path}/".startswith(OWN_PATHS):
        return None
    sentence = "No WebSocket is served at this path, which is the server's own."
    return Refusal(404, "no_room_here", sentence)
