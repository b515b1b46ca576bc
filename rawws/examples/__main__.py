"""The list of the examples: ``python -m rawws.examples``."""

from __future__ import annotations

import ast
import sys
import textwrap
from importlib.resources import files

import rawws.examples
from rawws.cli.streams import drop_output


def main() -> None:
    """Print each example's first line, and the commands that run it, as its docstring has them."""
    try:
        _print_all()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as head(1), has seen enough
        drop_output()


def _print_all() -> None:
    for line in (rawws.examples.__doc__ or "").splitlines():
        if line.startswith("``"):
            name = line.split("``")[1]
            # The source is read, not imported: an example may need a package that is not installed.
            source = files("rawws.examples").joinpath(f"{name}.py").read_text("utf-8")
            summary, _, rest = (ast.get_docstring(ast.parse(source)) or "").partition("\n\n")
            commands = textwrap.dedent(rest.split("\n\n")[0])
            print(f"{name}\n    {summary}\n\n{textwrap.indent(commands, '        ')}\n")


if __name__ == "__main__":
    main()
