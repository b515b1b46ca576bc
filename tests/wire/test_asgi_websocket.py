"""The WebSocket of an ASGI application as events: their order, and the actions that they ask for."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import CloseFrame, UsageError
from rawws.wire.asgi_websocket import (
    ABNORMAL,
    MAX_DISCONNECTS,
    Accept,
    AsgiWebSocket,
    Close,
    Deny,
    Phase,
    Reject,
    Send,
    TooLate,
    event_of,
)
from rawws.wire.messages import Headers

ACCEPT = {"type": "websocket.accept"}
CLOSE = {"type": "websocket.close"}
SEND = {"type": "websocket.send", "text": "hello"}
DENY = {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"y")]}
BODY = {"type": "websocket.http.response.body", "body": b"no"}


def disconnect(code: int, reason: str = "") -> dict[str, Any]:
    return {"type": "websocket.disconnect", "code": code, "reason": reason}


def opened(*offered: str) -> AsgiWebSocket:
    websocket = AsgiWebSocket(offered)
    websocket.take(ACCEPT)
    return websocket


# Decisions


def test_an_acceptance_opens_the_websocket() -> None:
    websocket = AsgiWebSocket()
    assert websocket.take(ACCEPT) == Accept(None, Headers())
    assert websocket.phase is Phase.OPEN


def test_an_acceptance_has_a_subprotocol_on_offer_and_headers_in_their_order() -> None:
    headers = [(b"set-cookie", b"a=1"), (b"X-Two", b"2"), (b"set-cookie", b"b=2")]
    accept = AsgiWebSocket(["v1", "v2"]).take({**ACCEPT, "subprotocol": "v2", "headers": headers})
    assert accept == Accept("v2", Headers([("set-cookie", "a=1"), ("X-Two", "2"), ("set-cookie", "b=2")]))


@pytest.mark.parametrize("headers", [None, [], ()])
def test_headers_may_be_left_out(headers: object) -> None:
    assert AsgiWebSocket().take({**ACCEPT, "subprotocol": None, "headers": headers}) == Accept(None, Headers())


@pytest.mark.parametrize(
    ("offered", "words"), [([], "it offers none"), (["v1", "v2"], "its offers are v1, v2")], ids=["none", "others"]
)
def test_a_subprotocol_that_is_not_on_offer_can_not_be_accepted(offered: list[str], words: str) -> None:
    websocket = AsgiWebSocket(offered)
    with pytest.raises(
        UsageError, match=rf"accepts with the subprotocol 'v3', which the client doesn't offer .*{words}"
    ):
        websocket.take({**ACCEPT, "subprotocol": "v3"})
    assert websocket.phase is Phase.ASKED, "the application may still decide"


@pytest.mark.parametrize(
    "name",
    [
        *(b"Upgrade", b"connection", b"content-length", b"Transfer-Encoding"),
        *(b"sec-websocket-accept", b"sec-websocket-extensions", b"sec-websocket-version"),
    ],
)
def test_a_header_of_the_handshake_is_not_the_application_s(name: bytes) -> None:
    with pytest.raises(UsageError, match=rf"can't set the header {name.decode()} of .* belongs to the handshake$"):
        AsgiWebSocket().take({**ACCEPT, "headers": [(name, b"x")]})


def test_a_subprotocol_as_a_header_is_refused_with_the_key_to_use() -> None:
    with pytest.raises(UsageError, match="belongs to the handshake; give it as subprotocol"):
        AsgiWebSocket(["v1"]).take({**ACCEPT, "headers": [(b"Sec-WebSocket-Protocol", b"v1")]})


@pytest.mark.parametrize("header", [("x", b"y"), (b"x", "y")])
def test_headers_are_bytes(header: object) -> None:
    with pytest.raises(UsageError, match="must be two byte strings"):
        AsgiWebSocket().take({**ACCEPT, "headers": [header]})


def test_a_header_that_would_begin_another_one_is_refused() -> None:
    with pytest.raises(UsageError, match="can't have the value"):
        AsgiWebSocket().take({**ACCEPT, "headers": [(b"x", b"y\r\nz: 1")]})


def test_a_close_before_the_acceptance_is_a_rejection() -> None:
    websocket = AsgiWebSocket()
    assert websocket.take({**CLOSE, "code": 4000, "reason": "no"}) == Reject()
    assert websocket.ended == ABNORMAL
    assert websocket.take(ACCEPT) == TooLate()


def test_a_response_of_its_own_is_passed_on_as_that_of_http() -> None:
    websocket = AsgiWebSocket()
    start = {"type": "http.response.start", "status": 401, "headers": [(b"x", b"y")]}
    assert websocket.take(DENY) == Deny(start)
    assert websocket.phase is Phase.DENIED
    more = {"type": "http.response.body", "body": b"no", "more_body": True}
    assert websocket.take({**BODY, "more_body": True}) == Deny(more)
    assert websocket.ended is None
    assert websocket.take(BODY) == Deny({"type": "http.response.body", "body": b"no"})
    assert websocket.ended == ABNORMAL
    assert websocket.take(BODY) == TooLate()


@pytest.mark.parametrize("status", [None, "401", 101, 199, 600])
def test_a_response_of_its_own_has_a_final_status(status: object) -> None:
    with pytest.raises(UsageError, match=rf"can't have the status {status!r}; give one from 200 to 599"):
        AsgiWebSocket().take({**DENY, "status": status})


# Messages


@pytest.mark.parametrize(
    ("content", "data"),
    [
        ({"text": "hello"}, "hello"),
        ({"text": "", "bytes": None}, ""),
        ({"bytes": b"hello"}, b"hello"),
        ({"bytes": b"", "text": None}, b""),
        ({"bytes": bytearray(b"x")}, bytearray(b"x")),
    ],
)
def test_a_message_is_text_or_bytes(content: dict[str, Any], data: object) -> None:
    assert opened().take({"type": "websocket.send", **content}) == Send(data)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "has neither text nor bytes"),
        ({"text": None, "bytes": None}, "has neither text nor bytes"),
        ({"text": "a", "bytes": b"a"}, "has both text and bytes"),
        ({"text": b"a"}, "text of websocket.send must be a str, not bytes"),
        ({"bytes": "a"}, "bytes of websocket.send must be bytes, not str"),
    ],
)
def test_a_message_without_one_content_is_refused(content: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        opened().take({"type": "websocket.send", **content})


@pytest.mark.parametrize(("message", "key"), [("hello", "text"), (b"hello", "bytes")])
def test_a_message_from_the_client_is_an_event(message: str | bytes, key: str) -> None:
    assert event_of(message) == {"type": "websocket.receive", key: message}


# The close


@pytest.mark.parametrize(
    ("content", "close"),
    [
        ({}, Close(1000, "")),
        ({"code": None, "reason": None}, Close(1000, "")),
        ({"code": 4000, "reason": "bye"}, Close(4000, "bye")),
        ({"reason": "x" * 200}, Close(1000, "x" * 123)),
        ({"reason": "x" + "é" * 70}, Close(1000, "x" + "é" * 61)),
    ],
)
def test_a_close_has_a_code_and_as_much_of_the_reason_as_a_frame_holds(content: dict[str, Any], close: Close) -> None:
    websocket = opened()
    assert websocket.take({**CLOSE, **content}) == close
    assert websocket.ended == CloseFrame(close.code, close.reason)


@pytest.mark.parametrize("code", [1005, 1006, 999, 5000, "1000"])
def test_a_code_that_can_not_be_sent_is_refused(code: object) -> None:
    websocket = opened()
    with pytest.raises(UsageError, match="can't be sent as a close code"):
        websocket.take({**CLOSE, "code": code})
    assert websocket.phase is Phase.OPEN


def test_nothing_can_be_sent_after_the_end() -> None:
    websocket = opened()
    websocket.take(CLOSE)
    assert [websocket.take(each) for each in (SEND, CLOSE, ACCEPT)] == [TooLate()] * 3
    lost = opened()
    lost.end(ABNORMAL)
    assert lost.take(SEND) == TooLate()


# The order


@pytest.mark.parametrize(
    ("before", "message", "words"),
    [
        ([], SEND, "about a WebSocket that it has neither accepted nor closed; it may send websocket.accept, "),
        ([], BODY, "about a WebSocket that it has neither accepted nor closed"),
        ([ACCEPT], ACCEPT, "about a WebSocket that it has accepted; it may send websocket.send or websocket.close"),
        ([ACCEPT], DENY, "about a WebSocket that it has accepted"),
        ([DENY], ACCEPT, "about a WebSocket that it answers with a response of its own; it may send "),
        ([DENY], CLOSE, "about a WebSocket that it answers with a response of its own"),
        ([], {"type": "http.response.start"}, "can't send 'http.response.start' about a WebSocket"),
        ([], {}, "can't send None about a WebSocket"),
    ],
)
def test_an_event_out_of_order_is_refused(before: list[dict[str, Any]], message: dict[str, Any], words: str) -> None:
    websocket = AsgiWebSocket()
    for each in before:
        websocket.take(each)
    with pytest.raises(UsageError, match=words):
        websocket.take(message)


def test_the_first_event_is_the_request_and_a_decision_comes_before_the_next() -> None:
    websocket = AsgiWebSocket()
    assert not websocket.has_connected
    assert websocket.next_event() == {"type": "websocket.connect"}
    assert websocket.has_connected
    assert websocket.next_event() is None
    websocket.take(ACCEPT)
    assert websocket.next_event() is None


def test_an_application_that_accepts_without_receiving_gets_the_request_first() -> None:
    websocket = opened()
    websocket.end(CloseFrame(1001, "bye"))
    assert websocket.next_event() == {"type": "websocket.connect"}
    assert not websocket.knows_the_end
    assert websocket.next_event() == disconnect(1001, "bye")
    assert websocket.knows_the_end


def test_the_first_end_counts() -> None:
    websocket = opened()
    websocket.take({**CLOSE, "code": 4000, "reason": "mine"})
    websocket.end(CloseFrame(1000, "theirs"))
    assert [websocket.next_event() for _ in range(2)] == [{"type": "websocket.connect"}, disconnect(4000, "mine")]


def test_the_end_is_reported_again_but_not_for_ever() -> None:
    websocket = AsgiWebSocket()
    websocket.next_event()
    websocket.end(ABNORMAL)
    assert not websocket.is_exhausted
    assert [websocket.next_event() for _ in range(MAX_DISCONNECTS)] == [disconnect(1006)] * MAX_DISCONNECTS
    assert websocket.is_exhausted
    assert websocket.next_event() is None


# Any order

CONTENTS = st.sampled_from(
    [
        ACCEPT,
        {**ACCEPT, "subprotocol": "v1"},
        {**ACCEPT, "subprotocol": "v9"},
        CLOSE,
        {**CLOSE, "code": 1006},
        SEND,
        {"type": "websocket.send"},
        DENY,
        BODY,
        {**BODY, "more_body": True},
        {"type": "http.response.start"},
        {},
    ]
)
STEPS = st.lists(st.one_of(CONTENTS, st.just("receive"), st.just("end")), max_size=30)


@given(STEPS)
def test_in_any_order_there_is_one_decision_and_one_end(steps: list[Any]) -> None:
    websocket = AsgiWebSocket(["v1"])
    done: list[str] = []
    for step in steps:
        if step == "end":
            websocket.end(ABNORMAL)
        elif step == "receive":
            event = websocket.next_event()
            done += [] if event is None else [event["type"]]
        else:
            try:
                done.append(type(websocket.take(step)).__name__)
            except UsageError:
                done.append("refused")
    decisions = [each for each in done if each in ("Accept", "Reject")] + ["Deny"] * ("Deny" in done)
    assert len(decisions) <= 1
    assert all(each not in done for each in ("Send", "Close")) or decisions == ["Accept"]
    assert done.count("Close") <= 1
    assert done.count("websocket.connect") <= 1
    if "TooLate" in done:
        assert set(done[done.index("TooLate") :]) <= {"TooLate", "websocket.connect", "websocket.disconnect"}
    if "websocket.disconnect" in done:
        assert "Send" not in done[done.index("websocket.disconnect") :]
        assert websocket.phase is Phase.OVER
