"""What a connection's first bytes say about the protocol that its other end speaks.

They are looked at where another protocol is spoken than the one that is expected, so that the answer, or the error,
can name it.
"""

from __future__ import annotations

from rawws.wire.tls_records import MAJOR_VERSION, TYPES

# RFC 8446 §5.1: what each side may begin with, an alert or a handshake message.
_FIRST_TLS_TYPES = (21, 22)
# Bytes of the length of a ClientHello in the form of SSL 2.0, which some TLS clients began with (RFC 5246 §E.2).
_SSL_2 = 0x80
# HAProxy's specification of the PROXY protocol, §2.1 and §2.2.
_PROXY_HEADERS = (b"PROXY ", b"\r\n\r\n\x00\r\nQUIT\n")


def may_begin_tls(data: bytes | bytearray) -> bool:
    """Say whether a stream that begins so, with a byte at least, may be TLS."""
    return data[0] in TYPES or data[0] >= _SSL_2


def is_tls(data: bytes | bytearray) -> bool:
    """Say whether a stream that begins so is TLS, which takes two bytes to say."""
    return len(data) >= 2 and data[0] in _FIRST_TLS_TYPES and data[1] == MAJOR_VERSION


def may_become_tls(data: bytes | bytearray) -> bool:
    """Say whether the next byte decides that."""
    return len(data) == 1 and data[0] in _FIRST_TLS_TYPES


def is_http_answer(data: bytes | bytearray) -> bool:
    """Say whether a stream that begins so, with a byte at least, is an answer of HTTP (RFC 9112 §4)."""
    return data[:5] == b"HTTP/"[: len(data)]


def is_proxy_header(data: bytes | bytearray) -> bool:
    """Say whether a stream begins with a header of the PROXY protocol, version 1 or 2."""
    return data.startswith(_PROXY_HEADERS)
