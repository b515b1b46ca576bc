"""The choice of the loop for an application, by what its modules show."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import rawws
from rawws.application import choice
from rawws.application.choice import LoopChoice, find_trio
from rawws.errors import UsageError
from tests.serving.machine import PATIENCE_S

Make = Callable[..., ModuleType]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Return a function that imports a module of a user's own, with this source."""
    made: list[str] = []
    monkeypatch.syspath_prepend(tmp_path)

    def make(source: str, name: str = "users_site") -> ModuleType:
        (tmp_path / f"{name}.py").write_text(source, "utf-8")
        made.append(name)
        return __import__(name)

    yield make
    for name in made:
        sys.modules.pop(name, None)


PLAIN = "async def app(scope, receive, send): pass\n"


def names(loop: str, *roots: object) -> list[str]:
    return [each.name for each in LoopChoice(loop, roots).loops()]


@pytest.mark.parametrize(
    "source",
    [
        *("import trio\n", "import trio as t\n", "from trio import sleep\n", "from trio.lowlevel import checkpoint\n"),
        "import trio_websocket\n",
    ],
)
def test_a_module_that_uses_trio_has_its_application_run_on_trio(make: Make, source: str) -> None:
    module = make(source + PLAIN)
    assert names("auto", module.app) == ["trio", "asyncio"]
    assert LoopChoice("auto", [module.app]).reason == "users_site uses trio"


@pytest.mark.parametrize(
    "source",
    [
        *("", "import asyncio\n", "import anyio\n", "import starlette.applications, fastapi\n"),
        "import rawws\nhub = rawws.Hub()\n",  # its rooms take calls from any thread
    ],
)
def test_any_other_application_runs_on_asyncio(make: Make, source: str) -> None:
    """Starlette and anyio run on both, and have a module that imports trio where it is needed."""
    module = make(source + PLAIN)
    assert names("auto", module.app) == ["asyncio", "trio"]
    assert LoopChoice("auto", [module.app]).reason == "no trio is seen in its modules"


def test_modules_that_the_application_imports_are_searched(make: Make) -> None:
    make("import trio\n", "users_database")
    make("import users_database as d\ndef query(): return d\n", "users_queries")
    module = make("from users_queries import query\n" + PLAIN)
    assert find_trio([module.app]) == "users_database"


def test_an_object_belongs_to_the_module_of_its_class(make: Make) -> None:
    module = make("import trio\nclass Site:\n    async def __call__(self, scope, receive, send): pass\n")
    assert find_trio([module.Site()]) == "users_site"


def test_a_module_may_be_a_root(make: Make) -> None:
    """The command line knows it, also where the application is an object of a framework."""
    assert find_trio([make("import trio\n")]) == "users_site"


def test_an_application_of_a_package_for_trio_needs_no_search() -> None:
    class App:
        __module__ = "quart_trio.app"

        async def __call__(self, scope: object, receive: object, send: object) -> None: ...

    assert find_trio([App()]) == "quart_trio.app"


def test_an_object_whose_attributes_raise_is_passed_over(make: Make) -> None:
    """Such as Flask's request, outside of a request."""
    source = "class Proxy:\n    def __getattribute__(self, name): raise RuntimeError('outside')\nproxy = Proxy()\n"
    assert find_trio([make(source + PLAIN).app]) == ""


def test_the_search_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    make("import trio\n", "users_database")
    module = make("import users_database\n" + PLAIN)
    assert find_trio([module.app]) == "users_database"
    monkeypatch.setattr(choice, "MAX_MODULES", 1)
    assert find_trio([module.app]) == ""


@pytest.mark.parametrize("name", ["asyncio", "uvloop", "trio"])
def test_a_loop_that_is_asked_for_is_the_only_one(name: str) -> None:
    pytest.importorskip("uvloop")
    assert names(name) == [name]
    assert LoopChoice(name, []).reason == ""


def test_a_loop_that_does_not_exist_is_one_sentence() -> None:
    with pytest.raises(UsageError, match=r"^there is no loop 'tokio' for an application; give auto, asyncio, uvloop"):
        rawws.asgi(_app, loop="tokio")  # type: ignore[arg-type]


def test_uvloop_that_is_not_installed_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    with pytest.raises(UsageError, match=r"^uvloop isn't installed; install it with: .*uvloop"):
        rawws.asgi(_app, loop="uvloop")


def test_a_program_without_such_an_application_does_not_wait_for_asyncio_to_be_imported() -> None:
    source = "import sys, rawws; sys.exit('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", source], timeout=PATIENCE_S).returncode == 0


async def _app(*_: object) -> None:
    await asyncio.sleep(0)
