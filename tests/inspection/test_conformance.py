"""The cases that a server is tried with: each is what it says, and is judged by what the RFC says."""

from __future__ import annotations

import pytest

from rawws.inspection.conformance import (
    BY_NAME,
    CASES,
    MAX_ANSWER_BYTES,
    MAX_ANSWER_PARTS,
    STILL_THERE,
    Answer,
    Case,
    Outcome,
    Verdict,
    raw_request,
)
from rawws.inspection.observer import Observer
from rawws.inspection.seen import Head, SeenFrame
from rawws.wire.client_handshake import ClientHandshake
from rawws.wire.frames import Opcode, encode_frame
from rawws.wire.handshake import examine
from rawws.wire.http1 import HttpPhase
from rawws.wire.messages import Request
from rawws.wire.origins import Origins
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


def answer_to(case: Case, raw: bytes, *, ended: bool = False) -> Answer:
    answer = Answer(case, case.request(HANDSHAKE))
    answer.receive(raw)
    answer.ended = ended
    return answer


def judge(name: str, raw: bytes, *, ended: bool = False) -> Outcome:
    case = BY_NAME[name]
    return case.outcome(answer_to(case, raw, ended=ended))


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
def test_cases_to_be_refused_are_broken_and_the_others_are_not(case: Case) -> None:
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


def test_a_rule_that_binds_the_sender_alone_never_gives_a_bad_verdict() -> None:
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


def test_a_request_that_is_no_handshake_may_be_answered_like_any_other() -> None:
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
    assert outcome.got.startswith("101, but Sec-WebSocket-Accept belongs to the client's key is not so")


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


def test_each_piece_that_the_client_sends_is_recorded_with_how_much_had_come_before_it() -> None:
    case = BY_NAME["fragments"]
    answer = answer_to(case, switched())
    answer.will_send(case.frames)
    answer.receive(PONG)
    answer.will_send(close(1000))
    come = len(switched())
    request = (0, case.request(HANDSHAKE))
    assert answer.sent == [request, (come, case.frames), (come + len(PONG), close(1000))]


def test_when_enough_has_come() -> None:
    case = BY_NAME["fragments"]
    assert not answer_to(case, switched()).is_settled
    assert answer_to(case, switched(PONG)).is_settled
    assert answer_to(case, b"HTTP/1.1 403 Forbidden\r\n\r\n").is_settled
    assert answer_to(BY_NAME["short-key"], b"HTTP/1.1 400 Bad Request\r\n\r\n").is_settled
    assert answer_to(BY_NAME["handshake"], switched()).is_settled
    assert answer_to(case, switched(close(1002))).has_close
    assert not answer_to(case, switched(PONG)).has_close


def test_the_deciding_bytes_may_come_one_by_one() -> None:
    answer = answer_to(BY_NAME["fragments"], b"")
    whole = switched(PONG)
    for at in range(len(whole)):
        assert not answer.is_settled
        answer.receive(whole[at : at + 1])
    assert answer.is_settled
    assert [type(each) for each in answer.seen if isinstance(each, Head | SeenFrame)] == [Head, SeenFrame]


def test_an_answer_without_an_end_is_unclear_unless_it_has_what_was_asked_for() -> None:
    flood = switched(encode_frame(Opcode.BINARY, bytes(MAX_ANSWER_BYTES)))
    case = BY_NAME["fragments"]
    assert answer_to(case, flood).is_full
    assert case.outcome(answer_to(case, flood)).verdict is Verdict.UNCLEAR
    assert case.outcome(answer_to(case, flood + PONG)) == Outcome(*LIVE)


def test_an_answer_of_tiny_frames_without_an_end_is_full_before_they_are_a_million_objects() -> None:
    case = BY_NAME["fragments"]
    answer = answer_to(case, switched(b"\x82\x00" * MAX_ANSWER_PARTS))
    assert answer.is_full
    outcome = case.outcome(answer)
    assert outcome.verdict is Verdict.UNCLEAR
    assert f" {MAX_ANSWER_PARTS + 2:,} heads and frames, and went on" in outcome.got


# RFC 6455 §4: what a handshake was answered with


FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
UNCLEAR = (Verdict.UNCLEAR, "the handshake was answered with 403: the case can't be run")


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (switched(), (Verdict.GOOD, "101")),
        (EARLY_HINTS + switched(), (Verdict.GOOD, "101")),
        (FORBIDDEN, (Verdict.BAD, "403, where 101 was due")),
        (EARLY_HINTS, (Verdict.BAD, "no answer, where 101 was due")),
        (b"", (Verdict.BAD, "no answer, where 101 was due")),
    ],
)
def test_4_2_2_a_legal_handshake_is_answered_with_a_101_and_any_1xx_before_it(
    raw: bytes, outcome: tuple[Verdict, str]
) -> None:
    assert judge("tokens", raw) == Outcome(*outcome)


def test_frames_in_place_of_an_answer_are_not_http() -> None:
    assert judge("short-key", PONG, ended=True) == Outcome(Verdict.BAD, "an answer that is not HTTP")


def test_a_request_that_is_no_handshake_should_be_answered() -> None:
    assert judge("post", b"", ended=True) == Outcome(Verdict.LAX, "no answer, and the connection closed")
    assert judge("post", FORBIDDEN) == Outcome(Verdict.GOOD, "403")


@pytest.mark.parametrize(
    ("raw", "outcome"),
    [
        (FORBIDDEN, (Verdict.LAX, "403, where it should be 426 or 400")),
        (switched(), (Verdict.BAD, "101: it was accepted")),
        (b"HTTP/1.1 400 Bad Request\r\nsec-websocket-version:13\r\n\r\n",
         (Verdict.GOOD, "400, Sec-WebSocket-Version: 13")),
    ],
)  # fmt: skip
def test_4_4_a_version_that_is_not_spoken_is_refused_with_426_or_400(raw: bytes, outcome: tuple[Verdict, str]) -> None:
    assert judge("version-12", raw) == Outcome(*outcome)


@pytest.mark.parametrize("name", ["fragments", "unmasked", "proper-frames", "ping-125", "close", "half-a-frame"])
def test_no_frames_can_be_tried_where_the_handshake_was_refused(name: str) -> None:
    assert judge(name, FORBIDDEN, ended=True) == Outcome(*UNCLEAR)


# RFC 6455 §5.1, §5.5, §7.1: what frames were answered with


def test_5_1_masking_is_unknown_if_the_server_sends_nothing() -> None:
    assert judge("proper-frames", switched()) == Outcome(Verdict.UNCLEAR, "no frame came")
    two = switched(encode_frame(Opcode.TEXT, b"hello") + PONG)
    assert judge("proper-frames", two) == Outcome(Verdict.GOOD, "2 frames, all of them proper")


def test_5_5_3_without_the_pong_behind_it_a_ping_was_not_taken() -> None:
    only = switched(encode_frame(Opcode.PONG, bytes(range(125))))
    assert judge("ping-125", only) == Outcome(Verdict.BAD, "no pong, and the connection stayed open")


@pytest.mark.parametrize(
    ("name", "raw", "outcome"),
    [
        ("close", switched(), (Verdict.BAD, "no close in answer, and the connection closed")),
        ("close", switched(close(1001)),
         (Verdict.LAX, "a close with 1001 (going away), where 1000 is usual")),
        ("close-4000", switched(close(4000)), (Verdict.GOOD, "a close with 4000")),
        ("close-empty", switched(encode_frame(Opcode.CLOSE, b"")),
         (Verdict.GOOD, "a close with 1005 (no status received)")),
        ("close-empty", switched(close(1000)), (Verdict.GOOD, "a close with 1000 (normal closure)")),
        ("close-empty", switched(close(1002)),
         (Verdict.LAX, "a close with 1002 (protocol error), where 1005 or 1000 is usual")),
    ],
)  # fmt: skip
def test_5_5_1_a_close_is_answered_with_a_close_typically_of_the_same_code(
    name: str, raw: bytes, outcome: tuple[Verdict, str]
) -> None:
    assert judge(name, raw, ended=True) == Outcome(*outcome)


@pytest.mark.parametrize(
    ("raw", "ended", "outcome"),
    [
        (switched(), False, (Verdict.BAD, "the connection stayed open")),
        (switched(), True, (Verdict.GOOD, "the connection closed")),
        (switched(close(1006)), True,
         (Verdict.GOOD, "the connection closed, after a close with 1006 (abnormal closure)")),
    ],
)  # fmt: skip
def test_7_1_1_a_client_that_left_within_a_frame_is_disconnected(
    raw: bytes, ended: bool, outcome: tuple[Verdict, str]
) -> None:
    assert judge("half-a-frame", raw, ended=ended) == Outcome(*outcome)


def test_whether_the_client_has_begun_the_closing_handshake_is_known() -> None:
    begun = {case.name for case in CASES if case.begins_with_close}
    assert begun == {case.name for case in CASES if case.name.startswith("close")} | {"ping-behind-close"}
