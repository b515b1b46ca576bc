"""The language of workers: queries, answers, and the texts for them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rawws.access.dead_rooms import dead_room
from rawws.broadcast.message_ids import MessageId
from rawws.errors import UsageError
from rawws.groups.protocol import (
    Answer,
    GroupQuery,
    JobLines,
    Obituary,
    Verb,
    encode_dead,
    lost_lease,
    names_group,
    read_answer,
    read_answer_query,
    read_group_query,
)
from rawws.wire.events import PongReceived
from rawws.wire.frames import Opcode, split_frames

JOB = MessageId("9f2c41d7", 7)
ID = str(JOB)


@pytest.mark.parametrize(
    ("query", "names"),
    [("group=sms", True), ("a=1&group", True), ("", False), ("groups=1", False), ("x=group", False)],
)
def test_a_query_names_a_group_or_not(query: str, names: bool) -> None:
    assert names_group(query) is names


# The query of a worker


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("group=sms", GroupQuery("sms")),
        ("group=sms&max=100&ack=5&tries=1", GroupQuery("sms", 100, 5.0, 1)),
        ("group=sms&wait=30", GroupQuery("sms", wait_s=30.0)),
        ("group=sms&wait=3600", GroupQuery("sms", wait_s=55.0)),
        ("group=sms&state", GroupQuery("sms", wants_state=True)),
        (f"group=sms&since={ID}", GroupQuery("sms", since=JOB)),
        ("group=sms&last=0", GroupQuery("sms", last=0)),
        ("group=A-b_9&token=secret&x=y", GroupQuery("A-b_9")),
    ],
)
def test_the_query_of_a_worker(query: str, expected: GroupQuery) -> None:
    assert read_group_query(query) == expected


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("group=", "a group's name has 1 to 32 letters"),
        ("group=-x", "begins with a letter or a digit"),
        ("group=a.b", "it can't be 'a.b'"),
        ("group=" + "x" * 33, "1 to 32"),
        ("group=a&group=b", "the query has group twice"),
        ("group=a&max=0", "max='0' in the query is not a number from 1 to 1000"),
        ("group=a&max=1001", "from 1 to 1000"),
        ("group=a&max=%C2%B2", "max='²'"),
        ("group=a&max=", "max=''"),
        ("group=a&ack=0", "from 1 to 43200"),
        ("group=a&ack=1.5", "ack='1.5'"),
        ("group=a&tries=9999999999", "from 1 to 1000"),
        ("group=a&acks=3", "the query of a group has no 'acks'; perhaps ack is meant"),
        ("group=a&trys=3", "perhaps tries is meant"),
        ("group=a&presence", "a worker gets jobs alone, so presence doesn't go with group"),
        ("group=a&since=1-1&last=2", "and not both"),
        ("group=a&since=nonsense!", "is not a message's id"),
        ("group=a&last=x", "last='x'"),
    ],
)
def test_a_query_that_can_not_be_read_is_explained(query: str, why: str) -> None:
    with pytest.raises(UsageError, match=why.replace("(", r"\(")):
        read_group_query(query)


# Answers


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (f'{{"ack":"{ID}"}}', Answer(Verb.ACK, JOB)),
        (f' {{ "ack" : "{ID}" }}\n', Answer(Verb.ACK, JOB)),
        (f'{{"ack":"{ID}"}}'.encode(), Answer(Verb.ACK, JOB)),
        (f'{{"nak":"{ID}"}}', Answer(Verb.NAK, JOB)),
        (f'{{"nak":"{ID}","in":30,"why":"busy"}}', Answer(Verb.NAK, JOB, 30.0, "busy")),
        (f'{{"nak":"{ID}","in":0.5}}', Answer(Verb.NAK, JOB, 0.5)),
        (f'{{"more":"{ID}"}}', Answer(Verb.MORE, JOB)),
        (f'{{"term":"{ID}","why":"no\\nsuch \\ud800 number"}}', Answer(Verb.TERM, JOB, 0.0, "no such   number")),
        (f'{{"term":"{ID}","why":"{"x" * 600}"}}', Answer(Verb.TERM, JOB, 0.0, "x" * 499 + "…")),
    ],
)
def test_the_answers_of_a_worker(message: str | bytes, expected: Answer) -> None:
    assert read_answer(message) == expected


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("hello", "a worker sends .*, not 'hello'"),
        ("", "not ''"),
        ("x" * 100, "not 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxx…'"),
        (b"\xff", "not binary data"),
        ("[" * 2000, "a worker sends"),
        ("[]", "a worker sends"),
        ("x" * 5000, "4096 bytes at most, and this one 5000"),
        ("{}", "the answer says one of ack, nak, more and term, not none"),
        (f'{{"ack":"{ID}","nak":"{ID}"}}', "not ack and nak"),
        (f'{{"ack":"{ID}","in":3}}', "the answer ack has no 'in'"),
        (f'{{"more":"{ID}","why":"x"}}', "the answer more has no 'why'"),
        ('{"ack":7}', "ack has the id of a job, as a text"),
        ('{"ack":"7"}', "'7' is not a message's id"),
        (f'{{"nak":"{ID}","in":-1}}', "in is a number of seconds, from 0 to 604800"),
        (f'{{"nak":"{ID}","in":NaN}}', "in is a number"),
        (f'{{"nak":"{ID}","in":1e999}}', "in is a number"),
        (f'{{"nak":"{ID}","in":true}}', "in is a number"),
        (f'{{"nak":"{ID}","in":"30"}}', "in is a number"),
        (f'{{"term":"{ID}","why":3}}', "why is a text"),
    ],
)
def test_a_message_that_is_no_answer_is_explained(message: str | bytes, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_answer(message)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (f"group=sms&ack={ID}", ("sms", Answer(Verb.ACK, JOB), "")),
        (f"group=sms&ack={ID}&lease=ab12", ("sms", Answer(Verb.ACK, JOB), "ab12")),
        (f"group=sms&nak={ID}&in=2.5&why=busy", ("sms", Answer(Verb.NAK, JOB, 2.5, "busy"), "")),
        (f"group=sms&more={ID}&token=x", ("sms", Answer(Verb.MORE, JOB), "")),
    ],
)
def test_the_query_of_an_answer(query: str, expected: tuple[Any, ...]) -> None:
    assert read_answer_query(query) == expected


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("group=sms", "says one of ack=ID, nak=ID, more=ID and term=ID"),
        (f"group=sms&ack={ID}&nak={ID}", "says one of"),
        (f"group=sms&nak={ID}&in=soon", "in is a number of seconds"),
        (f"group=sms&ack={ID}&peers", "the query ack has no 'peers'"),
        ("group=sms&ack=x", "is not a message's id"),
        (f"group=!&ack={ID}", "a group's name"),
        (f"group=a&ack={ID}&lease={'x' * 65}", "isn't one that Rawws-Lease has told"),
    ],
)
def test_the_query_of_an_answer_that_can_not_be_read_is_explained(query: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_answer_query(query)


# Texts for workers


def test_a_job_has_its_id_and_its_try_before_the_payload() -> None:
    lines = JobLines(JOB.epoch)
    assert lines.with_head(7, 2, b"payload\nof two lines") == b'{"id":"9f2c41d7-7","try":2}\npayload\nof two lines'


def acknowledged(*texts: str) -> list[int]:
    return JobLines(JOB.epoch).acknowledged([(Opcode.TEXT, text.encode()) for text in texts])


def test_plain_acks_are_known_by_their_bytes() -> None:
    largest = '{"ack":"9f2c41d7-9999999999999999999"}'
    assert acknowledged('{"ack":"9f2c41d7-7"}', largest) == [7, 10**19 - 1]
    assert read_answer(largest) == Answer(Verb.ACK, MessageId(JOB.epoch, 10**19 - 1))
    assert acknowledged() == []


@pytest.mark.parametrize(
    "text",
    [
        '{"ack":"9f2c41d7-10000000000000000000"}',
        '{"ack":"9f2c41d8-7"}',
        '{"ack": "9f2c41d7-7"}',
        '{"ack":"9f2c41d7-7","why":"x"}',
        '{"ack":"9f2c41d7-"}',
        '{"ack":"9f2c41d7--7"}',
        '{"ack":"9f2c41d7-1_0"}',
        '{"ack":"9f2c41d7-²"}',
        '{"ack":"9f2c41d7-٣"}',
        "",
    ],
)
def test_any_other_message_ends_the_plain_acks(text: str) -> None:
    plain = '{"ack":"9f2c41d7-7"}'
    assert acknowledged(plain, text, plain) == [7]


def test_binary_messages_and_pongs_are_no_acks() -> None:
    plain = b'{"ack":"9f2c41d7-7"}'
    lines = JobLines(JOB.epoch)
    assert lines.acknowledged([(Opcode.BINARY, plain)]) == []
    assert lines.acknowledged([PongReceived(b""), (Opcode.TEXT, plain)]) == []
    assert lines.acknowledged([(Opcode.TEXT, bytearray(plain))]) == [7]


def test_a_worker_that_answers_too_late_is_told() -> None:
    notice = lost_lease(JOB)
    assert json.loads(notice) == {
        "lost": ID,
        "why": "This job is no longer leased to you; another worker may have it, or it is done.",
    }
    assert notice.endswith("}\n")


@pytest.mark.parametrize("opcode", [Opcode.TEXT, Opcode.BINARY])
def test_a_dead_job_keeps_its_payload_and_its_kind(opcode: Opcode) -> None:
    frame = encode_dead(Obituary(ID, "sms", 5, "no answer within 30 s", "#3 ::1"), opcode, b"pay\nload")
    ((header, payload),) = split_frames(frame)
    head, _, rest = bytes(payload).partition(b"\n")
    assert header.opcode == opcode
    assert rest == b"pay\nload"
    expected = {"id": ID, "group": "sms", "tries": 5, "reason": "no answer within 30 s", "worker": "#3 ::1"}
    assert json.loads(head) == expected
    assert dead_room("/room/pay", "sms") == "/room/pay.sms.dead"


def test_a_query_with_many_unknown_names_is_refused() -> None:
    names = "&".join(f"q{number}" for number in range(20))
    assert read_group_query(f"group=sms&{names}").group == "sms"
    with pytest.raises(UsageError, match="more than 20 names that mean nothing to it"):
        read_group_query(f"group=sms&{names}&q")
