"""Sockets: the time at which one was connected, and its end."""

from __future__ import annotations

import socket
import time

import pytest

from rawws.net.transport import Transport


def test_connections_of_one_second_share_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000.25
    monkeypatch.setattr(time, "time", lambda: now)
    pairs = [socket.socketpair() for _ in range(3)]
    first, second = (Transport(pair[0]) for pair in pairs[:2])
    assert first.connected_at == 1_800_000_000
    assert second.connected_at is first.connected_at
    now += 1
    assert Transport(pairs[2][0]).connected_at == 1_800_000_001
    for pair in pairs:
        for end in pair:
            end.close()


def test_the_end_of_the_other_side_is_seen_without_reading() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = socket.create_connection(listener.getsockname())
        transport = Transport(listener.accept()[0])
        assert not transport.has_ended()
        other.sendall(b"a")
        assert not transport.has_ended()
        assert transport.try_receive() == b"a"
        other.shutdown(socket.SHUT_WR)
        assert transport.has_ended()
        assert not transport.is_reset()
        other.close()
        transport.try_send(b"nobody reads this")
        assert transport.is_reset()
        assert not transport.is_reset(), "it is told once"
        transport.close()
        assert transport.has_ended()
