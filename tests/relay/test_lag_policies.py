"""The policies for lagging peers alone: they only decide, so no socket and no loop is needed."""

from __future__ import annotations

import pytest

from rawws.broadcast.encodings import PLAIN
from rawws.broadcast.log import BroadcastLog, Cursor
from rawws.errors import UsageError
from rawws.relay.lag_policies import (
    CHUNK_MESSAGES,
    POLICIES,
    Block,
    BlockPublishers,
    Close,
    Disconnect,
    JumpTo,
    Keep,
    Lag,
    LagPolicy,
    LatestByKey,
    PartialSend,
    ReadsOn,
    Selects,
    SkipToNewest,
    choose_policy,
)
from rawws.relay.settings import RoomSettings, Slow
from rawws.wire.frames import Opcode, encode_frame

ALL = pytest.mark.parametrize("kind", POLICIES.values(), ids=list(POLICIES))
READ_ON = pytest.mark.parametrize("kind", [Disconnect, SkipToNewest, BlockPublishers])


def log_of(policy: LagPolicy, *segments: list[str]) -> BroadcastLog:
    """Return a log of texts that the policy has noted as well."""
    log = BroadcastLog()
    for texts in segments:
        log.append([encode_frame(Opcode.TEXT, each.encode()) for each in texts])
        plain = log.seal()
        assert plain is not None
        policy.note_sealed(log.last_message - len(texts) + 1, plain)
    return log


def partial(log: BroadcastLog, number: int, sent: int, *, committed_bytes: int = 0) -> PartialSend:
    return PartialSend(log, number, log.segment(number, PLAIN), sent, PLAIN, committed_bytes)


def test_each_name_of_a_built_in_policy_is_in_the_table() -> None:
    assert [slow.value for slow in Slow] == list(POLICIES)
    assert all(kind.name == name for name, kind in POLICIES.items())


def test_a_room_takes_a_name_or_a_member_of_slow() -> None:
    assert RoomSettings(slow="skip").slow is RoomSettings(slow=Slow.SKIP).slow is Slow.SKIP
    assert RoomSettings(slow="skip").policy is SkipToNewest
    with pytest.raises(UsageError, match="there is no policy for slow peers 'drop'"):
        choose_policy("drop")


@READ_ON
def test_a_peer_that_reads_again_resumes_where_its_socket_stopped(kind: type[ReadsOn]) -> None:
    policy = kind("", 1000)
    log = log_of(policy, ["one", "two"], ["three"])
    assert policy.on_partial_send(partial(log, 0, 3)) == (Cursor(0, 3), b"", True)
    assert policy.on_partial_send(partial(log, 0, 0)) == (Cursor(0), b"", False)
    assert policy.on_partial_send(partial(log, 0, 0, committed_bytes=2)).in_segment
    assert policy.next_chunk(Lag(log, Cursor(0), PLAIN)) is None, "the log's segment comes next"
    assert policy.tail(log) == Cursor(2)


@READ_ON
def test_the_log_keeps_the_messages_that_the_slowest_resuming_peer_needs(kind: type[ReadsOn]) -> None:
    policy = kind("", 1000)
    log = log_of(policy, ["one"], ["two"], ["three"])
    assert policy.first_needed(log, [Cursor(2), Cursor(1, 3)]) == 1
    assert policy.first_needed(log, []) == log.next
    assert policy.lag_bytes(Lag(log, Cursor(1), PLAIN)) == len(log.segment(1, PLAIN) + log.segment(2, PLAIN))


def test_a_peer_that_lags_too_far_is_closed_or_skips_or_blocks() -> None:
    for policy, action in (
        (Disconnect("", 1), Close()),
        (BlockPublishers("", 1), Block()),
        (SkipToNewest("", 1), JumpTo(2)),
    ):
        log = log_of(policy, ["one"], ["two"], ["three"])
        assert policy.on_lag(Lag(log, Cursor(0), PLAIN)) == action


def test_nothing_is_skipped_for_a_peer_that_lacks_only_the_newest() -> None:
    policy = SkipToNewest("", 1)
    log = log_of(policy, ["one"], ["two"])
    assert policy.on_lag(Lag(log, Cursor(1, 2), PLAIN)) == Keep()


def test_a_selection_continues_after_the_partly_sent_message() -> None:
    policy = LatestByKey("k", 1000)
    log = log_of(policy, ["before"], ["one", "two", "three"])
    first = len(encode_frame(Opcode.TEXT, b"one"))
    cursor, rest, in_segment = policy.on_partial_send(partial(log, 1, first + 1))
    assert cursor == Cursor(3), "the number of the message that it has part of"
    assert rest == encode_frame(Opcode.TEXT, b"two")[1:]
    assert not in_segment
    assert policy.on_partial_send(partial(log, 1, 0)) == (Cursor(1), b"", False)


def test_the_latest_of_each_key_are_selected_and_the_log_keeps_nothing_for_it() -> None:
    policy = LatestByKey("k", 100_000)
    log = log_of(policy, ['{"k":1,"v":1}', '{"k":2,"v":2}'], ['{"k":1,"v":3}'])
    chunk = policy.next_chunk(Lag(log, Cursor(0), PLAIN))
    assert chunk.data == b"".join(encode_frame(Opcode.TEXT, text) for text in (b'{"k":2,"v":2}', b'{"k":1,"v":3}'))
    assert (chunk.messages, chunk.upto) == (2, 3)
    assert policy.tail(log) == Cursor(3)
    assert policy.first_needed(log, [Cursor(0)]) == log.next
    assert policy.lag_cost(Lag(log, Cursor(0), PLAIN)) == 0
    assert policy.held_bytes > 0
    policy.clear()
    assert policy.held_bytes == 0


def test_a_key_that_was_given_counts() -> None:
    policy = LatestByKey("", 100_000)
    policy.note_key(range(1, 3), "same")
    log = log_of(policy, ["one", "two", "three"])
    assert [number for number, _ in policy.select(0)] == [2, 3]
    assert policy.next_chunk(Lag(log, Cursor(2), PLAIN)).upto == 3


def test_a_chunk_is_bounded() -> None:
    policy = LatestByKey("k", 10_000_000)
    count = CHUNK_MESSAGES + 10
    log = log_of(policy, [f'{{"k":{number}}}' for number in range(count)])
    chunk = policy.next_chunk(Lag(log, Cursor(0), PLAIN))
    assert (chunk.messages, chunk.upto) == (CHUNK_MESSAGES, CHUNK_MESSAGES)
    chunk = policy.next_chunk(Lag(log, Cursor(chunk.upto), PLAIN))
    assert (chunk.messages, chunk.upto) == (10, count)


@ALL
def test_a_selection_may_have_a_peers_own_messages(kind: type[LagPolicy]) -> None:
    kind.check(exclude_sender=False)
    if issubclass(kind, Selects):
        with pytest.raises(UsageError, match=f"give '{kind.name}' or exclude_sender, not both"):
            kind.check(exclude_sender=True)
    else:
        kind.check(exclude_sender=True)
