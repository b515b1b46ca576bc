"""``rawws decode``: explains bytes, an HTTP upgrade and the frames behind it, or frames alone."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rawws.cli.arguments import one_of
from rawws.cli.streams import drop_output, need_input, need_output, tell_output_lost
from rawws.errors import UsageError
from rawws.wire import dumps
from rawws.wire.describe import describe
from rawws.wire.observer import Head, Observer, Rest, Seen, SeenFrame, begins_with_http, guess_sender
from rawws.wire.records import Recorded, frame_bytes, from_line
from rawws.wire.role import Role
from rawws.wire.trace import printable

NAME = "decode"
HELP = "explain bytes: a handshake, frames, a capture"

# Of a file that is HTTP itself: a dump of it begins with an offset.
_HTTP_LINE = re.compile(rb"(?:HTTP/\d|[A-Za-z]+ \S+ HTTP/)")

# Records, a line each; or as an array with one on each line, as the page exports them.
_RECORDS = re.compile(r"\s*(?:\[\s*)?\{")

# Explained and printed before the next are looked at: there may be a frame in every two bytes, and behind each body
# of HTTP all that is there is copied.
_AT_ONCE_BYTES = 64 * 1024

_FOUND_FAULT = 1
_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Explains bytes: HTTP heads with each requirement of the handshake, frames with each header bit, and what is "
        "wrong in them, with its section. Takes hex, also as xxd, hexdump, od and tcpdump -X print it; files of raw "
        "bytes; and what --record wrote."
    )
    parser.add_argument("input", nargs="*", metavar="HEX | FILE | -", help="default: standard input")
    parser.add_argument(
        "--from",
        dest="sender",
        type=one_of(["client", "server"]),
        choices=["client", "server"],
        help="who sent the bytes (default: who masks is a client)",
    )
    parser.add_argument("--brief", action="store_true", help="a line for each frame, without its ruler")


def run(options: argparse.Namespace) -> int:
    """Print what the input says; the status is 1 when something is wrong in it."""
    need_output()
    sender = None if options.sender is None else Role[options.sender.upper()]
    wrong = False
    try:
        for title, seen in _explain(_read(options.input), sender):
            if title:
                print(printable(title))
            if seen is None:
                continue
            for line in describe(seen, with_ruler=not options.brief):
                print(printable(line))
            wrong = wrong or _is_wrong(seen)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head(1), has seen enough
        drop_output()
    except OSError as error:
        drop_output()
        tell_output_lost(error)
        return _FAILED
    return _FOUND_FAULT if wrong else 0


def _is_wrong(seen: Seen) -> bool:
    match seen:
        case Head():
            return not seen.is_fine
        case SeenFrame():
            return seen.fault is not None
        case Rest():
            return True
        case _:
            return False


def _read(given: list[str]) -> bytes | str:
    """Return the input: bytes as they were on the wire, or text that spells them."""
    if not given or given == ["-"]:
        need_input()
        return _as_text(_read_file("standard input", sys.stdin.buffer.read))
    if len(given) == 1 and os.path.isfile(given[0]):  # Path.is_file raises for what is too long
        return _as_text(_read_file(given[0], Path(given[0]).read_bytes))
    text = " ".join(given)
    try:
        return dumps.read_hex(text)
    except UsageError as error:
        if len(given) == 1 and not text.strip("0123456789abcdefABCDEF ,:"):
            raise
        raise UsageError(f"{text[:60]!r} is neither a file nor bytes in hex: {error}") from None


def _read_file(name: str, read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except OSError as error:
        raise UsageError(f"{name} can't be read: {error.strerror}") from None


def _as_text(data: bytes) -> bytes | str:
    """Tell text that spells bytes from the bytes themselves."""
    if _HTTP_LINE.match(data):
        return data
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return data
    return text if text.strip() else data


def _explain(source: bytes | str, sender: Role | None) -> Iterator[tuple[str, Seen | None]]:
    """Yield what is seen, each with a title where another connection or direction begins."""
    if isinstance(source, str):
        if _RECORDS.match(source):
            yield from _explain_records(source)
            return
        if dumps.is_tcpdump(source):
            yield from _explain_packets(dumps.read_packets(source))
            return
        source = dumps.read_hex(source)
    if not source:
        raise UsageError("there is nothing to decode: give bytes in hex, a file, or - for standard input")
    observer = Observer(in_frames=not begins_with_http(source))
    sender = sender or guess_sender(source)
    for start in range(0, len(source), _AT_ONCE_BYTES):
        for seen in observer.receive(sender, source[start : start + _AT_ONCE_BYTES]):
            yield "", seen
    for seen in observer.finish():
        yield "", seen


def _explain_packets(pieces: list[tuple[dumps.Flow, bytes]]) -> Iterator[tuple[str, Seen | None]]:
    """Explain each TCP connection by itself, from its first request on."""
    connections: dict[frozenset[str], list[tuple[dumps.Flow, bytes]]] = {}
    for flow, data in pieces:
        connections.setdefault(frozenset((flow.source, flow.destination)), []).append((flow, data))
    if not connections:
        raise UsageError("there is no TCP payload in these packets; capture all of them, with tcpdump -X -s 0")
    for said in connections.values():
        first, data = said[0]
        yield f"== {first.source} and {first.destination}", None
        observer = Observer(in_frames=not begins_with_http(data))
        beginner = guess_sender(data)
        for flow, data in said:
            for seen in observer.receive(beginner if flow is first else beginner.other, data):
                yield "", seen
        for flow in {id(flow): flow for flow, _ in said}.values():
            if flow.missing:
                what, told = ("a part", "it is read up to there") if flow.data else ("the beginning", "none is read")
                yield f"! {what} of what {flow.source} sent is not in the capture; {told}", None
        for seen in observer.finish():
            yield "", seen


def _explain_records(text: str) -> Iterator[tuple[str, Seen | None]]:
    """Explain each connection of a recording by itself."""
    connections: list[tuple[int, list[Recorded]]] = []
    latest: dict[int, list[Recorded]] = {}  # by number, which begins with 1 again where another program has gone on
    for number, line in enumerate(text.splitlines(), 1):
        if (line := line.strip().removesuffix(",")) in ("", "[", "]"):
            continue
        try:
            record = from_line(line)
        except UsageError:
            if line.endswith("}") or not line.startswith('{"at":'):
                raise
            yield f"! line {number} was not written to its end (the disk was full, or the process killed)", None
            continue
        if record.kind == "open" or record.connection not in latest:
            latest[record.connection] = []
            connections.append((record.connection, latest[record.connection]))
        latest[record.connection].append(record)
    for number, records in connections:
        yield f"== connection {number}", None
        observer = Observer(in_frames=not any(record.kind == "head" for record in records))
        began = records[0].at
        for record in records:
            if record.sender is None:
                if record.told:
                    yield f"{record.at - began:+.3f} s: {printable(f'{record.kind}: {record.told}')}", None
                continue
            raw: bytes | None = record.head
            if record.frame is not None:
                raw = frame_bytes(record.frame)
            if raw is None:
                assert record.frame is not None
                observer = Observer(in_frames=True)  # what comes next can't be judged by what came before
                yield f"{record.at - began:+.3f} s", SeenFrame(record.sender, 0, record.frame)
                continue
            if record.frame is None:
                observer.leave_out_body(record.sender)  # of what is HTTP, the heads alone are recorded
            for seen in observer.receive(record.sender, raw):
                yield f"{record.at - began:+.3f} s", seen
        for seen in observer.finish():
            yield "", seen
