"""A server whose memory is measured: `test_memory.py` runs it as a process, so that it holds nothing but the server.

It prints its ports as JSON, and after that one line of JSON for each line that it reads: the bytes that rawws counts
(`rawws.relay.memory.Memory`), the bytes that the process has in use, and the bytes and messages that it has received.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import re
import socket
import ssl
import sys
import tempfile
from functools import partial
from importlib import import_module

import trio

import rawws
from rawws.application.spec import Receive, Scope, Send
from rawws.broadcast.log import History
from rawws.hub.hub_arguments import Mode
from rawws.page import About
from rawws.page.feed import Feed
from rawws.relay.loop import current_loop
from rawws.relay.settings import RoomSettings
from rawws.server.routes import Route
from rawws.tracing import Tracer

MIB = 1024 * 1024
MEASURE = b"m\n"

SETTINGS = {  # of rooms, by the first part of their paths
    "history": RoomSettings(History(1_000_000, 64 * MIB)),
    "wait": RoomSettings(slow=rawws.Slow.WAIT, max_lag_bytes=64 * 1024),
    "skip": RoomSettings(slow=rawws.Slow.SKIP, max_lag_bytes=1024),
    "latest": RoomSettings(slow=rawws.Slow.LATEST, key="k"),
    "senders": RoomSettings(exclude_sender=True),
}


class _Mallinfo2(ctypes.Structure):
    """``struct mallinfo2`` of malloc.h."""

    _fields_ = (
        ("before", ctypes.c_size_t * 4),
        ("hblkhd", ctypes.c_size_t),  # in blocks that the system has mapped
        ("between", ctypes.c_size_t * 2),
        ("uordblks", ctypes.c_size_t),  # in all others
        ("behind", ctypes.c_size_t * 2),
    )


def used_bytes() -> int:
    """Return how many bytes the process has in use: those of malloc, and those of Python's own allocator.

    Unlike the resident set, this is exact: it includes neither free memory nor fragmentation.
    """
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    stderr = 2  # sys._debugmallocstats() writes to stderr, from C
    kept = os.dup(stderr)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), stderr)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, stderr)
            os.close(kept)
        file.seek(0)
        stats = file.read().decode()
    match = re.search(r"# bytes in allocated blocks\s*=\s*([\d,]+)", stats)
    assert match is not None, stats
    return int(info.uordblks + info.hblkhd) + int(match[1].replace(",", ""))


def listener() -> socket.socket:
    """Return a socket whose connections have small buffers, so that unread data waits in the server."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    listening.bind(("127.0.0.1", 0))
    listening.listen(1000)
    return listening


async def never_reads(_: rawws.WebSocket) -> None:
    await trio.sleep_forever()


async def echoes(ws: rawws.WebSocket) -> None:
    with contextlib.suppress(rawws.ConnectionClosed):
        while True:
            await ws.send(await ws.recv())  # a name for the message would keep it in memory


async def never_answers(_: rawws.Request) -> str:
    await trio.sleep_forever()
    return ""


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    """An application for ASGI that accepts WebSockets, but those at one path, and then does nothing."""
    if scope["type"] == "websocket":
        await receive()
        if scope["path"] != "/undecided":
            await send({"type": "websocket.accept"})
        await trio.sleep_forever()


async def main(certificate: str) -> None:
    with contextlib.suppress(ImportError):
        import_module("numpy")  # rawws would load it at the first large message
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    hub = rawws.Hub(settings=lambda path: SETTINGS.get(path.split("/")[1]))
    tracer = Tracer()
    feed = Route(lambda ws: Feed(ws, tracer, About("")).run(), shows_frames=False)
    endless = {"open_timeout": None, "ping_interval": None, "keep_alive": None, "close_timeout": None, "drain": 0}
    servers = {
        "rooms": partial(
            rawws.serve,
            hub,
            http=rawws.rooms(hub, is_local=True),
            routes={"/handler": never_reads, "/echoes": echoes},
        ),
        "echo": partial(rawws.serve, rawws.Hub(mode=Mode.ECHO)),
        "app": partial(rawws.serve, rawws.Hub(), http=rawws.asgi(application, lifespan="off")),
        "http": partial(rawws.serve, never_reads, http=never_answers, max_body=MIB),
        "tls": partial(rawws.serve, hub, ssl=tls),
        "watched": partial(rawws.serve, rawws.Hub(), routes={"/feed": feed}, tracer=tracer),
    }
    async with trio.open_nursery() as nursery:
        ports = {}
        for name, serve in servers.items():
            server = await nursery.start(partial(serve, listeners=[listener()], **endless))
            ports[name] = server.port
        gc.freeze()  # each measurement collects garbage, and needn't go through all modules for that
        print(json.dumps(ports), flush=True)
        loop = current_loop()
        while True:
            await trio.lowlevel.wait_readable(0)
            asked = os.read(0, 2)
            if not asked:
                nursery.cancel_scope.cancel()
                return
            figures = {
                "counted": loop.memory.used_bytes(),
                "used": used_bytes() if asked == MEASURE else 0,
                "received": loop.stats.bytes_in,
                "peers": loop.peer_count,
                "rooms": len(hub.rooms),
                "tasks": trio.lowlevel.current_statistics().tasks_living,
            }
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
