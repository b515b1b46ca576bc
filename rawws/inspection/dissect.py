"""A frame laid out as in RFC 6455 §5.2: each field with its place, its bits, and their meaning.

This module does not validate frames; ``observer.py`` does.
"""

from __future__ import annotations

from typing import NamedTuple

from rawws.wire.events import CLOSE_CODE_NAMES
from rawws.wire.frames import LENGTH_IN_2_BYTES, LENGTH_IN_8_BYTES, Frame, FrameHeader, Opcode
from rawws.wire.masking import apply_mask
from rawws.wire.trace import preview_payload, quote

_OPCODES = {
    Opcode.CONTINUATION: "CONTINUATION: goes on with a message that an earlier frame began",
    Opcode.TEXT: "TEXT: a message in UTF-8 begins",
    Opcode.BINARY: "BINARY: a message of any bytes begins",
    Opcode.CLOSE: "CLOSE: the sender sends nothing after this",
    Opcode.PING: "PING: to be answered with a pong of the same payload",
    Opcode.PONG: "PONG: the answer to a ping, or a sign of life",
}


class Field(NamedTuple):
    """One field of a frame. ``at`` is its offset in the frame and ``bits`` its length, both in bits."""

    name: str
    at: int
    bits: int
    digits: str  # its value: in binary if it is shorter than a byte, otherwise in hex
    meaning: str
    section: str


def fields_of(header: FrameHeader) -> list[Field]:
    """Return the fields of a header in their order, the masking key included."""
    first, second = header.raw[0], header.raw[1]
    fields: list[Field] = []

    def add(name: str, bits: int, value: int, meaning: str, section: str = "RFC 6455 §5.2") -> None:
        at = fields[-1].at + fields[-1].bits if fields else 0
        digits = f"{value:0{bits}b}" if bits < 8 else value.to_bytes(bits // 8, "big").hex(" ")
        fields.append(Field(name, at, bits, digits, meaning, section))

    add("FIN", 1, first >> 7, _mean_fin(header), "RFC 6455 §5.4")
    add("RSV1", 1, first >> 6 & 1, _mean_rsv1(header), "RFC 7692 §6" if header.rsv1 else "RFC 6455 §5.2")
    for name, value in (("RSV2", first >> 5 & 1), ("RSV3", first >> 4 & 1)):
        add(name, 1, value, "for an extension that nobody has defined" if value else "not used")
    add("opcode", 4, header.opcode, _mean_opcode(header.opcode))
    masked = header.mask_key is not None
    add("MASK", 1, second >> 7, "masked, as all from a client" if masked else "not masked, as all from a server",
        "RFC 6455 §5.1")  # fmt: skip
    short = second & 0x7F
    match short:
        case 126:
            add("length", 7, short, "the next 16 bits have it")
            add("extended length", 16, header.payload_bytes, _mean_length(header))
        case 127:
            add("length", 7, short, "the next 64 bits have it")
            add("extended length", 64, header.payload_bytes, _mean_length(header))
        case _:
            add("length", 7, short, _mean_length(header))
    if header.mask_key is not None:
        key = int.from_bytes(header.mask_key, "big")
        add("masking key", 32, key, "payload byte i is XORed with byte i mod 4 of it", "RFC 6455 §5.3")
    return fields


def _mean_fin(header: FrameHeader) -> str:
    if header.is_control:
        return "whole, as control frames have to be" if header.fin else "not the last: but control frames have no parts"
    if header.fin:
        return "the last frame of its message"
    return "more frames of this message follow"


def _mean_rsv1(header: FrameHeader) -> str:
    if not header.rsv1:
        return "not compressed" if header.opcode in (Opcode.TEXT, Opcode.BINARY) else "not used"
    if header.opcode in (Opcode.TEXT, Opcode.BINARY):
        return "the message is compressed with permessage-deflate"
    return "out of place: only a message's first frame can say that it is compressed"


def _mean_opcode(opcode: int) -> str:
    known = _OPCODES.get(Opcode(opcode)) if opcode in Opcode._value2member_map_ else None
    if known is not None:
        return known
    return f"reserved for {'control' if opcode & 8 else 'data'} frames to come"


def _mean_length(header: FrameHeader) -> str:
    size = header.payload_bytes
    described = f"{size:,} byte{'s' * (size != 1)} of payload"
    form = header.raw[1] & 0x7F
    if (form == LENGTH_IN_2_BYTES and size < LENGTH_IN_2_BYTES) or (form == LENGTH_IN_8_BYTES and size <= 0xFFFF):
        return f"{described}, in more bytes than that needs"
    if size >> 63:
        return f"{described}: the first bit has to be 0"
    return described


def describe_payload(frame: Frame) -> str:
    """Return the payload's content in a few words; empty for none."""
    header = frame.header
    if not header.payload_bytes:
        return ""
    if header.opcode == Opcode.CLOSE and not frame.left_out_bytes and header.payload_bytes >= 2:
        code = int.from_bytes(frame.payload_head[:2], "big")
        other = "a code of libraries and applications" if 3000 <= code < 5000 else "not a registered code"
        name = CLOSE_CODE_NAMES.get(code, other)
        reason = frame.payload_head[2:].decode(errors="replace")
        return f"{code} ({name})" + (f", reason {quote(reason)}" if reason else ", no reason")
    return preview_payload(frame)


def lines(frame: Frame) -> list[str]:
    """Return the frame as a ruler: each byte of its header in hex, and under it each field's bits in their place.

    ::

        81           1.......  FIN          the last frame of its message                    RFC 6455 §5.4
                     .0......  RSV1         not compressed                                   RFC 6455 §5.2
    """
    rows: list[str] = []
    for field in fields_of(frame.header):
        byte, bit = divmod(field.at, 8)
        raw = frame.header.raw
        if field.bits < 8:
            in_hex = f"{raw[byte]:02x}" if bit == 0 else ""
            place = "." * bit + field.digits + "." * (8 - bit - field.bits)
        else:
            in_hex = field.digits
            place = ""
        rows.append(_row(in_hex, place, field.name, field.meaning, field.section))
    header = frame.header
    if header.payload_bytes:
        if header.mask_key is not None:
            rows.append(_row(_payload_hex(frame, masked=True), "", "payload", "as it is on the wire", "RFC 6455 §5.3"))
        clear = "with the mask taken off: " if header.mask_key is not None else ""
        rows.append(_row(_payload_hex(frame), "", "payload", clear + describe_payload(frame), ""))
    return rows


# As much of a payload as a row has room for; the frame's own line has the whole preview.
_ROW_BYTES = 8


def _payload_hex(frame: Frame, *, masked: bool = False) -> str:
    head = frame.payload_head[:_ROW_BYTES]
    if masked and frame.header.mask_key is not None:
        head = apply_mask(head, frame.header.mask_key)
    more = frame.header.payload_bytes > len(head)
    return head.hex(" ") + (" …" if more else "")


def _row(in_hex: str, place: str, name: str, meaning: str, section: str) -> str:
    return f"{in_hex:<25}  {place:<8}  {name:<15}  {meaning:<50}  {section}".rstrip()
