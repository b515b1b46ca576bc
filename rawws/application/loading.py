"""Finding an application by its name, and telling its interface: ASGI or WSGI."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from rawws.application.spec import Application
from rawws.application.wsgi_call import WsgiApplication
from rawws.callables import check_async, check_function, name_of, takes
from rawws.errors import UsageError

AUTO = "auto"
INTERFACES = (AUTO, "asgi", "wsgi")


def interface_of(app: object) -> str:
    """Return ``wsgi`` for what takes two arguments and not three, as Flask's and Django's do; else ``asgi``."""
    return "wsgi" if callable(app) and takes(app, 2) and not takes(app, 3) else "asgi"


def check_asgi(what: str, app: object, factory: str = "call it, as in asgi(make_app())") -> None:
    """Raise `UsageError` unless this may be an ASGI application; ``factory`` is advice for what makes one."""
    if not callable(app) and not inspect.iscoroutine(app):
        raise UsageError(f"{what} is of type {type(app).__name__}; an ASGI application must be callable")
    hints = {
        0: f"; if it makes the application, {factory}",
        1: "; a function of the request is given to rawws.serve as http itself",
        2: "; a WSGI application is given as rawws.wsgi(app), or with --app-interface wsgi",
    }
    check_async(what, app, "scope", "receive", "send", hints=hints)


def check_wsgi(what: str, app: object, factory: str = "call it, as in wsgi(make_app())") -> None:
    """Raise `UsageError` unless this may be a WSGI application; ``factory`` is advice for what makes one."""
    hints = {
        0: f"; if it makes the application, {factory}",
        3: "; an ASGI application is given as rawws.asgi(app), or with --app-interface asgi",
    }
    if not callable(app) or not takes(app, 2):  # a generator of two arguments is one, too
        check_function(what, app, "environ", "start_response", hints=hints)
    if inspect.iscoroutinefunction(app) or inspect.isasyncgenfunction(app):
        raise UsageError(f"{what} is async, and a WSGI application is a plain function")


def load_app(name: str, interface: str = AUTO) -> Application | WsgiApplication:
    """Return the application that ``module:attribute`` names, or ``module:function()`` makes.

    The module may lie in the current directory. Raises `UsageError` if there is no such application, or if it has
    another interface; what the module itself raises when it is imported comes as it is.
    """
    found = _find(name)
    factory = f"give '{name}()'"
    if (interface_of(found) if interface == AUTO else interface) == "wsgi":
        check_wsgi(repr(name), found, factory)
    else:
        check_asgi(repr(name), found, factory)
    application: Application | WsgiApplication = found
    return application


def _find(name: str) -> Any:
    module_name, _, attributes = name.partition(":")
    is_factory = attributes.endswith("()")
    path = attributes.removesuffix("()").split(".")
    if not all(part.isidentifier() for part in (*module_name.split("."), *path)):
        raise UsageError(
            f"{name!r} doesn't name an application; give module:attribute, such as main:app, or module:function() if a "
            "function makes it"
        )
    # As "python -m" does: what lies in the current directory can be imported.
    if (here := os.getcwd()) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # one that the application wants to import
        raise UsageError(
            f"there is no module {error.name!r}, which {name!r} names, in the current directory or among the "
            "installed packages"
        ) from None
    for part in path:
        try:
            found = getattr(found, part)
        except AttributeError:
            raise UsageError(f"the module {module_name!r} has no {'.'.join(path)!r}, which {name!r} names") from None
    return _call_factory(name, found) if is_factory and callable(found) else found


def _call_factory(name: str, factory: Callable[[], object]) -> object:
    """Return what a factory makes. Raises `UsageError` for one that needs arguments."""
    if not takes(factory, 0):
        raise UsageError(
            f"{name!r} is a call without arguments, which {name_of(factory)} doesn't take; if it is the application "
            f"itself, give {name.removesuffix('()')!r}"
        )
    return factory()
