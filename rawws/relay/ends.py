"""The last log line of a connection: how it ended, and, if it didn't end well, what is known of its last moments."""

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

    ``addition`` is what happened after ``closed`` was known, if anything. ``unsent_bytes`` had not been sent to the
    peer.
    """
    tracer = peer.endpoint.tracer
    if not tracer.is_watched and not logs.hub.isEnabledFor(logging.INFO):
        return
    session = peer.session
    # The end of an event stream is the only goodbye that its reader has.
    orderly = (session.close_rcvd is not None and session.fault is None) or peer.encoding.is_one_way
    end = f"{closed.sentence}; {addition}" if addition else closed.sentence
    if peer.flow is not None and peer.flow.skipped:
        end += f"; it read too slowly, and {peer.flow.skipped} messages were skipped"
    tracer.ended(peer.number, end, closed.cause)
    if not orderly and (before := _describe_last_frames(peer, unsent_bytes)):
        logs.line(logs.hub, logging.INFO, peer.number, STATE, before)
    logs.end(peer.number, STATE if orderly else FAULT, end, closed.cause)


def _describe_last_frames(peer: Peer, unsent_bytes: int) -> str:
    """Return what is known of a connection that doesn't end well, for whoever looks for the reason."""
    facts = []
    if frames := describe_recent_frames(peer.session.recent_frames):
        them = peer.session.our_role.other.label
        ago_s = time.perf_counter() - peer.heard_at
        facts.append(f"the last frames from the {them} were {frames}, {ago_s:.1f} s ago")
    if unsent_bytes:
        facts.append(f"{unsent_bytes:,} bytes for it had not gone out")
    return "; ".join(facts)
