"""The little of RFC 6455 that the load needs: a client's handshake and frames, as bytes. Measures nothing.

It is written by hand, and not with the code under test, so that a shared mistake can't hide.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zlib

FIN = 0b1000_0000
RSV1 = 0b0100_0000
OPCODE = 0b0000_1111
TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA
MASKED = 0b1000_0000

END_OF_HEADERS = b"\r\n\r\n"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# Both sides without context takeover: the one form in which a server may compress a broadcast once.
DEFLATE_OFFER = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"


def upgrade_request(
    port: int, key: bytes, *, deflate: bool = False, path: str = "/bench", subprotocol: str = ""
) -> bytes:
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key.decode()}",
        "Sec-WebSocket-Version: 13",
    ]
    if deflate:
        lines.append(f"Sec-WebSocket-Extensions: {DEFLATE_OFFER}")
    if subprotocol:
        lines.append(f"Sec-WebSocket-Protocol: {subprotocol}")
    return "\r\n".join([*lines, "", ""]).encode()


def new_key() -> bytes:
    return base64.b64encode(os.urandom(16))


def accept_value(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + GUID).digest())


def header(payload_bytes: int, first: int = FIN | TEXT) -> bytes:
    """Return the header of an unmasked frame, in its shortest form, as a server writes it before a payload."""
    if payload_bytes < 126:
        return bytes([first, payload_bytes])
    if payload_bytes < 2**16:
        return bytes([first, 126]) + payload_bytes.to_bytes(2, "big")
    return bytes([first, 127]) + payload_bytes.to_bytes(8, "big")


def server_frame(payload: bytes, first: int = FIN | TEXT) -> bytes:
    return header(len(payload), first) + payload


def client_frame(payload: bytes, first: int = FIN | TEXT) -> bytes:
    """Return a masked frame. Its mask is random, so no server is helped or hurt by a special one."""
    head = bytearray(header(len(payload), first))
    head[1] |= MASKED
    mask = os.urandom(4)
    return bytes(head) + mask + masked(payload, mask)


def masked(payload: bytes, mask: bytes) -> bytes:
    repeated = (mask * (len(payload) // 4 + 1))[: len(payload)]
    number = int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")
    return number.to_bytes(len(payload), "big")


def frame_end(buffer: bytearray, start: int, end: int) -> tuple[int, int] | None:
    """Return where the payload of the unmasked frame at `start` begins and ends; None if it is not whole."""
    if end - start < 2:
        return None
    length = buffer[start + 1]
    body = start + 2
    if length == 126:
        body = start + 4
        if end < body:
            return None
        length = int.from_bytes(buffer[start + 2 : body], "big")
    elif length == 127:
        body = start + 10
        if end < body:
            return None
        length = int.from_bytes(buffer[start + 2 : body], "big")
    return (body, body + length) if body + length <= end else None


def inflate(payload: bytes) -> bytes:
    """Undo permessage-deflate for one message on its own (RFC 7692 §7.2.2)."""
    return zlib.decompressobj(-15).decompress(payload + b"\x00\x00\xff\xff")


def deflate(payload: bytes) -> bytes:
    """Compress one message on its own, as a server without context takeover does (RFC 7692 §7.2.1)."""
    compressor = zlib.compressobj(wbits=-15)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
