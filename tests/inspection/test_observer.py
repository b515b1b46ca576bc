"""A connection seen from outside: whichever way its bytes are cut, the same is seen, and what is wrong is named."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rawws.inspection.describe import describe
from rawws.inspection.observer import Observer, guess_sender
from rawws.inspection.seen import Head, Rest, Seen, SeenFrame, Switch
from rawws.wire.deflate import Deflater
from rawws.wire.frames import FIN, RSV1, Opcode, SeenMessage, encode_frame
from rawws.wire.message_view import ALLOWED_IN_ADVANCE, INFLATED_FOR_EACH
from rawws.wire.role import Role
from tests.traced_memory import traced_memory

KEY = b"\x37\xfa\x21\x3d"
REQUEST = (
    b"GET /room HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
)
DEFLATE = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
HELLO = encode_frame(Opcode.TEXT, b"Hello", mask_key=KEY)
CLIENT, SERVER = Role.CLIENT, Role.SERVER


def see(*said: tuple[Role, bytes], in_frames: bool = False) -> list[Seen]:
    observer = Observer(in_frames=in_frames)
    seen = [each for sender, data in said for each in observer.receive(sender, data)]
    return seen + observer.finish()


def faults(seen: list[Seen]) -> list[str]:
    return [each.fault.code for each in seen if isinstance(each, SeenFrame | Rest) and each.fault is not None]


def test_a_handshake_and_frames_both_ways() -> None:
    request, response, switch, hello, answer = see(
        (CLIENT, REQUEST), (SERVER, SWITCH + b"\r\n"), (CLIENT, HELLO), (SERVER, encode_frame(Opcode.TEXT, b"hi"))
    )
    assert isinstance(request, Head)
    assert request.accept is not None
    assert request.accept.value == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
    assert isinstance(response, Head)
    assert request.is_fine
    assert response.is_fine
    assert [check.requirement for check in response.checks][3] == "Sec-WebSocket-Accept belongs to the client's key"
    assert switch == Switch()
    assert isinstance(hello, SeenFrame)
    assert (hello.sender, hello.at, hello.message) == (CLIENT, len(REQUEST), SeenMessage(Opcode.TEXT, 5, b"Hello"))
    assert isinstance(answer, SeenFrame)
    assert (answer.sender, answer.at) == (SERVER, len(SWITCH) + 2)


@given(st.lists(st.integers(1, 400), max_size=12))
def test_the_same_is_seen_in_any_chunking(cuts: list[int]) -> None:
    stream = REQUEST + HELLO + encode_frame(Opcode.PING, b"", mask_key=KEY) + HELLO[:7]
    whole = see((CLIENT, stream))
    chunks = []
    at = 0
    for cut in cuts:
        chunks.append(stream[at : at + cut])
        at += cut
    chunks.append(stream[at:])
    assert see(*((CLIENT, chunk) for chunk in chunks)) == whole


def test_frames_pipelined_behind_the_request_wait_for_the_answer() -> None:
    kinds = [type(each) for each in see((CLIENT, REQUEST + HELLO), (SERVER, SWITCH + b"\r\n"))]
    assert kinds == [Head, Head, Switch, SeenFrame]


def test_a_refused_upgrade_leaves_http() -> None:
    refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno\n"
    fine = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n"
    seen = see(
        (CLIENT, REQUEST),
        (SERVER, refusal),
        (CLIENT, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345" + REQUEST.replace(b"GET", b"HEAD", 1)),
        (SERVER, fine + head),
        (CLIENT, REQUEST),
        (SERVER, b"HTTP/1.1 100 Continue\r\n\r\n" + SWITCH + b"\r\n"),
        (CLIENT, HELLO),
    )
    lines = [each.raw.partition(b"\r\n")[0] for each in seen if isinstance(each, Head)]
    assert lines == [
        b"GET /room HTTP/1.1", b"HTTP/1.1 403 Forbidden", b"POST / HTTP/1.1", b"HEAD /room HTTP/1.1",
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"GET /room HTTP/1.1", b"HTTP/1.1 100 Continue",
        b"HTTP/1.1 101 Switching Protocols",
    ]  # fmt: skip
    assert isinstance(seen[-1], SeenFrame)
    assert seen[-1].fault is None


def test_compressed_messages_are_inflated_where_that_was_agreed_on() -> None:
    deflated = encode_frame(Opcode.TEXT, Deflater(15).deflate(b"Hello" * 100), rsv=RSV1)
    agreed = see((CLIENT, REQUEST), (SERVER, SWITCH + DEFLATE + b"\r\n" + deflated))
    assert isinstance(agreed[-1], SeenFrame)
    assert agreed[-1].message == SeenMessage(Opcode.TEXT, 500, b"Hello" * 100)
    assert faults(see((CLIENT, REQUEST), (SERVER, SWITCH + b"\r\n" + deflated))) == ["reserved_bit"]
    # Without the handshake there is no knowing, so the sender gets the benefit of the doubt.
    assert faults(see((SERVER, deflated), in_frames=True)) == []


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ((CLIENT, REQUEST[:50]), "the head ends here"),
        ((CLIENT, REQUEST + HELLO[:1]), "the frame's header ends here"),
        ((CLIENT, REQUEST + HELLO[:8]), "the frame ends here: 3 bytes of its payload are missing"),
        ((CLIENT, b"\x16\x03\x01 no HTTP"), "this is not the head of an HTTP message"),
        ((SERVER, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "the body can't be followed"),
    ],
)
def test_incomplete_bytes_and_those_that_can_not_be_followed_are_named(said: tuple[Role, bytes], reason: str) -> None:
    last = see(said)[-1]
    assert isinstance(last, Rest)
    assert last.reason == reason


def test_a_head_that_is_none_ends_the_following() -> None:
    (head,) = see((CLIENT, b"GET / HTTP/1.1\r\nbad header\r\n\r\n" + HELLO))
    assert isinstance(head, Head)
    assert head.problem == "Line 2 of the request is not a header of the form 'Name: value'."


def test_an_answer_alone_is_judged_as_far_as_that_goes() -> None:
    head, switch = see((SERVER, SWITCH.replace(b"websocket", b"h2c") + b"\r\n"))
    assert isinstance(head, Head)
    assert [check.requirement for check in head.checks if not check.holds] == ["Upgrade is 'websocket'"]
    assert switch == Switch("h2c")


H2C_REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
H2C_SWITCH = SWITCH.replace(b"websocket", b"h2c") + b"\r\n"


@pytest.mark.parametrize(
    ("request_head", "answer", "protocol"),
    [
        (H2C_REQUEST, H2C_SWITCH, "h2c"),
        (REQUEST, H2C_SWITCH, "h2c"),
        (H2C_REQUEST, b"HTTP/1.1 101 Yes\r\nUpgrade: a\r\nUpgrade: b\xff\r\n\r\n", "a, bÿ"),
        (H2C_REQUEST, b"HTTP/1.1 101 Yes\r\n\r\n", "h2c"),
    ],
)
def test_another_protocol_after_a_101_is_not_read(request_head: bytes, answer: bytes, protocol: str) -> None:
    """RFC 9110 §7.8: a 101 says in Upgrade which protocol comes next."""
    said = [(CLIENT, request_head), (SERVER, answer + b"\0\0\x12\4"), (CLIENT, HELLO), (SERVER, b"\x81\x02hi")]
    asked, answered, *others = see(*said)
    assert isinstance(asked, Head)
    assert isinstance(answered, Head)
    assert others == [Switch(protocol)]


def test_bytes_waiting_after_an_upgrade_to_another_protocol_are_not_read() -> None:
    assert see((CLIENT, REQUEST + HELLO), (SERVER, H2C_SWITCH))[2:] == [Switch("h2c")]


def test_an_answer_that_names_no_protocol_goes_on_as_the_one_that_was_asked_for() -> None:
    answer = SWITCH.replace(b"Upgrade: websocket\r\n", b"") + b"\r\n"
    _, head, switch, frame = see((CLIENT, REQUEST), (SERVER, answer + b"\x81\x02hi"))
    assert isinstance(head, Head)
    assert not head.is_fine
    assert switch == Switch()
    assert isinstance(frame, SeenFrame)


@given(st.binary(max_size=300), st.booleans(), st.sampled_from(Role))
def test_any_bytes_can_be_looked_at(data: bytes, in_frames: bool, sender: Role) -> None:
    for each in see((sender, data), in_frames=in_frames):
        assert describe(each)


@pytest.mark.parametrize(
    ("data", "sender"),
    [(REQUEST, CLIENT), (SWITCH, SERVER), (HELLO, CLIENT), (encode_frame(Opcode.TEXT, b"hi"), SERVER), (b"", SERVER)],
)
def test_the_sender_is_recognized_by_the_first_bytes(data: bytes, sender: Role) -> None:
    assert guess_sender(data) is sender


# Beside WebSockets: ordinary HTTP on the same connection (RFC 9112 §6)


POST = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_an_ordinary_request_has_no_checks_and_another_may_follow_at_once() -> None:
    get = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    first, second = see((CLIENT, get + b"\r\n" + get))
    assert isinstance(first, Head)
    assert isinstance(second, Head)
    assert (first.at, second.at, first.checks, first.accept) == (0, len(get) + 2, (), None)


def test_9112_7_1_a_body_in_chunks_is_passed_over_however_it_comes() -> None:
    body = b"5\r\nGET /\r\n0\r\n\r\n"
    stream = POST + body + REQUEST
    for cut in range(len(POST), len(POST + body) + 1):
        heads = see((CLIENT, stream[:cut]), (CLIENT, stream[cut:]))
        assert [each.at for each in heads if isinstance(each, Head)] == [0, len(POST + body)]
        assert len(heads) == 2


def test_9112_7_1_a_body_whose_chunks_are_none_can_not_be_followed() -> None:
    head, rest = see((CLIENT, POST + b"zz\r\n"), (CLIENT, REQUEST))
    assert isinstance(head, Head)
    assert rest == Rest(CLIENT, len(POST), b"zz\r\n", "the body can't be followed")


def test_4_2_1_item_5_two_keys_have_no_accept_value() -> None:
    key = b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    (head,) = see((CLIENT, REQUEST.replace(key, key * 2)))
    assert isinstance(head, Head)
    assert head.accept is None
    assert [check.about for check in head.checks if not check.holds] == ["Sec-WebSocket-Key"]


def test_http_1_0_may_do_without_a_host() -> None:
    observer = Observer()
    observer.receive(Role.CLIENT, b"GET / HTTP/1.0\r\n\r\n")
    (seen,) = observer.receive(Role.SERVER, b"HTTP/1.0 200 OK\r\n\r\n")
    assert isinstance(seen, Head)
    assert seen.problem == ""


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"HTTP/1.1 999 Whatever\r\n\r\n", "999 is no status of HTTP (RFC 9110 §15)"),
        (b"HTTP/1.1 two hundred\r\n\r\n", "illegal status line"),
    ],
)
def test_a_head_that_is_no_response_says_why(answer: bytes, problem: str) -> None:
    (_, head) = see((CLIENT, REQUEST), (SERVER, answer))
    assert isinstance(head, Head)
    assert problem in head.problem
    assert not head.is_fine


def test_bytes_beyond_ascii_in_a_servers_headers_are_escaped() -> None:
    answer = SWITCH.replace(b"websocket", b"web\x1b[31msocket\xe9") + b"\r\n"
    seen = see((CLIENT, REQUEST), (SERVER, answer))
    assert isinstance(seen[1], Head)
    assert r"web\x1b[31msocket\xe9" in "".join(describe(seen[1]))
    assert all(line.isprintable() for line in describe(seen[1]))


def test_empty_lines_between_two_requests_are_no_rest() -> None:
    seen = see((CLIENT, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n\r\n"))
    assert [type(each) for each in seen] == [Head]


def test_a_body_that_is_not_in_the_capture_is_left_out() -> None:
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    observer = Observer()
    seen: list[Seen] = []
    for sender, head in ((CLIENT, post), (SERVER, answer), (CLIENT, post), (SERVER, answer)):
        observer.leave_out_body(sender)
        seen += observer.receive(sender, head)
    assert [each.raw for each in seen if isinstance(each, Head)] == [post, answer, post, answer]
    assert all(isinstance(each, Head) and each.is_fine for each in seen)


# The cost of observing


def peak_of(look: Callable[[], object]) -> int:
    """Return how many bytes of memory it takes at most."""
    with traced_memory() as count:
        look()
        return count()[1]


def opened(*, max_waiting_bytes: int = 1 << 20) -> Observer:
    observer = Observer(max_waiting_bytes=max_waiting_bytes)
    observer.receive(CLIENT, REQUEST)
    observer.receive(SERVER, SWITCH + DEFLATE + b"\r\n")
    return observer


def test_a_message_of_any_size_is_judged_and_not_collected() -> None:
    observer = opened()
    header = bytes((FIN | Opcode.BINARY, 127)) + (1 << 40).to_bytes(8, "big")

    def look() -> None:
        assert observer.receive(SERVER, header) == []
        for _ in range(64):
            assert observer.receive(SERVER, bytes(1 << 16)) == []

    assert peak_of(look) < 1 << 20
    (rest,) = observer.finish()
    assert isinstance(rest, Rest)
    assert rest.reason == f"the frame ends here: {(1 << 40) - (64 << 16):,} bytes of its payload are missing"


@pytest.mark.parametrize("fin", [True, False])
def test_a_bomb_is_inflated_as_far_as_is_allowed(fin: bool) -> None:
    bomb = Deflater(15).deflate(b"a" * (64 << 20))
    raw = encode_frame(Opcode.TEXT, bomb, fin=fin, rsv=RSV1) + (b"" if fin else encode_frame(0, b""))
    seen: list[Seen] = []
    assert peak_of(lambda: seen.extend(opened().receive(SERVER, raw))) < 1 << 20
    assert isinstance(seen[-1], SeenFrame)
    assert seen[-1].message is not None
    assert not seen[-1].message.is_all_known
    assert ALLOWED_IN_ADVANCE <= seen[-1].message.size <= ALLOWED_IN_ADVANCE + INFLATED_FOR_EACH * len(bomb)
    line = f"the message: TEXT, {seen[-1].message.size:,} bytes or more (no more is inflated): '{'a' * 200}…'"
    assert line in describe(seen[-1], with_ruler=False)[1]


@pytest.mark.parametrize("answer", [SWITCH + b"\r\n", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"])
def test_bytes_that_wait_for_an_answer_are_bounded(answer: bytes) -> None:
    observer = Observer(max_waiting_bytes=100)
    assert len(observer.receive(CLIENT, REQUEST + bytes(100))) == 1
    (rest,) = observer.receive(CLIENT, b"x")
    assert isinstance(rest, Rest)
    assert rest.reason == "more came behind the upgrade than is kept until it is answered"
    assert observer.receive(CLIENT, bytes(1000)) == []
    # The server is followed as before.
    seen = observer.receive(SERVER, answer)
    assert isinstance(seen[0], Head)
    assert len(seen[0].checks) == (6 if b"101" in answer else 1)
    assert observer.receive(CLIENT, REQUEST) == []
    assert observer.finish() == []


def test_requests_without_answers_are_bounded() -> None:
    observer = Observer()
    request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    seen = observer.receive(CLIENT, request * 10_000)
    assert isinstance(seen[-1], Rest)
    assert seen[-1].reason == "more requests wait for their answers than are kept"
    assert 100 < len(seen) < 200
    assert len(observer.receive(SERVER, b"HTTP/1.1 204 No Content\r\n\r\n" * 10)) == 10


def test_a_head_that_drips_is_not_searched_again() -> None:
    observer = Observer()
    observer.receive(CLIENT, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000)
    began = time.process_time()
    for _ in range(5000):
        assert observer.receive(CLIENT, b"a") == []
    assert time.process_time() - began < 1  # 0.01 s; 3 s where all is searched each time
    (head,) = observer.receive(CLIENT, b"\r\n\r\n")
    assert isinstance(head, Head)
    assert head.is_fine


@pytest.mark.parametrize("cut", range(1, 4))
def test_the_end_of_a_head_may_come_in_parts(cut: int) -> None:
    observer = Observer()
    assert observer.receive(CLIENT, REQUEST[:-cut]) == []
    assert len(observer.receive(CLIENT, REQUEST[-cut:])) == 1


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
def test_a_head_that_is_too_long_to_be_looked_at(end: bytes) -> None:
    (rest,) = see((CLIENT, b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * (256 << 10) + end))
    assert isinstance(rest, Rest)
    assert rest.reason == "a head of more than 262,144 bytes is not looked at"


# A limit or trait of this server doesn't apply to others' traffic.


def test_a_handshake_of_many_fields_is_judged_like_any() -> None:
    (request,) = see((CLIENT, REQUEST[:-2] + b"".join(b"X-%d: y\r\n" % number for number in range(120)) + b"\r\n"))[:1]
    assert isinstance(request, Head)
    assert request.problem == ""
    assert len(request.checks) == 9


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"CONNECT x:1 HTTP/1.1", "CONNECT asks for a tunnel: what runs through it is not followed"),
        (b"GET / HTTP/2.0", "this is not HTTP/1.0 or HTTP/1.1: what follows is not read"),
    ],
)
def test_refusals_are_worded_for_any_server(line: bytes, problem: str) -> None:
    request, *_ = see((CLIENT, line + b"\r\nHost: x:1\r\n\r\n"))
    assert isinstance(request, Head)
    assert request.problem == problem


def test_no_bytes_complete_nothing() -> None:
    observer = Observer()
    assert observer.receive(CLIENT, b"") == []
    assert observer.finish() == []
