"""Server-Sent Events, read as WHATWG HTML §9.2.6 has it."""

from __future__ import annotations

from typing import NamedTuple


class Event(NamedTuple):
    """One event, and the id that stood when it was dispatched."""

    kind: str
    data: str
    last_id: str


def read_events(stream: bytes) -> list[Event]:
    """Return the events of a stream that ends behind one. It has no carriage returns, as none of ours has."""
    text = stream.decode()
    assert "\r" not in text
    events = []
    last_id, kind = "", ""
    data: list[str] = []
    for line in text.split("\n"):
        if not line:
            if data:
                events.append(Event(kind or "message", "\n".join(data), last_id))
            kind, data = "", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "id":
                last_id = value
            case "event":
                kind = value
            case "data":
                data.append(value)
            case _:
                pass
    return events
