"""The page's files, and the responses with them."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from importlib.resources.abc import Traversable

from rawws.page.access import HOME
from rawws.wire.messages import NO_STORE, Request, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# No content of other origins and nothing inline, but WebSockets to anywhere, since the page exists for these.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self' ws: wss:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_ON_EACH = (
    ("Content-Security-Policy", _POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cache-Control", "private, no-cache"),  # revalidated each time, usually with a 304
    ("Vary", "Cookie"),
)


class Assets:
    """All files, which are few and small, by path."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, str, str]] = {}
        self._read(files(__package__).joinpath("static"))

    def _read(self, folder: Traversable, path: str = "") -> None:
        for file in folder.iterdir():
            suffix = file.name.rpartition(".")[2]
            if file.is_dir():
                self._read(file, f"{path}{file.name}/")
            elif suffix in _TYPES:
                content = file.read_bytes()
                tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
                self._files[path + file.name] = (content, _TYPES[suffix], tag)

    def answer(self, request: Request, path: str) -> Response:
        """Return the answer to a request for a path at or below `HOME`."""
        if path == HOME.removesuffix("/"):
            return Response(308, b"", [("Location", HOME), NO_STORE])
        if request.method not in ("GET", "HEAD"):
            return Response(405, "The page is read-only; use GET or HEAD.\n", [("Allow", "GET, HEAD"), NO_STORE])
        found = self._files.get(path.removeprefix(HOME) or "index.html")
        if found is None:
            return Response(404, f"There is no file of the page at {path}.\n", [NO_STORE])
        content, content_type, tag = found
        if tag in request.headers.get_all("If-None-Match"):
            return Response(304, b"", [("ETag", tag), *_ON_EACH])
        return Response(200, content, [("Content-Type", content_type), ("ETag", tag), *_ON_EACH])
