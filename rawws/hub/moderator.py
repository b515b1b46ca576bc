"""The functions that a program gives to a hub: ``on_message`` at each door, ``on_join`` and ``on_leave``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rawws import logs
from rawws.broadcast.moderation import Answer, as_data, judge, moderate
from rawws.errors import SHUTTING_DOWN, Cause, CloseFrame, Refusal
from rawws.hooks import is_application_error, log_failure
from rawws.hub.member import Member
from rawws.hub.sender import Sender
from rawws.relay.gates import Passage
from rawws.relay.loop import current_loop
from rawws.relay.peer import Peer, PeerGroup
from rawws.relay.watchers import Watchers
from rawws.wire.events import Message

OnMessage = Callable[[Sender, str | bytes], Answer]
OnMember = Callable[[Member], object]

_INTERNAL_ERROR = CloseFrame(1011, "internal error")
_SHUTTING_DOWN = CloseFrame(1001, SHUTTING_DOWN)
_FAILED = "on_message failed; its connection is closed with 1011"


class Moderator:
    """The gate of a hub's rooms that asks the program about each message. It is asked about POSTs, too."""

    def __init__(self, on_message: OnMessage) -> None:
        self._on_message = on_message

    def pass_on(self, peer: Peer, frames: list[bytes | bytearray]) -> Passage:
        sender = Sender.of(peer)
        on_message = self._on_message

        def ask(data: str | bytes) -> object:
            # The program may have closed the sender by itself, when it was asked about an earlier message.
            return None if peer.cause is not None else on_message(sender, data)

        frames, received, published, close, error = moderate(frames, ask)
        if error is not None:
            if peer.endpoint.takes_for_end(error):
                return Passage(frames, received - published, _SHUTTING_DOWN, Cause.SHUTDOWN)
            log_failure(logs.hub, peer.number, _FAILED, error)
            return Passage(frames, received - published, _INTERNAL_ERROR, Cause.ERROR)
        return Passage(frames, received - published, close)

    def judge_post(self, number: int, sender: Sender, message: Message) -> Message | Refusal:
        """Return the message to publish in place of a POST's, or why it is refused."""
        data = as_data(message)
        try:
            verdict = judge(message, data, self._on_message(sender, data))
        except BaseException as error:
            if not is_application_error(error):
                raise
            log_failure(logs.hub, number, "on_message failed; its request is answered with 500", error)
            return Refusal(500, "internal_error", "The server failed to decide about this message.")
        if verdict is None:
            return Refusal(403, "message_dropped", "The server's program doesn't publish this message.")
        if isinstance(verdict, CloseFrame):
            reason = verdict.reason or f"it would close a WebSocket with {verdict.code}"
            return Refusal(403, "message_refused", f"The server's program refuses this message: {reason}")
        return verdict


class Attendance:
    """Tells a program of the members that a hub relays: each join, and then one leave, however the member goes."""

    def __init__(self, on_join: OnMember | None, on_leave: OnMember | None) -> None:
        self._on_join = on_join
        self._on_leave = on_leave
        self._present: dict[Peer, Member] = {}

    def join(self, peer: Peer) -> None:
        """Tell the program of a peer that is in its room now."""
        member = self._present[peer] = Member(peer)
        if self._on_join is not None:
            try:
                self._on_join(member)
            except BaseException as error:
                if peer.endpoint.takes_for_end(error):
                    return
                log_failure(logs.hub, peer.number, "on_join failed; its connection is closed with 1011", error)
                current_loop().close(peer, *_INTERNAL_ERROR, Cause.ERROR)

    def note_leave(self, peer: Peer) -> None:
        """Tell the program soon that a peer has left its room, unless it hasn't been told of the join."""
        member = self._present.pop(peer, None)
        if member is not None and self._on_leave is not None:
            current_loop().calls.add(partial(_call, self._on_leave, member, peer.endpoint))


def _call(on_leave: OnMember, member: Member, endpoint: PeerGroup) -> None:
    try:
        on_leave(member)
    except BaseException as error:
        if endpoint.takes_for_end(error):
            return
        log_failure(logs.hub, member.id, "on_leave failed", error)


class AttendedWatchers(Watchers[Peer]):
    """The watchers of a room whose joins and leaves the program follows."""

    __slots__ = ("_attendance",)

    def __init__(self, attendance: Attendance) -> None:
        super().__init__()
        self._attendance = attendance

    def note(self, what: str, who: Peer, peers: int) -> bool:
        if what == "leave":
            self._attendance.note_leave(who)
        return super().note(what, who, peers)
