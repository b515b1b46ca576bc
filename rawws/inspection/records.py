r"""Recordings of connections: lines of JSON that ``--record`` writes and ``rawws decode`` reads.

Every record has ``at`` (seconds since 1970), ``connection`` (its number) and ``kind``:

==========  ==================================================================================================
``open``    a connection begins; ``from`` is the address of its client
``head``    ``sender``; ``head``: an HTTP message's head, each byte as the character of that number, with the
            values of secret fields masked
``checks``  the handshake's checks of what ``sender`` sent, as a list of objects (``section``,
            ``requirement``, ``found``, ``holds``, and ``about``: the header field), and ``accept``: the steps that
            make the accept value, if the key is valid
``refused`` the server refuses a request: ``status``, ``code``, and ``told``, the sentence that its body has
``switch``  HTTP ends, frames begin
``frame``   ``sender``; ``header`` and ``payload`` in hex, the payload unmasked; of a long payload,
            ``left_out`` bytes are omitted before ``tail``
``end``  ``told``: a sentence about the connection's end; ``cause``: the value of its `rawws.Cause`, for a WebSocket or
            an event stream
``lost``    ``records``: the number of records that were dropped here, to keep up
==========  ==================================================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from rawws.errors import UsageError
from rawws.wire.checks import AnyCheck
from rawws.wire.frames import Frame, parse_header
from rawws.wire.handshake import GUID, Accept
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role
from rawws.wire.trace import mask_secrets

Record = dict[str, Any]

_SENDERS = {role.label: role for role in Role}


def head_record(sender: Role, raw_head: bytes) -> Record:
    """Return an HTTP head as a record."""
    return {"kind": "head", "sender": sender.label, "head": mask_secrets(raw_head).decode("latin-1")}


def checks_record(sender: Role, checks: Iterable[AnyCheck], accept: Accept | None) -> Record:
    """Return a handshake's checks and their results, as a record."""
    record: Record = {
        "kind": "checks",
        "sender": sender.label,
        "checks": [
            {
                "section": check.section,
                "requirement": check.requirement,
                "found": check.found,
                "holds": check.holds,
                "about": check.about,
            }
            for check in checks
        ],
    }
    if accept is not None:
        key, guid = accept.key, GUID.decode("ascii")
        record["accept"] = {"key": key, "guid": guid, "sha1": accept.sha1.hex(), "value": accept.value}
    return record


def frame_record(sender: Role, frame: Frame) -> Record:
    """Return a frame as a record."""
    record: Record = {
        "kind": "frame",
        "sender": sender.label,
        "header": frame.header.raw.hex(),
        "payload": frame.payload_head.hex(),
    }
    if frame.left_out_bytes:
        record["left_out"] = frame.left_out_bytes
    if frame.payload_tail:
        record["tail"] = frame.payload_tail.hex()
    return record


def to_line(record: Record, *, at: float, connection: int) -> str:
    """Return a record as a line, including the line end."""
    return json.dumps({"at": round(at, 6), "connection": connection, **record}, separators=(",", ":")) + "\n"


class Recorded(NamedTuple):
    """One line that was read back. ``head`` or ``frame`` is set for a record of that kind."""

    kind: str
    at: float
    connection: int
    sender: Role | None
    head: bytes
    frame: Frame | None
    text: str


def from_line(line: str) -> Recorded:
    """Read a line back. Raises `UsageError`, with the reason, for a line that is no record."""
    try:
        record = json.loads(line)
        if not isinstance(record, dict):
            raise TypeError("it isn't an object of JSON")
        for member in ("kind", "at", "connection"):
            if member not in record:
                raise ValueError(f"it has no {member!r}")
        sender = None
        if "sender" in record and (sender := _SENDERS.get(record["sender"])) is None:
            raise ValueError(f"its sender is {str(record['sender'])[:20]!r}, and neither client nor server")
        frame = read_frame(record) if record["kind"] == "frame" else None
        head = record.get("head", "").encode("latin-1")
        text = str(record.get("told") or record.get("from") or record.get("records") or "")
        return Recorded(str(record["kind"]), float(record["at"]), int(record["connection"]), sender, head, frame, text)
    except json.JSONDecodeError as error:
        why = f"it isn't JSON: {error.msg}"
    except KeyError as error:
        why = f"it has no {error.args[0]!r}"
    except RecursionError:
        why = "it is nested too deeply"
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        why = str(error)
    raise UsageError(f"this is not a record: {line.strip()[:80]!r}: {why}")


def read_frame(record: Record) -> Frame:
    """Return the frame in a record. Raises ValueError, KeyError or TypeError if it is not a valid one."""
    raw = bytes.fromhex(record["header"])
    header = parse_header(raw)
    if header is None or len(header.raw) != len(raw):
        raise ValueError("the frame's header is not a header")
    frame = Frame(header, bytes.fromhex(record["payload"]), bytes.fromhex(record.get("tail", "")))
    if frame.left_out_bytes != record.get("left_out", 0) or frame.left_out_bytes < 0:
        raise ValueError("the frame's payload is not as long as its header says")
    return frame


def frame_bytes(frame: Frame) -> bytes | None:
    """Return a frame's bytes as they were on the wire; None if a part of it was left out."""
    if frame.left_out_bytes:
        return None
    payload = frame.payload_head + frame.payload_tail
    key = frame.header.mask_key
    return frame.header.raw + (payload if key is None else apply_mask(payload, key))
