"""Client-to-server masking (RFC 6455 §5.3), with numpy and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rawws.wire import masking
from rawws.wire.masking import OnDemand, apply_mask, apply_mask_in_place
from tests.serving.machine import PATIENCE_S
from tests.wire.helpers import MASK_KEY

mask_keys = st.binary(min_size=4, max_size=4)


def naive_mask(payload: bytes, key: bytes, offset: int = 0) -> bytes:
    return bytes(octet ^ key[(offset + i) % 4] for i, octet in enumerate(payload))


@given(st.binary(max_size=300), mask_keys, st.integers(0, 2**40))
def test_5_3_octet_i_is_masked_with_octet_i_modulo_4_of_the_key(payload: bytes, key: bytes, offset: int) -> None:
    masked = apply_mask(payload, key, offset)
    assert masked == naive_mask(payload, key, offset)
    assert apply_mask(bytearray(masked), key, offset) == payload


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 65_537])
def test_5_3_a_mask_of_zeros_changes_nothing_and_leading_zeros_stay(size: int) -> None:
    assert apply_mask(bytes(size), bytes(4)) == bytes(size)
    assert apply_mask(apply_mask(bytes(size), MASK_KEY), MASK_KEY) == bytes(size)


@pytest.mark.parametrize("with_numpy", [True, False], ids=["numpy", "without numpy"])
@given(payload=st.binary(max_size=3000), key=mask_keys, start=st.integers(0, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_5_3_masking_in_place_masks_that_part_and_no_other(
    monkeypatch: pytest.MonkeyPatch, with_numpy: bool, payload: bytes, key: bytes, start: int
) -> None:
    speed = OnDemand()
    if not with_numpy:
        speed.load_by = lambda _: None
    assert (speed.find() is not None) is with_numpy
    monkeypatch.setattr(masking, "speed", speed)
    whole = bytearray(payload) * 3
    start, end = min(start, len(whole)), max(len(whole) - start // 2, min(start, len(whole)))
    before = bytes(whole)
    apply_mask_in_place(whole, start, end, key)
    naive = naive_mask(before, key)
    assert whole == before[:start] + naive[start:end] + before[end:]
    assert apply_mask(before, key) == naive


# numpy


def test_numpy_is_loaded_by_the_first_message_that_is_long_enough_for_it() -> None:
    script = """
import sys
import rawws.cli
from rawws.wire.masking import apply_mask
apply_mask(bytes(1000), b"abcd")
print("after 1000 bytes:", "numpy" in sys.modules)
apply_mask(bytes(2000), b"abcd")
print("after 2000 bytes:", "numpy" in sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S, capture_output=True, text=True)
    assert ran.stdout.splitlines() == ["after 1000 bytes: False", "after 2000 bytes: True"]


def test_a_caller_that_must_not_wait_does_without_numpy_until_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    later: list[Callable[[], None]] = []
    speed = OnDemand()
    speed.load_by = later.append
    monkeypatch.setattr(masking, "speed", speed)
    payload = bytes(range(256)) * 20
    before = apply_mask(payload, MASK_KEY), apply_mask(payload, MASK_KEY)
    (load,) = later
    assert speed.find() is None
    load()
    assert speed.find() is not None
    assert {*before, apply_mask(payload, MASK_KEY)} == {naive_mask(payload, MASK_KEY)}


def test_where_there_is_no_numpy_it_is_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numpy", None)  # an import of it fails now
    speed = OnDemand()
    assert speed.find() is None
    monkeypatch.undo()
    assert speed.find() is None
