"""Server-Sent Events, read as a browser does: WHATWG HTML §9.2.6, line by line."""

from __future__ import annotations

import re
from typing import NamedTuple


class Event(NamedTuple):
    """One event, and the last id when it was dispatched."""

    kind: str
    data: str
    last_id: str


def read_events(stream: bytes) -> list[Event]:
    """Return the events of a stream, or of a part of one that ends after an event."""
    text = stream.decode().removeprefix("\N{ZERO WIDTH NO-BREAK SPACE}")  # one byte order mark, at the very beginning
    events = []
    last_id, kind, data = "", "", ""
    for line in re.split("\r\n|\n|\r", text):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "" if not line:
                if data:
                    events.append(Event(kind or "message", data.removesuffix("\n"), last_id))
                kind, data = "", ""
            case "id" if "\0" not in value:
                last_id = value
            case "event":
                kind = value
            case "data":
                data += value + "\n"
            case _:
                pass  # a comment, `retry`, or an unknown field
    return events


def as_onmessage_gets(text: str) -> str:
    """Return a text as it arrives in an event: CR LF and CR end a line too, and become LF."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
