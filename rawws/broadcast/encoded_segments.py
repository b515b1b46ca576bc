"""The segments of one log in encodings other than the plain one, each encoded once for all its readers.

Encoding takes time, so it is done in steps, between which the owner of the log can serve others. The results are kept
in the order in which they were used, for the least recently used ones to be forgotten first. Several segments can be
joined to a *run*, for readers that have much to catch up with.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator

from rawws.broadcast.encodings import Encoding

MAX_RUNS = 8

# The memory of an encoded segment besides its bytes: the header of the bytes object, and its place here. (Measured,
# with CPython 3.11 on 64 bits.)
ENCODED_BYTES = 160

_CODE_BITS = 12


class _Making:
    """A segment that is partly encoded."""

    __slots__ = ("pieces", "size", "steps")

    def __init__(self, steps: Iterator[bytes]) -> None:
        self.steps = steps
        self.pieces: list[bytes] = []
        self.size = 0


class EncodedSegments:
    """Encoded segments by number and encoding, for a log; those that are being made; and runs of them.

    Attributes:
        size_bytes: The memory that all three take.
        forgotten: The number of encoded segments that were forgotten so far.
    """

    __slots__ = ("_codes", "_encoded", "_making", "_runs", "forgotten", "size_bytes")

    def __init__(self) -> None:
        self._encoded: OrderedDict[int, bytes] = OrderedDict()  # by _key(), the most recently used at the end
        self._making: dict[int, _Making] = {}
        self._runs: dict[tuple[int, Encoding], tuple[bytes, list[int]]] = {}
        self._codes: dict[Encoding, int] = {}  # a small number for each encoding that was asked for
        self.size_bytes = 0
        self.forgotten = 0

    def _key(self, number: int, encoding: Encoding) -> int:
        """Return the key of an encoded segment: one number, since a tuple would take as much memory again."""
        return number << _CODE_BITS | self._codes.setdefault(encoding, len(self._codes))

    def has(self, number: int, encoding: Encoding) -> bool:
        """Return whether a segment is encoded."""
        return self._key(number, encoding) in self._encoded

    def use(self, number: int, encoding: Encoding) -> bytes | None:
        """Return an encoded segment to be sent, or None if there is none."""
        key = self._key(number, encoding)
        encoded = self._encoded.get(key)
        if encoded is not None:
            self._encoded.move_to_end(key)
        return encoded

    def size_of(self, number: int, encoding: Encoding) -> int | None:
        """Return the size of an encoded segment, or None if there is none."""
        encoded = self._encoded.get(self._key(number, encoding))
        return None if encoded is None else len(encoded)

    # Making

    def step(self, number: int, encoding: Encoding, start: Callable[[], Iterator[bytes]]) -> bytes | None:
        """Do a step of encoding a segment. Return the whole after the last step, for `keep`; None before that.

        The first step calls ``start()``, which returns an iterator over the pieces. If a step raises an exception, the
        next one is the first again.
        """
        key = self._key(number, encoding)
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = _Making(start())
        try:
            piece = next(making.steps, None)
        except BaseException:  # an iterator that has failed ends, and its pieces would pass for the whole
            self._stop(key)
            raise
        if piece is not None:
            making.pieces.append(piece)
            making.size += len(piece)
            self.size_bytes += len(piece)
            return None
        self._stop(key)
        return b"".join(making.pieces)

    def keep(self, number: int, encoding: Encoding, encoded: bytes) -> None:
        """Keep an encoded segment, instead of one that is being made."""
        key = self._key(number, encoding)
        self._stop(key)
        self._encoded[key] = encoded
        self.size_bytes += len(encoded) + ENCODED_BYTES

    def _stop(self, key: int) -> None:
        making = self._making.pop(key, None)
        if making is not None:
            self.size_bytes -= making.size

    # Forgetting

    def forget_segment(self, number: int) -> None:
        """Forget a segment in all encodings, and all runs, which may have it."""
        if self._runs:
            self.size_bytes -= sum(len(run) for run, _ in self._runs.values())
            self._runs.clear()
        for encoding in self._codes:
            key = self._key(number, encoding)
            if key in self._encoded:
                self._forget(key)
            self._stop(key)

    def shrink(self, max_bytes: int, needed: Callable[[], Iterable[tuple[int, Encoding]]], last: int) -> None:
        """Forget runs, and then encoded segments, the least recently used first, until all take ``max_bytes``.

        Segments that are ``needed()``, given by number and encoding, are kept, and so is segment ``last``. They may
        take more.
        """
        while self._runs and self.size_bytes > max_bytes:
            self._forget_run()
        if self.size_bytes <= max_bytes:
            return
        needed_keys = {self._key(number, encoding) for number, encoding in needed()}
        for _ in range(len(self._encoded)):
            # A quarter more than needed, so that the readers' places are looked up less often.
            if self.size_bytes <= max_bytes - max_bytes // 4:
                return
            key = next(iter(self._encoded))
            if key in needed_keys or key >> _CODE_BITS == last:
                self._encoded.move_to_end(key)
            else:
                self._forget(key)

    def _forget(self, key: int) -> None:
        self.forgotten += 1
        self.size_bytes -= len(self._encoded.pop(key)) + ENCODED_BYTES

    def _forget_run(self) -> None:
        oldest = next(iter(self._runs))
        self.size_bytes -= len(self._runs.pop(oldest)[0])

    # Runs

    def run(self, number: int, encoding: Encoding) -> tuple[bytes, list[int]] | None:
        """Return the run that begins with a segment, and the sizes of its segments; None if there is none."""
        return self._runs.get((number, encoding))

    def keep_run(self, number: int, encoding: Encoding, run: tuple[bytes, list[int]]) -> None:
        """Keep a run that begins with a segment; there are `MAX_RUNS` at most."""
        if len(self._runs) >= MAX_RUNS:
            self._forget_run()
        self._runs[number, encoding] = run
        self.size_bytes += len(run[0])
