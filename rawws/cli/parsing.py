"""The parser of command lines: an invalid one gets one sentence that says what is wrong, and a pointer to --help."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import NoReturn

from rawws.errors import UsageError
from rawws.wire.trace import shorten

# The wording of argparse's own errors.
_EXCLUDED = "not allowed with argument "
_REQUIRED = "the following arguments are required: "
_VERSION = "--version"  # a flag of rawws itself, not of a command


class Misused(UsageError):
    """A command line is invalid; ``help`` is the command that explains the valid ones."""

    def __init__(self, message: str, help: str) -> None:  # noqa: A002 (the command that shows the help)
        super().__init__(message)
        self.help = help


def nearest(given: str, names: Iterable[str]) -> str:
    """Return the name that was probably meant, as the end of a sentence; empty if none is similar."""
    found = get_close_matches(given, list(names), n=1)
    return f"; did you mean {found[0]}?" if found else ""


class _Formatter(argparse.HelpFormatter):
    """Leaves a text that has lines of its own as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if "\n" in text else super()._fill_text(text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser for one command, or for the name of one.

    If ``takes_dashes``, the command has no flags but those for help, so that an argument may begin with a dash.
    """

    takes_dashes = False

    def __init__(self, *, prog: str, description: str | None = None, epilog: str | None = None) -> None:
        super().__init__(prog=prog, description=description, epilog=epilog, formatter_class=_Formatter)

    def error(self, message: str) -> NoReturn:
        """Raise `Misused` instead of printing the usage, which has twenty lines."""
        raise Misused(message, f"{self.prog} --help")

    def parse(self, given: Sequence[str], others: Mapping[str, Parser]) -> argparse.Namespace:
        """Return the options. ``others`` has the parsers of all commands, by name. Raises `Misused`."""
        self.exit_on_error = False  # otherwise the error's argument is lost in its text
        if self.takes_dashes and not {"-h", "--help"} & set(given):
            given = ["--", *given]
        self._check_flags(given, others)
        try:
            options, rest = self.parse_known_args(given)
        except argparse.ArgumentError as error:
            self.error(self._explain(error, given))
        except Misused as error:  # up to Python 3.12, where something is missing
            self.error(self._explain_whole(str(error)))
        if rest:
            flag = next((each for each in rest if each.startswith("-") and each != "-"), None)
            self.error(self._explain_extra(rest[0], others) if flag is None else self._explain_unknown(flag, others))
        return options

    @property
    def flags(self) -> list[str]:
        return list(self._option_string_actions)

    def _check_flags(self, given: Sequence[str], others: Mapping[str, Parser]) -> None:
        """Check the long flags first: the value of a mistyped one would be taken for another argument."""
        for position, argument in enumerate(given):
            if argument == "--":
                return
            flag = argument.partition("=")[0]
            if not flag.startswith("--") or " " in argument or flag in self.flags:
                continue
            meant = [each for each in self.flags if each.startswith(flag)]
            if len(meant) > 1:
                self.error(f"{shorten(flag)} is short for {_list(meant)}; write out which")
            if not meant:
                before = given[position - 1] if position else ""
                if self._takes_value(before):
                    value = shorten(argument)
                    self.error(f"{before} needs a value; one that begins with a dash is given as {before}={value}")
                self.error(self._explain_unknown(flag, others))

    def _takes_value(self, argument: str) -> bool:
        action = self._option_string_actions.get(argument)
        return action is not None and action.nargs is None

    def _explain(self, error: argparse.ArgumentError, given: Sequence[str]) -> str:
        name, message = error.argument_name, error.message
        if name is None:
            return self._explain_whole(message)
        if message == "expected one argument":
            action = next(each for each in self._actions if name.split("/")[0] in each.option_strings)
            at = next((at for at, each in enumerate(given) if each in action.option_strings), len(given))
            example = f"{name.split('/')[-1]} {action.metavar or name.split('/')[-1].lstrip('-').upper()}"
            message = f"{name} needs a value, as in {example}"
            if at + 1 < len(given) and given[at + 1].startswith("-") and given[at + 1] not in self.flags:
                message += f"; one that begins with a dash is given as {given[at]}={shorten(given[at + 1])}"
            return message
        if found := re.fullmatch(r"ignored explicit argument '(.*)'", message, re.DOTALL):
            return f"{name} takes no value, and {shorten(found[1])!r} is given; leave that out"
        if message.startswith(_EXCLUDED):
            return f"{name} and {message.removeprefix(_EXCLUDED)} exclude each other; give one of them"
        return f"{name}: {message}"

    def _explain_whole(self, message: str) -> str:
        """Explain an error that isn't about one flag."""
        if not message.startswith(_REQUIRED):
            return message
        names = message.removeprefix(_REQUIRED).split(", ")
        positionals = [str(each.metavar) for each in self._actions if not each.option_strings]
        verb = "is" if len(names) == 1 else "are"
        return f"{' and '.join(names)} {verb} missing, as in {self.prog} {' '.join(positionals)}"

    def _explain_unknown(self, flag: str, others: Mapping[str, Parser]) -> str:
        flag = flag.partition("=")[0]
        message = f"{self.prog} has no flag {shorten(flag)}"
        if owners := [other.prog for other in others.values() if flag in other.flags]:
            return f"{message}, and {' and '.join(owners)} {'has' if len(owners) == 1 else 'have'} it"
        return message + nearest(flag, [*self.flags, _VERSION]).replace(_VERSION, f"rawws {_VERSION}")

    def _explain_extra(self, argument: str, others: Mapping[str, Parser]) -> str:
        message = f"{self.prog} doesn't take the argument {shorten(argument)!r}"
        if not [each for each in self._actions if not each.option_strings]:
            message = f"{self.prog} takes flags only, and {shorten(argument)!r} is none"
        if command := get_close_matches(argument, list(others), n=1, cutoff=0.75):
            return f"{message}; a command comes first, as in rawws {command[0]}"
        return message


def _list(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def explain_command(given: str, commands: Sequence[str]) -> str:
    """Return a sentence which says that there is no such command, and names the one that may be meant."""
    message = f"there is no command {shorten(given)!r}"
    if given.lower() in ("help", "man", "manual"):
        return f"{message}; did you mean rawws --help, or rawws docs?"
    if hint := nearest(given, commands):
        return message + hint
    if given.removeprefix(":").isdigit():
        return f"{message}; did you mean rawws serve --port {shorten(given.removeprefix(':'))}?"
    if "://" in given or re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[\w.-]*):\d+(/.*)?", given):
        return f"{message}; did you mean rawws connect {shorten(given)}?"
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*(\(\))?", given):
        return f"{message}; did you mean rawws serve --app {shorten(given)}?"
    if os.path.isfile(given):
        return f"{message}; did you mean rawws decode {shorten(given)}?"
    return f"{message}; give one of {', '.join(commands)}"
