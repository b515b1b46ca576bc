"""One call of a WSGI application, in a thread of the pool (PEP 3333)."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rawws.application.spec import ClientDisconnected, Message, Scope
from rawws.application.wsgi_environ import Environ, make_environ
from rawws.errors import UsageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]
Write = Callable[[bytes], object]
StartResponse = Callable[..., Write]
WsgiApplication = Callable[[Environ, StartResponse], Iterable[bytes]]

# Functions that wait for the server: for its next event, and for it to send some.
Receive = Callable[[], Message]
SendAll = Callable[[list[Message]], None]

# An application must not set these (PEP 3333, "hop-by-hop"); the server frames the response.
_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding"),
    "upgrade",
}
_BUFFER_BYTES = 65536


class WsgiCall:
    """One request, and its response. All of it belongs to one thread."""

    def __init__(self, receive: Receive, send_all: SendAll) -> None:
        self._receive = receive
        self._send_all = send_all
        self._head: Message | None = None  # that `start_response` was given
        self._is_sent = False  # the head
        self._length: int | None = None  # of the body, by its Content-Length
        self._body_bytes = 0
        self._is_complete = False

    def run(self, app: WsgiApplication, scope: Scope) -> None:
        """Call the application, and send what it returns, piece by piece. Raises what it raises."""
        body = io.BufferedReader(_Body(self._receive), _BUFFER_BYTES)
        result = app(make_environ(scope, body), self.start_response)
        try:
            if isinstance(result, list | tuple) and self._head is not None and not self._is_sent:
                self._send(b"".join(result), is_last=True)
            else:
                for piece in result:
                    if piece:
                        self._send(piece)
            self._finish()
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
    ) -> Callable[[bytes], None]:
        """Take the head of the response. It is sent with the first piece of the body that isn't empty."""
        if exc_info is not None and self._is_sent:
            assert exc_info[1] is not None
            raise exc_info[1].with_traceback(exc_info[2])
        if exc_info is None and self._head is not None:
            raise UsageError("the WSGI application has called start_response twice, without exc_info")
        # Django's cookies begin with a space.
        raw = [(name.lower().encode("latin-1"), value.strip(" \t").encode("latin-1")) for name, value in headers]
        raw = [(name, value) for name, value in raw if name.decode("latin-1") not in _HOP_BY_HOP]
        if not status[:3].isdigit() or status[3:4] not in ("", " "):
            raise UsageError(f"the WSGI application's status is {status!r}; it is to be such as '200 OK'")
        self._head = {"type": "http.response.start", "status": int(status[:3]), "headers": raw}
        lengths = [value for name, value in raw if name == b"content-length"]
        self._length = int(lengths[0]) if lengths and lengths[0].isdigit() else None
        return self._write

    def _write(self, data: bytes) -> None:
        """Send data at once, for an application that doesn't return it."""
        if data:
            self._send(data)

    def _send(self, data: bytes, *, is_last: bool = False) -> None:
        if self._head is None:
            raise UsageError("the WSGI application has sent a response without a call of start_response")
        self._body_bytes += len(data)
        is_last = is_last or self._body_bytes == self._length
        events: list[Message] = []
        if not self._is_sent:
            if is_last and self._length is None and _has_body(self._head["status"]):
                self._head["headers"].append((b"content-length", b"%d" % len(data)))
            events.append(self._head)
            self._is_sent = True
        if data or is_last:
            events.append({"type": "http.response.body", "body": data, "more_body": not is_last})
        self._is_complete = self._is_complete or is_last
        self._send_all(events)

    def _finish(self) -> None:
        if not self._is_complete:
            self._send(b"", is_last=True)


def _has_body(status: int) -> bool:
    return status >= 200 and status not in (204, 304)


class _Body(io.RawIOBase):
    """The request's body, as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._piece = b""
        self._has_ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Wait for some bytes. Raises OSError when the client has gone, so that a part is never taken for the whole."""
        while not self._piece and not self._has_ended:
            event = self._receive()
            if event["type"] != "http.request":
                raise ClientDisconnected("the client has gone before the whole request has arrived")
            self._piece = event["body"]
            self._has_ended = not event["more_body"]
        view: Any = memoryview(buffer).cast("B")
        taken = min(len(view), len(self._piece))
        view[:taken] = self._piece[:taken]
        self._piece = self._piece[taken:]
        return taken
