"""A hint at a missing package installs it, for the Python that gave the hint."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from rawws.cli import connect
from rawws.extras import install_command
from rawws.tools.console import Screen
from tests.serving.machine import PATIENCE_S

CHECKOUT = Path(__file__).resolve().parent.parent
# The packages of the core, without those of any extra.
CORE = ["h11", "wsproto", "trio", "attr", "attrs", "sortedcontainers", "idna", "outcome", "sniffio"]
BACKPLANE = ("--backplane", "redis://localhost")


def write_wheel(folder: Path, distribution: str, version: str) -> None:
    """Write a wheel of one empty package (the binary distribution format)."""
    module = distribution.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": b"",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(content)}\n"
    files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
    with zipfile.ZipFile(folder / f"{module}-{version}-py3-none-any.whl", "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Return a folder of wheels in place of an index: no test asks a real one."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "coredis", "6.9.1")
    write_wheel(folder, "coredis", "6.8")  # older than rawws takes
    write_wheel(folder, "prometheus-client", "0.21")
    return folder


@pytest.fixture
def environment(tmp_path: Path, index: Path) -> dict[str, str]:
    """Return the variables of a shell in which rawws and its core can be imported from a checkout, uninstalled."""
    core = tmp_path / "core"
    core.mkdir()
    installed = Path(sysconfig.get_path("purelib"))
    for name in CORE:
        if (installed / name).exists():
            (core / name).symlink_to(installed / name)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "PYTHON"))}
    return kept | {
        "PATH": "/usr/bin:/bin",  # without uv and pipx
        "PYTHONPATH": f"{CHECKOUT}:{core}",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(index),
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_CONFIG_FILE": os.devnull,
    }


@pytest.mark.thorough
@pytest.mark.patience(3 * PATIENCE_S)
def test_the_hint_is_followed_in_an_environment_without_pip_and_then_with_it(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    venv.create(tmp_path / "an environment", with_pip=False)
    python = str(tmp_path / "an environment" / "bin" / "python")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [python, "-m", "rawws", "serve", "--port", "0", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)

    def follow(sentence: str) -> None:
        command = sentence.strip().partition("isn't installed: ")[2]
        subprocess.run(command, shell=True, check=True, env=environment, capture_output=True, timeout=2 * PATIENCE_S)

    def version_of(distribution: str) -> str:
        code = f"from importlib import metadata; print(metadata.version({distribution!r}))"
        return subprocess.check_output([python, "-c", code], env=environment, text=True, timeout=PATIENCE_S).strip()

    ended = run("--metrics")
    assert ended.returncode == 2
    assert ended.stderr.startswith("rawws: --metrics needs prometheus-client, which isn't installed: ")
    assert "ensurepip" in ended.stderr
    follow(ended.stderr)
    assert version_of("prometheus-client") == "0.21"

    ended = run(*BACKPLANE)
    assert ended.returncode == 2
    assert "ensurepip" not in ended.stderr
    follow(ended.stderr)
    assert version_of("coredis") == "6.9.1"


@pytest.mark.parametrize(
    ("package", "extra"), [("prompt_toolkit", "cli"), ("coredis", "redis"), ("prometheus-client", "metrics")]
)
def test_the_requirement_is_the_one_that_is_declared(package: str, extra: str) -> None:
    declared = [each for each in metadata.requires("rawws") or () if f"extra == '{extra}'" in each.replace('"', "'")]
    assert len(declared) == 1
    assert install_command(package).endswith(f" '{declared[0].partition(';')[0].strip()}'")


def test_a_checkout_that_is_not_installed_has_the_same_requirements(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = install_command("coredis", "numpy")

    def find_nothing(_: str) -> list[str]:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", find_nothing)
    assert install_command("coredis", "numpy") == installed


def test_an_undeclared_package_is_named_without_a_version() -> None:
    assert install_command("something").endswith(" something")


@pytest.mark.parametrize("marker", ["pipx_metadata.json", None])
def test_an_environment_of_pipx_or_uv_is_installed_into_by_that(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, marker: str | None
) -> None:
    for name in ("pipx", "uv"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    prefix = tmp_path / "rawws"
    prefix.mkdir()
    if marker is not None:
        (prefix / marker).touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "prefix", str(prefix))
    monkeypatch.setattr(sys, "executable", "/somewhere/bin/python")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    begins = "pipx inject rawws" if marker else "uv pip install --python /somewhere/bin/python"
    assert install_command("coredis") == f"{begins} 'coredis>=6.9'"


def test_no_hint_installs_rawws_itself_from_an_index() -> None:
    for path in (CHECKOUT / "rawws").rglob("*.py"):
        text = path.read_text("utf-8")
        assert "install 'rawws" not in text, path
        assert "install rawws" not in text, path


def test_a_terminal_without_line_editing_gets_a_hint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    monkeypatch.setattr(sys, "stdin", FakeTerminal())
    monkeypatch.setattr(sys, "stdout", FakeTerminal())
    assert type(connect._open_console()) is Screen
    command = install_command("prompt_toolkit")
    assert capsys.readouterr().err == f"rawws: line editing and a history need prompt_toolkit: {command}\n"


class FakeTerminal(io.StringIO):
    def isatty(self) -> bool:
        return True
