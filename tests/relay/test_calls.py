"""Calls that wait until the turn is over."""

from __future__ import annotations

from rawws.relay.calls import CALLS_AT_ONCE, Calls


def test_calls_are_made_in_their_order_and_the_first_one_wakes() -> None:
    woken: list[str] = []
    made: list[int] = []
    calls = Calls(lambda: woken.append("now"))
    assert not calls
    for number in range(3):
        calls.add(lambda number=number: made.append(number))  # type: ignore[misc]
    assert (woken, made, bool(calls)) == (["now"], [], True)
    calls.make_some()
    assert (made, bool(calls)) == ([0, 1, 2], False)


def test_a_call_that_leads_to_others_waits_its_turn() -> None:
    made: list[str] = []
    calls = Calls(lambda: None)

    def first() -> None:
        calls.add(lambda: made.append("second"))
        made.append("first")

    calls.add(first)
    calls.make_some()
    assert (made, bool(calls)) == (["first"], True)
    calls.make_some()
    assert made == ["first", "second"]


def test_only_some_calls_are_made_in_a_row() -> None:
    made: list[int] = []
    calls = Calls(lambda: None)
    for number in range(CALLS_AT_ONCE + 1):
        calls.add(lambda number=number: made.append(number))  # type: ignore[misc]
    calls.make_some()
    assert (len(made), bool(calls)) == (CALLS_AT_ONCE, True)
    calls.make_all()
    assert (len(made), bool(calls)) == (CALLS_AT_ONCE + 1, False)


def test_at_the_end_all_calls_are_made_and_those_that_they_lead_to() -> None:
    made: list[str] = []
    calls = Calls(lambda: None)
    calls.add(lambda: calls.add(lambda: made.append("late")))
    calls.make_all()
    assert made == ["late"]
