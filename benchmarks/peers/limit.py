"""The machine's own limit: the same bytes to the same number of peers, and nothing else.

Bare non-blocking sockets on one epoll in one process. It answers the handshake, looks at the first frame a
client sends, and from then on only counts bytes: so many received are so many whole messages, and as many
copies of a frame built beforehand go out. No frame is decoded, unmasked, checked or compressed twice. A
broadcast turn reads every ready peer and then makes one `send` to each, which is the fewest sends that
can carry it. A real server's figure, divided by this one, is its share of the machine.
"""

from __future__ import annotations

import functools
import select
import socket
import ssl
from typing import NoReturn

from benchmarks import wire
from benchmarks.peers.options import HOST, Options, parse

BUFFER_BYTES = 2**20
# A peer that leaves this much unread is closed, so that the stalled reader's case runs in bounded memory.
MAX_BACKLOG_BYTES = 16 * 2**20


class Peer:
    """A socket, the size of the messages that it sends, and its backlog."""

    def __init__(self, sock: socket.socket, buffer: bytearray) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        # The call returns the number of bytes, 0 at the end. It runs no Python code unless there is TLS.
        self.receive = functools.partial(
            self.receive_tls if isinstance(sock, ssl.SSLSocket) else sock.recv_into, buffer
        )
        self.secured = not isinstance(sock, ssl.SSLSocket)
        self.open = False  # the WebSocket handshake is over
        self.head = bytearray()  # the bytes of the handshake, then of the first frame
        self.message_bytes = 0  # on the wire, from this client; 0 until its first frame is complete
        self.received = 0  # bytes of a message not yet complete
        self.payload = b""  # of its first message; usually of all others too
        self.reply = b""
        self.backlog = bytearray()

    def receive_tls(self, buffer: bytearray) -> int:
        assert isinstance(self.sock, ssl.SSLSocket)
        try:
            received = self.sock.recv_into(buffer)
            # The rest of a decrypted record is invisible to epoll. Only the count matters here.
            while self.sock.pending():
                received += self.sock.recv_into(memoryview(buffer)[received:])
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        return received

    def send(self, data: bytes | bytearray) -> int:
        try:
            return self.sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return 0


class Limit:
    def __init__(self, options: Options) -> None:
        self.options = options
        self.tls = options.ssl_context()
        self.peers: dict[int, Peer] = {}
        self.ready: dict[int, Peer] = {}  # peers without a backlog: a broadcast goes to them directly
        self.poller = select.epoll()
        self.buffer = bytearray(BUFFER_BYTES)
        self.listener = socket.create_server((HOST, options.port), backlog=4096)
        self.listener.setblocking(False)
        self.poller.register(self.listener, select.EPOLLIN)

    def run(self) -> None:
        listening = self.listener.fileno()
        while True:
            segment: list[bytes] = []
            for fd, events in self.poller.poll():
                if fd == listening:
                    self.accept()
                    continue
                peer = self.peers[fd]
                if peer.backlog and events & select.EPOLLOUT:
                    self.flush(peer)
                if not events & ~select.EPOLLOUT:
                    continue
                try:
                    received = peer.receive() if peer.secured else self.secure(peer)
                except BlockingIOError:
                    continue
                except OSError:
                    received = 0
                if not received:
                    self.drop(peer)
                    continue
                if not peer.message_bytes:
                    count = self.learn(peer, received)
                elif self.options.relay:
                    segment += self.relayed(peer, received)
                    continue
                else:
                    count, peer.received = divmod(peer.received + received, peer.message_bytes)
                if not count:
                    continue
                if self.options.broadcast:
                    segment.append(peer.reply * count)
                else:
                    self.deliver(peer, peer.reply * count)
            if segment:
                self.broadcast(b"".join(segment))

    def accept(self) -> None:
        try:
            while True:
                sock = self.listener.accept()[0]
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setblocking(False)
                if self.tls:
                    sock = self.tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
                peer = Peer(sock, self.buffer)
                self.peers[peer.fd] = peer
                self.poller.register(peer.fd, select.EPOLLIN)
        except BlockingIOError:
            pass

    def secure(self, peer: Peer) -> NoReturn:
        """Take a step of the TLS handshake. It gives no data: always raises BlockingIOError, or the failure."""
        assert isinstance(peer.sock, ssl.SSLSocket)
        try:
            peer.sock.do_handshake()
        except ssl.SSLWantReadError:
            raise BlockingIOError from None
        peer.secured = True
        raise BlockingIOError

    def learn(self, peer: Peer, received: int) -> int:
        """Answer the handshake, or learn from the first frame; return how many messages are complete."""
        peer.head += self.buffer[:received]
        if not peer.open:
            if wire.END_OF_HEADERS not in peer.head:
                return 0
            request, _, rest = bytes(peer.head).partition(wire.END_OF_HEADERS)
            self.answer(peer, request)
            peer.open = True
            self.ready[peer.fd] = peer
            peer.head = bytearray(rest)
        head = peer.head
        if head and head[0] & wire.OPCODE == wire.CLOSE:
            self.drop(peer)
            return 0
        # A client's frame is a server's with the mask in front of the payload.
        sized = bytearray(head[:2])
        if len(head) < 14:
            return 0
        sized[1] &= ~wire.MASKED
        extended = {126: 2, 127: 8}.get(sized[1], 0)
        length = int.from_bytes(head[2 : 2 + extended], "big") if extended else sized[1]
        start = 2 + extended
        end = start + 4 + length
        if len(head) < end:
            return 0
        payload = peer.payload = wire.masked(bytes(head[start + 4 : end]), bytes(head[start : start + 4]))
        if self.options.compression:
            peer.reply = wire.server_frame(wire.deflate(payload), head[0] | wire.RSV1)
        else:
            peer.reply = wire.server_frame(payload, head[0])
        peer.message_bytes = end
        count, peer.received = divmod(len(head), end)
        peer.head = bytearray()
        return count

    def relayed(self, peer: Peer, received: int) -> list[bytes]:
        """Return a frame with the real content of each message: the latency case reads its times from them."""
        peer.head += self.buffer[:received]
        frames = []
        header = len(peer.reply) - len(peer.payload)
        while len(peer.head) >= peer.message_bytes:
            frame = bytes(peer.head[: peer.message_bytes])
            del peer.head[: peer.message_bytes]
            frames.append(peer.reply[:header] + wire.masked(frame[header + 4 :], frame[header : header + 4]))
        return frames

    def answer(self, peer: Peer, request: bytes) -> None:
        key = b""
        for line in request.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"sec-websocket-key":
                key = value.strip()
        extension = b""
        if self.options.compression:
            extension = b"\r\nSec-WebSocket-Extensions: " + wire.DEFLATE_OFFER.encode()
        peer.send(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + wire.accept_value(key) + extension + wire.END_OF_HEADERS
        )

    def broadcast(self, data: bytes) -> None:
        size = len(data)
        for peer in list(self.peers.values()) if len(self.ready) < len(self.peers) else self.ready.values():
            if not peer.open:
                continue
            if peer.backlog:
                peer.backlog += data
                continue
            try:
                sent = peer.send(data)
            except OSError:
                continue  # its end will be read in the next turn
            if sent != size:
                peer.backlog += memoryview(data)[sent:]
        # This check is apart from the loop above, which is measured.
        for peer in [peer for peer in self.ready.values() if peer.backlog]:
            del self.ready[peer.fd]
            self.poller.modify(peer.fd, select.EPOLLIN | select.EPOLLOUT)
        if len(self.ready) < len(self.peers):
            for peer in list(self.peers.values()):
                if len(peer.backlog) > MAX_BACKLOG_BYTES:
                    self.drop(peer)

    def deliver(self, peer: Peer, data: bytes) -> None:
        if peer.backlog:
            peer.backlog += data
            return
        try:
            sent = peer.send(data)
        except OSError:
            return
        if sent != len(data):
            peer.backlog += memoryview(data)[sent:]
            self.poller.modify(peer.fd, select.EPOLLIN | select.EPOLLOUT)

    def flush(self, peer: Peer) -> None:
        try:
            sent = peer.send(peer.backlog)
        except OSError:
            return
        del peer.backlog[:sent]
        if not peer.backlog:
            self.ready[peer.fd] = peer
            self.poller.modify(peer.fd, select.EPOLLIN)

    def drop(self, peer: Peer) -> None:
        self.peers.pop(peer.fd, None)
        self.ready.pop(peer.fd, None)
        self.poller.unregister(peer.fd)
        peer.sock.close()


if __name__ == "__main__":
    Limit(parse()).run()
