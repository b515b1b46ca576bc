"""The readers of this folder answer, refuse or wait for any bytes or text of a stranger, and never raise.

The checks are those of tests/fuzz/, which run for longer; their findings are kept here as examples.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rawws.broadcast.message_ids import MessageId, NumberedIds, StreamIds, parse_id
from rawws.broadcast.query import MAX_WAIT_S, read_query
from rawws.broadcast.stream_entries import (
    Author,
    DuplicateFilter,
    fields_of,
    format_stream_id,
    parse_stream_id,
    read_entry,
)
from rawws.broadcast.token_bucket import TokenBucket
from rawws.errors import InvalidURI, UsageError
from rawws.wire.allowed_hosts import Hosts, is_local_name, name_of
from rawws.wire.client_handshake import ClientHandshake, basic_authorization
from rawws.wire.deflate import Deflater, StreamDeflater
from rawws.wire.frames import RSV1, RSV2, RSV3, Opcode, encode_frame, encode_header
from rawws.wire.messages import Headers, Request
from rawws.wire.origins import Origins
from rawws.wire.role import Role
from rawws.wire.uri import WebSocketURI, parse_uri
from tests.effort import examples
from tests.fuzz import decode, handshake, http1, runner, session
from tests.wire.helpers import any_chunking, both_roles

Result = TypeVar("Result")
Error = TypeVar("Error", bound=Exception)


def result_of(call: Callable[[], Result], documented: type[Error]) -> Result | Error:
    """Return what a call returns, or the error that it may raise; any other goes on to the test's."""
    try:
        return call()
    except documented as error:
        return error


# Bytes that mean something: a stream that does, with a few places changed


@st.composite
def mutated(draw: st.DrawFn, streams: list[bytes]) -> bytes:
    """A stream, or two with their ends swapped, with a few bytes of it replaced, left out or put in."""
    changed = bytearray(draw(st.sampled_from(streams)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(changed)))
        match draw(st.integers(0, 3)):
            case 0:
                changed[at : at + 1] = draw(st.binary(min_size=1, max_size=2))
            case 1:
                del changed[at : at + draw(st.integers(1, 8))]
            case 2:
                changed[at:at] = draw(st.sampled_from(runner.TOKENS))
            case _:
                other = draw(st.sampled_from(streams))
                changed[at:] = other[draw(st.integers(0, len(other))) :]
    return bytes(changed[: runner.MAX_BYTES])


@pytest.mark.parametrize(
    "harness", [http1, handshake, session, decode], ids=["http1", "handshake", "session", "decode"]
)
def test_the_seeds_of_the_harnesses_pass_and_so_do_changed_ones(harness: object) -> None:
    check: Callable[[bytes], None] = harness.check  # type: ignore[attr-defined]
    seeds: list[bytes] = harness.seeds  # type: ignore[attr-defined]
    for seed in seeds:
        check(seed)

    @settings(max_examples=examples(300))
    @given(mutated(seeds) | st.binary(max_size=200))
    def holds_for(data: bytes) -> None:
        check(data)

    holds_for()


# HTTP (RFC 9112)


@given(any_chunking(mutated([http1.GET + http1.POST + http1.GET, http1.CHUNKED + http1.GET])), st.booleans())
def test_any_bytes_are_requests_or_a_refusal_or_the_wish_for_more(chunks: list[bytes], ends: bool) -> None:
    http1.check_server(chunks, ends=ends)


@given(any_chunking(mutated(list(http1.ANSWERS))), st.sampled_from(http1.REQUESTS), st.booleans())
def test_any_bytes_are_an_answer_or_what_is_wrong_with_it(chunks: list[bytes], request: Request, ends: bool) -> None:
    http1.check_client(chunks, request, ends=ends)


# The handshake (RFC 6455 §4)

anything = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
names = st.sampled_from(
    [
        *("Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Sec-WebSocket-Protocol"),
        *("Sec-WebSocket-Extensions", "Origin", "Content-Length", "Transfer-Encoding", "Last-Event-ID", "X"),
    ]
)
values = anything | st.sampled_from(
    ["websocket", "Upgrade", "13", handshake.KEY, "a.example", "permessage-deflate", "chat.v1", "e-7", "0", "null"]
)


@given(
    st.sampled_from(["GET", "POST", "get"]),
    anything | st.just("/room"),
    st.sampled_from(["1.0", "1.1"]),
    st.lists(st.tuples(names, values), max_size=10),
    st.sampled_from(handshake.ORIGINS),
)
def test_any_request_is_accepted_or_refused(
    method: str, target: str, version: str, fields: list[tuple[str, str]], origins: Origins
) -> None:
    handshake.check_request(Request(method, target, version, Headers(fields)), origins)


@given(mutated(handshake.REQUESTS), st.sampled_from(handshake.ORIGINS), st.booleans())
def test_a_request_with_a_few_bytes_changed(data: bytes, origins: Origins, compression: bool) -> None:
    handshake.check_request_bytes(data, origins, compression=compression)


@given(mutated(handshake.ANSWERS), st.booleans(), st.booleans())
def test_an_answer_with_a_few_bytes_changed(data: bytes, compression: bool, subprotocols: bool) -> None:
    handshake.check_answer_bytes(data, compression=compression, subprotocols=subprotocols)


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.text(max_size=30))
def test_a_client_sends_what_can_be_sent_or_names_what_can_not(name: str, value: str, key: str, origin: str) -> None:
    tries: list[Callable[[], object]] = [
        lambda: ClientHandshake(handshake.URI, headers=[(name, value)]).request.headers.raw(),
        lambda: ClientHandshake(handshake.URI, key=key),
        lambda: ClientHandshake(handshake.URI, origin=origin).request.headers.raw(),
        lambda: ClientHandshake(handshake.URI, subprotocols=[name, value]).request.headers.raw(),
        lambda: basic_authorization(name.encode(errors="replace").decode(), ""),
        lambda: Origins([origin]),
        lambda: Hosts([name]),
    ]
    for attempt in tries:
        error = result_of(attempt, UsageError)
        assert not isinstance(error, UsageError) or str(error)


# Frames (RFC 6455 §5 to §8)


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    """Masked frames as a client sends them, mostly legal ones: messages whole, in fragments, compressed."""
    pieces = []
    for _ in range(draw(st.integers(1, 6))):
        payload = draw(st.binary(max_size=40) | st.text(max_size=20).map(str.encode) | st.sampled_from(LARGE))
        opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.BINARY]))
        match draw(st.integers(0, 7)):
            case 0 | 1 | 2:
                pieces.append(session.frame(opcode, payload))
            case 3:
                cut = draw(st.integers(0, len(payload)))
                between = draw(
                    st.sampled_from([b"", session.frame(Opcode.PING, b"?"), session.frame(Opcode.PONG, b"")])
                )
                pieces += (session.frame(opcode, payload[:cut], fin=False), between, session.frame(0, payload[cut:]))
            case 4:
                pieces.append(session.frame(opcode, Deflater(15).deflate(payload), rsv=RSV1))
            case 5:
                stream = StreamDeflater(draw(st.integers(9, 15)))
                first, last = stream.deflate(payload, final=False), stream.deflate(payload[:9], final=True)
                pieces += (session.frame(opcode, first, fin=False, rsv=RSV1), session.frame(0, last))
            case 6:
                pieces.append(session.frame(draw(st.sampled_from([8, 9, 10])), payload[:125]))
            case _:
                pieces.append(
                    session.frame(
                        draw(st.integers(0, 15)),
                        payload,
                        fin=draw(st.booleans()),
                        rsv=draw(st.sampled_from([0, 0, RSV1, RSV2, RSV3])),
                    )
                )
    return b"".join(pieces)


LARGE = [bytes(session.LIMIT), b"x" * (session.LIMIT - 1), bytes(session.LIMIT + 1), "ä".encode() * 100, bytes(5000)]

ways = st.builds(
    session.Way,
    deflate=st.booleans(),
    takeover=st.booleans(),
    fast_lane=st.booleans(),
    streams=st.booleans(),
    into_buffer=st.booleans(),
    closes_first=st.booleans(),
)


@st.composite
def changed(draw: st.DrawFn, streams: st.SearchStrategy[bytes]) -> bytes:
    """A stream as it is, or with one byte of it changed."""
    data = bytearray(draw(streams))
    if data and draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] ^= draw(st.integers(1, 255))
    return bytes(data)


@both_roles
@settings(max_examples=examples(250))
@given(data=st.data(), way=ways)
def test_any_frames_are_messages_or_one_failure_within_bounds(
    our_role: Role, data: st.DataObject, way: session.Way
) -> None:
    streams = changed(frames()).map(lambda stream: session.with_masks_mended(stream, our_role))
    session.check_chunks(data.draw(any_chunking(streams | st.binary(max_size=60))), replace(way, our_role=our_role))


@given(any_chunking(changed(frames())), st.booleans(), st.booleans(), st.booleans())
def test_relayed_frames_are_the_same_messages(chunks: list[bytes], deflate: bool, fast: bool, into: bool) -> None:
    way = session.Way(deflate=deflate, fast_lane=fast, relays=True, into_buffer=into)
    session.check_chunks(chunks, way)
    relayed, received = (
        session.receive(chunks, way),
        session.receive(chunks, session.Way(deflate=deflate, fast_lane=fast)),
    )
    assert relayed.events == [each for each in received.events if type(each) is tuple]
    assert relayed.fault == received.fault


@both_roles
@given(data=st.data(), deflate=st.booleans(), takeover=st.booleans())
def test_both_lanes_read_the_same(our_role: Role, data: st.DataObject, deflate: bool, takeover: bool) -> None:
    stream = session.with_masks_mended(data.draw(changed(frames())), our_role)
    fast, plain = (
        session.receive([stream], session.Way(our_role, deflate=deflate, takeover=takeover, fast_lane=fast_lane))
        for fast_lane in (True, False)
    )
    assert (fast.events, fast.fault) == (plain.events, plain.fault)


def test_a_peer_that_announces_much_and_sends_little_takes_little_memory() -> None:
    way = session.Way()
    for announced in (session.LIMIT, session.LIMIT + 1, 1 << 62, (1 << 64) - 1):
        header = encode_header(Opcode.BINARY, announced, mask_key=session.MASK_KEY)
        begun = way.begin()
        begun.receive_data(header + b"x")
        assert begun.held_bytes <= 5
        assert begun.is_closed is (announced > session.LIMIT)


# From outside: captures, dumps, records


@given(mutated(decode.DUMPS + handshake.REQUESTS + [decode.FRAMES]), st.sampled_from([None, *Role]))
def test_any_file_is_explained_or_said_to_be_none(data: bytes, sender: Role | None) -> None:
    decode.check_file(data, sender)


@given(mutated(decode.TALK), st.integers(0, 255))
def test_any_two_directions_are_followed(data: bytes, how: int) -> None:
    decode.check_connection(data, how)


@given(any_chunking(changed(frames())), st.sampled_from(Role))
def test_any_frames_are_seen_and_recorded_as_they_are(chunks: list[bytes], sender: Role) -> None:
    decode.check_frames(chunks, sender)


@given(st.text(max_size=80) | st.text("0123456789abcdefx:|. \n\t\\,", max_size=200))
def test_any_text_is_bytes_in_hex_or_not(text: str) -> None:
    decode.check_text(text)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8).map(bytes.hex),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=3,
)
members = st.sampled_from(
    ["kind", "at", "connection", "sender", "head", "header", "payload", "tail", "left_out", "told", "from", "records"]
)


@given(st.dictionaries(members, json_values, max_size=4), st.sampled_from(["frame", "head", "open", "end"]))
def test_any_json_is_a_record_or_not(changes: dict[str, object], kind: str) -> None:
    frame = {"sender": "client", "header": "8100", "payload": "", "head": "x"}
    text = json.dumps({"kind": kind, "at": 1, "connection": 1, **frame, **changes})
    decode.check_text(text)
    decode.check_file(text.encode())


# Addresses, queries, ids, and what is in a stream

addresses = st.text("abw:/@?#[]%.0198é\\\udcff ＠。xn-", max_size=25)


@settings(max_examples=examples(300))
@given(st.sampled_from(["", "ws://", "wss://", "ws+unix://", "http://", "ws://a/"]), addresses | st.text(max_size=20))
def test_any_text_is_an_address_or_said_to_be_none(scheme: str, text: str) -> None:
    uri = result_of(lambda: parse_uri(scheme + text), InvalidURI)
    if isinstance(uri, InvalidURI):
        assert str(uri).isprintable()
        return
    assert_can_be_asked_for(uri)


@given(addresses | st.text(max_size=20), st.sampled_from(["ws://a.example:81/b?c", "wss://u:p@a", "ws+unix:///s:/b"]))
def test_any_location_leads_to_an_address_or_nowhere(location: str, base: str) -> None:
    uri = result_of(lambda: parse_uri(base).resolve(location), InvalidURI)
    if isinstance(uri, InvalidURI):
        assert str(uri).isprintable()
        return
    assert_can_be_asked_for(uri)


def assert_can_be_asked_for(uri: WebSocketURI) -> None:
    """The bytes sent for it are ASCII without line ends, and parse as the same address again."""
    raw = b"".join(name + value for name, value in ClientHandshake(uri).request.headers.raw())
    assert raw.isascii()
    assert not any(byte < 32 for byte in raw)
    assert uri.resource_name.startswith("/")
    assert uri.resource_name.isprintable()
    if uri.unix_path is None:
        assert parse_uri(str(uri)).origin == uri.origin


@given(st.text(max_size=30) | st.text("since=last&wt%20e-7,;+", max_size=40))
def test_any_query_can_be_read_from_or_not(query: str) -> None:
    reading = result_of(lambda: read_query(query), UsageError)
    if isinstance(reading, UsageError):
        assert str(reading)
        return
    assert 0 <= reading.wait_s <= MAX_WAIT_S
    assert reading.last is None or reading.last >= 0
    assert reading.since is None or parse_id(str(reading.since)) == reading.since


@given(st.text(max_size=40) | st.from_regex(r"[0-9a-z]{0,33}-[0-9]{0,20}", fullmatch=True))
def test_any_text_is_an_id_or_not(text: str) -> None:
    given_id = result_of(lambda: parse_id(text), UsageError)
    if isinstance(given_id, UsageError):
        assert "is not a message's id" in str(given_id)
        return
    ids = StreamIds((5, 0))
    ids.add(7, 1)
    place = ids.number_of(given_id)
    assert (place is None) is (not given_id.epoch.isdigit())
    assert place in (None, -1, 0, 1, 2)
    assert NumberedIds("e").number_of(given_id) == (given_id.number if given_id.epoch == "e" else None)


@given(
    st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 10**19 - 1)),
    st.dictionaries(
        st.sampled_from([b"data", b"op", b"by", b"key", b"x"]) | st.binary(max_size=3),
        st.binary(max_size=20)
        | st.from_regex(r"[a-z\u00e9\ud7ff.]{0,70}\.[0-9\u0663+_]{0,20}\.[0-9]{0,20}\n?", fullmatch=True).map(
            str.encode
        ),
    ),
)
def test_any_entry_of_a_stream_is_a_message(identifier: tuple[int, int], fields: dict[bytes, bytes]) -> None:
    written = format_stream_id(identifier)
    message = read_entry(written.encode(), fields)
    assert message.id == identifier == parse_stream_id(written.encode())
    assert parse_id(written) == MessageId(str(identifier[0]), identifier[1])
    assert message.payload == fields.get(b"data", b"")
    if message.opcode is Opcode.TEXT:
        message.payload.decode()  # or every peer would close the connection (§8.1)
    assert (message.key is None) is (b"key" not in fields)
    assert message.by is None or (len(message.by.node) <= 64 and message.by.node.isascii())
    assert message.is_understood
    duplicates = DuplicateFilter()
    assert not duplicates.has(message.by)
    assert duplicates.has(message.by) is (message.by is not None)
    author = Author("n", 1, 2)
    again = fields_of(message.opcode, message.payload, author, message.key)
    pairs = [each.encode() if isinstance(each, str) else each for each in again]
    assert read_entry(written.encode(), dict(zip(pairs[::2], pairs[1::2], strict=True))) == message._replace(by=author)


@given(st.text(max_size=30) | st.text("aA.:[]0-1 %", max_size=20))
def test_any_host_is_allowed_or_refused(host: str) -> None:
    refusal = Hosts(["a.example"]).refuse(Request("GET", "/", "1.1", Headers([("Host", host)])))
    assert (refusal is None) is (name_of(host) == "a.example" or is_local_name(host))
    assert refusal is None or refusal.status == 421


@given(
    st.floats(0.01, 1e6),
    st.lists(st.tuples(st.integers(0, 1000), st.floats(0, 100)), max_size=20),
)
def test_no_more_is_let_through_than_the_rate_and_one_rest_allow(per_s: float, steps: list[tuple[int, float]]) -> None:
    now = 0.0
    bucket, single = TokenBucket(per_s, now), TokenBucket(per_s, now)
    let_through = 0
    for count, passed in steps:
        now += passed
        assert bucket.take(count, now) >= 0
        wait = single.try_take(now)
        assert 0 <= wait <= 1 / per_s * 1.0001
        let_through += not wait
    assert let_through <= max(per_s, 1) + now * per_s + 1e-6


def test_a_frame_of_each_kind_is_read_by_the_harness_as_by_its_peer() -> None:
    events = session.receive([encode_frame(Opcode.TEXT, b"Hello", mask_key=session.MASK_KEY)], session.Way()).events
    assert events == [(Opcode.TEXT, b"Hello")]
