"""``rawws post``: publishes one message in a room, for shells and cron."""

from __future__ import annotations

import argparse
import os
import sys
from typing import BinaryIO

from rawws.cli.arguments import above_zero, complete_http_url, count, seconds
from rawws.cli.files import TokenFile
from rawws.cli.flags import Flag, FlagTable, Value
from rawws.cli.streams import complain, need_input, need_output, writing_output
from rawws.cli.tls_flags import TLS_FLAGS, client_tls
from rawws.client import publish
from rawws.errors import PublishError, PublishUnsure, UsageError, sentence_of
from rawws.limits import MIB
from rawws.net.tls import TlsError

TOKEN_VARIABLE = "RAWWS_TOKEN"
MAX_MESSAGE_BYTES = 1024 * MIB

_REFUSED = 1
_UNSURE = 3

_MESSAGE = (
    Flag(
        "--data",
        Value(metavar="TEXT"),
        "the message; `@FILE` reads it from a file, and `@-` from standard input",
        shown_default="`@-`",
        short="-d",
        own_default=None,
    ),
    Flag(
        "--binary",
        None,
        "publish the bytes of the input as a binary message",
        short="-b",
        own_default=False,
        manual="Without it the message is a text, and one line end at the end of a file or of standard input is "
        "dropped, as the shell does with a command's output.",
    ),
    Flag(
        "--message-key",
        Value(metavar="KEY"),
        "the key of the message, for rooms whose slow peers get the newest of each key",
        goes_to="publish.key",
    ),
)

_SAFETY = (
    Flag(
        "--token-file",
        Value(metavar="FILE"),
        "the file with the token of a server that needs one",
        shown_default=f"the variable `{TOKEN_VARIABLE}`, if it is set",
    ),
    Flag(
        "--idempotency-key",
        Value(metavar="KEY"),
        "a name for this message, such as an order's number",
        goes_to="publish.idempotency_key",
        shown_default="a random one",
        manual="The server publishes one message for a key: a command that is repeated within ten minutes publishes "
        "nothing more, and prints the id of the first message.",
    ),
    Flag(
        "--tries",
        Value(above_zero(count), "COUNT"),
        "the number of tries, all with the same key",
        goes_to="publish.tries",
    ),
    Flag(
        "--timeout",
        Value(seconds, "SECONDS", "{:g}".format),
        "seconds for all tries together",
        goes_to="publish.timeout",
    ),
)

_OUTPUT = (Flag("--quiet", None, "don't print the id", short="-q", own_default=False),)

FLAGS = FlagTable(
    {"the message": _MESSAGE, "delivery": _SAFETY, "TLS, for https://": TLS_FLAGS, "output": _OUTPUT},
    {"publish": publish.publish},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Publishes a message in a room, and prints its id. The status is 0 when it is published, 1 when the server "
        "refuses it or can't be reached, 2 for invalid arguments or input, 3 when it isn't known whether it was "
        "published; the same command with the same --idempotency-key is then safe to repeat. Errors are one sentence "
        "on standard error."
    )
    parser.add_argument("url", metavar="URL", help="http://… or https://…; without a scheme it is http://")
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Publish, and print the id."""
    if not options.quiet:
        need_output()
    message = _read_message(options)
    try:
        published = publish.publish(
            complete_http_url(options.url),
            message,
            token=_read_token(options),
            ssl=client_tls(options),
            **FLAGS.keywords("publish", options),
        )
    except (PublishError, TlsError) as error:
        complain(sentence_of(error))
        return _UNSURE if isinstance(error, PublishUnsure) else _REFUSED
    if not options.quiet:
        with writing_output():
            print(published.id or "")
    return 0


def _read_token(options: argparse.Namespace) -> str | None:
    if options.token_file is not None:
        return TokenFile("--token-file", options.token_file).content
    return os.environ.get(TOKEN_VARIABLE) or None


def _read_message(options: argparse.Namespace) -> bytes | str:
    """Return the message that the options ask for. Raises `UsageError`."""
    given: str = "@-" if options.data is None else options.data
    if not given.startswith("@"):
        return _as_message(os.fsencode(given), options.binary)
    data = _read_input(given.removeprefix("@"))
    if not options.binary:
        data = data.removesuffix(b"\n").removesuffix(b"\r")
    return _as_message(data, options.binary)


def _as_message(data: bytes, is_binary: bool) -> bytes | str:
    if is_binary:
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("the message isn't UTF-8, as a text has to be; --binary publishes any bytes") from None


def _read_input(name: str) -> bytes:
    if name == "-":
        need_input()
        return _read(sys.stdin.buffer, "standard input")
    try:
        with open(name, "rb") as file:
            return _read(file, name)
    except OSError as error:
        raise UsageError(f"--data @{name} can't be read: {error.strerror or error}") from None


def _read(file: BinaryIO, name: str) -> bytes:
    data = file.read(MAX_MESSAGE_BYTES + 1)
    if len(data) > MAX_MESSAGE_BYTES:
        raise UsageError(f"{name} has over {MAX_MESSAGE_BYTES} bytes, which no server takes as one message")
    return data
