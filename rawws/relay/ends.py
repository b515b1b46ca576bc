"""The last log lines of a connection: how it ended, and its last moments unless it ended well."""

from __future__ import annotations

import logging
import time

from rawws import logs
from rawws.errors import Closed
from rawws.relay.peer import Peer
from rawws.wire.recent_frames import describe_recent_frames
from rawws.wire.trace import FAULT, STATE


def log_end(peer: Peer, closed: Closed, addition: str, unsent_bytes: int) -> None:
    """Log and trace the end of a connection.

    ``addition`` says what happened after ``closed`` was known; it may be empty. ``unsent_bytes`` is the number of bytes
    that had not been sent to the peer.
    """
    tracer = peer.endpoint.tracer
    if not tracer.is_watched and not logs.hub.isEnabledFor(logging.INFO):
        return
    session = peer.session
    # A reader of events can say goodbye only by ending its stream.
    orderly = (session.close_rcvd is not None and session.fault is None) or peer.encoding.is_one_way
    end = f"{closed.sentence}; {addition}" if addition else closed.sentence
    if peer.flow is not None and peer.flow.skipped:
        end += f"; it read too slowly, and {peer.flow.skipped} messages were skipped"
    tracer.ended(peer.number, end, closed.cause)
    if not orderly and (before := _describe_last_frames(peer, unsent_bytes)):
        logs.line(logs.hub, logging.INFO, peer.number, STATE, before)
    logs.end(peer.number, STATE if orderly else FAULT, end, closed.cause)


def _describe_last_frames(peer: Peer, unsent_bytes: int) -> str:
    """Return the facts that may explain why a connection didn't end well; empty if there are none."""
    facts = []
    if frames := describe_recent_frames(peer.session.recent_frames):
        them = peer.session.our_role.other.label
        ago_s = time.perf_counter() - peer.heard_at
        facts.append(f"the last frames from the {them} were {frames}, {ago_s:.1f} s ago")
    if unsent_bytes:
        facts.append(f"{unsent_bytes:,} bytes for it had not gone out")
    return "; ".join(facts)
