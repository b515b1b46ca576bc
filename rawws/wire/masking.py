"""Masking: the XOR of a payload with four bytes, over and over (RFC 6455 §5.3).

A short payload is one XOR of two large integers. A longer one is XORed 64 bits at a time by numpy (the extra
"speed"), if it is installed. A loop in Python would take fifty times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

# Up to this size one integer is as fast as numpy, which takes 3.5 µs to begin.
UNMASK_AS_INTEGER_BYTES = 1024
# Times a key of four bytes, each of these is that key repeated: 0x1, 0x1_00000001, 0x1_00000001_00000001 ...
REPEAT_MASK = [sum(1 << 32 * word for word in range(words)) for words in range(UNMASK_AS_INTEGER_BYTES // 4 + 1)]


def apply_mask(payload: bytes | bytearray, mask_key: bytes, offset: int = 0) -> bytes:
    """Return the payload masked, or unmasked, which is the same operation.

    ``offset`` is where in the frame's payload these bytes begin.
    """
    size = len(payload)
    shift = offset % 4
    key = mask_key[shift:] + mask_key[:shift] if shift else mask_key
    if size <= UNMASK_AS_INTEGER_BYTES:
        words = (size + 3) // 4
        mask = int.from_bytes(key, "little") * REPEAT_MASK[words]
        return (int.from_bytes(payload, "little") ^ mask).to_bytes(words * 4, "little")[:size]
    masked = bytearray(payload)
    apply_mask_in_place(masked, 0, size, key)
    return bytes(masked)


def apply_mask_in_place(payload: bytearray, start: int, end: int, mask_key: bytes) -> None:
    """Mask or unmask a part of a payload in place; ``payload[0]`` is the first byte of the frame's payload."""
    # numpy is fastest on aligned memory, and a bytearray begins at an aligned address.
    aligned = min((start + 7) & ~7, end)
    words = (end - aligned) >> 3
    numpy = speed.find() if words >= UNMASK_AS_INTEGER_BYTES >> 3 else None
    if numpy is None:
        shift = start % 4
        key = mask_key[shift:] + mask_key[:shift]
        size = end - start
        mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
        payload[start:end] = (int.from_bytes(payload[start:end], "little") ^ mask).to_bytes(size, "little")
        return
    view = numpy.frombuffer(payload, numpy.uint64, words, aligned)
    numpy.bitwise_xor(view, numpy.frombuffer(mask_key * 2, numpy.uint64), view)
    for part in (range(start, aligned), range(aligned + words * 8, end)):
        for index in part:
            payload[index] ^= mask_key[index & 3]


class OnDemand:
    """numpy, imported for the first message that is long enough for it.

    The import takes half as long as all others together, and 10 MB; programs that see no such message don't need it.
    A caller that must not wait for the import sets ``load_by`` to a function that runs its argument in a thread, and
    does without numpy meanwhile.
    """

    def __init__(self) -> None:
        self.load_by: Callable[[Callable[[], None]], None] = lambda load: load()
        self._was_asked_for = False
        self._numpy: ModuleType | None = None

    def find(self) -> ModuleType | None:
        """Return numpy, or None while it isn't loaded."""
        if not self._was_asked_for:
            self._was_asked_for = True
            self.load_by(self._load)
        return self._numpy

    def _load(self) -> None:
        try:
            import numpy
        except ImportError:
            return
        self._numpy = numpy


speed = OnDemand()
