"""The bytes of HTTP and WebSocket that a client of the tests sends and receives."""

from __future__ import annotations

from typing import NamedTuple

from rawws.wire.frames import Opcode, encode_frame

# RFC 6455 §1.3 and §5.7: the key, its accept value, and the masking key of the examples.
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
MASK_KEY = bytes.fromhex("37fa213d")


def get(target: str = "/", *lines: str, method: str = "GET", version: str = "1.1") -> bytes:
    """Return a request without a body; ``lines`` are header lines besides Host."""
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: localhost", *lines, "", ""]).encode("ascii")


def upgrade(path: str = "/", *lines: str) -> bytes:
    """Return the handshake of RFC 6455 §1.2 for a path."""
    return get(
        path,
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {KEY.decode()}",
        "Sec-WebSocket-Version: 13",
        *lines,
    )


def masked(opcode: int, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """Return a client's frame (§5.1: masked)."""
    return encode_frame(opcode, payload, fin=fin, mask_key=MASK_KEY)


def text(message: str) -> bytes:
    return masked(Opcode.TEXT, message.encode())


def binary(message: bytes) -> bytes:
    return masked(Opcode.BINARY, message)


def ping(payload: bytes = b"") -> bytes:
    return masked(Opcode.PING, payload)


def close(code: int = 1000, reason: str = "") -> bytes:
    return masked(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())


class Seen(NamedTuple):
    """One frame from the server. An incomplete or masked frame has failed the test before."""

    opcode: Opcode
    payload: bytes


def seen_text(message: str) -> Seen:
    return Seen(Opcode.TEXT, message.encode())


def seen_close(code: int, reason: str = "") -> Seen:
    return Seen(Opcode.CLOSE, code.to_bytes(2, "big") + reason.encode())
