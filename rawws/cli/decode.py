"""``rawws decode``: explains bytes: an HTTP upgrade and the frames after it, or frames alone."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from rawws.cli.flags import Flag, FlagTable, Value
from rawws.cli.streams import drop_output, need_input, need_output, tell_output_lost
from rawws.errors import UsageError
from rawws.inspection import spellings
from rawws.inspection.describe import describe
from rawws.inspection.file_kinds import are_swapped_words, binary_kind, is_request, why_no_frames
from rawws.inspection.observer import Observer, begins_with_http, guess_sender
from rawws.inspection.packets import Talk
from rawws.inspection.records import Recorded, frame_bytes, from_line
from rawws.inspection.seen import Head, Rest, Seen, SeenFrame
from rawws.inspection.spellings import NoForm
from rawws.wire.role import Role
from rawws.wire.trace import printable

# Records, one on each line; or an array with one on each line, as the page exports them.
_RECORDS = re.compile(r'\s*(?:\[\s*)?\{\s*"(?:at|connection|kind|sender)"\s*:')

# A response after a request: both directions of a connection are in one stream, as if one side had sent all of it.
_ANSWER_BEHIND = re.compile(rb"\r?\n\r?\nHTTP/1\.[01] \d{3}")

# The bytes that are explained and printed at a time: there may be a frame in every two bytes, and after each HTTP body
# the rest is copied.
_AT_ONCE_BYTES = 64 * 1024

# A file's kind is recognized by its beginning, before the rest of it is read.
_HEAD_BYTES = 64 * 1024

_FOUND_FAULT = 1
_FAILED = 1


FLAGS = FlagTable(
    {
        "how to read it": (
            Flag(
                "--from",
                Value.one_of(["client", "server"]),
                "sender of the bytes",
                dest="sender",
                shown_default="the client if they are masked",
            ),
            Flag("--brief", None, "show a line for each frame, without its ruler", own_default=False),
        )
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Explains bytes: HTTP heads with each requirement of the handshake, frames with each header bit, and each "
        "fault with its section. Accepts hex; the output of xxd, hexdump, od, gdb, lldb, strace, tcpdump -X, tshark "
        "and programming languages; base64; files of raw bytes; and recordings by --record."
    )
    parser.add_argument(
        "input",
        nargs="*",
        metavar="HEX | FILE | -",
        help="bytes in hex, a file, or - for standard input, which is the default",
    )
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Print what the input says; the status is 1 when something is wrong in it."""
    need_output()
    sender = None if options.sender is None else Role[options.sender.upper()]
    wrong = False
    try:
        source, name = _read(options.input)
        for title, seen in _explain(source, sender, name):
            if title:
                print(printable(title))
            if seen is None:
                continue
            for line in describe(seen, with_ruler=not options.brief):
                print(printable(line))
            wrong = wrong or _is_wrong(seen)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head(1), has seen enough
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


def _read(given: list[str]) -> tuple[bytes | str, str]:
    """Return the input, either bytes from the wire or their textual form, and the name of its file."""
    if not given or given == ["-"]:
        need_input()
        return _read_file("", sys.stdin.buffer), ""
    if len(given) == 1 and os.path.lexists(given[0]):
        return _open_file(given[0]), given[0]
    text = " ".join(given)
    if not _RECORDS.match(text):
        try:
            spellings.read(text)
        except NoForm as error:
            raise UsageError(_why_neither(given, error)) from None
    return text, ""


def _why_neither(given: list[str], error: NoForm) -> str:
    """Return why the arguments are neither a file nor bytes."""
    text = " ".join(given)
    if not text.strip("0123456789abcdefABCDEF ,:"):
        return str(error)
    if len(given) == 1 and not any(map(str.isspace, text)):
        advice = "give bytes in hex, a file, or - for standard input"
        return f"there is no file {text[:60]!r}, and that is not bytes in hex: {advice}"
    if any(map(os.path.lexists, given)):
        return "rawws decode takes one file at a time"
    return f"{text[:60]!r} is neither a file nor bytes in hex: {error}"


def _open_file(path: str) -> bytes | str:
    if os.path.isdir(path):
        raise UsageError(f"{path} is a directory: give a file, bytes in hex, or - for standard input")
    try:
        with open(path, "rb") as file:
            return _read_file(path, file)
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from None


def _read_file(name: str, file: BinaryIO) -> bytes | str:
    try:
        head = file.read(_HEAD_BYTES)
        _refuse(head, name)
        return spellings.as_text(head + file.read())
    except OSError as error:
        raise UsageError(f"{name or 'standard input'} can't be read: {error.strerror}") from None


def _refuse(data: bytes, name: str = "") -> None:
    """Raise `UsageError` for bytes of another known kind than a WebSocket's."""
    if (kind := binary_kind(data)) is not None:
        raise UsageError(kind.sentence(name))


def _explain(source: bytes | str, sender: Role | None, name: str = "") -> Iterator[tuple[str, Seen | None]]:
    """Yield what the observer sees, with a title wherever another connection or direction begins."""
    if isinstance(source, bytes):
        yield from _explain_bytes(source, sender)
    elif _RECORDS.match(source):
        yield from _explain_records(source)
    elif isinstance(read := spellings.read(source, name), bytes):
        yield from _explain_bytes(read, sender)
    else:
        yield from _explain_talk(read)


def _explain_bytes(source: bytes, sender: Role | None) -> Iterator[tuple[str, Seen | None]]:
    """Explain one side's bytes."""
    if not source:
        raise UsageError("there is nothing to decode: give bytes in hex, a file, or - for standard input")
    _refuse(source)
    if is_request(source) and _ANSWER_BEHIND.search(source, 0, _HEAD_BYTES):
        raise UsageError(
            "this has both directions of a connection without their senders: give one direction alone, "
            "the output of tshark -r CAPTURE -q -z follow,tcp,raw,0, or Wireshark's stream saved as YAML"
        )
    yield from _doubt(source)
    observer = Observer(in_frames=not begins_with_http(source))
    sender = sender or guess_sender(source)
    for start in range(0, len(source), _AT_ONCE_BYTES):
        for seen in observer.receive(sender, source[start : start + _AT_ONCE_BYTES]):
            yield "", seen
    for seen in observer.finish():
        yield "", seen


def _doubt(data: bytes) -> Iterator[tuple[str, None]]:
    """Yield a warning if the bytes are unlikely to be those of a WebSocket."""
    if begins_with_http(data) or not (why := why_no_frames(data)):
        return
    yield f"! these don't look like the bytes of a WebSocket: {why}", None
    if are_swapped_words(data):
        yield "! they do with the bytes of each 16-bit word swapped: make the dump with od -An -v -tx1", None


def _explain_talk(talk: Talk) -> Iterator[tuple[str, Seen | None]]:
    """Explain each connection by itself, from its first request on."""
    connections: dict[frozenset[str], Talk] = {}
    for flow, data in talk:
        connections.setdefault(frozenset((flow.source, flow.destination)), []).append((flow, data))
    for said in connections.values():
        first, data = said[0]
        if len(connections) == 1:
            _refuse(data)
        yield f"== {first.source} and {first.destination}", None
        if (kind := binary_kind(data)) is not None:
            yield f"! {kind.sentence()}", None
            continue
        yield from _doubt(data)
        observer = Observer(in_frames=not begins_with_http(data))
        beginner = guess_sender(data)
        for flow, data in said:
            for seen in observer.receive(beginner if flow is first else beginner.other, data):
                yield "", seen
        yield from _what_is_missing(said)
        for seen in observer.finish():
            yield "", seen


def _what_is_missing(said: Talk) -> Iterator[tuple[str, None]]:
    for flow in {id(flow): flow for flow, _ in said}.values():
        if flow.missing:
            part, reading = (
                ("a part", "it is read up to there") if flow.data else ("the beginning", "none of it is read")
            )
            yield f"! {part} of the data from {flow.source} is not in the capture; {reading}", None


def _explain_records(text: str) -> Iterator[tuple[str, Seen | None]]:
    """Explain each connection of a recording by itself."""
    connections: list[_Connection] = []
    latest: dict[int, _Connection] = {}  # by number, which begins with 1 again where another program has gone on
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
            latest[record.connection] = _Connection(record.connection, [])
            connections.append(latest[record.connection])
        latest[record.connection].records.append(record)
    for connection in connections:
        yield from _explain_connection(connection)


class _Connection(NamedTuple):
    """A connection of a recording, and its records in order."""

    number: int
    records: list[Recorded]


def _explain_connection(connection: _Connection) -> Iterator[tuple[str, Seen | None]]:
    yield f"== connection {connection.number}", None
    observer = Observer(in_frames=not any(record.kind == "head" for record in connection.records))
    began = connection.records[0].at
    for record in connection.records:
        time = f"{record.at - began:+.3f} s"
        if record.sender is None:
            if record.text:
                yield f"{time}: {printable(f'{record.kind}: {record.text}')}", None
        elif record.frame is None:
            observer.leave_out_body(record.sender)  # of HTTP, the heads alone are recorded
            for seen in observer.receive(record.sender, record.head):
                yield time, seen
        elif (raw := frame_bytes(record.frame)) is None:
            observer = Observer(in_frames=True)  # the next frames can't be judged by earlier ones
            yield time, SeenFrame(record.sender, 0, record.frame)
        else:
            for seen in observer.receive(record.sender, raw):
                yield time, seen
    for seen in observer.finish():
        yield "", seen
