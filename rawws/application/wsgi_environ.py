"""The environment of a WSGI application (PEP 3333), made from the scope of an ASGI one."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, BinaryIO
from urllib.parse import unquote_to_bytes
from wsgiref.util import FileWrapper

from rawws.application.spec import Scope

Environ = dict[str, Any]

# "HTTP_PROXY" is a variable that programs take for their own settings (httpoxy, CVE-2016-5385).
_DROPPED = {b"proxy"}
# Fields that have no HTTP_ before their name in the environment.
_BARE = {b"content-type": "CONTENT_TYPE", b"content-length": "CONTENT_LENGTH"}


def make_environ(scope: Scope, body: BinaryIO) -> Environ:
    """Return the environment of one request, whose body is a stream that ends with it.

    Text in it is bytes as Latin-1, as PEP 3333 has it. ``rawws`` is the server's hub, if there is one.
    """
    host, port = scope["server"] or ("localhost", None)
    client_host, client_port = scope["client"] or ("", "")
    environ: Environ = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": scope["root_path"].encode().decode("latin-1"),
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "SERVER_NAME": host,
        "SERVER_PORT": "" if port is None else str(port),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client_host,
        "REMOTE_PORT": str(client_port),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope["scheme"],
        "wsgi.input": body,
        "wsgi.input_terminated": True,  # it ends with the body, also if that has no length
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,  # there may be workers
        "wsgi.run_once": False,
        "wsgi.file_wrapper": FileWrapper,
    }
    if (hub := scope["state"].get("rawws")) is not None:  # as in the state of an ASGI application
        environ["rawws"] = hub
    _add_fields(environ, scope["headers"])
    return environ


def _add_fields(environ: Environ, headers: Iterable[tuple[bytes, bytes]]) -> None:
    for name, value in headers:
        # In the environment, X_User would be the same as X-User, which a proxy in front may have checked.
        if b"_" in name or name in _DROPPED:
            continue
        key = _BARE.get(name) or "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        text = value.decode("latin-1")
        if key in environ:
            between = "; " if name == b"cookie" else ", "  # RFC 6265 §5.4, RFC 9110 §5.3
            text = environ[key] + between + text
        environ[key] = text
