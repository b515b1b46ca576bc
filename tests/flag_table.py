"""The manual's page of flags: ``python -m tests.flag_table`` writes it anew from the commands' own flags."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from rawws.cli.commands import COMMANDS, Command
from rawws.cli.flags import Flag, FlagTable

PAGE = Path(__file__).resolve().parent.parent / "rawws" / "docs" / "reference" / "flags.md"
COLUMNS = 120
INTRODUCTION = """\
# Flags and arguments

This page has every flag of every command. `rawws COMMAND --help` shows those of one command in short, and
`rawws docs --max-lag` shows the section about a flag. `python -m rawws` is the same program as `rawws`. Without a
command it serves, so that `rawws --port 9000` is `rawws serve --port 9000`.

A flag may be shortened as long as it is unambiguous, and `--flag VALUE` is the same as `--flag=VALUE`. Sizes are in
bytes or have a suffix: `64k`, `1M` and `2G` are powers of 1,024. Times are in seconds. Each command has `-h` and
`--help`; `rawws --version` prints the version.
"""


def fill(text: str) -> str:
    return textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def as_sentence(text: str) -> str:
    """Return a text that begins in lower case as a sentence. One that begins with code stays as it is."""
    return f"{text[:1].upper()}{text[1:]}".removesuffix(".") + "."


def describe(flag: Flag, table: FlagTable) -> Iterator[str]:
    """Yield the paragraphs about a flag."""
    names = [name for name in (flag.short, flag.name) if name]
    if flag.negatable:
        names.append(f"--no-{flag.name.removeprefix('--')}")
    yield "#### " + ", ".join(f"`{name}`" for name in names)
    reread = "SIGHUP has the file read anew." if flag.is_reread else ""
    yield fill(" ".join(filter(None, (as_sentence(flag.description), reread, flag.manual))))
    facts = []
    if flag.value is not None:
        if flag.value.choices is None:
            facts.append(f"Value: `{flag.value.metavar or flag.name.lstrip('-').upper()}`.")
        else:
            *others, last = (f"`{choice}`" for choice in flag.value.choices)
            facts.append(f"Value: {', '.join(others)} or {last}.")
    if shown := table.show_default(flag):
        facts.append(f"Default: {shown}.")
    if flag.goes_to:
        function, _, keyword = flag.goes_to.partition(".")
        if flag.value is None:
            keyword += f"={flag.stores!r}"
        facts.append(f"In Python: `{keyword}` of `rawws.{table.functions[function].__name__}`.")
    if facts:
        yield fill(" ".join(facts))


def section(command: Command) -> Iterator[str]:
    """Yield the paragraphs about a command."""
    parser = command.make_parser()
    positionals = [action for action in parser._actions if not action.option_strings]
    usage = " ".join(["rawws", command.name, "[FLAG ...]", *(str(each.metavar) for each in positionals)])
    yield f"## `rawws {command.name}`"
    yield fill(parser.description or "")
    yield f"```text\n{usage}\n```"
    if positionals:
        yield "\n".join(fill(f"* `{each.metavar}`: {each.help}") for each in positionals)
    module = import_module(f"rawws.cli.{command.name}")
    table = getattr(module, "FLAGS", FlagTable({}))
    for title, flags in table.groups.items():
        yield f"### {as_sentence(title).removesuffix('.')}"
        for flag in flags:
            yield from describe(flag, table)


def page() -> str:
    blocks = [INTRODUCTION.strip()]
    for command in COMMANDS:
        blocks += section(command)
    return "\n\n".join(blocks) + "\n"


def main() -> None:
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
