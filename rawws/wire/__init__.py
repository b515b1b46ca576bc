"""The protocols, sans-IO: bytes in, events and bytes out. This layer is public, for programs with their own transport.

Nothing here imports trio, sockets, ssl, select, threads or a clock (a test checks the imports). So each module can be
driven with literal bytes, in any chunking, and read next to the RFC that it follows.

====================  ==================================================================
``messages``          the heads and bodies of HTTP (RFC 9110)
``http1``             the HTTP phase of a server, over h11 (RFC 9112)
``http1_client``      a client's request, and the answer to it
``uri``               the addresses of WebSockets (RFC 6455 §3)
``handshake``         the opening handshake, from the server's side (RFC 6455 §4.2)
``client_handshake``  the same from the client's side (RFC 6455 §4.1)
``origins``           the web pages that may connect (RFC 6455 §10.2)
``frames``            frame headers: take apart, put together (RFC 6455 §5.2)
``session``           a connection after the handshake (RFC 6455 §5 to §7)
``fast_reader``       its reader for whole, plain data frames
``wsproto_reader``    its reader for everything else: wsproto
``events``            the events of a session
``deflate``           permessage-deflate (RFC 7692)
``broadcast_log``     the messages that one room has published, and cursors into them
``trace``             frames and heads as lines of text
====================  ==================================================================

The names below are needed to speak WebSocket over any transport: a `ClientHandshake`, or `HttpPhase` and `examine`,
until the 101; then a `Session`.
"""

from rawws.wire.checks import Check
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer
from rawws.wire.events import CloseFrame, CloseReceived, Event, Failed, Message, MessagePart, PingReceived, PongReceived
from rawws.wire.frames import Frame, FrameHeader, Opcode, encode_frame, parse_header
from rawws.wire.handshake import Handshake, examine
from rawws.wire.http1 import BodyPart, HttpPhase, Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.session import Session, State
from rawws.wire.uri import WebSocketURI, parse_uri

__all__ = [
    "BodyPart",
    "Check",
    "ClientHandshake",
    "CloseFrame",
    "CloseReceived",
    "Event",
    "Failed",
    "Frame",
    "FrameHeader",
    "Handshake",
    "Headers",
    "HttpPhase",
    "Message",
    "MessagePart",
    "Opcode",
    "Origins",
    "PingReceived",
    "PongReceived",
    "Request",
    "Response",
    "ResponsePhase",
    "Role",
    "ServerAnswer",
    "Session",
    "Signal",
    "State",
    "WebSocketURI",
    "encode_frame",
    "examine",
    "parse_header",
    "parse_uri",
]
