"""The README's picture of the layers is true: every module is in it, and no import points up."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PICTURE = (ROOT / "README.md").read_text("utf-8").partition("## How it is built")[2].split("```")[1]
EVERYWHERE = {"errors", "limits", "version"}  # what all may import
APART = {"__init__", "__main__", "examples", "py"}


def layers() -> dict[str, int]:
    """Return each part of the package with its line in the picture, from the top."""
    found = {}
    for number, line in enumerate(PICTURE.splitlines()):
        if line and not line.startswith(("text", "  ")):
            for name in re.findall(r"([a-z_]+)(?:\.py|/)", line[:38]):
                found[name] = number
        if "asgi_app.py" in line:  # beside those of its line
            found["asgi_app"] = found["testing"] = number
    return found


LAYERS = layers()
MODULES = [path for path in (ROOT / "rawws").rglob("*.py") if "wire" not in path.parts and "examples" not in path.parts]


def part_of(path: Path) -> str:
    return path.relative_to(ROOT / "rawws").parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Return which parts a module imports when it is imported itself."""
    names = []
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return {name.split(".")[1] for name in names if name.startswith("rawws.")}


def test_every_part_is_in_the_picture() -> None:
    assert {part_of(path) for path in MODULES} - set(LAYERS) == EVERYWHERE | {"__init__", "__main__"}
    assert set(LAYERS) - {part_of(path) for path in MODULES} == {"wire"}
    named = set(re.findall(r"([a-z_0-9]+)\.py", PICTURE))
    assert {path.stem for path in (ROOT / "rawws" / "wire").glob("*.py")} - named == {"__init__", "role"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_import_points_up(path: Path) -> None:
    part = part_of(path)
    if part in APART:
        return
    lowest = LAYERS.get(part, len(PICTURE))
    up = {name for name in imported(path) if name in LAYERS and LAYERS[name] < lowest}
    assert up == set()
