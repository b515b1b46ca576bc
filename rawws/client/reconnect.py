"""Reconnecting: which failures are worth another try, and how long a client waits before it."""

from __future__ import annotations

import contextlib
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable

import trio

from rawws import logs
from rawws.errors import RawwsError, sentence_of
from rawws.net.tls import TlsError
from rawws.websocket import WebSocket
from rawws.websocket.internals import finish
from rawws.wire.handshake_errors import InvalidStatus, ProxyError
from rawws.wire.trace import STATE

# The wait between two tries is a random part of a bound that doubles, so that clients which were disconnected
# together come back at different times. Python's websockets goes from 3 to 90 s, socket.io from 1 to 5.
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 60.0
# After a connection that lasted at least this long, the next try begins with the first bound again.
GOOD_CONNECTION_S = 10.0
# The statuses of 4xx after which another try may succeed (RFC 9110 §15.5.9, RFC 8470, RFC 6585).
RETRIED_STATUSES = frozenset({408, 425, 429})


class Reconnecting(AsyncIterator[WebSocket]):
    """Yields a connection, and a new one each time that the program asks for the next.

    ``open_websocket`` opens one. The program owns no connection: the next call, or the end of the iterator, closes it.
    """

    def __init__(self, open_websocket: Callable[[], Awaitable[WebSocket]]) -> None:
        self._open_websocket = open_websocket
        self._websocket: WebSocket | None = None
        self._backoff_s = FIRST_BACKOFF_S
        self._opened_at = -math.inf

    def __aiter__(self) -> Reconnecting:
        return self

    async def __anext__(self) -> WebSocket:
        if self._websocket is not None:
            await finish(self._websocket)
            self._websocket = None
            if trio.current_time() - self._opened_at >= GOOD_CONNECTION_S:
                self._backoff_s = FIRST_BACKOFF_S
            await self._wait("cut off", 0.0)
        while True:
            try:
                self._websocket = await self._open_websocket()
            except (OSError, RawwsError) as error:
                min_delay_s = _retry_after_s(error)
                if min_delay_s is None:
                    raise
                await self._wait(sentence_of(error), min_delay_s)
            else:
                self._opened_at = trio.current_time()
                return self._websocket

    async def _wait(self, why: str, min_delay_s: float) -> None:
        wait_s = max(min_delay_s, random.uniform(0, self._backoff_s))
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        logs.line(logs.http, logging.INFO, logs.SERVER, STATE, f"{why}; connecting again in {wait_s:.1f} s")
        await trio.sleep(wait_s)

    def __del__(self) -> None:
        # The program has left its loop, and so abandoned the connection, which is closed in the background.
        if self._websocket is not None:
            with contextlib.suppress(Exception):
                self._websocket.begin_close()


def _retry_after_s(error: Exception) -> float | None:
    """Return the least wait before another try, in seconds; None if that would fail in the same way."""
    if isinstance(error, InvalidStatus | ProxyError) and (response := error.response) is not None:
        if response.status not in RETRIED_STATUSES and (response.status < 500 or response.status == 501):
            return None
        wish = response.headers.get("Retry-After", "0") or "0"
        return min(float(wish), MAX_BACKOFF_S) if wish.isascii() and wish.isdigit() else 0.0
    if isinstance(error, TlsError):
        return 0.0 if error.may_pass else None
    return 0.0 if isinstance(error, OSError) else None
