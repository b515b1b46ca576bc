"""The sequencer in the first process: its links to the workers, and its clock."""

from __future__ import annotations

import logging
import socket
import time
from functools import partial

import trio

from rawws import logs
from rawws.local.link import Pipe
from rawws.local.protocol import TO_SEQUENCER, Decoder, ProtocolError
from rawws.local.sequencer import Link, Sequencer
from rawws.wire.trace import FAULT

SWEEP_S = 1.0
# The time between two looks whether a worker still takes long.
CONGESTED_REST_S = 0.01


class SequencerServer:
    """Moves the bytes of a sequencer. `run` has to be running."""

    def __init__(self, sequencer: Sequencer) -> None:
        self.sequencer = sequencer
        self._pipes: dict[Link, Pipe] = {}
        self._workers: dict[Link, int] = {}
        self._offset_s = time.time() - time.monotonic()

    def _now(self) -> float:
        """Return the time in seconds since 1970, by a clock that nobody sets while this runs."""
        return self._offset_s + time.monotonic()

    async def run(self) -> None:
        """Forget what is too old, until cancelled."""
        while True:
            await trio.sleep(SWEEP_S)
            self.sequencer.sweep(self._now())

    @trio.lowlevel.enable_ki_protection
    async def serve(self, sock: socket.socket, worker: int) -> None:
        """Serve a worker until its end of the link is closed, or its end of the socket is shut down here."""
        link = self.sequencer.connect()
        pipe = self._pipes[link] = Pipe(sock)
        self._workers[link] = worker
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pipe.send_rest, link.outgoing.take, partial(self._note_sent, link))
                try:
                    await self._read(link, pipe)
                except ProtocolError as error:
                    logs.server_line(logging.ERROR, FAULT, f"worker {worker} is cut off: {error}")
                except Exception:  # nothing that a worker sends should cause one
                    logs.server.exception("#%d ! an error in rawws itself; a worker is cut off", logs.SERVER)
                nursery.cancel_scope.cancel()
        finally:
            del self._pipes[link], self._workers[link]
            self.sequencer.disconnect(link, self._now())
            pipe.close()

    def _note_sent(self, link: Link, _: int) -> None:
        link.progress_at = self._now()

    async def _read(self, link: Link, pipe: Pipe) -> None:
        sequencer = self.sequencer
        decoder = Decoder(TO_SEQUENCER)
        while data := await pipe.receive():
            now = self._now()
            for message in decoder.feed(data):
                sequencer.receive(link, message, now)
            sequencer.finish(link)
            self._flush(now)
            while sequencer.is_congested(self._now()):
                await trio.sleep(CONGESTED_REST_S)

    def _flush(self, now: float) -> None:
        """Send what waits, as far as the kernel takes it at once."""
        for link in self.sequencer.touched:
            pipe = self._pipes[link]
            if pipe.send_now(link.outgoing.take):
                link.progress_at = now
            if link.outgoing.is_hopeless and not pipe.is_shut:
                sentence = f"worker {self._workers[link]} is cut off: it doesn't read, and too much waits for it"
                logs.server_line(logging.ERROR, FAULT, sentence)
                pipe.shut()
        self.sequencer.touched.clear()
