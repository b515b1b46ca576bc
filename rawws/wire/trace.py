"""Heads, frames and messages as lines of text.

Every line opens with a mark, then says one thing:

====  =============================================
``<``  we received it
``>``  we sent it
``=``  a state changed, or a step was worked out
``!``  a fault: something is refused or lost
``-``  a timer ran out
====  =============================================

The first two are relative to us, so that they mean the same in a server and in a client. A tap or a reader of captures
is neither side, so it names both: ``client → server`` (`DIRECTIONS`).

These are pure functions from records to text. Callers check first whether anyone listens, since formatting takes time.
"""

from __future__ import annotations

import re

from rawws.wire.frames import Frame, Opcode, SeenMessage
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role

IN, OUT, STATE, FAULT, TIMER = "<", ">", "=", "!", "-"
# The direction by the sender, for a program that is neither side.
DIRECTIONS = {Role.CLIENT: "client → server", Role.SERVER: "server → client"}

_OTHER_MARKS = f"{STATE} a state or a step, {FAULT} a fault, {TIMER} a timer that ran out"
LEGEND = f"marks of this log: {IN} received, {OUT} sent, {_OTHER_MARKS}"
WATCHED_LEGEND = f"marks of this log: sender → receiver, {_OTHER_MARKS}"

# Lines are for people: a longer preview is cut in the middle, at 75 characters as in Python's websockets.
PREVIEW_CHARACTERS = 75
PREVIEW_BYTES = 32  # of a binary message
MESSAGE_CHARACTERS = 200  # of a message that has a line of its own
# RFC 1035 §2.3.4: a host name has at most 255 bytes on the wire. A scheme and a port nearly fit in as well.
MAX_NAME_CHARACTERS = 255

SECRET_HEADERS = frozenset({b"authorization", b"proxy-authorization", b"cookie", b"set-cookie"})

# A bare CR ends a line for some programs, although not for us.
_LINE_END = re.compile(rb"(\r?\n|\r)")
_MASKED = re.compile(rb"\(masked, \d+ bytes\)")


def _in_any_spelling(name: str) -> str:
    """Return a pattern for a parameter's name, any character of which may be percent-encoded."""
    return "".join(rf"(?:{each}|%{ord(each):02x}|%{ord(each.upper()):02x})" for each in name)


# A token in a URL's query: that of the page, one of an application, or an access token (RFC 6750 §2.3), since a page
# can't set headers for its WebSocket. It is part of the request line, and of fields such as Referer and Location. The
# URL may be percent-encoded as a part of another one, and may have the token after its # (RFC 6749 §4.2.2). An
# application, or a backend that is asked, may read a parameter that we don't, such as access%5Ftoken.
_IN_QUERY = re.compile(
    rf"((?:[?&;#]|%(?:25)*(?:3f|26|3b|23))(?:{_in_any_spelling('access_')})?{_in_any_spelling('token')}"
    r"(?:=|%(?:25)*3d))[^&\s]+",
    re.IGNORECASE,
)
# The same without any percent-encoding, which is several times faster.
_IN_PLAIN_QUERY = re.compile(r"([?&;#](?:access_)?token=)[^&\s]+", re.IGNORECASE)
# A token as a subprotocol, which is the one header field that a page can choose. A malformed one is hidden as well, up
# to the comma that ends it.
TOKEN_SUBPROTOCOL = "rawws.token."
_AS_SUBPROTOCOL = re.compile(rf"({re.escape(TOKEN_SUBPROTOCOL)})[^,\r\n]+", re.IGNORECASE)
_RAW_TOKENS = tuple(re.compile(each.pattern.encode(), re.IGNORECASE) for each in (_IN_QUERY, _AS_SUBPROTOCOL))
_MASKED_TOKEN = r"\1(masked)"
_NOT_PLAIN = re.compile(r"[^\x20-\x7e]")


def mark_of(sender: Role, our_role: Role) -> str:
    """Return the mark of a side's bytes for our own side."""
    return OUT if sender is our_role else IN


def escape(raw: bytes) -> str:
    """Return bytes as text with everything but plain ASCII escaped, so that no peer can forge a line."""
    return _NOT_PLAIN.sub(_spell_out, raw.decode("latin-1"))


def _spell_out(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def quote(text: str) -> str:
    """Return text in quotes, with control characters spelt out and letters of any language as they are."""
    return f"'{printable(text)}'"


def printable(text: str) -> str:
    """Return text with invisible characters escaped: line ends, terminal controls, changes of the text's direction."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def printable_lines(text: str) -> str:
    """Return text of several lines with all invisible characters but its line feeds escaped."""
    if text.isprintable():
        return text
    return "\n".join(map(printable, text.split("\n")))


def shorten(text: str) -> str:
    """Return a name given by a peer. A name that is too long is cut, and the number of missing characters added."""
    rest = len(text) - MAX_NAME_CHARACTERS
    return text if rest <= 0 else f"{text[:MAX_NAME_CHARACTERS]}… ({rest} characters more)"


def mask_secrets(head: bytes) -> bytes:
    """Return the head of an HTTP message without its secrets.

    The values of secret fields are replaced by their lengths, and tokens in queries and in subprotocols are taken out.
    """
    for token in _RAW_TOKENS:
        head = token.sub(_MASKED_TOKEN.encode(), head)
    parts = _LINE_END.split(head)
    secret = False
    for at in range(2, len(parts), 2):  # the ends are between the lines, and the first line is no field
        line = parts[at]
        folded = line[:1] in (b" ", b"\t")  # it continues the field before, or was meant as a field of its own
        secret = (folded and secret) or line.partition(b":")[0].strip().lower() in SECRET_HEADERS
        if secret:
            parts[at] = _mask_line(line)
    return b"".join(parts)


def mask_target(target: str) -> str:
    """Return a request's target without what follows ``token=`` or ``access_token=`` in it, in any spelling."""
    if "%" in target:
        return _IN_QUERY.sub(_MASKED_TOKEN, target)
    return _IN_PLAIN_QUERY.sub(_MASKED_TOKEN, target) if "=" in target else target  # each handshake comes here


def mask_subprotocols(names: str) -> str:
    """Return names of subprotocols without what follows ``rawws.token.`` in them."""
    return _AS_SUBPROTOCOL.sub(_MASKED_TOKEN, names)


def _mask_line(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    if _MASKED.fullmatch(value.strip()):
        return line  # it comes from a recording
    if not colon or line[:1] in (b" ", b"\t"):
        return b" (masked, %d bytes)" % len(line.strip())
    return b"%s: (masked, %d bytes)" % (name, len(value.strip()))


def head_lines(head: bytes) -> list[str]:
    """Return the lines of an HTTP message's head as they were on the wire, but for masked secrets."""
    return [escape(line.removesuffix(b"\r")) for line in mask_secrets(head.rstrip(b"\r\n")).split(b"\n")]


def frame_line(frame: Frame) -> str:
    """Return one frame as a line: ``TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'``."""
    header = frame.header
    mask = "none" if header.mask_key is None else header.mask_key.hex()
    line = (
        f"{header.opcode_name} fin={header.fin:d} rsv={header.rsv1:d}{header.rsv2:d}{header.rsv3:d} "
        f"mask={mask} len={header.payload_bytes}"
    )
    preview = preview_payload(frame)
    return f"{line} {preview}" if preview else line


def message_line(frame: Frame) -> str:
    """Return a line about the message that ends with a frame: ``the message: TEXT, 5 bytes: 'Hello'``.

    Empty if the frame's own line shows it already, or no message ends.
    """
    message = frame.message
    if message is None or not (frame.header.rsv1 or frame.header.opcode == Opcode.CONTINUATION):
        return ""
    if message.is_lost:
        return f"the message: {message.opcode.name}, not shown: it refers to earlier ones that were not inflated"
    line = f"the message: {message.opcode.name}, {message.size:,} bytes"
    if not message.is_all_known:
        line += " or more (no more is inflated)"
    return f"{line}: {preview_message(message, MESSAGE_CHARACTERS)}"


def preview_message(message: SeenMessage, most: int = PREVIEW_CHARACTERS) -> str:
    """Return a message's beginning: text as text, binary as hex."""
    if message.opcode == Opcode.TEXT:
        # The beginning may end within a character.
        text = message.beginning.decode(errors="replace" if message.is_whole else "ignore")
        return quote(text if message.is_whole and len(text) <= most else text[:most] + "…")
    shown = message.beginning[:PREVIEW_BYTES]
    return f"{shown.hex(' ')}{' …' * (not message.is_whole or len(shown) < message.size)}"


def frame_hex(frame: Frame) -> str:
    """Return the frame's bytes as they were on the wire, in hex: ``81 85 | 37 fa 21 3d | 7f 9f 4d 51 58``.

    The bars divide header, masking key and payload; the middle of a long payload is left out.
    """
    header = frame.header
    key = header.mask_key
    raw_head, raw_tail = frame.payload_head, frame.payload_tail
    if key is None:
        parts = [header.raw.hex(" ")]
    else:
        parts = [header.raw[:-4].hex(" "), key.hex(" ")]
        raw_head = apply_mask(raw_head, key)
        raw_tail = apply_mask(raw_tail, key, header.payload_bytes - len(raw_tail))
    if frame.left_out_bytes:
        parts.append(f"{raw_head.hex(' ')} … {frame.left_out_bytes} bytes … {raw_tail.hex(' ')}")
    elif header.payload_bytes:
        parts.append((raw_head + raw_tail).hex(" "))
    return " | ".join(parts)


def preview_payload(frame: Frame) -> str:
    """Return a short form of the payload: text as text, a close as code and reason, the rest as hex."""
    header = frame.header
    if not header.payload_bytes:
        return ""
    if header.rsv1:
        return _preview_hex(frame)  # compressed: its bytes are no text
    if header.opcode == Opcode.TEXT:
        return _preview_text(frame)
    if header.opcode == Opcode.CLOSE and header.payload_bytes >= 2:
        code = int.from_bytes(frame.payload_head[:2], "big")
        reason = frame.payload_head[2:].decode(errors="replace")
        return f"{code} {quote(reason)}" if reason else str(code)
    return _preview_hex(frame)


def _preview_text(frame: Frame) -> str:
    if not frame.left_out_bytes:
        text = (frame.payload_head + frame.payload_tail).decode(errors="replace")
        if len(text) <= PREVIEW_CHARACTERS:
            return quote(text)
        head = tail = text
    else:
        # "ignore", since the cut may be within a character.
        head = frame.payload_head.decode(errors="ignore")
        tail = frame.payload_tail.decode(errors="ignore")
    kept = PREVIEW_CHARACTERS - 1
    return quote(f"{head[: kept * 2 // 3]}…{tail[-(kept // 3) :]}")


def _preview_hex(frame: Frame) -> str:
    most = PREVIEW_CHARACTERS // 3
    whole = frame.payload_head + frame.payload_tail
    if not frame.left_out_bytes and len(whole) <= most:
        return whole.hex(" ")
    return f"{whole[: most * 2 // 3].hex(' ')} … {whole[-(most // 3) :].hex(' ')}"
