"""The protocols, sans-IO: bytes in, events and bytes out. This layer is public, for programs with their own transport.

Nothing here imports trio, sockets, ssl, select, threads or a clock (a test checks the imports). So each module can be
driven with literal bytes, in any chunking, and read next to the RFC that it follows. A room's log of messages is in
`rawws.broadcast`, and sockets are in `rawws.net`.

====================  ==================================================================
``messages``          the heads and bodies of HTTP (RFC 9110)
``http1``             the HTTP phase of a server, over h11 (RFC 9112)
``http1_client``      a client's request, and the answer to it
``chunked``           a strict check of a chunked body's framing (RFC 9112 §7.1)
``forwarded``         the header fields in which proxies report a client (RFC 7239)
``uri``               the addresses of WebSockets (RFC 6455 §3)
``handshake``         the opening handshake, from the server's side (RFC 6455 §4.2)
``client_handshake``  the same from the client's side (RFC 6455 §4.1)
``checks``            one requirement of the handshake, and whether a message meets it
``handshake_errors``  the exceptions of a handshake that carry a response
``origins``           the web pages that may connect (RFC 6455 §10.2)
``allowed_hosts``     the names that a request may give its server
``role``              client and server (RFC 6455 §5.1)
``frames``            frame headers: take apart, put together (RFC 6455 §5.2)
``masking``           the XOR of a payload with its mask (RFC 6455 §5.3)
``fragmenting``       a message that is sent in fragments (RFC 6455 §5.4)
``session``           a connection after the handshake (RFC 6455 §5 to §7)
``fast_reader``       its reader for whole, plain data frames
``wsproto_reader``    its reader for everything else: wsproto
``events``            the events of a session
``deflate``           permessage-deflate (RFC 7692)
``first_bytes``       the protocol that the other end speaks, by its first bytes
``tls_records``       where each TLS record in a stream ends (RFC 8446 §5.1)
``trace``             frames and heads as lines of text
``message_view``      messages for a viewer: their sizes, and their beginnings, inflated
``frame_recorder``    the part of a frame that can be shown
``recent_frames``     the last frames of a connection, for the log line about its end
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
