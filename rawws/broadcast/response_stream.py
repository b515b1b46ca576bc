"""A response that never ends: a room's messages over HTTP.

To the loop it is what a `Session` is, of a peer that only reads. It has the same state, and the same things to send at
their time. Its pings are heartbeats, which every reader ignores. Its close is the end of the response.
"""

from __future__ import annotations

from rawws.broadcast.stream_encodings import StreamEncoding
from rawws.errors import Fault
from rawws.wire.events import CloseFrame, Event
from rawws.wire.recent_frames import NO_FRAMES
from rawws.wire.role import Role
from rawws.wire.session import State


class ResponseStream:
    """The state of one response, and the bytes that it has besides the messages."""

    our_role = Role.SERVER
    answers_pings = False  # a reader can't answer; the bytes that it takes are the only sign of life
    on_frame = None
    shown_bytes = 0
    memory_bytes = held_bytes = 0
    unread = b""
    recent_frames = NO_FRAMES
    fault: Fault | None = None
    close_rcvd: CloseFrame | None = None
    close_begun_by: Role | None = None

    def __init__(self, encoding: StreamEncoding) -> None:
        self.state = State.OPEN
        self.outgoing = b""
        self.close_sent: CloseFrame | None = None
        self._encoding = encoding

    def __repr__(self) -> str:
        return f"<ResponseStream {self._encoding.content_type} {self.state.value}>"

    @property
    def is_closed(self) -> bool:
        return self.state is State.CLOSED

    def relay_data(self, data: bytes, most: float = 0) -> list[bytes | bytearray]:
        """Ignore the bytes that a client sends after its request: they can't be answered any more."""
        return []

    def receive_plain(self, data: bytes, most: float = 0) -> list[Event]:
        return []

    def received(self, size: int) -> list[Event]:
        return []

    def large_buffer(self, least_bytes: int = 1) -> None:
        return None

    def ping(self, payload: bytes = b"") -> None:
        """Queue a heartbeat, so that proxies on the way don't take the connection for dead."""
        self.outgoing += self._encoding.heartbeat

    def close(self, code: int = 1000, reason: str = "") -> None:
        """End the response. A reader of events reconnects, unless a status of 204 forbids it."""
        self.close_sent = CloseFrame(code, reason)
        self.close_begun_by = Role.SERVER
        self.state = State.CLOSED

    def data_to_send(self) -> bytes:
        data, self.outgoing = self.outgoing, b""
        return data

    def show_sent(self, data: bytes | bytearray) -> None:
        """Do nothing: nothing here is a frame."""

    def describe_end(self) -> str:
        if self.close_sent is None:
            return f"{self._encoding.noun} over"
        return f"{self._encoding.noun} ended by us: {self.close_sent.reason or self.close_sent.code}"
