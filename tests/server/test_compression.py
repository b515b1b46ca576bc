"""permessage-deflate over real sockets: compressed once for peers that agreed, plain for the others."""

from __future__ import annotations

import pytest

from rawws.hub.hub_arguments import Mode
from rawws.wire.deflate import Deflater, inflate_whole
from rawws.wire.frames import RSV1, FrameHeader, Opcode, encode_frame, parse_header
from tests.serving.client import Client
from tests.serving.server import Serve, StartHub
from tests.serving.wire import MASK_KEY, Seen, binary, ping, seen_text, text

OFFER = "permessage-deflate; client_max_window_bits"
MESSAGE = "a message that is worth compressing, since it says the same again and again; " * 40


async def raw_frame(client: Client) -> tuple[FrameHeader, bytes]:
    """Return the next frame with its header, compressed or not."""
    while (header := parse_header(client._unread)) is None:
        assert await client._receive_more()
    size = len(header.raw) + header.payload_bytes
    while len(client._unread) < size:
        assert await client._receive_more()
    return header, client._take(size)[len(header.raw) :]


async def assert_compressed(client: Client, message: str) -> int:
    """Check that the next frame is this text, compressed; return its size in bytes."""
    header, payload = await raw_frame(client)
    assert (header.opcode, header.rsv1, header.fin) == (Opcode.TEXT, True, True)
    assert inflate_whole(payload, 1 << 20) == message.encode()
    return len(payload)


async def test_a_large_message_is_deflated_once_and_only_for_peers_that_agreed(
    start_hub: StartHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    deflated: list[int] = []
    deflate = Deflater.deflate

    def count(self: Deflater, message: bytes | memoryview) -> bytes:
        deflated.append(len(message))
        return deflate(self, message)

    monkeypatch.setattr(Deflater, "deflate", count)
    running = start_hub()
    agreed = [running.join(extensions=OFFER) for _ in range(5)]
    plain = [running.join() for _ in range(5)]
    await plain[0].send(text(MESSAGE) + text("small"))
    for client in agreed:
        assert await assert_compressed(client, MESSAGE) < 300
        assert await client.frame() == seen_text("small")
    for client in plain:
        assert await client.frames(2) == [seen_text(MESSAGE), seen_text("small")]
    assert deflated == [len(MESSAGE)]


async def test_peers_with_smaller_windows_get_frames_that_they_can_inflate(start_hub: StartHub) -> None:
    running = start_hub()
    small = running.join(extensions="permessage-deflate; server_max_window_bits=9")
    tiny = running.join(extensions="permessage-deflate; server_max_window_bits=8")
    await small.send(text(MESSAGE))
    await assert_compressed(small, MESSAGE)
    assert await tiny.frame() == seen_text(MESSAGE)


@pytest.mark.parametrize("fast_lane", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("mode", list(Mode))
async def test_compressed_messages_are_passed_on(start_hub: StartHub, mode: Mode, fast_lane: bool) -> None:
    running = start_hub(mode=mode, fast_lane=fast_lane)
    client = running.join(extensions=OFFER)
    frame = encode_frame(Opcode.TEXT, Deflater(15).deflate(MESSAGE.encode()), rsv=RSV1, mask_key=MASK_KEY)
    await client.send(frame + ping(b"p"))
    if mode is Mode.ECHO:
        await assert_compressed(client, MESSAGE)
        assert await client.frame() == Seen(Opcode.PONG, b"p")
    else:
        assert await client.frame() == Seen(Opcode.PONG, b"p")
        await assert_compressed(client, MESSAGE)


async def test_a_stalled_peer_continues_inside_its_compressed_segments(start_hub: StartHub) -> None:
    running = start_hub(max_lag_bytes=1 << 26)
    slow, busy = running.join(extensions=OFFER, send_buffer=4096), running.join()
    noise = [f"{number}: " + bytes((number * i * i) % 251 for i in range(3000)).hex() for number in range(60)]
    for message in noise:
        await busy.send(text(message))
        assert await busy.frame() == seen_text(message)
    for message in noise:
        await assert_compressed(slow, message)


async def test_compression_can_be_declined(serve: Serve) -> None:
    running = await serve(compression=False)
    client = await running.connect()
    await client.send(
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
    )
    answer = await client.answer()
    assert answer.status == 101
    assert "sec-websocket-extensions" not in answer.headers


async def test_an_illegal_offer_is_no_error(serve: Serve) -> None:
    running = await serve()
    client = await running.open("/", "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=abc")
    await client.send(binary(b"works"))
    assert await client.frame() == Seen(Opcode.BINARY, b"works")
