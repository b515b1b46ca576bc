"""Sending a program's message in fragments, as its pieces come."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable

from rawws.errors import Cause, ConnectionClosed
from rawws.relay.loop import Loop
from rawws.relay.peer import Peer
from rawws.wire.events import Data
from rawws.wire.fragmenting import Fragments


async def send_in_fragments(
    loop: Loop,
    peer: Peer,
    message: Fragments,
    pieces: AsyncIterable[Data],
    wait_for_peer: Callable[[], Awaitable[None]],
) -> None:
    """Send a message, each piece as soon as the next one has come; messages of its rooms wait.

    ``wait_for_peer`` returns when the peer can take a frame. It raises `ConnectionClosed` when no frame can be sent.
    An exception, or a cancellation, after the first frame fails the connection with 1011.
    """
    try:
        async for piece in pieces:
            message.add(piece)
            if message.has_frame:
                await wait_for_peer()
                loop.sending.send(peer, message.next_frame())
            else:
                loop.sending.begin_fragments(peer)  # it is the first piece
        message.end()
        await wait_for_peer()
        loop.sending.send(peer, message.next_frame())
    except BaseException as error:
        if message.is_started and not isinstance(error, ConnectionClosed):
            loop.close(peer, 1011, "a message could not be completed", Cause.ERROR, with_the_rest=False)
        raise
    finally:
        if peer.transport.fileno() >= 0:
            loop.sending.end_fragments(peer)
