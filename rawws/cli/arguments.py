"""Types of arguments: each function turns a text into a value, or raises an error that says what is wrong with it."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence

from rawws.access.shared_token import SharedToken
from rawws.cli.parsing import nearest
from rawws.errors import UsageError
from rawws.hub.paths import RoomPaths
from rawws.page import Access
from rawws.server.admission import Admission
from rawws.wire.allowed_hosts import Hosts
from rawws.wire.origins import Origins
from rawws.wire.trace import shorten

# The least number of seconds, or of things per second. A lower one is a mistake that would keep a loop busy or a client
# waiting.
LEAST = 0.001

_MOST_DIGITS = 18  # a number with as many fits into 64 bits

_SCHEMES = {"http": "ws", "https": "wss"}
_HTTP_SCHEMES = {"ws": "http", "wss": "https", "ws+unix": "http+unix"}

_SIZE = re.compile(r"([0-9]+)\s*(k|m|g)?(i?b)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def _is_number(given: str) -> bool:
    return given.isascii() and given.isdigit() and len(given) <= _MOST_DIGITS


def port(argument: str) -> int:
    if not _is_number(argument) or int(argument) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{shorten(argument)!r} is not a port; give a number from 0 to 65535")
    return int(argument)


def size(argument: str) -> int:
    parts = _SIZE.fullmatch(argument.strip())
    if parts is None or not _is_number(parts[1]):
        raise argparse.ArgumentTypeError(f"{shorten(argument)!r} is not a size; give bytes, as in 65536, 64k or 2GiB")
    return int(parts[1]) * _SIZE_FACTORS[(parts[2] or "").lower()]


def text(argument: str) -> str:
    try:
        argument.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{argument!a} is not UTF-8, as text in a WebSocket has to be") from None
    return argument


def checked(check: Callable[[str], object]) -> Callable[[str], str]:
    """Return a type for argparse: ``check`` raises `UsageError` for a bad value, and argparse adds the flag to it."""

    def read(given: str) -> str:
        try:
            check(given)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return given

    return read


token = checked(SharedToken)
page_token = checked(Access)
origin = checked(lambda given: Origins([given]))
host_name = checked(lambda given: Hosts([given]))
proxy = checked(lambda given: Admission(None, None, [given]))


def seconds(argument: str) -> float:
    return _amount(argument, "a number of seconds")


def rate(argument: str) -> float:
    return _amount(argument, "a number of messages a second")


def _amount(argument: str, what: str) -> float:
    try:
        number = float(argument)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"{shorten(argument)!r} is not {what}; give 0 or more")
    if 0 < number < LEAST:
        raise argparse.ArgumentTypeError(f"{argument!r} is less than can be kept to; give 0, or {LEAST} or more")
    return number


def header(argument: str) -> tuple[str, str]:
    name, colon, value = argument.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{shorten(argument)!r} is not a header; give 'Name: value'")
    return name.strip(), value.strip()


def count(given: str) -> int:
    """A whole number that is not negative."""
    if not _is_number(given):
        raise argparse.ArgumentTypeError(f"{shorten(given)!r} is not a count; give a whole number such as 100")
    return int(given)


def workers(given: str) -> int:
    """A number of processes; ``auto`` is that of the cores that this process may use."""
    if given == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not _is_number(given):
        sentence = "is not a number of workers; give a whole number such as 4, or auto for one for each core"
        raise argparse.ArgumentTypeError(f"{shorten(given)!r} {sentence}")
    return int(given)


def above_zero(read: Callable[[str], int]) -> Callable[[str], int]:
    """Accept positive sizes only: 0 would let nothing through, though a user may mean that there is no limit."""

    def read_more(given: str) -> int:
        if not (number := read(given)):
            raise argparse.ArgumentTypeError(
                f"{given!r} would let nothing through; give more, or leave it out for the default"
            )
        return number

    return read_more


def path_prefix(given: str) -> str:
    """The beginning of paths."""
    try:
        return RoomPaths(given).root
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def one_of(choices: Sequence[str]) -> Callable[[str], str]:
    """Return a type for argparse that accepts one of these words."""

    def read(given: str) -> str:
        if given not in choices:
            names = f"{', '.join(choices[:-1])} or {choices[-1]}"
            raise argparse.ArgumentTypeError(f"there is no {shorten(given)!r}; give {names}{nearest(given, choices)}")
        return given

    return read


def complete_http_url(url: str) -> str:
    """Return what is typed for short as the address of an HTTP server, and that of a WebSocket as the one it is at."""
    scheme, separator, rest = complete_url(url).partition(":")
    return f"{_HTTP_SCHEMES.get(scheme.lower(), scheme)}{separator}{rest}"


def complete_url(url: str) -> str:
    """Return what is typed for short as an address: ``localhost:8080``, ``:8080``, ``https://…``."""
    scheme, separator, rest = url.partition("://")
    if separator:
        return f"{_SCHEMES.get(scheme.lower(), scheme)}://{rest}"
    if url.startswith("ws+unix:"):
        return url
    if url.isdigit():
        url = f":{url}"
    return f"ws://{'localhost' if url.startswith(':') else ''}{url}"
