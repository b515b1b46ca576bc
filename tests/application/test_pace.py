"""The pace of an upload."""

from __future__ import annotations

from rawws.application.pace import LEAST_BYTES_PER_S, PATIENCE_S, Pace


def test_waiting_takes_from_the_patience_and_bytes_give_to_it() -> None:
    pace = Pace()
    assert pace.left_s == PATIENCE_S
    pace.note(5, 0)
    assert pace.left_s == PATIENCE_S - 5
    pace.note(0, 3 * LEAST_BYTES_PER_S)
    assert pace.left_s == PATIENCE_S - 2


def test_a_drip_ends_and_a_slow_line_does_not() -> None:
    drip, line = Pace(), Pace()
    seconds = 0
    while drip.left_s > 0:
        drip.note(1, 1)
        seconds += 1
    assert PATIENCE_S < seconds < PATIENCE_S + 2
    for _ in range(100_000):
        line.note(1, LEAST_BYTES_PER_S)
    assert line.left_s == PATIENCE_S
