"""An echo server on `websockets` with a fault, for the tests of ``rawws check``.

It is started as ``python -m tests.dying_server FAULT DEADLY``, with a listening socket as its standard input. DEADLY
are the bytes, in hex, that cause the fault, wherever a client sends them.

=========  ====================================================================================
``none``   it has no fault
``crash``  the process ends at once
``fork``   the same, in a child of a process that starts another one at once, and holds the listening socket
``hang``   the process keeps running, but never answers again
``leak``   no connection is ever closed, until the process has used up its descriptors; DEADLY isn't needed for that
``idle``   it disconnects clients that have sent nothing for N seconds, without a close: ``idle:1.5``
=========  ====================================================================================
"""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import socket
import sys
import time

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

MAX_FILES = 60


async def echo(ws: ServerConnection) -> None:
    try:
        async for message in ws:
            await ws.send(message)
    except ConnectionClosed:
        pass


async def run(listener: socket.socket, fault: str, deadly: bytes) -> None:
    fault, _, idle_s = fault.partition(":")

    class Faulty(ServerConnection):
        idle: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            if fault == "leak":
                os.dup(transport.get_extra_info("socket").fileno())
            super().connection_made(transport)
            self.wait_for_data()

        def wait_for_data(self) -> None:
            if fault == "idle":
                if self.idle is not None:
                    self.idle.cancel()
                self.idle = asyncio.get_running_loop().call_later(float(idle_s), self.transport.abort)

        def data_received(self, data: bytes) -> None:
            self.wait_for_data()
            if deadly in data and fault in ("crash", "fork"):
                os._exit(1)
            while deadly in data and fault == "hang":
                time.sleep(1)
            super().data_received(data)

    async with serve(echo, sock=listener, create_connection=Faulty, ping_interval=None):
        await asyncio.get_running_loop().create_future()


def main() -> None:
    _, fault, deadly = sys.argv
    listener = socket.socket(fileno=os.dup(0))
    logging.disable()
    if fault == "leak":
        resource.setrlimit(resource.RLIMIT_NOFILE, (MAX_FILES, MAX_FILES))
    while fault == "fork" and (child := os.fork()):
        os.waitpid(child, 0)
    asyncio.run(run(listener, fault, bytes.fromhex(deadly)))


if __name__ == "__main__":
    main()
