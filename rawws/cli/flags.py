"""A table of flags: from one row each, the parser, the keywords of a call, and the manual's page are made."""

from __future__ import annotations

import argparse
import enum
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rawws.cli.arguments import one_of

_signature_of = functools.cache(inspect.signature)  # the flags of a table ask for those of two or three functions


@dataclass(frozen=True, slots=True)
class Value:
    """A kind of value: how it is read from text, what ``--help`` calls it, and how a default is shown."""

    read: Callable[[str], object] = str
    metavar: str | None = None  # None for the name of the flag
    show: Callable[[Any], str] = str
    choices: Collection[str] | None = None

    @classmethod
    def one_of(cls, choices: Collection[str]) -> Value:
        """Return the kind of a word that is one of a few, which are looked up each time."""
        return cls(lambda word: one_of(list(choices))(word), choices=choices)  # a table may grow


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag of a command.

    ``help`` marks code with backticks, which only the manual shows. ``goes_to`` is the keyword that the flag sets, such
    as ``serve.max_head``, and whose default the flag has too; without it, the command reads the flag by itself.
    """

    name: str
    value: Value | None  # None for a switch, which takes none
    help: str | Callable[[], str]  # a function where a table that may grow has the words
    goes_to: str = ""
    manual: str = ""  # whole sentences that only the manual has
    own_default: object = None  # where the flag has another than its keyword, or has no keyword
    shown_default: str = ""  # in words, where the default is None
    stores: object = True  # by a switch that is given
    short: str = ""  # another name, of one letter
    dest: str = ""  # the name among the options, where it is not that of the flag
    repeats: bool = False
    negatable: bool = False  # a switch with an opposite, --no-...
    alternative: str = ""  # flags with the same word here exclude each other
    needs_rooms: bool = False
    is_reread: bool = False  # names a file that is read anew at each SIGHUP
    needs_app: bool = False
    needs_store: bool = False
    needs_interface: str = ""  # of the application
    is_divided: bool = False  # among workers, as a limit on the whole program

    @property
    def description(self) -> str:
        """The help, as it reads now."""
        return self.help if isinstance(self.help, str) else self.help()

    @property
    def option(self) -> str:
        """The name among the options that were parsed."""
        return self.dest or self.name.lstrip("-").replace("-", "_")

    @property
    def keyword(self) -> str:
        """The keyword of the call, or an empty string."""
        return self.goes_to.partition(".")[2]

    def is_for(self, function: str) -> bool:
        """Whether the flag sets a keyword of a function."""
        return self.goes_to.startswith(f"{function}.")

    def was_given(self, options: argparse.Namespace, default: object) -> bool:
        """Whether the options ask for something that the default does not."""
        return getattr(options, self.option) not in (default, 0)


@dataclass(frozen=True, slots=True)
class FlagTable:
    """The flags of a command by group, and the functions whose keywords they set, by name."""

    groups: Mapping[str, Sequence[Flag]]
    functions: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Flag]:
        return (flag for flags in self.groups.values() for flag in flags)

    def default_of(self, flag: Flag) -> object:
        """Return the value of an option whose flag is not given."""
        if flag.own_default is not None or not flag.goes_to:
            return flag.own_default
        function, _, keyword = flag.goes_to.partition(".")
        default = _signature_of(self.functions[function]).parameters[keyword].default
        return default.value if isinstance(default, enum.Enum) else default

    def add_to(self, parser: argparse.ArgumentParser) -> None:
        """Add all flags to a parser."""
        for title, flags in self.groups.items():
            group = parser.add_argument_group(title)
            alternatives: dict[str, argparse._ActionsContainer] = {}
            for flag in flags:
                target: argparse._ActionsContainer = group
                if flag.alternative:
                    if flag.alternative not in alternatives:
                        alternatives[flag.alternative] = group.add_mutually_exclusive_group()
                    target = alternatives[flag.alternative]
                target.add_argument(*filter(None, (flag.short, flag.name)), **self._describe(flag))

    def _describe(self, flag: Flag) -> dict[str, Any]:
        """Return the arguments for argparse."""
        shown = self.show_default(flag)
        text = f"{flag.description} (default: {shown})" if shown else flag.description
        described = {
            "help": text.replace("`", "").replace("%", "%%"),
            "default": self.default_of(flag),
            "dest": flag.option,
        }
        if flag.negatable:
            return described | {"action": argparse.BooleanOptionalAction}
        if flag.value is None:
            return described | {"action": "store_const", "const": flag.stores}
        described |= {"type": flag.value.read, "metavar": flag.value.metavar}
        described["choices"] = None if flag.value.choices is None else list(flag.value.choices)
        return described | ({"action": "append"} if flag.repeats else {})

    def show_default(self, flag: Flag) -> str:
        """Return the default for a reader, with code in backticks, or an empty string."""
        if flag.shown_default or flag.value is None:
            return flag.shown_default
        default = self.default_of(flag)
        return "" if default is None else f"`{flag.value.show(default)}`"

    def keywords(self, function: str, options: argparse.Namespace) -> dict[str, Any]:
        """Return the keywords that options set for a call of a function."""
        return {flag.keyword: getattr(options, flag.option) for flag in self if flag.is_for(function)}

    def given(self, options: argparse.Namespace, wanted: Callable[[Flag], bool]) -> list[str]:
        """Return the names of the wanted flags whose options ask for something other than the default."""
        return [flag.name for flag in self if wanted(flag) and flag.was_given(options, self.default_of(flag))]


def show_size(size: int) -> str:
    """Return a size as a user would write it: 16k, 1M."""
    for power, unit in ((30, "G"), (20, "M"), (10, "k")):
        if size and not size % (1 << power):
            return f"{size >> power}{unit}"
    return str(size)
