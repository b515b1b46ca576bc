"""The workers of a group that have a WebSocket with ``rawws.id.v1``: each job is a message, and each answer too.

A worker is no member of the room. It has no task: its connection is one with callbacks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from rawws import logs
from rawws.access.grant import Action, refuse_by_now
from rawws.broadcast.encodings import SUBPROTOCOL
from rawws.broadcast.message_ids import MessageId
from rawws.errors import Refusal, UsageError
from rawws.groups.leases import Worker
from rawws.groups.protocol import GROUP_ENDED, GroupQuery, JobLines, lost_lease, read_answer
from rawws.groups.queue import ENDED, Queue
from rawws.groups.shelf import StoredMessage
from rawws.net.accept import Address
from rawws.net.addresses import format_address
from rawws.relay.leases import WITHDRAWN
from rawws.relay.sending import MAX_OUTBOX_BYTES
from rawws.websocket.callbacks import BatchCallbacks, CallbackWebSocket
from rawws.websocket.internals import peer_of, send_together
from rawws.wire.events import PlainEvent
from rawws.wire.frames import MAX_CONTROL_PAYLOAD_BYTES, Opcode
from rawws.wire.session import State
from rawws.wire.trace import FAULT, STATE, shorten

_TEXT = Opcode.TEXT

# A worker needs both rights: it takes jobs from others, and the messages that its group keeps can fill the room.
WORKING = Action.READ | Action.WRITE


def worker_name(number: int, address: object, user: object) -> str:
    """Return the name by which a worker is called in the log and in a dead job."""
    name = getattr(user, "user", user)
    where = f"{format_address(address)}" if isinstance(address, tuple) else str(address)
    return f"#{number} {where}" + (f" ({name})" if isinstance(name, str) else "")


class SocketWorker:
    """The worker of one WebSocket, as a `Client` of its group."""

    def __init__(self, runner: Queue, query: GroupQuery, websocket: CallbackWebSocket) -> None:
        self._runner = runner
        self._group = query.group
        self._websocket = websocket
        name = worker_name(websocket.id, websocket.remote_address, websocket.user)
        self.worker = Worker(name, most=query.most, ack_s=query.ack_s, tries=query.tries)
        self._jobs = JobLines("")
        self._messages: list[tuple[Opcode, bytes]] = []  # to be sent together
        self._bytes = 0

    @property
    def is_full(self) -> bool:
        return self.worker.is_paused

    def refuse(self) -> Refusal | None:
        if self._websocket.state is not State.OPEN:  # its end is told when the peer has answered the close
            return LEAVING
        return refuse_by_now(self._websocket.user, self._runner.path, WORKING, time.time())

    def deliver(self, job: MessageId, tried: int, message: StoredMessage) -> None:
        if job.epoch != self._jobs.epoch:
            self._jobs = JobLines(job.epoch)
        opcode, payload = message
        payload = self._jobs.with_head(job.number, tried, payload)
        self._messages.append((opcode, payload))
        self._bytes += len(payload)
        if self._bytes > MAX_OUTBOX_BYTES:
            self.flush()

    def flush(self) -> None:
        messages, self._messages, self._bytes = self._messages, [], 0
        send_together(self._websocket, messages)

    def end(self, refusal: Refusal) -> None:
        self._websocket.close(*_close_of(refusal))

    # For operators, see `rawws.hub.queues.GroupWorker`

    @property
    def number(self) -> int:
        return self._websocket.id

    @property
    def room(self) -> str:
        return self._runner.path

    @property
    def group(self) -> str:
        return self._group

    @property
    def jobs(self) -> int:
        return len(self.worker.jobs)

    @property
    def user(self) -> object:
        return self._websocket.user

    @property
    def remote_address(self) -> Address:
        return self._websocket.remote_address

    @property
    def since(self) -> int:
        return peer_of(self._websocket).transport.connected_at

    @property
    def is_here(self) -> bool:
        return self._websocket.state is State.OPEN

    def close(self, code: int, reason: str | None) -> None:
        self._websocket.close(code, reason)

    def take_acks(self, events: Sequence[PlainEvent]) -> Sequence[PlainEvent]:
        """Take those of the first messages that acknowledge jobs; return the others, for `take`."""
        if numbers := self._jobs.acknowledged(events):
            self._runner.acknowledge(self._jobs.epoch, numbers, self)
        return events[len(numbers) :]

    def take(self, message: str | bytes) -> None:
        """Take the message of a worker. One that isn't an answer costs the connection."""
        try:
            answer = read_answer(message)
        except UsageError as error:
            logs.line(logs.hub, logging.WARNING, self._websocket.id, FAULT, f"a worker's mistake: {error}")
            self._runner.leave(self.worker, f"its worker has made a mistake: {error}"[:200])
            self._websocket.close(1008, _as_reason(str(error)))
            return
        self._runner.say(answer, self)

    def lose(self, job: MessageId) -> None:
        self._websocket.send_nowait(lost_lease(job))


class WorkerCallbacks(BatchCallbacks):
    """The callbacks of all workers with a WebSocket, see `rawws.websocket.callbacks.Callbacks`."""

    def __init__(self, find: Callable[[CallbackWebSocket], tuple[Queue, GroupQuery] | Refusal]) -> None:
        """``find`` returns the group that a connection is for."""
        self._find = find

    def opened(self, ws: CallbackWebSocket, /) -> None:
        found = self._find(ws)
        if ws.subprotocol != SUBPROTOCOL:  # the application's hook has chosen another one
            found = NEEDS_IDS
        if isinstance(found, Refusal):
            ws.close(*_close_of(found))
            return
        runner, query = found
        client = SocketWorker(runner, query, ws)
        ws.worker = client  # type: ignore[attr-defined]
        ws.max_buffered_bytes += ws.max_buffered_bytes  # a job is sent whole, whatever its size
        if logs.hub.isEnabledFor(logging.INFO):
            terms = f"max {query.most}, ack {query.ack_s:g} s, tries {query.tries}"
            sentence = f"works for the group {query.group} of {shorten(ws.path)} ({terms})"
            logs.line(logs.hub, logging.INFO, ws.id, STATE, sentence)
        runner.join(client.worker, client)

    def take(self, ws: CallbackWebSocket, events: Sequence[PlainEvent], /) -> Sequence[PlainEvent]:
        client = _client_of(ws)
        return events if client is None else client.take_acks(events)

    def message(self, ws: CallbackWebSocket, data: str | bytes, /) -> None:
        if (client := _client_of(ws)) is not None:
            client.take(data)

    def closed(self, ws: CallbackWebSocket, /) -> None:
        if (client := _client_of(ws)) is not None:
            client._runner.leave(client.worker)

    def pause_writing(self, ws: CallbackWebSocket, /) -> None:
        if (client := _client_of(ws)) is not None:
            client._runner.pause(client.worker)

    def resume_writing(self, ws: CallbackWebSocket, /) -> None:
        if (client := _client_of(ws)) is not None:
            client._runner.resume(client.worker)


NEEDS_IDS = Refusal(
    400,
    "group_subprotocol",
    f"A worker of a group needs the subprotocol {SUBPROTOCOL}, in which it gets ids and acknowledges them.",
    hint=f"in JavaScript: new WebSocket(url, {SUBPROTOCOL!r})",
)


# The peer isn't told, since it has our close already.
LEAVING = Refusal(503, "stopping", "This connection is being closed; connect again.")
NO_WORKER_HERE = Refusal(
    403,
    "group_read_only",
    "Where no WebSocket publishes (--read-only), one takes jobs with a grant alone, or on the server's own machine.",
    hint="say who may write with --access, or take jobs with GET and the publish token",
)
MAY_NOT_WORK = Refusal(
    403,
    "not_a_worker",
    "A worker of a group needs the right to read and to write in the room, and this user may only read.",
    hint="add the room to what the user may write",
)


def _client_of(ws: CallbackWebSocket) -> SocketWorker | None:
    found = getattr(ws, "worker", None)
    return found if isinstance(found, SocketWorker) else None


def _close_of(refusal: Refusal) -> tuple[int, str]:
    """Return the code and the reason with which a worker is sent away."""
    if refusal.status == 401:  # its token is no longer known
        return WITHDRAWN
    if refusal is ENDED:
        return GROUP_ENDED, _as_reason(refusal.sentence)
    return 1008 if refusal.status < 500 else 1013, _as_reason(refusal.sentence)


def _as_reason(sentence: str) -> str:
    """Return a sentence as the reason of a close (RFC 6455 §5.5: at most 123 bytes)."""
    raw = sentence.encode()
    most = MAX_CONTROL_PAYLOAD_BYTES - 2
    return sentence if len(raw) <= most else raw[: most - 3].decode(errors="ignore") + "…"
