"""The keywords that functions share: each has one default, one type and one meaning as a limit, wherever it is."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest

import rawws
import rawws.testing
from rawws.errors import UsageError
from rawws.limits import NO_LIMIT, Limits
from rawws.options import CONNECTION, SERVER, ConnectionOptions, ServerOptions

# Each function, its options, and the fields of these that it lacks, or has with another default.
FUNCTIONS: list[tuple[Callable[..., Any], ConnectionOptions, set[str], dict[str, Any]]] = [
    (rawws.serve, SERVER, set(), {}),
    (rawws.attach, CONNECTION, set(), {}),
    (rawws.connect, CONNECTION, set(), {}),
    (rawws.testing.open_pair, CONNECTION, {"open_timeout"}, {"ping_interval": None}),
    (rawws.testing.open_raw, CONNECTION, {"open_timeout"}, {"ping_interval": None}),
]
NAMES = [function.__name__ for function, *_ in FUNCTIONS]


@pytest.mark.parametrize(("function", "options", "left_out", "own"), FUNCTIONS, ids=NAMES)
def test_a_signature_has_each_option_with_its_type_and_default(
    function: Callable[..., Any], options: ConnectionOptions, left_out: set[str], own: dict[str, Any]
) -> None:
    parameters = inspect.signature(function).parameters
    expected = {
        field.name: (field.type, own.get(field.name, getattr(options, field.name)))
        for field in dataclasses.fields(options)
        if field.name not in left_out
    }
    shown = {name: (parameters[name].annotation, parameters[name].default) for name in expected if name in parameters}
    assert shown == expected


def test_the_defaults_are_those_of_the_limits() -> None:
    assert SERVER.to_limits() == Limits()
    assert CONNECTION.to_limits() == Limits()


TIMES = ("open_timeout", "ping_interval", "ping_timeout", "close_timeout", "keep_alive", "rate")


@pytest.mark.parametrize("none", [None, 0, math.inf])
def test_a_time_or_a_rate_of_none_0_or_infinity_is_no_limit(none: float | None) -> None:
    given: dict[str, Any] = dict.fromkeys(TIMES, none)
    options = ServerOptions(**given)
    shown = options.limits_by_flag()
    assert shown.keys() == {"--max-size", "--max-head", "--max-headers", "--max-target", "--drain"}


def test_a_size_of_none_is_no_limit() -> None:
    limits = ServerOptions(max_size=None, max_queue=None, drain=None).to_limits()
    assert (limits.max_message_bytes, limits.max_queue, limits.drain_s) == (NO_LIMIT,) * 3


def test_limits_have_the_flag_of_their_keyword() -> None:
    shown = ServerOptions(max_connections=9, max_connections_per_ip=3, max_memory=1 << 30, rate=2.5).limits_by_flag()
    assert shown == {
        "--max-connections": 9,
        "--max-connections-per-ip": 3,
        "--max-memory": 1 << 30,
        "--rate": 2.5,
        "--max-head": 16 << 10,
        "--max-headers": 100,
        "--max-target": 8 << 10,
        "--max-size": 1 << 20,
        "--open-timeout": 10,
        "--keep-alive": 75,
        "--ping-interval": 20,
        "--ping-timeout": 20,
        "--close-timeout": 10,
        "--drain": 5,
    }


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"compression": "gzip"}, "there is no compression 'gzip'; give 'deflate', or None for none"),
        ({"max_memory": 0}, "max_memory can't be 0; give a whole number that is 1 or more"),
        ({"max_size": 0}, "max_size can't be 0; give a whole number that is 1 or more"),
        ({"close_timeout": -1}, "close_timeout can't be -1; give a number that is 0 or more"),
    ],
    ids=lambda given: next(iter(given)) if isinstance(given, dict) else "",
)
def test_a_value_that_is_no_limit_is_refused_by_its_keyword(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        ServerOptions(**given).to_limits()
    assert str(caught.value) == message
