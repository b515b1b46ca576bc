"""WebSockets that you can see through.

A server is ``await rawws.serve(handler, port)``, a client ``async with rawws.connect(uri) as ws``; a `Hub` has
rooms. The protocols are in `rawws.wire`, sans-IO; helpers for tests are in `rawws.testing`.
"""

from rawws.access.user import User
from rawws.backplane.sharing import share
from rawws.broadcast.log import History
from rawws.broadcast.message_ids import Gap
from rawws.broadcast.moderation import Close
from rawws.client.connect import connect
from rawws.client.publish import publish, publish_async
from rawws.client.work import Job, work
from rawws.errors import (
    BackplaneAway,
    Cause,
    Closed,
    ConnectionClosed,
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidRedirect,
    InvalidResponse,
    InvalidURI,
    ListenError,
    NoResponse,
    NotServing,
    OpenTimeout,
    PublishError,
    PublishRefused,
    PublishUnsure,
    QueueFull,
    RawwsError,
    UsageError,
)
from rawws.hub.hub import Hub
from rawws.hub.member import Member
from rawws.hub.room import Delivery, Room
from rawws.hub.sender import Sender
from rawws.net.tls import CertificateError, TlsError
from rawws.relay.settings import RoomSettings, Slow
from rawws.server.asgi import asgi, wsgi
from rawws.server.attach import attach
from rawws.server.handshake_options import SAME_HOST
from rawws.server.room_app import rooms
from rawws.server.serve import serve
from rawws.server.server import Server
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.websocket.callbacks import Callbacks, CallbackWebSocket
from rawws.wire.events import CloseFrame
from rawws.wire.handshake_errors import HandshakeRefused, InvalidStatus, ProxyError
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.publishing import Published
from rawws.wire.session import State

__all__ = [
    "SAME_HOST",
    "BackplaneAway",
    "CallbackWebSocket",
    "Callbacks",
    "Cause",
    "CertificateError",
    "Close",
    "CloseFrame",
    "Closed",
    "ConnectionClosed",
    "ConnectionClosedError",
    "ConnectionClosedOK",
    "Delivery",
    "Gap",
    "HandshakeRefused",
    "Headers",
    "History",
    "Hub",
    "InvalidHandshake",
    "InvalidRedirect",
    "InvalidResponse",
    "InvalidStatus",
    "InvalidURI",
    "Job",
    "ListenError",
    "Member",
    "NoResponse",
    "NotServing",
    "OpenTimeout",
    "ProxyError",
    "PublishError",
    "PublishRefused",
    "PublishUnsure",
    "Published",
    "QueueFull",
    "RawwsError",
    "Request",
    "Response",
    "Room",
    "RoomSettings",
    "Sender",
    "Server",
    "Slow",
    "State",
    "TlsError",
    "UsageError",
    "User",
    "WebSocket",
    "__version__",
    "asgi",
    "attach",
    "connect",
    "publish",
    "publish_async",
    "rooms",
    "serve",
    "share",
    "work",
    "wsgi",
]
