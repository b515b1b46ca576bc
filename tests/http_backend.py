"""A small HTTP server of the tests, which answers as each test wants: also slowly, wrongly, or not at all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from tests.serving.machine import LOOPBACK

Reply = Callable[[trio.SocketStream, bytes], Awaitable[None]]


def answer(status: int = 200, *lines: str, body: bytes = b"") -> bytes:
    """Return an HTTP response."""
    head = "\r\n".join([f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *lines, "", ""])
    return head.encode("ascii") + body


class Backend:
    """A server on loopback. ``reply`` is the response to every request, or an async function that gives it."""

    def __init__(self, reply: bytes | Reply = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") -> None:
        self.reply = reply
        self.asked: list[bytes] = []  # the heads of the requests
        self.connections = 0
        self.port = 0
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self, nursery: trio.Nursery) -> Backend:
        listeners = await nursery.start(self._serve)
        self.port = listeners[0].socket.getsockname()[1]
        return self

    async def _serve(self, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
        with self._scope:
            await trio.serve_tcp(self._talk, 0, host=LOOPBACK, task_status=task_status)
        self._ended.set()

    async def kill(self) -> None:
        """End the server and all of its connections; from here on its port refuses a connection."""
        self._scope.cancel()
        await self._ended.wait()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}/auth"

    async def _talk(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        received = b""
        try:
            async with stream:
                while True:
                    while b"\r\n\r\n" not in received:
                        more = await stream.receive_some()
                        if not more:
                            return
                        received += more
                    head, _, received = received.partition(b"\r\n\r\n")
                    self.asked.append(head)
                    if isinstance(self.reply, bytes):
                        await stream.send_all(self.reply)
                    else:
                        await self.reply(stream, head)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client has lost patience, or the reply has ended the connection

    def fields(self, at: int = -1) -> dict[str, str]:
        """Return the header fields of a request, the last one by default."""
        lines = self.asked[at].decode("ascii").split("\r\n")[1:]
        return {name: value for name, _, value in (line.partition(": ") for line in lines)}
