"""The operations on a program's WebSocket that are only for rawws itself, and so are not methods."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rawws.errors import Cause, UsageError
from rawws.limits import NO_LIMIT
from rawws.relay.loop import current_loop
from rawws.relay.peer import Inbox, Peer
from rawws.websocket import CALLS_IN_A_ROW, WebSocket
from rawws.websocket.base import WebSocketBase
from rawws.websocket.callbacks import CallbackWebSocket
from rawws.wire.frames import Opcode
from rawws.wire.role import Role

_TEXT = Opcode.TEXT  # a global is found faster than an Enum's member


def peer_of(websocket: WebSocketBase) -> Peer:
    """Return the peer that a program holds through a WebSocket."""
    return websocket._peer


def _inbox_of(websocket: WebSocketBase) -> Inbox:
    inbox = peer_of(websocket).inbox
    assert inbox is not None
    return inbox


def prepare_to_join(websocket: WebSocketBase) -> Peer:
    """Return the peer, as one that can be put into a room. Waiting messages are sent first, which may end it.

    Raises `ConnectionClosed` for a connection that has ended, and `UsageError` for a client's.
    """
    peer, inbox = peer_of(websocket), _inbox_of(websocket)
    if inbox.closed is not None:
        raise peer.closed_error(inbox.closed)
    if peer.session.our_role is Role.CLIENT:
        raise UsageError("a room's frames go from a server to its clients; a client can't join one")
    inbox.flush()
    if peer.can_flush:
        current_loop().sending.flush(peer)
        if inbox.closed is not None:
            raise peer.closed_error(inbox.closed)
    return peer


def send_together(websocket: CallbackWebSocket, messages: Iterable[tuple[Opcode, bytes]]) -> bool:
    """Send messages in one go: each is a payload with TEXT or BINARY, and a text's is UTF-8.

    Nothing is checked, and the connection is in no room. Returns as `CallbackWebSocket.send_nowait`.
    """
    return websocket._send_together(messages)


async def finish(websocket: WebSocket) -> None:
    """Close for a program that is done with the connection, so that its memory no longer counts."""
    try:
        await websocket.aclose()
    finally:
        current_loop().memory.release(_inbox_of(websocket))


def close_because(websocket: WebSocketBase, cause: Cause, code: int, reason: str) -> None:
    """Start to close for a cause other than the program's own close. Harmless when it is being closed."""
    current_loop().close(peer_of(websocket), code, reason, cause)


def receive_without_limit(websocket: WebSocket) -> None:
    """Keep every message until it is received, also after our close, and read on from the peer in any case.

    If a message has been dropped already, all later ones are dropped too.
    """
    inbox = _inbox_of(websocket)
    if not inbox.misses_messages:
        inbox.limit = NO_LIMIT
    if inbox.paused:
        current_loop().resume(peer_of(websocket))


def take_waiting_message(websocket: WebSocket) -> str | bytes | None:
    """Return the next message if it has been read; None if there is none.

    This is for a WebSocket whose messages are never received in parts.
    """
    inbox = websocket._inbox
    if not inbox.items:
        return None
    opcode, payload = inbox.items.popleft()  # type: ignore[misc]
    if inbox.paused and len(inbox.items) * 2 <= inbox.limit:
        current_loop().resume(peer_of(websocket))
    return payload.decode() if opcode is _TEXT else bytes(payload)


def awaits_answers(websocket: WebSocket) -> bool:
    """Return whether the peer has closed, and our close is put off until the messages before it are answered."""
    return _inbox_of(websocket).deferred_close is not None


async def receive_or_wait(websocket: WebSocket, is_answering: Callable[[], bool] = lambda: False) -> str | bytes | None:
    """Return the next message if it has been read. Otherwise wait for one, and return None: it can be taken then.

    A close that is put off isn't sent while ``is_answering()``; call `wake_receivers` afterwards. Unlike
    `WebSocket.recv`, this also returns None after `wake_receivers`, and any number of tasks may wait. Raises
    `ConnectionClosed` as that does. Cancelling loses no message. The messages are never received in parts.
    """
    if websocket._calls >= CALLS_IN_A_ROW:
        await websocket._let_others_go()
    websocket._calls += 1
    message = take_waiting_message(websocket)
    if message is None and awaits_answers(websocket) and is_answering():
        await websocket._inbox.readers.sleep()
    elif message is None:
        await websocket._wait_for_news()
    return message


def wake_receivers(websocket: WebSocket) -> None:
    """Have every task in `receive_or_wait` return, to look at what else may have happened."""
    _inbox_of(websocket).readers.wake()


def count_besides(websocket: WebSocket, held_bytes: Callable[[], int]) -> None:
    """Count the bytes that a program keeps for this connection as the connection's (``max_memory``)."""
    _inbox_of(websocket).also_held = held_bytes
