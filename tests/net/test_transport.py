"""The time at which a socket was connected."""

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
