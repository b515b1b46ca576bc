"""The position from which a reader wants a room's messages: the query of its URL, and an EventSource's last id."""

from __future__ import annotations

import pytest

from rawws.broadcast.message_ids import MessageId
from rawws.broadcast.query import MAX_WAIT_S, RoomQuery, read_query, read_request
from rawws.errors import Refusal, UsageError
from rawws.wire.messages import Headers, Request


def asked(query: str, *, last_event_id: str | None = None) -> Request:
    fields = [] if last_event_id is None else [("Last-Event-ID", last_event_id)]
    return Request("GET", f"/room?{query}", "1.1", Headers(fields))


QUERIES = [
    ("", RoomQuery()),
    ("name=alice&q=%20", RoomQuery()),
    ("since=e-4", RoomQuery(MessageId("e", 4), polls=True)),
    ("since=", RoomQuery(polls=True)),
    ("since=e-4&wait=20", RoomQuery(MessageId("e", 4), wait_s=20.0, polls=True)),
    ("wait=1000", RoomQuery(wait_s=MAX_WAIT_S, polls=True)),
    ("last=5", RoomQuery(last=5, polls=True)),
    ("last=0", RoomQuery(last=0, polls=True)),
    ("%6Cast=%35", RoomQuery(last=5, polls=True)),
    ("peers", RoomQuery(wants_peers=True)),
    ("presence", RoomQuery(wants_presence=True)),
    ("json", RoomQuery(wants_json=True)),
    *((f"json={value}", RoomQuery(wants_json=True)) for value in ("", "1", "true", "True", "yes", "on")),
    *((f"json={value}&peers={value}&presence={value}", RoomQuery()) for value in ("0", "false", "FALSE", "no", "off")),
    ("name=a&name=b&last=1", RoomQuery(last=1, polls=True)),
]


@pytest.mark.parametrize(("query", "reading"), QUERIES)
def test_a_query_is_read_and_other_parameters_are_ignored(query: str, reading: RoomQuery) -> None:
    assert read_query(query) == reading
    assert read_request(asked(query)) == reading


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("since=4", "'4' is not a message's id, such as 9f2c41d7-42"),
        ("last=x", "last='x' in the query is not a number"),
        ("last=", "last='' in the query is not a number"),
        ("last=-1", "last='-1' in the query is not a number"),
        ("last=1234567890", "last='1234567890' in the query is not a number"),
        ("last=%D9%A3", "last='٣' in the query is not a number"),
        ("wait=1.5", "wait='1.5' in the query is not a number"),
        (f"wait={'9' * 100}", f"wait={'9' * 60!r} in the query is not a number"),
        ("since=e-1&since=e-2", "the query has since twice"),
        ("peers&peers=1", "the query has peers twice"),
        ("json=pretty", "json='pretty' in the query is neither 1 (on) nor 0 (off)"),
        ("presence=%0A", r"presence='\n' in the query is neither 1 (on) nor 0 (off)"),
        ("last=%0AERROR%1b[31m", r"last='\nERROR\x1b[31m' in the query is not a number"),
        ("last=%32x", "last='2x' in the query is not a number"),
    ],
)
def test_an_invalid_query_is_refused_with_a_reason(query: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_query(query)
    assert str(raised.value) == message
    assert read_request(asked(query)) == Refusal(400, "reading", f"This can't be read from: {message}.")


def test_the_last_event_id_takes_precedence_over_the_query_that_an_event_source_repeats() -> None:
    request = asked("since=e-1&peers&presence&json", last_event_id="e-7")
    assert read_request(request) == RoomQuery(MessageId("e", 7), wants_peers=True, wants_presence=True, wants_json=True)


def test_an_empty_last_event_id_is_none() -> None:
    # WHATWG HTML §9.2.6: an ``id`` without a value sets the last event ID to the empty string.
    assert read_request(asked("last=2", last_event_id="")) == read_query("last=2")


@pytest.mark.parametrize("last_event_id", ["7", "e-x", "é"])
def test_a_last_event_id_that_no_event_of_ours_had_is_refused(last_event_id: str) -> None:
    refusal = read_request(asked("", last_event_id=last_event_id))
    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (400, "reading")
    assert repr(last_event_id) in refusal.sentence
