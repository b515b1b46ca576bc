"""WebSockets that you can see through.

A server is ``await rawws.serve(handler, port)``, a client ``async with rawws.connect(uri) as ws``; a `Hub` has
rooms. The protocols are in `rawws.wire`, sans-IO; helpers for tests are in `rawws.testing`.
"""

from rawws.asgi_app import asgi
from rawws.attachment import attach
from rawws.backplane import share
from rawws.client import connect
from rawws.errors import (
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
    OpenTimeout,
    RawwsError,
    UsageError,
)
from rawws.handshake_options import SAME_HOST
from rawws.hub import Hub
from rawws.member import Member
from rawws.room import Delivery, Room, RoomSettings, Slow
from rawws.room_app import rooms
from rawws.server import serve
from rawws.server_object import Server
from rawws.tls import CertificateError, TlsError
from rawws.version import __version__
from rawws.websocket import WebSocket
from rawws.wire.broadcast_log import History
from rawws.wire.events import CloseFrame
from rawws.wire.handshake_errors import HandshakeRefused, InvalidStatus, ProxyError
from rawws.wire.message_ids import Gap
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.session import State

__all__ = [
    "SAME_HOST",
    "Cause",
    "CertificateError",
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
    "ListenError",
    "Member",
    "NoResponse",
    "OpenTimeout",
    "ProxyError",
    "RawwsError",
    "Request",
    "Response",
    "Room",
    "RoomSettings",
    "Server",
    "Slow",
    "State",
    "TlsError",
    "UsageError",
    "WebSocket",
    "__version__",
    "asgi",
    "attach",
    "connect",
    "rooms",
    "serve",
    "share",
]
