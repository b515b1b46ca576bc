"""Shell commands that install the packages which optional parts of rawws need.

A command installs the package itself, not an extra of rawws: rawws may come from a checkout, and a public index may
have another project under that name.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
import shutil
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

_PYPROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"  # in a checkout that isn't installed
_NAME = re.compile(r"[A-Za-z0-9._-]+")  # at the beginning of a requirement (PEP 508)


def install_command(*packages: str) -> str:
    """Return the shell command that installs these packages for the Python that runs this program.

    The versions are those that rawws declares in its extras.
    """
    return " ".join([*_installer(), *(shlex.quote(_requirement_of(package)) for package in packages)])


def _requirement_of(package: str) -> str:
    wanted = _normalize(package)
    for requirement in _declared():
        name = _NAME.match(requirement)
        if name is not None and _normalize(name[0]) == wanted:
            return requirement
    return package


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()  # PEP 503


def _declared() -> Iterator[str]:
    """Yield the requirements in the metadata of the installed rawws, or else those of its checkout."""
    try:
        requires = metadata.requires("rawws")
    except metadata.PackageNotFoundError:
        requires = None
    for requirement in requires or ():
        yield requirement.partition(";")[0].strip()
    if requires is None and _PYPROJECT.exists():
        project = tomllib.loads(_PYPROJECT.read_text("utf-8"))["project"]
        for extra in project["optional-dependencies"].values():
            yield from extra


def _installer() -> list[str]:
    """Return the beginning of the command, for this kind of environment."""
    prefix = Path(sys.prefix)
    if (prefix / "pipx_metadata.json").exists() and shutil.which("pipx"):
        return ["pipx", "inject", shlex.quote(prefix.name)]
    python = shlex.quote(_python())
    if importlib.util.find_spec("pip") is not None:
        pip = [python, "-m", "pip", "install"]
        return [*pip, "--break-system-packages"] if _is_system_python() else pip
    if shutil.which("uv"):  # its environments have no pip
        uv = ["uv", "pip", "install", "--python", python]
        return [*uv, "--break-system-packages"] if _is_system_python() else uv
    return [python, "-m", "ensurepip", "&&", python, "-m", "pip", "install"]


def _python() -> str:
    """Return the command by which a shell runs the Python of this program."""
    for name in ("python", "python3"):
        found = shutil.which(name)
        # The path decides, not the file: in a virtual environment, python is a link to another environment's file.
        if found is not None and Path(found) == Path(sys.executable):
            return name
    return sys.executable or "python3"


def _is_system_python() -> bool:
    """Say whether the operating system manages this Python (PEP 668), so that pip needs --break-system-packages.

    A virtual environment is never managed so.
    """
    marker = Path(sysconfig.get_path("stdlib"), "EXTERNALLY-MANAGED")
    return sys.prefix == sys.base_prefix and marker.exists()
