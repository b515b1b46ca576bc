"""The refusals and log lines of the program, found in its source, for the tests of the manual's reference."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PACKAGE = Path(__file__).resolve().parent.parent / "rawws"
ANY = "\0"  # in a template, in place of a value


MODULES: dict[int, ast.AST] = {}  # the module of each function, by the function's identity


class Place(NamedTuple):
    """A call in the source, and the function around it; outside of any, that is the module."""

    path: str
    function: ast.AST
    call: ast.Call

    @property
    def name(self) -> str:
        """The module's path, and the function's name."""
        return f"{self.path} {getattr(self.function, 'name', '')}".strip()

    def __str__(self) -> str:
        return f"rawws/{self.path}:{self.call.lineno}"


@cache
def calls() -> tuple[Place, ...]:
    """Return every call in the package."""
    found: list[Place] = []
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        found += _calls_in(tree, tree, path.relative_to(PACKAGE).as_posix())
    return tuple(found)


def _calls_in(node: ast.AST, function: ast.AST, path: str) -> Iterator[Place]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Call):
            yield Place(path, function, child)
        inner = child if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) else function
        MODULES[id(inner)] = MODULES.get(id(function), function)
        yield from _calls_in(child, inner, path)


def called(call: ast.Call) -> str:
    """Return the last part of the name of a function that is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


def templates(text: ast.AST, function: ast.AST) -> list[str]:
    """Return the texts that an expression may have, with `ANY` in place of each value that isn't a literal."""
    match text:
        case ast.Constant(value=str(found)):
            return [found]
        case ast.JoinedStr(values=parts):
            return _joined(parts, function)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return [f"{a}{b}" for a in templates(left, function) for b in templates(right, function)]
        case ast.IfExp(body=one, orelse=other):
            return templates(one, function) + templates(other, function)
        case ast.Name(id=name):
            return _assigned(name, function) or _assigned(name, MODULES.get(id(function), function)) or [ANY]
    return [ANY]


def _joined(parts: list[ast.expr], function: ast.AST) -> list[str]:
    found = [""]
    for part in parts:
        if isinstance(part, ast.FormattedValue):
            values = templates(part.value, function) if isinstance(part.value, ast.Name | ast.IfExp) else [ANY]
        else:
            values = templates(part, function)
        found = [before + value for before in found for value in values]
    return found


def _assigned(name: str, function: ast.AST) -> list[str]:
    """Return the texts that a function assigns to a name, where ``+=`` goes on with each of those before."""
    found: list[str] = []
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[ast.Name(id=target)], value=value) if target == name:
                if not any(isinstance(each, ast.Name) and each.id == name for each in ast.walk(value)):
                    found += templates(value, function)
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=value) if isinstance(value, ast.Tuple):
                for each, part in zip(names, value.elts, strict=True):
                    if isinstance(each, ast.Name) and each.id == name:
                        found += templates(part, function)
            case ast.AugAssign(target=ast.Name(id=target), value=value) if target == name:
                found += [f"{before}{more}" for before in found for more in templates(value, function)]
    return found


def matches(template: str, text: str) -> bool:
    """Return whether a text is one that the program makes from the template."""
    return re.fullmatch(".*".join(map(re.escape, template.split(ANY))), text) is not None


def words_of(template: str) -> str:
    """Return the longest literal part of a template."""
    return max(template.split(ANY), key=len).strip(" :;,.")


class RefusalText(NamedTuple):
    """A refusal: its code, its status, and the sentences that it may have; none if they aren't literals."""

    place: Place
    code: str
    status: int
    sentences: list[str]


def refusals() -> list[RefusalText]:
    """Return every refusal in the package that can be sent to a client."""
    found = []
    for place in calls():
        arguments = place.call.args
        match called(place.call), arguments:
            case "Refusal", [ast.Constant(value=int(status)), ast.Constant(value=str(code)), text, *_] if code:
                pass
            case "_bad_request", [ast.Constant(value=str(code)), text]:
                status = 400
            case _:
                continue
        sentences = [each for each in templates(text, place.function) if each.strip(ANY)]
        found.append(RefusalText(place, code, status, sentences))
    return found


# The level of a log line, by the function that writes it; None where an argument is the level.
_WRITERS = {
    **dict.fromkeys(("line", "log", "_log", "server_line", "put"), None),
    **dict.fromkeys(("log_failure", "log_fault", "exception", "error"), "ERROR"),
    **{"_warn": "WARNING", "_warn_once": "WARNING", "end": "INFO"},
}
_METHODS = {"exception", "error", "end"}  # of other objects than loggers too
_SHOWN = {"INFO", "WARNING", "ERROR"}
# Modules whose functions of these names write to something else than the log, or pass on a line of another module.
_OTHERS = ("cli/parsing.py", "cli/streams.py", "examples/", "inspection/", "logs.py")


class LogText(NamedTuple):
    """A log line at INFO or above: its levels, and the texts that it may have; none if they aren't literals."""

    place: Place
    levels: set[str]
    texts: list[str]


def log_lines() -> list[LogText]:
    """Return every log line of the program at INFO or above."""
    found = []
    for place in calls():
        writer = called(place.call)
        if writer not in _WRITERS or place.path.startswith(_OTHERS):
            continue
        if writer in _METHODS and not re.match(r"(logs|logger)\b", ast.unparse(place.call.func)):
            continue
        level = _WRITERS[writer]
        levels = {level} if level else _levels_in(place)
        if not levels & _SHOWN:
            continue
        texts = [text for each in _arguments(place.call) for text in templates(each, place.function)]
        literal = [text for text in texts if len(words_of(text)) > 3]
        found.append(LogText(place, levels & _SHOWN, literal))
    return found


def _arguments(call: ast.Call) -> Iterator[ast.expr]:
    """Yield the arguments of a call; one that is a tuple is a line for another thread to write."""
    for each in call.args:
        yield from each.elts if isinstance(each, ast.Tuple) else [each]


def _levels_in(place: Place) -> set[str]:
    """Return the names of the levels among a call's arguments, or in what the function assigns to ``level``."""
    names: set[str] = set()
    for argument in _arguments(place.call):
        sources = [argument]
        if isinstance(argument, ast.Name) and argument.id == "level":
            sources = [node.value for node in ast.walk(place.function) if isinstance(node, ast.Assign)]
            sources += getattr(getattr(place.function, "args", None), "defaults", [])
        for source in sources:
            names |= {node.attr for node in ast.walk(source) if isinstance(node, ast.Attribute) and node.attr.isupper()}
    return names
