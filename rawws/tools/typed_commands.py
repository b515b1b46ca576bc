"""The commands that a user of ``rawws connect`` can type."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rawws.errors import UsageError

HELP = """\
/ping [TEXT]           send a ping, and say how long the pong took
/pong [TEXT]           send a pong that nobody asked for
/binary HEX            send a binary message
/close [CODE [REASON]] close, with 1000 unless a code is given
/raw HEX               put these bytes on the wire as they are: no header, no mask, no check
/help                  this
//TEXT                 send /TEXT"""


@dataclass(frozen=True, slots=True)
class Say:
    message: str | bytes


@dataclass(frozen=True, slots=True)
class Ping:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    code: int = 1000
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Raw:
    data: bytes


@dataclass(frozen=True, slots=True)
class Tell:
    """Sends nothing, and shows the user a remark."""

    text: str


Command = Say | Ping | Pong | Close | Raw | Tell


def parse_command(line: str) -> Command:
    """Return the command of a typed line. An invalid one is a `Tell`, which says why."""
    if line.startswith("//") or not line.startswith("/"):
        return Say(line.removeprefix("/") if line.startswith("//") else line)
    name, _, rest = line.partition(" ")
    try:
        match name:
            case "/ping":
                return Ping(_control_payload(rest))
            case "/pong":
                return Pong(_control_payload(rest))
            case "/close":
                return _parse_close(rest)
            case "/raw":
                return Raw(_hex(rest))
            case "/binary":
                return Say(_hex(rest))
            case "/help":
                return Tell(HELP)
    except UsageError as error:
        return Tell(str(error))
    return Tell(f"there is no {name}; /help lists what there is, and //{line[1:]} sends that text")


def _control_payload(text: str) -> bytes:
    payload = text.encode()
    if len(payload) > 125:
        raise UsageError(f"a control frame holds 125 bytes, not {len(payload)} (RFC 6455 §5.5)")
    return payload


def _hex(text: str) -> bytes:
    digits = re.sub(r"[\s:,|]+|0x", "", text)
    try:
        data = bytes.fromhex(digits)
    except ValueError:
        raise UsageError(f"{text.strip()!r} is not bytes in hex, such as 81 85 37 fa") from None
    if not data:
        raise UsageError("give bytes in hex, such as 81 85 37 fa")
    return data


def _parse_close(text: str) -> Close:
    code, _, reason = text.strip().partition(" ")
    if not code:
        return Close()
    if not code.isascii() or not code.isdigit() or not 1000 <= int(code) <= 4999:
        raise UsageError(f"{code!r} is not a close code; give one from 1000 to 4999 (RFC 6455 §7.4)")
    if len(reason.encode()) > 123:
        raise UsageError(f"a close holds a reason of 123 bytes, not {len(reason.encode())} (RFC 6455 §5.5)")
    return Close(int(code), reason)
