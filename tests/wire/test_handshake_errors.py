"""The exceptions of an opening handshake that carry a response."""

from __future__ import annotations

import pytest

from rawws.errors import InvalidHandshake
from rawws.wire.handshake_errors import HandshakeRefused, InvalidStatus, ProxyError
from rawws.wire.messages import Response


@pytest.mark.parametrize("kind", [InvalidStatus, ProxyError, HandshakeRefused])
def test_an_exception_carries_the_response(kind: type[InvalidStatus | ProxyError | HandshakeRefused]) -> None:
    response = Response(403, "no")
    error = kind("the server refused", response)
    assert isinstance(error, InvalidHandshake)
    assert str(error) == "the server refused"
    assert error.response is response


def test_a_proxy_may_fail_without_a_response() -> None:
    assert ProxyError("the proxy can't be used").response is None
