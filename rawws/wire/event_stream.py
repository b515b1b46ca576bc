"""A response that never ends: a room's messages as Server-Sent Events (WHATWG HTML §9.2).

To the loop it is what a `Session` is, of a peer that only reads: it has the same state, and the same things to send at
their time. Its pings are comments, which every reader ignores; its close is the end of the response.
"""

from __future__ import annotations

from rawws.errors import Fault
from rawws.wire.events import CloseFrame, Event
from rawws.wire.recent_frames import NO_FRAMES
from rawws.wire.role import Role
from rawws.wire.session import State

CONTENT_TYPE = "text/event-stream"
# How long a reader that was cut off waits before it comes back.
RETRY_MS = 2000
PREAMBLE = f"retry: {RETRY_MS}\n".encode("ascii")
HEARTBEAT = b": rawws\n\n"


class EventStream:
    """What goes out on one response, and how it ends."""

    our_role = Role.SERVER
    answers_pings = False  # a reader can't answer; the bytes that it takes are the only sign of life
    on_frame = None
    shown_bytes = 0
    memory_bytes = held_bytes = 0
    has_unread = False
    recent_frames = NO_FRAMES
    fault: Fault | None = None
    close_rcvd: CloseFrame | None = None
    close_begun_by: Role | None = None

    def __init__(self) -> None:
        self.state = State.OPEN
        self.outgoing = b""
        self.close_sent: CloseFrame | None = None

    def __repr__(self) -> str:
        return f"<EventStream {self.state.value}>"

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    def relay_data(self, data: bytes, most: float = 0) -> list[bytes | bytearray]:
        """Pass over what a client sends behind its request: there is no answering it any more."""
        return []

    def receive_data(self, data: bytes, most: float = 0) -> list[Event]:
        return []

    def received(self, size: int) -> list[Event]:
        return []

    def large_buffer(self, least_bytes: int = 1) -> None:
        return None

    def ping(self, payload: bytes = b"") -> None:
        """Queue a heartbeat, so that who is in between doesn't take the connection for dead."""
        self.outgoing += HEARTBEAT

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the response. The reader will come back, unless it is told not to by a status of 204."""
        self.close_sent = CloseFrame(code, reason)
        self.close_begun_by = Role.SERVER
        self.state = State.CLOSED

    def data_to_send(self) -> bytes:
        data, self.outgoing = self.outgoing, b""
        return data

    def show_sent(self, data: bytes | bytearray) -> None:
        """Nothing here is a frame."""

    def describe_end(self) -> str:
        if self.close_sent is None:
            return "event stream over"
        return f"event stream ended by us: {self.close_sent.reason or self.close_sent.code}"
