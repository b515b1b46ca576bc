"""The opening handshake from the client's side (RFC 6455 §1.3, §4.1): the request, and the judgement on the answer."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.errors import UsageError
from rawws.limits import Limits
from rawws.wire.client_handshake import ClientHandshake, ServerAnswer, basic_authorization, examine_answer
from rawws.wire.handshake import Origins, examine, wants_websocket
from rawws.wire.http1 import HttpPhase, Signal
from rawws.wire.http1_client import ResponsePhase
from rawws.wire.messages import FieldsLike, Headers, Request, Response
from rawws.wire.uri import WebSocketURI, parse_uri

# The key of the example in §1.3, and what a server makes of it.
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
URI = parse_uri("ws://server.example.com/chat")
ANSWER = {"Upgrade": ["websocket"], "Connection": ["Upgrade"], "Sec-WebSocket-Accept": [ACCEPT]}


def client(
    uri: str | WebSocketURI = URI,
    *,
    headers: FieldsLike = (),
    origin: str | None = None,
    subprotocols: Sequence[str] = (),
    compression: bool = False,
    user_agent: str | None = None,
) -> ClientHandshake:
    return ClientHandshake(
        parse_uri(uri) if isinstance(uri, str) else uri,
        headers=headers,
        origin=origin,
        subprotocols=subprotocols,
        compression=compression,
        user_agent=user_agent,
        key=KEY,
    )


def answer(*changes: tuple[str, list[str]], status: int = 101) -> Response:
    """Return the answer of §1.3 in which each header that ``changes`` name has these values, a field for each."""
    headers = ANSWER | dict(changes)
    return Response(status, headers=Headers([(name, value) for name in headers for value in headers[name]]))


def assert_failing(handshake: ClientHandshake, response: Response, section: str, said: str) -> ServerAnswer:
    """§4.1: one requirement isn't met, and its sentence is the reason; nothing is agreed on."""
    result = handshake.examine(response)
    failed = [check for check in result.checks if not check.holds]
    assert [check.section for check in failed] == [f"RFC 6455 §4.1 item {section}"]
    assert result.fault == failed[0].fault
    assert said in result.fault
    assert result.fault.isprintable()
    assert (result.subprotocol, result.deflate) == (None, None)
    return result


def assert_met(handshake: ClientHandshake, response: Response) -> ServerAnswer:
    result = handshake.examine(response)
    assert result.fault == ""
    assert all(check.holds for check in result.checks)
    return result


# §1.3 and §4.1: the request


def test_1_3_the_example_on_the_wire() -> None:
    handshake = ClientHandshake(
        URI, origin="http://example.com", subprotocols=["chat", "superchat"], user_agent="rawws/0", key=KEY
    )
    assert ResponsePhase(Limits()).send_request(handshake.request) == (
        b"GET /chat HTTP/1.1\r\n"
        b"Host: server.example.com\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Version: 13\r\n"
        b"Origin: http://example.com\r\n"
        b"Sec-WebSocket-Protocol: chat, superchat\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
        b"User-Agent: rawws/0\r\n"
        b"\r\n"
    )


def test_4_1_the_least_that_is_sent() -> None:
    request = client().request
    assert (request.method, request.target, request.http_version) == ("GET", "/chat", "1.1")
    assert [name for name, _ in request.headers] == [
        "Host",
        "Upgrade",
        "Connection",
        "Sec-WebSocket-Key",
        "Sec-WebSocket-Version",
    ]


def test_4_1_item_7_the_key_is_16_bytes_and_a_new_one_each_time() -> None:
    keys = {ClientHandshake(URI).request.headers["Sec-WebSocket-Key"] for _ in range(100)}
    assert len(keys) == 100
    assert {len(base64.b64decode(key, validate=True)) for key in keys} == {16}


@pytest.mark.parametrize(
    "key", ["", "x", KEY[:-1], KEY + "\r\nX: y", "dGhlIHNhbXBsZSBub25jZ", "é" * 24, KEY[4:], KEY + KEY]
)
def test_4_1_item_7_a_given_key_is_16_bytes_in_base64(key: str) -> None:
    with pytest.raises(UsageError, match="16 bytes in base64"):
        ClientHandshake(URI, key=key)


@pytest.mark.parametrize(
    ("uri", "target", "host"),
    [
        ("ws://h", "/", "h"),
        ("wss://h:443/a?b", "/a?b", "h"),
        ("ws://h:443?b", "/?b", "h:443"),
        ("ws://[::1]:8080/ä", "/%C3%A4", "[::1]:8080"),
        ("ws://bücher.example/", "/", "xn--bcher-kva.example"),
        ("ws+unix:///run/app.sock:/room", "/room", "localhost"),
    ],
)
def test_4_1_items_2_and_4_the_target_is_the_resource_name_and_host_the_authority(
    uri: str, target: str, host: str
) -> None:
    request = client(uri).request
    assert (request.target, request.headers["Host"]) == (target, host)


@pytest.mark.parametrize(
    ("uri", "authorization"),
    [
        ("ws://Aladdin:open%20sesame@h/", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),  # RFC 7617 §2
        ("ws://test:123%C2%A3@h/", "Basic dGVzdDoxMjPCow=="),  # RFC 7617 §2.1
        ("ws://a:b:c@h/", "Basic YTpiOmM="),
        ("ws://token@h/", "Basic dG9rZW46"),
        ("ws://:token@h/", "Basic OnRva2Vu"),
        ("ws://h/", None),
        ("ws://@h/", None),
    ],
)
def test_7617_the_user_of_the_address_is_sent_as_basic_authorization(uri: str, authorization: str | None) -> None:
    assert client(uri).request.headers.get("Authorization") == authorization


def test_7617_a_user_name_with_a_colon_can_not_be_sent() -> None:
    with pytest.raises(UsageError, match="colon"):
        basic_authorization("a:b", "c")


def test_the_callers_headers_come_last_and_some_take_the_place_of_ours() -> None:
    headers = [("X-A", "1"), ("host", "other:8080"), ("Cookie", "a=b"), ("authorization", "Bearer x"), ("X-A", "2")]
    request = client("ws://alice:secret@h/", headers=[*headers, ("USER-AGENT", "me")], user_agent="rawws/0").request
    assert list(request.headers)[5:] == [
        ("X-A", "1"),
        ("Cookie", "a=b"),
        ("authorization", "Bearer x"),
        ("X-A", "2"),
        ("USER-AGENT", "me"),
    ]
    assert request.headers.get_all("Host") == ["other:8080"]


def test_headers_may_be_a_mapping() -> None:
    assert client(headers={"X-A": "1"}).request.headers["x-a"] == "1"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Upgrade", "set by the handshake"),
        ("connection", "set by the handshake"),
        ("Sec-WebSocket-Key", "set by the handshake"),
        ("Sec-WebSocket-Version", "set by the handshake"),
        ("Sec-WebSocket-Accept", "set by the handshake"),
        ("Sec-WebSocket-Extensions", "use compression"),
        ("SEC-WEBSOCKET-PROTOCOL", "use subprotocols"),
        ("Origin", "use origin"),
        ("Content-Length", "no body"),
        ("Transfer-Encoding", "no body"),
        ("Expect", "no body"),
    ],
)
def test_headers_of_the_handshake_itself_or_of_a_body_are_refused(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        client(headers={name: "1"})


@pytest.mark.parametrize("name", ["Host", "User-Agent", "Authorization"])
def test_9110_5_3_a_singleton_field_is_given_once(name: str) -> None:
    with pytest.raises(UsageError, match="given twice"):
        client(headers=[(name, "a"), (name.lower(), "a")])


@pytest.mark.parametrize("end", ["\r\nX-Injected: 1", "\n", "\r", "\0", "é", "\u2028", " "])
def test_9110_5_5_nothing_that_a_caller_gives_can_end_its_line(end: str) -> None:
    with pytest.raises(UsageError):
        client(headers={"X-A": f"a{end}"})
    with pytest.raises(UsageError):
        client(headers={f"X-A{end}": "a"})
    with pytest.raises(UsageError):
        client(headers={"Host": f"h{end}"})
    with pytest.raises(UsageError):
        client(origin=f"http://h{end}")
    with pytest.raises(UsageError):
        client(subprotocols=[f"chat{end}"])
    with pytest.raises(UsageError):
        client(user_agent=f"me{end}")
    # An address that wasn't parsed, but put together from parts.
    with pytest.raises(UsageError):
        client(WebSocketURI(False, f"h{end}", 80))
    with pytest.raises(UsageError):
        client(WebSocketURI(False, "h", 80, f"/{end}"))
    with pytest.raises(UsageError):
        client(WebSocketURI(False, "h", 80, "/", f"a{end}"))


@pytest.mark.parametrize(
    ("subprotocols", "said"),
    [
        ([""], "token"),
        (["a b"], "token"),
        (["a,b"], "token"),
        (["a", "b/c"], "token"),
        (["chat", "chat"], "twice"),
        ("chat", r"give \['chat'\]"),
    ],
)
def test_4_1_item_10_subprotocols_are_tokens_and_each_is_offered_once(subprotocols: Sequence[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        client(subprotocols=subprotocols)


FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["X-A", "Cookie", "Host", "User-Agent"]), st.text(st.sampled_from("a,;= \t"), max_size=4)
    ),
    max_size=3,
)


@given(
    st.sampled_from(["ws://h/a?b", "wss://u:p@[::1]:1/", "ws://ä.example/ö"]),
    FIELDS,
    st.none() | st.sampled_from(["https://h", "null"]),
    st.lists(st.sampled_from(["chat", "v2.chat", "x"]), max_size=3, unique=True),
    st.booleans(),
)
def test_4_2_1_every_request_that_can_be_sent_is_a_handshake_to_our_own_server(
    uri: str, fields: list[tuple[str, str]], origin: str | None, subprotocols: list[str], compression: bool
) -> None:
    try:
        handshake = client(uri, headers=fields, origin=origin, subprotocols=subprotocols, compression=compression)
    except UsageError:
        return
    server = HttpPhase(Limits())
    phase = ResponsePhase(Limits())
    server.receive_data(phase.send_request(handshake.request))
    request = server.next_event()
    if not isinstance(request, Request):
        assert any(name == "Host" for name, _ in fields), request  # that one is the caller's own
        return
    assert wants_websocket(request)
    judged = examine(request, Origins(["*"]))
    assert judged.refusal is None
    assert judged.offered_subprotocols == tuple(subprotocols)
    assert server.next_event() is Signal.END_OF_BODY
    phase.receive_data(server.switch_protocols(judged.response_headers))
    response = phase.next_event()
    assert isinstance(response, Response)
    result = assert_met(handshake, response)
    assert (result.deflate is not None) is compression


# §4.1, second list: the answer


def test_4_1_the_answer_of_the_example_is_met() -> None:
    result = assert_met(client(subprotocols=["chat", "superchat"]), answer(("Sec-WebSocket-Protocol", ["chat"])))
    assert (result.subprotocol, result.deflate) == ("chat", None)


def test_4_1_every_check_is_listed_with_its_section_and_verdict() -> None:
    result = client(compression=True).examine(
        answer(("Sec-WebSocket-Extensions", ["permessage-deflate"]), ("Connection", ["close"]), ("Upgrade", []))
    )
    assert [str(check) for check in result.checks] == [
        "RFC 6455 §4.1 item 1: the status is 101? yes: 101 Switching Protocols",
        "RFC 6455 §4.1 item 2: Upgrade is 'websocket'? NO: none",
        "RFC 6455 §4.1 item 3: Connection has the token 'Upgrade'? NO: close",
        f"RFC 6455 §4.1 item 4: Sec-WebSocket-Accept belongs to the client's key? yes: {ACCEPT}",
        "RFC 6455 §4.1 item 5: extensions are those offered? yes: permessage-deflate",
        "RFC 6455 §4.1 item 6: the subprotocol is one of those offered? yes: none",
    ]
    assert result.fault == "its Upgrade header is not 'websocket' but none"  # the first that isn't met


@pytest.mark.parametrize("status", [100, 103, 200, 204, 301, 400, 401, 426, 503, 599])
def test_4_1_item_1_any_other_status_than_101_is_told_and_the_rest_not_looked_at(status: int) -> None:
    result = assert_failing(client(), answer(("Upgrade", []), status=status), "1", f"the server answered {status}")
    assert len(result.checks) == 1


@pytest.mark.parametrize("values", [["websocket"], ["WebSocket"], ["WEBSOCKET"]])
def test_4_1_item_2_upgrade_is_websocket_in_any_case(values: list[str]) -> None:
    assert_met(client(), answer(("Upgrade", values)))


@pytest.mark.parametrize(
    "values", [[], [""], ["websockets"], ["h2c"], ["websocket, h2c"], ["websocket", "websocket"], ["websocket/13"]]
)
def test_4_1_item_2_any_other_upgrade_fails(values: list[str]) -> None:
    assert_failing(client(), answer(("Upgrade", values)), "2", "Upgrade")


@pytest.mark.parametrize("values", [["upgrade"], ["UPGRADE"], ["keep-alive, Upgrade"], ["keep-alive", "upgrade"]])
def test_4_1_item_3_connection_has_the_token_upgrade(values: list[str]) -> None:
    assert_met(client(), answer(("Connection", values)))


@pytest.mark.parametrize("values", [[], [""], ["close"], ["upgrades"], ["up grade"], ["keep-alive; upgrade"]])
def test_4_1_item_3_any_other_connection_fails(values: list[str]) -> None:
    assert_failing(client(), answer(("Connection", values)), "3", "Connection")


@pytest.mark.parametrize(
    "values",
    [
        [],
        [""],
        [KEY],
        [ACCEPT.lower()],
        [ACCEPT[:-1]],
        [f"{ACCEPT}="],
        [f'"{ACCEPT}"'],
        [ACCEPT, ACCEPT],
        [ACCEPT, "x"],
        [f"{ACCEPT}, {ACCEPT}"],
    ],
)
def test_4_1_item_4_an_accept_that_is_not_made_of_our_key_fails(values: list[str]) -> None:
    assert_failing(client(), answer(("Sec-WebSocket-Accept", values)), "4", "Sec-WebSocket-Accept")


def test_4_1_item_4_the_answer_to_another_key_fails() -> None:
    assert_failing(ClientHandshake(URI), answer(), "4", ACCEPT)


def test_4_1_item_4_who_does_not_know_the_key_judges_all_but_what_was_made_of_it() -> None:
    response = answer(("Sec-WebSocket-Accept", ["of another key"]), ("Upgrade", ["h2c"]))
    outcome = examine_answer(response, None, offered_subprotocols=(), offered_compression=False)
    assert "RFC 6455 §4.1 item 4" not in [check.section for check in outcome.checks]
    assert [check.section for check in outcome.checks if not check.holds] == ["RFC 6455 §4.1 item 2"]
    assert examine_answer(answer(), None, offered_subprotocols=(), offered_compression=False).fault == ""


@pytest.mark.parametrize(
    ("values", "window_bits", "server_takeover"),
    [
        (["permessage-deflate"], 15, True),
        (["permessage-deflate; server_no_context_takeover"], 15, False),
        (["permessage-deflate; client_max_window_bits=10"], 10, True),
    ],
)
def test_4_1_item_5_compression_that_was_offered_may_be_agreed_on(
    values: list[str], window_bits: int, server_takeover: bool
) -> None:
    agreement = assert_met(client(compression=True), answer(("Sec-WebSocket-Extensions", values))).deflate
    assert agreement is not None
    assert (agreement.client_window_bits, agreement.server_takeover) == (window_bits, server_takeover)


def test_4_1_item_5_compression_that_was_offered_may_be_declined() -> None:
    assert assert_met(client(compression=True), answer()).deflate is None


@pytest.mark.parametrize(
    "values",
    [
        ["permessage-deflate; server_max_window_bits=7"],
        ["permessage-deflate; server_max_window_bits=16"],
        ["permessage-deflate; server_max_window_bits=1000000000000000000000"],
        ["permessage-deflate; server_max_window_bits=abc"],
        ["permessage-deflate; client_max_window_bits"],
        ["permessage-deflate", "permessage-deflate"],
        ["permessage-bzip2"],
        ["permessage-deflate, x-webkit-deflate-frame"],
        ["__proto__"],
        [";"],
    ],
)
@pytest.mark.parametrize("compression", [True, False], ids=["offered", "not offered"])
def test_4_1_item_5_an_extension_that_was_not_offered_or_is_not_legal_fails(
    values: list[str], compression: bool
) -> None:
    assert_failing(client(compression=compression), answer(("Sec-WebSocket-Extensions", values)), "5", "extension")


def test_4_1_item_5_compression_that_was_not_offered_fails() -> None:
    response = answer(("Sec-WebSocket-Extensions", ["permessage-deflate"]))
    assert_failing(client(compression=False), response, "5", "none was offered")


@pytest.mark.parametrize("values", [["chat"], ["superchat"], []])
def test_4_1_item_6_the_server_chooses_one_subprotocol_of_those_offered_or_none(values: list[str]) -> None:
    response = answer(("Sec-WebSocket-Protocol", values))
    assert assert_met(client(subprotocols=["chat", "superchat"]), response).subprotocol == next(iter(values), None)


@pytest.mark.parametrize(
    ("offered", "values"),
    [
        ([], ["chat"]),
        ([], [""]),
        (["chat"], [""]),
        (["chat"], ["Chat"]),
        (["chat"], ["cha"]),
        (["chat"], ["superchat"]),
        (["chat", "superchat"], ["chat, superchat"]),
        (["chat", "superchat"], ["chat", "superchat"]),
        (["chat"], ["chat", "chat"]),
    ],
)
def test_4_1_item_6_any_other_subprotocol_fails(offered: list[str], values: list[str]) -> None:
    response = answer(("Sec-WebSocket-Protocol", values))
    assert_failing(client(subprotocols=offered), response, "6", "ubprotocol" if len(values) == 1 else "more than one")


@given(
    st.dictionaries(
        st.sampled_from(
            ["Upgrade", "Connection", "Sec-WebSocket-Accept", "Sec-WebSocket-Extensions", "Sec-WebSocket-Protocol"]
        ),
        st.lists(
            st.one_of(st.text(max_size=20), st.sampled_from(["websocket", "permessage-deflate; x", "chat"])), max_size=3
        ),
    )
)
def test_any_answer_is_judged(headers: dict[str, list[str]]) -> None:
    result = client(compression=True, subprotocols=["chat"]).examine(answer(*headers.items()))
    assert bool(result.fault) is not all(check.holds for check in result.checks)
    assert [str(check) for check in result.checks]
