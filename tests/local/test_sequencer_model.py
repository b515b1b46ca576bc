"""Workers that publish, follow, leave and lag at random: each of them has messages of the one order alone."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rawws.broadcast.log import History as Limits
from rawws.local.outgoing import ENTRY_BYTES
from rawws.local.protocol import Batch, History, Kind, Note
from rawws.local.sequencer import Sequencer
from rawws.wire.frames import frame_ends
from tests.local.test_sequencer import Worker

PATHS = st.sampled_from(["/x", "/y"])
WORKERS = st.integers(0, 2)


class _Follower:
    """A worker with the messages that it has of each room, by their numbers."""

    def __init__(self, owner: Sequencer, name: str) -> None:
        self.worker = Worker(owner, name)
        self.worker.link.outgoing._max_live_bytes = 4 * ENTRY_BYTES
        self.got: dict[str, dict[int, bytes]] = {}
        self.ends: dict[str, int] = {}  # the number of the last message, once there is a history
        self.epochs: dict[str, str] = {}
        self.gaps = 0

    def follow(self, path: str) -> None:
        self.got.setdefault(path, {})
        epoch, end = self.epochs.get(path), self.ends.get(path, 0)
        self.worker.send(Kind.FOLLOW, path, *LIMITS, epoch, end)

    def forget(self, path: str) -> None:
        self.worker.send(Kind.UNFOLLOW, path)
        for each in (self.got, self.ends, self.epochs):
            each.pop(path, None)

    def take(self, most: int) -> None:
        for message in self.worker.take(most):
            if isinstance(message, History) and message.path in self.got:
                self._take_history(message)
            elif isinstance(message, Batch) and message.path in self.ends:
                assert message.first == self.ends[message.path] + 1, "live messages have no holes"
                self._add(message.path, message.first, message.frames)
            elif isinstance(message, Note) and message.kind is Kind.LOST:
                for path in self.got:
                    self.follow(path)

    def _take_history(self, part: History) -> None:
        path = part.path
        if self.epochs.setdefault(path, part.epoch) != part.epoch:
            raise AssertionError("a room that somebody follows is not forgotten")
        known = self.ends.get(path, 0)
        for each in part.records:
            if each.first > self.ends.get(path, each.first - 1) + 1:
                self.gaps += 1
            if each.last > known:  # a room may be asked for twice before its history comes
                self._add(path, max(each.first, known + 1), each.after(known).frames)
        if part.is_last:
            assert part.newest >= self.ends.get(path, 0)
            self.gaps += part.newest > self.ends.get(path, part.newest)
            self.ends[path] = part.newest

    def _add(self, path: str, first: int, frames: bytes) -> None:
        begin = 0
        for number, end in enumerate(frame_ends(frames), first):
            self.got[path][number] = frames[begin:end]
            self.ends[path] = number
            begin = end


LIMITS = Limits(8, 10_000, 60.0)


class SequencerMachine(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.owner = Sequencer()
        self.followers = [_Follower(self.owner, name) for name in "abc"]
        self.published: dict[str, list[bytes]] = {"/x": [], "/y": []}

    @rule(worker=WORKERS, path=PATHS, texts=st.lists(st.binary(min_size=1, max_size=3), min_size=1, max_size=3))
    def publish(self, worker: int, path: str, texts: list[bytes]) -> None:
        frames = [bytes([0x82, len(text)]) + text for text in texts]
        self.followers[worker].worker.publish_frames(path, frames, LIMITS)
        self.published[path] += frames

    @rule(worker=WORKERS, path=PATHS)
    def follow(self, worker: int, path: str) -> None:
        if path not in self.followers[worker].got:
            self.followers[worker].follow(path)

    @rule(worker=WORKERS, path=PATHS)
    def unfollow(self, worker: int, path: str) -> None:
        follower = self.followers[worker]
        follower.take(1 << 20)
        follower.take(1 << 20)
        if path in follower.got:
            follower.forget(path)

    @rule(worker=WORKERS, most=st.integers(1, 500))
    def take(self, worker: int, most: int) -> None:
        self.followers[worker].take(most)

    @invariant()
    def all_have_the_one_order(self) -> None:
        for follower in getattr(self, "followers", ()):
            for path, got in follower.got.items():
                for number, frame in got.items():
                    assert self.published[path][number - 1] == frame

    def teardown(self) -> None:
        for follower in getattr(self, "followers", ()):
            for _ in range(3):
                follower.take(1 << 20)
            assert not follower.worker.link.outgoing
            for path, end in follower.ends.items():
                assert end == len(self.published[path])


TestSequencer = SequencerMachine.TestCase
