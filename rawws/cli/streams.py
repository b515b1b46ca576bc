"""Standard input, output and error, each of which may be closed, gone or full."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from rawws.errors import RawwsError, UsageError
from rawws.wire.trace import printable


class OutputLost(RawwsError):
    """Standard output can't be written; ``cause`` is the reason."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextlib.contextmanager
def writing_output() -> Iterator[None]:
    """Distinguish errors of standard output from others, such as a network's. Raises `OutputLost`."""
    try:
        yield
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        raise OutputLost(error) from None


def fill_closed() -> None:
    """Open /dev/null in place of a closed standard stream, so that no socket gets its number.

    Text for a closed standard error is lost. ``sys.stdin`` and ``sys.stdout`` stay None, for the two checks below.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # this takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (else print() falls back to standard output)


def prepare_output() -> None:
    """Make standard output accept any text, and write all of it.

    A character that its encoding lacks is written as an escape, since peers choose the text. Without a buffer
    (``python -u``, PYTHONUNBUFFERED) a write that a signal interrupts would silently lose the rest.
    """
    if not isinstance(sys.stdout, io.TextIOWrapper):
        return
    if sys.stdout is sys.__stdout__ and isinstance(sys.stdout.buffer, io.RawIOBase):
        buffered = open(sys.stdout.fileno(), "wb", closefd=False)  # noqa: SIM115 (it is there until the end)
        sys.stdout = io.TextIOWrapper(buffered, encoding=sys.stdout.encoding, line_buffering=True)
    sys.stdout.reconfigure(errors="backslashreplace")


def complain(text: str) -> None:
    """Write one sentence to standard error.

    Control characters in it are escaped, since they may come from a peer or a file. Where nothing can be written, only
    the exit status tells of it.
    """
    with contextlib.suppress(OSError):
        print(f"rawws: {printable(text)}", file=sys.stderr)


def need_input() -> None:
    """Raises `UsageError` if standard input is closed."""
    if sys.stdin is None:
        raise UsageError("standard input is closed; </dev/null is an empty one")


def need_output() -> None:
    """Raises `UsageError` if standard output is closed."""
    if sys.stdout is None:
        raise UsageError("standard output is closed; >/dev/null has it thrown away")


def drop_output() -> None:
    """Drop unwritten output, which can't be written: Python would try once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def drop_unwritten_errors() -> None:
    """Drop text that standard error doesn't take: Python would try once more at its end, and exit with status 120."""
    try:
        sys.stderr.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def tell_output_lost(error: OSError) -> None:
    """Say why the output can't be written, in one sentence."""
    complain(f"standard output can't be written: {error.strerror or error}")
