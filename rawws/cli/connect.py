"""``rawws connect``: a WebSocket client for the terminal, or for a pipe."""

from __future__ import annotations

import argparse
import sys

from rawws import logs
from rawws.cli.arguments import complete_url, header, seconds, size, text
from rawws.cli.flags import Flag, FlagTable, Value, show_size
from rawws.cli.streams import complain, drop_output, need_input, need_output, tell_output_lost
from rawws.cli.tls_flags import TLS_FLAGS, TLS_GROUP, client_tls
from rawws.client import connect
from rawws.errors import InvalidHandshake, OpenTimeout, UsageError, sentence_of
from rawws.extras import install_command
from rawws.process import signals
from rawws.process.signals import ending_signals
from rawws.tools.console import Console, EditedScreen, Pipe, Print, Screen
from rawws.tools.terminal import (
    MOST_LISTENING_S,
    QUIET_S,
    Conversation,
    ForSeconds,
    Patience,
    UntilItCloses,
    UntilQuiet,
)

_REFUSED = 1
# After the last -x, as wscat has it.
EXECUTE_WAIT_S = 2.0


def _wait(argument: str) -> float:
    if argument.strip() == "-1":
        return -1.0
    try:
        return seconds(argument)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}, or -1 to wait until the server closes") from None


_HANDSHAKE = (
    Flag(
        "--header",
        Value(header, "'NAME: VALUE'"),
        "also send this header; may be repeated",
        goes_to="connect.headers",
        short="-H",
        repeats=True,
    ),
    Flag(
        "--subprotocol",
        Value(metavar="NAME"),
        "offer this subprotocol; may be repeated, the favourite first",
        goes_to="connect.subprotocols",
        short="-s",
        repeats=True,
    ),
    Flag("--origin", Value(), "send this Origin", goes_to="connect.origin", short="-o"),
    Flag(
        "--no-compression",
        None,
        "don't offer compression",
        goes_to="connect.compression",
        dest="compression",
        stores=None,
    ),
)

_CONVERSATION = (
    Flag(
        "--execute",
        Value(text, "MESSAGE"),
        f"send this, wait for {EXECUTE_WAIT_S:g} seconds or as --wait says, and leave; may be repeated",
        short="-x",
        repeats=True,
    ),
    Flag(
        "--wait",
        Value(_wait, "SECONDS"),
        "seconds from the end of the input to our close; -1 to wait until the server closes",
        shown_default=f"in a pipe: until nothing has come for {QUIET_S:g} second, and at most {MOST_LISTENING_S:g} "
        "seconds from when the server has sent as many messages as it has received",
        short="-w",
    ),
    Flag("--binary", None, "send each line's bytes as a binary message", short="-b", own_default=False),
    Flag(
        "--ping",
        Value(seconds, "SECONDS", "{:g}".format),
        "seconds between two pings, whose round trip is shown; 0 for none",
        own_default=0.0,
    ),
    Flag(
        "--max-size",
        Value(size, "BYTES", show_size),
        "size of a message; a larger one ends the connection with 1009",
        goes_to="connect.max_size",
    ),
)

_OUTPUT = (
    Flag(
        "-v",
        None,
        "show the handshake and each frame",
        dest="log_level",
        stores="debug",
        own_default="error",
        alternative="level",
    ),
    Flag("-vv", None, "show the bytes in hex too", dest="log_level", stores="trace", alternative="level"),
)

FLAGS = FlagTable(
    {
        "the handshake": _HANDSHAKE,
        TLS_GROUP: TLS_FLAGS,
        "the conversation": _CONVERSATION,
        "output, on standard error": _OUTPUT,
    },
    {"connect": connect.connect},
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Connects to a WebSocket server. In a terminal, each line that is typed is sent, and each message that comes "
        "is shown; /help lists commands such as /ping, /close and /raw. In a pipe, each line of standard input is "
        "sent, each message is written as a line to standard output, and nothing else is; control characters are "
        "spelt out where the output is a terminal. At the end of the input it waits for answers, see --wait. The "
        "status is 0 when all of the input was sent and the server closed with 1000, 1001 or no code, 1 for a refusal "
        "or any other end, 2 for invalid arguments or an invalid line of input."
    )
    parser.add_argument("url", metavar="URL", help="ws://… or wss://…; without a scheme it is ws://")
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Connect, talk until the end, and say how it ended."""
    need_output()
    if not options.execute:
        need_input()
    logs.configure(options.log_level)
    try:
        return signals.run(_connect, options)
    except KeyboardInterrupt:  # before there was a connection
        return _REFUSED


async def _connect(options: argparse.Namespace) -> int:
    url = complete_url(options.url)
    connector = connect.connect(
        url,
        ssl=client_tls(options),
        **FLAGS.keywords("connect", options),
    )
    try:
        ws = await connector.open()
    except UsageError:
        raise
    except (OSError, InvalidHandshake, OpenTimeout) as error:
        complain(sentence_of(error))
        return _REFUSED
    console = _open_console()
    console.tell(f"connected to {url} (/help for commands, Ctrl-D to leave)")
    conversation = Conversation(
        console,
        commands=not isinstance(console, Pipe),
        binary=options.binary,
        execute=options.execute or [],
        patience=_choose_patience(options, console),
        ping_s=options.ping,
        complete=isinstance(console, Pipe),
    )
    with ending_signals(kept_by="standard output takes nothing, or the server doesn't close") as received:
        status = await conversation.run(ws, received)
    if conversation.lost is not None:
        drop_output()
        if not isinstance(conversation.lost, BrokenPipeError):
            tell_output_lost(conversation.lost)
        return status
    if isinstance(console, Pipe):
        for remark in conversation.remarks:
            complain(remark)
    return status


def _choose_patience(options: argparse.Namespace, console: Console) -> Patience:
    if options.wait is not None:
        return ForSeconds(options.wait) if options.wait >= 0 else UntilItCloses()
    if options.execute:
        return ForSeconds(EXECUTE_WAIT_S)
    return UntilQuiet() if isinstance(console, Pipe) else ForSeconds(0.0)


def _open_console() -> Console:
    if not sys.stdout.isatty():
        return Pipe()
    if sys.stdin is None or not sys.stdin.isatty():
        return Print()
    try:
        return EditedScreen()
    except ImportError:
        complain(f"line editing and a history need prompt_toolkit: {install_command('prompt_toolkit')}")
        return Screen()
