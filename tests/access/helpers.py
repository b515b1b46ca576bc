"""Requests as clients send them, for the tests of this folder."""

from __future__ import annotations

from rawws.wire.messages import Headers, Request


def request_for(target: str = "/room/x", *fields: tuple[str, str]) -> Request:
    return Request("GET", target, "1.1", Headers(fields))


def bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")
