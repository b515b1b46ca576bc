"""The command line: arguments to objects, errors to one sentence and an exit status."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rawws.cli import streams
from rawws.cli.commands import COMMANDS, DEFAULT, Example, Parsers, explain_more
from rawws.cli.parsing import Misused, Parser, explain_command
from rawws.errors import ListenError, RawwsError, UsageError
from rawws.version import __version__

DONE, FAILED, MISUSED = 0, 1, 2
INTERRUPTED = 130  # as in shells: 128 + SIGINT

EXAMPLES = (
    Example("rawws", "serve rooms at http://localhost:8080, and show the traffic on a page"),
    Example("rawws connect localhost:8080/room", "join a room of that server"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 misused, 130 interrupted."""
    streams.fill_closed()
    streams.prepare_output()
    try:
        return _run(list(sys.argv[1:] if arguments is None else arguments))
    finally:
        streams.drop_unwritten_errors()


def _run(given: list[str]) -> int:
    """Run one command, and report the errors that end it."""
    try:
        options = _parse(given)
        status: int = options.run(options)
    except Misused as error:
        streams.complain(str(error))
        streams.complain(f"{error.help} lists the arguments")
        return MISUSED
    except (RawwsError, ExceptionGroup) as error:
        cause = _alone(error)
        if isinstance(cause, streams.OutputLost):
            if isinstance(cause.cause, BrokenPipeError):  # the reader, such as head(1), has seen enough
                return DONE
            streams.tell_output_lost(cause.cause)
            return FAILED
        if not isinstance(cause, UsageError | ListenError):
            raise
        streams.complain(str(cause))
        return MISUSED if isinstance(cause, UsageError) else FAILED
    except KeyboardInterrupt:  # nothing had to be ended in order
        return INTERRUPTED
    except BaseExceptionGroup as error:
        if error.split(KeyboardInterrupt)[1] is not None:
            raise
        return INTERRUPTED  # it was raised within a nursery
    return status


def _alone(error: Exception) -> Exception:
    """Return the one exception in a group of groups of one, as nurseries make them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _parse(given: list[str]) -> argparse.Namespace:
    """Return the options, with the command's function as ``run``. Raises `Misused`."""
    top, parsers = _make_top(), Parsers()
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help", "--version")):
        given = [DEFAULT, *given]
    if given[0].startswith("-"):
        top.parse(given, parsers)  # --help and --version end the program
    if given[0] not in parsers:
        raise Misused(explain_command(given[0], list(parsers)), f"{top.prog} --help")
    return parsers[given[0]].parse(given[1:], parsers)


def _make_top() -> Parser:
    """Return the parser for ``rawws`` itself, which lists the commands."""
    top = Parser(
        prog="rawws",
        description="WebSockets that you can see through. Without a command, rawws serves: its flags are those of "
        f"rawws {DEFAULT}.",
        epilog=explain_more(EXAMPLES),
    )
    top.add_argument("--version", action="version", version=f"rawws {__version__}")
    commands = top.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=argparse.ArgumentParser
    )
    for command in COMMANDS:
        commands.add_parser(command.name, help=command.help)
    return top
