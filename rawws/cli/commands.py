"""The commands: a row for each. The module of a command is imported only when that command runs, or is asked about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from rawws.cli.parsing import Parser

DEFAULT = "serve"

_COLUMNS = 80  # of a narrow terminal


class Example(NamedTuple):
    """A command line, and what it does."""

    line: str
    purpose: str


class Command(NamedTuple):
    """A command, which is the module of its name: ``add_arguments(parser)`` and ``run(options) -> status``."""

    name: str
    help: str
    examples: tuple[Example, Example]
    topic: str  # the page of the manual about it; empty for the list of pages

    def make_parser(self) -> Parser:
        """Return the command's parser, whose result has the command's function as ``run``."""
        module: Any = import_module(f"rawws.cli.{self.name}")
        parser = Parser(prog=f"rawws {self.name}", epilog=explain_more(self.examples, self.topic))
        module.add_arguments(parser)
        parser.set_defaults(run=module.run)
        return parser


COMMANDS = (
    Command(
        "serve",
        "run the server",
        (
            Example("rawws serve --history 100", "rooms keep 100 messages for clients that join later"),
            Example("rawws serve --host '' --publish-token SECRET", "serve other machines too; a POST needs the token"),
        ),
        "rooms",
    ),
    Command(
        "connect",
        "talk to a WebSocket server from the terminal",
        (
            Example("rawws connect -v ws://localhost:8080/room", "talk, and show the handshake and each frame"),
            Example("rawws connect -x hello localhost:8080/room", "send a message, show answers for two seconds"),
        ),
        "connect",
    ),
    Command(
        "post",
        "publish a message in a room, from a shell or cron",
        (
            Example("rawws post localhost:8080/room -d hello", "publish a text, and print its id"),
            Example("rawws post -q https://chat.example/room -d @news.txt", "publish a file, and print nothing"),
        ),
        "publish",
    ),
    Command(
        "tap",
        "show the traffic between clients and another server",
        (
            Example("rawws tap 9000 localhost:8080", "clients of port 9000 reach the server at port 8080"),
            Example("rawws tap 9000 wss://chat.example --page 9001", "show it in a browser too"),
        ),
        "tap",
    ),
    Command(
        "decode",
        "explain bytes: a handshake, frames, a capture",
        (
            Example("rawws decode 81 05 68 65 6c 6c 6f", "explain a frame"),
            Example("rawws decode --brief recording.jsonl", "list the frames of a recording"),
        ),
        "decode",
    ),
    Command(
        "check",
        "check any WebSocket server against RFC 6455",
        (
            Example("rawws check ws://localhost:8080/", "run all cases"),
            Example("rawws check --only mask-missing -v ws://localhost:8080/", "run one, and show the bytes"),
        ),
        "check",
    ),
    Command(
        "store",
        "show what a store keeps: rooms, groups, messages",
        (
            Example("rawws store rooms.db", "list the rooms, with their groups"),
            Example("rawws store rooms.db --room /room/pay --last 5", "show the last messages of a room"),
        ),
        "store",
    ),
    Command(
        "docs",
        "show the manual",
        (
            Example("rawws docs", "list the topics"),
            Example("rawws docs --max-lag", "show what the manual says about a flag"),
        ),
        "",
    ),
)


class Parsers(Mapping[str, Parser]):
    """The parsers of the commands, by name. Each is made when it is looked up."""

    def __init__(self) -> None:
        self._commands = {command.name: command for command in COMMANDS}
        self._made: dict[str, Parser] = {}

    def __getitem__(self, name: str) -> Parser:
        if name not in self._made:
            self._made[name] = self._commands[name].make_parser()
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._commands

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


def explain_more(examples: tuple[Example, ...], topic: str = "") -> str:
    """Return the end of a ``--help``: examples, and the page of the manual to read next."""
    width = max(len(example.line) for example in examples)
    lines = [f"  {example.line:<{width}}  {example.purpose}" for example in examples]
    if max(map(len, lines)) > _COLUMNS:
        lines = [f"  {example.line}\n      {example.purpose}" for example in examples]
    return "\n".join(["examples:", *lines, "", f"More: {f'rawws docs {topic}'.strip()}"])
