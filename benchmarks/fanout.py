"""The broadcast load: a few of the clients publish, all of them receive everything.

A publisher keeps `window` of its own messages under way: it sends the next one when one of its own has come
back to it. Its messages carry its letter, which is found without decoding: frames of one size lie in the
stream like the teeth of a comb, so a strided slice of what was received holds one letter a frame. Compressed
frames differ in size; there a publisher looks for its own frame, which is always the same bytes, since no
context is kept. All clients get the same stream, so the mean frame that the publishers saw turns bytes into
messages.
"""

from __future__ import annotations

import json
import random
import select
import socket
from collections.abc import Callable
from time import perf_counter
from typing import Protocol

from benchmarks import wire
from benchmarks.load import (
    BUFFER_BYTES,
    POLL_S,
    STALL_S,
    TIMEOUT_S,
    LoadError,
    Sample,
    expect_message,
    receiver,
)

FIRST_LETTER = ord("A")


def text_payload(publisher: int, size: int) -> bytes:
    """Return a text of this size that begins with the publisher's letter."""
    return (chr(FIRST_LETTER + publisher) + "rawws speaks to many. " * (size // 22 + 1))[:size].encode()


def json_payload(publisher: int, size: int) -> bytes:
    """Return JSON of this size, compressible as a feed of prices is: the same keys, ever new numbers."""
    numbers = random.Random(publisher)
    quotes: list[dict[str, object]] = []
    message: dict[str, object] = {"from": chr(FIRST_LETTER + publisher), "quotes": quotes, "pad": ""}
    while len(json.dumps(message)) < size - 80:
        symbol = "".join(numbers.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ", k=4))
        price, volume = round(numbers.uniform(1, 900), 2), numbers.randrange(10**6)
        quotes.append({"symbol": symbol, "price": price, "volume": volume})
    message["pad"] = "." * (size - len(json.dumps(message)))
    return json.dumps(message).encode()


class Stream(Protocol):
    """The stream that one publisher receives."""

    def own(self, buffer: bytearray, size: int) -> int:
        """Return how many of the publisher's own messages the first `size` bytes of the buffer complete."""


class PlainStream:
    """Frames of one known size, the publisher's letter at one known place in each."""

    def __init__(self, letter: int, frame_bytes: int, payload_bytes: int) -> None:
        self.letter = letter
        self.frame_bytes = frame_bytes
        self.letter_at = frame_bytes - payload_bytes
        self.position = 0  # in the frame that is being received

    def own(self, buffer: bytearray, size: int) -> int:
        frame_bytes = self.frame_bytes
        first = (self.letter_at - self.position) % frame_bytes
        self.position = (self.position + size) % frame_bytes
        return buffer[first:size:frame_bytes].count(self.letter)


class DeflatedStream:
    """Frames of any size; the publisher's own are found by their bytes."""

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.rest = b""  # too short to hold the whole frame, so that nothing is found twice
        self.found = 0

    def own(self, buffer: bytearray, size: int) -> int:
        data = self.rest + buffer[:size]
        own = data.count(self.frame)
        self.rest = data[max(0, len(data) - len(self.frame) + 1) :]
        self.found += own
        return own


class Fanout:
    """All clients read; the first `publishers` of them also send, `window` messages under way each."""

    def __init__(
        self,
        clients: list[socket.socket],
        publishers: int,
        window: int,
        payload_bytes: int,
        deflated: bool = False,
        envelope: tuple[bytes, bytes] = (b"", b""),
    ) -> None:
        """`envelope` is what a server's own protocol has around each text, the same in both directions."""
        self.window = window
        self.deflated = deflated
        make = json_payload if deflated else text_payload
        before, behind = envelope
        payloads = [before + make(publisher, payload_bytes) + behind for publisher in range(publishers)]
        frames = [wire.client_frame(payload) for payload in payloads]
        # Every client must get each publisher's first message unchanged before the counting starts.
        came = []
        for sock, frame, payload in zip(clients, frames, payloads, strict=False):
            sock.sendall(frame)
            copies = {expect_message(each, payload) for each in clients}
            if len(copies) > 1:
                raise LoadError(f"one message, {len(copies)} different frames for it")
            came.append(copies.pop())
        self.frame_bytes = len(came[0])

        size = max(sock.fileno() for sock in clients) + 1
        self.buffer = bytearray(BUFFER_BYTES)
        self.receive: list[Callable[[], int]] = [int] * size
        self.streams: list[Stream | None] = [None] * size
        self.batches = [memoryview(b"")] * size
        self.message_bytes = [0] * size
        self.clients = {sock.fileno(): sock for sock in clients}
        self.publishers = [sock.fileno() for sock in clients[:publishers]]
        self.poller = select.epoll()
        self.bytes = self.closed = self.stalls = 0
        for number, (fd, sock) in enumerate(self.clients.items()):
            sock.setblocking(False)
            self.receive[fd] = receiver(sock, self.buffer)
            self.poller.register(fd, select.EPOLLIN)
            if number < publishers:
                self.streams[fd] = (
                    DeflatedStream(came[number])
                    if deflated
                    else PlainStream(FIRST_LETTER + number, self.frame_bytes, payload_bytes + len(behind))
                )
                self.batches[fd] = memoryview(frames[number] * window)
                self.message_bytes[fd] = len(frames[number])
        for fd in self.publishers:
            self.publish(fd, window)

    def publish(self, fd: int, count: int) -> None:
        size = count * self.message_bytes[fd]
        try:
            sent = self.clients[fd].send(self.batches[fd][:size])
        except OSError as problem:
            # A window is a few kilobytes: a socket that can't take one has not been read for seconds.
            raise LoadError(f"a publisher can't send: {problem!r}") from None
        if sent != size:
            raise LoadError("the server stopped reading its publishers")

    def run(self, seconds: float) -> Sample:
        poll, receive, streams, buffer = self.poller.poll, self.receive, self.streams, self.buffer
        begin_bytes = total = self.bytes
        begin = now = heard = perf_counter()
        deadline = begin + seconds
        while now < deadline or (total == begin_bytes and now < begin + TIMEOUT_S):
            for fd, _ in poll(POLL_S):
                try:
                    received = receive[fd]()
                except BlockingIOError:
                    continue
                except OSError:
                    received = 0
                if not received:
                    self.lose(fd)
                    continue
                total += received
                if (stream := streams[fd]) is not None and (own := stream.own(buffer, received)):
                    self.publish(fd, own)
            now = perf_counter()
            if total != self.bytes:
                heard, self.bytes = now, total
            elif now - heard > STALL_S:
                self.stall()
                heard = now
        messages = (self.bytes - begin_bytes) / self.mean_frame_bytes()
        return Sample(messages, now - begin, self.closed, self.stalls)

    def mean_frame_bytes(self) -> float:
        streams = [stream for stream in self.streams if isinstance(stream, DeflatedStream)]
        found = sum(stream.found for stream in streams)
        return sum(len(stream.frame) * stream.found for stream in streams) / found if found else self.frame_bytes

    def stall(self) -> None:
        """Send a message per publisher again: none arrive any more, since some were dropped or the server waits."""
        self.stalls += 1
        for fd in self.publishers:
            self.publish(fd, 1)

    def lose(self, fd: int) -> None:
        self.closed += 1
        self.streams[fd] = None
        self.poller.unregister(fd)
        self.clients.pop(fd).close()
        if fd in self.publishers:
            self.publishers.remove(fd)
        if not self.publishers:
            raise LoadError("the server closed every publisher")
