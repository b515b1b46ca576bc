"""Imports point down: every import counts, also those for types alone and those inside functions."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rawws"

# The folders and single modules of the package, the lowest first. A module imports its own folder and lower ones.
LAYERS = (
    *("version", "errors", "limits", "options"),
    "wire",  # HTTP/1.1 and WebSocket, sans-IO
    *("logs", "callables", "extras", "runtime", "hooks"),
    "broadcast",  # the messages of a room, and every encoding of them, sans-IO
    "access",  # the rooms that a client may read and write, sans-IO
    "inspection",  # a connection seen from outside, sans-IO
    "tracing",
    "net",  # sockets
    "relay",  # the loop that serves every peer
    "websocket",
    "hub",  # rooms, as a program holds them
    "backplane",  # rooms that are shared with other nodes
    "store",  # rooms that survive a restart
    "local",  # rooms that the workers of one machine share
    "groups",  # readers that share the messages of a room as jobs
    "application",  # the event loop in which a program's application runs
    "server",
    "client",
    "testing",
    "tools",  # a client for people, a proxy, a tester
    "page",
    "process",  # signals, workers, and messages of the system to a program
    "cli",
    "examples",
)
ABOVE_ALL = {"__init__", "__main__"}

# Nothing in these can block or depends on a layer that does.
SANS_IO = ("wire", "broadcast", "access", "inspection")
# Single modules of this kind, in folders whose other modules block.
SANS_IO_SINGLE = {
    *(f"rawws.store.{name}" for name in ("checksums", "entries", "losses", "modes", "retention")),
    *(f"rawws.local.{name}" for name in ("outgoing", "protocol", "sequence", "sequencer", "unconfirmed")),
    *(f"rawws.groups.{name}" for name in ("backlog", "group", "leases", "mirror", "protocol", "timers")),
}
LIBRARIES = {"h11", "wsproto", "numpy", "jwt", "cryptography"}  # the last three only where they are installed
OURS = {*SANS_IO, "errors", "limits"}
IMPURE = {
    *("asyncio", "concurrent", "multiprocessing", "queue", "sched", "select", "selectors", "signal", "socket"),
    *("socketserver", "ssl", "subprocess", "threading", "time", "datetime", "_socket", "_ssl", "_thread"),
}

MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    """Return a module's dotted name; that of a package is the name of its ``__init__``'s folder."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


NAMES = {name_of(path): path for path in MODULES}
SANS_IO_MODULES = [
    path for name, path in NAMES.items() if path.relative_to(PACKAGE).parts[0] in SANS_IO or name in SANS_IO_SINGLE
]


def imports_of(source: str) -> set[str]:
    """Return the dotted names that a module imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides its layer"
            # "from rawws.wire import frames" imports a module, "from rawws.wire.frames import Opcode" a name of one.
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@cache
def imported_modules(path: Path) -> frozenset[str]:
    """Return the modules of the package that a module imports."""
    found = set()
    for name in imports_of(path.read_text("utf-8")):
        while name not in NAMES and "." in name:
            name = name.rpartition(".")[0]
        if name in NAMES and name != "rawws":
            found.add(name)
    return frozenset(found - {name_of(path)})


def layer_of(name: str) -> str:
    return name.split(".")[1] if "." in name else "__init__"


def is_sans_io(name: str) -> bool:
    top, _, rest = name.partition(".")
    if top == "rawws":
        is_single = any(f"{name}.".startswith(f"{module}.") for module in SANS_IO_SINGLE)
        return is_single or rest.partition(".")[0] in OURS
    return top in LIBRARIES or (top in sys.stdlib_module_names and top not in IMPURE)


def find_circles() -> list[list[str]]:
    """Return the groups of modules that import each other, directly or through others (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    circles: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in imported_modules(NAMES[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            if len(stack) - at > 1:
                circles.append(sorted(stack[at:]))
            del stack[at:]

    for name in NAMES:
        if name not in index:
            visit(name)
    return circles


def test_every_module_has_a_layer() -> None:
    parts = {layer_of(name) for name in NAMES} - ABOVE_ALL
    assert parts == set(LAYERS)
    assert len(set(LAYERS)) == len(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: name_of(path))
def test_no_import_points_up(path: Path) -> None:
    layer = layer_of(name_of(path))
    if layer in ABOVE_ALL:
        return
    height = LAYERS.index(layer)
    up = {name for name in imported_modules(path) if LAYERS.index(layer_of(name)) > height}
    assert up == set()


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert find_circles() == []


@pytest.mark.parametrize("path", SANS_IO_MODULES, ids=lambda path: name_of(path))
def test_a_sans_io_module_imports_only_pure_modules(path: Path) -> None:
    assert [name for name in sorted(imports_of(path.read_text("utf-8"))) if not is_sans_io(name)] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import trio", "import socket as s", "from time import monotonic"),
        *("from rawws import relay", "from rawws.relay import loop", "import rawws.net.transport"),
    ],
)
def test_an_impure_import_is_noticed_wherever_it_stands(line: str) -> None:
    (name,) = imports_of(f"def late():\n    {line}")
    assert not is_sans_io(name)


def test_an_import_for_types_alone_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("if TYPE_CHECKING:\n    from rawws.relay.loop import Loop\n", "utf-8")
    assert imports_of(path.read_text("utf-8")) == {"rawws.relay.loop.Loop"}
