"""The cases that a server is tried with: each is what it says, and is judged by what the RFC says."""

from __future__ import annotations

import pytest

from rawws.wire.cases import BY_NAME, CASES, STILL_THERE, Answer, Case, Outcome, Verdict, raw_request
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.handshake import Origins, examine
from rawws.wire.http1 import HttpPhase
from rawws.wire.messages import Request
from rawws.wire.observer import Head, Observer, SeenFrame
from rawws.wire.role import Role
from rawws.wire.uri import parse_uri
from tests.wire.test_http1 import LIMITS

HANDSHAKE = ClientHandshake(parse_uri("ws://server.test/room"), compression=False)
PONG = encode_frame(Opcode.PONG, STILL_THERE)
LIVE = (Verdict.GOOD, "taken; the ping behind it was answered")


def switched(frames: bytes = b"") -> bytes:
    handshake = examine(HANDSHAKE.request, Origins(["*"]), compression=False)
    fields = b"".join(b"%s: %s\r\n" % field for field in handshake.response_headers)
    return b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n" + frames


def close(code: int) -> bytes:
    return encode_frame(Opcode.CLOSE, code.to_bytes(2, "big"))


def judge(name: str, raw: bytes, *, ended: bool = False) -> Outcome:
    case = BY_NAME[name]
    return case.outcome(case.request(HANDSHAKE), Answer(raw, ended))


def seen_by_server(case: Case) -> list[object]:
    observer = Observer()
    seen: list[object] = list(observer.receive(Role.CLIENT, raw_request(HANDSHAKE)))
    seen += observer.receive(Role.SERVER, switched())
    return seen + list(observer.receive(Role.CLIENT, case.frames)) + list(observer.finish())


def test_names_are_unique_and_everything_is_told() -> None:
    assert len(BY_NAME) == len(CASES) > 50
    for case in CASES:
        assert case.section.startswith("RFC 6455 §")
        assert case.title
        assert case.rule


@pytest.mark.parametrize("case", [case for case in CASES if case.frames], ids=lambda case: case.name)
def test_what_has_to_be_refused_is_broken_and_the_rest_is_not(case: Case) -> None:
    """By the judgement of the observer, which is wsproto's."""
    faults = [each for each in seen_by_server(case) if getattr(each, "fault", None) is not None]
    assert bool(faults) is case.rule.startswith("fail the connection")


@pytest.mark.parametrize("case", [case for case in CASES if not case.frames], ids=lambda case: case.name)
def test_a_handshake_that_has_to_be_refused_is_broken_and_the_rest_is_not(case: Case) -> None:
    http = HttpPhase(LIMITS)
    http.receive_data(case.request(HANDSHAKE))
    request = http.next_event()
    accepted = isinstance(request, Request) and examine(request, Origins(["*"])).accept is not None
    assert accepted is case.rule.startswith("101")


@pytest.mark.parametrize(
    ("raw", "ended", "outcome"),
    [
        (switched(close(1002)), True, (Verdict.GOOD, "a close with 1002 (protocol error)")),
        (switched(close(1008)), True, (Verdict.LAX, "a close with 1008 (policy violation), where 1002 was due")),
        (switched(), True, (Verdict.LAX, "the connection closed, without a close frame that says why")),
        (switched(), False, (Verdict.BAD, "nothing: the connection stayed open")),
        (switched(close(1002)), False,
         (Verdict.BAD, "a close with 1002 (protocol error), but the connection stayed open")),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", True,
         (Verdict.UNCLEAR, "the handshake was answered with 403: the case can't be run")),
        (b"", True, (Verdict.UNCLEAR, "the handshake was answered with nothing: the case can't be run")),
    ],
)  # fmt: skip
def test_a_broken_frame(raw: bytes, ended: bool, outcome: tuple[Verdict, str]) -> None:
    assert judge("unmasked", raw, ended=ended) == Outcome(*outcome)


def test_what_binds_the_sender_alone_is_never_bad() -> None:
    assert judge("long-form-16", switched()).verdict is Verdict.LAX


@pytest.mark.parametrize(
    ("raw", "ended", "outcome"),
    [
        (switched(PONG), False, LIVE),
        (switched(encode_frame(Opcode.TEXT, b"hi") + PONG), False, LIVE),
        (switched(close(1002)), True, (Verdict.BAD, "a close with 1002 (protocol error)")),
        (switched(), False, (Verdict.BAD, "no pong, and the connection stayed open")),
        (switched(), True, (Verdict.BAD, "no pong, and the connection closed")),
    ],
)
def test_a_legal_frame(raw: bytes, ended: bool, outcome: tuple[Verdict, str]) -> None:
    assert judge("fragments", raw, ended=ended) == Outcome(*outcome)


@pytest.mark.parametrize(
    ("raw", "verdict", "got"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Verdict.GOOD, "400"),
        (b"HTTP/1.1 200 OK\r\n\r\n", Verdict.BAD, "200, which is not a refusal"),
        (switched(), Verdict.BAD, "101: it was accepted"),
        (b"", Verdict.LAX, "no answer, and the connection closed"),
        (b"nonsense\r\n\r\n", Verdict.BAD, "an answer that is not HTTP"),
    ],
)
def test_a_broken_handshake(raw: bytes, verdict: Verdict, got: str) -> None:
    assert judge("short-key", raw, ended=True) == Outcome(verdict, got)


def test_what_is_no_handshake_may_be_answered_like_any_request() -> None:
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    assert judge("lowercase-method", ok) == Outcome(Verdict.GOOD, "200, as to an ordinary request")
    assert judge("lowercase-method", switched()).verdict is Verdict.BAD


@pytest.mark.parametrize(
    ("fields", "verdict"),
    [(b"Sec-WebSocket-Version: 13\r\n", Verdict.GOOD), (b"", Verdict.LAX)],
)
def test_a_refused_version_names_those_that_are_spoken(fields: bytes, verdict: Verdict) -> None:
    assert judge("version-12", b"HTTP/1.1 426 Upgrade Required\r\n" + fields + b"\r\n").verdict is verdict


def test_a_wrong_accept_value_is_bad() -> None:
    wrong = switched().replace(HANDSHAKE.accept.value.encode(), b"A" * 27 + b"=")
    outcome = judge("handshake", wrong)
    assert outcome.verdict is Verdict.BAD
    assert outcome.got.startswith("101, but Sec-WebSocket-Accept belongs to our key is not so")


def test_a_server_that_masks_is_bad() -> None:
    outcome = judge("proper-frames", switched(encode_frame(Opcode.TEXT, b"hi", mask_key=b"abcd")))
    assert outcome == Outcome(Verdict.BAD, "client received unexpected masked frame (RFC 6455 §5.1)")


def test_pongs_are_compared() -> None:
    good = encode_frame(Opcode.PONG, bytes(range(125)))
    assert judge("ping-125", switched(good + PONG)).verdict is Verdict.GOOD
    assert judge("ping-125", switched(encode_frame(Opcode.PONG, b"other") + PONG)).verdict is Verdict.BAD
    assert judge("ping-125", switched(PONG)).verdict is Verdict.LAX


def test_a_pong_behind_the_close_is_bad() -> None:
    late = switched(close(1000) + encode_frame(Opcode.PONG, b"late"))
    assert judge("ping-behind-close", late, ended=True).verdict is Verdict.BAD
    assert judge("ping-behind-close", switched(close(1000)), ended=True).verdict is Verdict.GOOD


@pytest.mark.parametrize(("ended", "verdict"), [(True, Verdict.GOOD), (False, Verdict.LAX)])
def test_after_the_closes_it_is_for_the_server_to_end_the_connection(ended: bool, verdict: Verdict) -> None:
    assert judge("close", switched(close(1000)), ended=ended).verdict is verdict


def test_when_enough_has_come() -> None:
    case = BY_NAME["fragments"]
    request = case.request(HANDSHAKE)
    assert not case.is_settled(request, switched())
    assert case.is_settled(request, switched(PONG))
    assert case.is_settled(request, b"HTTP/1.1 403 Forbidden\r\n\r\n")
    assert BY_NAME["short-key"].is_settled(request, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert case.wants_answer_to_close(request, switched(close(1002)))
    assert not case.wants_answer_to_close(request, switched(PONG))


def test_heads_and_frames_are_told_apart() -> None:
    seen = Answer(switched(PONG), ended=False).see(raw_request(HANDSHAKE))
    assert [type(each) for each in seen if isinstance(each, Head | SeenFrame)] == [Head, SeenFrame]
