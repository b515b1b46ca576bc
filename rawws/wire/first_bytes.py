"""Recognition of the protocol that a connection's other end speaks, by its first bytes.

It is used when they aren't of the expected protocol, so that the response or the error can name the other one.
"""

from __future__ import annotations

from rawws.wire.tls_records import MAJOR_VERSION, TYPES

# RFC 8446 §5.1: each side begins with an alert or a handshake message.
_FIRST_TLS_TYPES = (21, 22)
# The first byte of the length of a ClientHello in the SSL 2.0 format, as sent by old TLS clients (RFC 5246 §E.2).
_SSL_2 = 0x80
# HAProxy's specification of the PROXY protocol, §2.1 and §2.2.
_PROXY_HEADERS = (b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n")


def may_begin_tls(data: bytes | bytearray) -> bool:
    """Say whether a stream with this beginning, of at least a byte, may be TLS."""
    return data[0] in TYPES or data[0] >= _SSL_2


def is_tls(data: bytes | bytearray) -> bool:
    """Say whether a stream with this beginning is TLS. False for fewer than two bytes."""
    return len(data) >= 2 and data[0] in _FIRST_TLS_TYPES and data[1] == MAJOR_VERSION


def may_become_tls(data: bytes | bytearray) -> bool:
    """Say whether the next byte decides whether this is TLS."""
    return len(data) == 1 and data[0] in _FIRST_TLS_TYPES


def is_http_answer(data: bytes | bytearray) -> bool:
    """Say whether a stream with this beginning, of at least a byte, is an HTTP response (RFC 9112 §4)."""
    return data[:5] == b"HTTP/"[: len(data)]


def is_proxy_header(data: bytes | bytearray) -> bool:
    """Say whether a stream begins with a header of the PROXY protocol, version 1 or 2."""
    return data.startswith(_PROXY_HEADERS)
