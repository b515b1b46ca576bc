"""A check of the handshake, as the log shows it."""

from __future__ import annotations

import pytest

from rawws.errors import Refusal
from rawws.wire.checks import AnyCheck, Check, found

REFUSAL = Refusal(426, "version", "The Sec-WebSocket-Version must be 13.")


@pytest.mark.parametrize(
    ("check", "line", "refusal"),
    [
        (Check[Refusal]("§4.2.1", "it is so", "13"), "§4.2.1: it is so? yes: 13", None),
        (Check("§4.2.1", "it is so", "12", REFUSAL), "§4.2.1: it is so? NO (426): 12", REFUSAL),
        (Check("§4.1", "it is so", "200", "it is otherwise"), "§4.1: it is so? NO: 200", None),
    ],
    ids=["met", "of a request", "of an answer"],
)
def test_a_check_is_one_line_with_section_verdict_and_finding(
    check: AnyCheck, line: str, refusal: Refusal | None
) -> None:
    assert str(check) == line
    assert check.holds is (check.problem is None)
    assert check.refusal is refusal


def test_the_finding_has_all_values_of_a_field() -> None:
    assert found([]) == "none"
    assert found(["a", "b"]) == "a, b"
