"""The sources of grants of ``rawws serve``, and the files that it reads secrets and rules from."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from rawws import logs
from rawws.access.access_file import AccessFile
from rawws.access.grant import Action, Grant
from rawws.access.source import Source, Sources
from rawws.cli.token_sources import TokenSources
from rawws.errors import Refusal, UsageError
from rawws.limits import KIB, MIB
from rawws.wire.messages import Request
from rawws.wire.trace import FAULT, STATE

MAX_FILE_BYTES = 4 * MIB
MAX_SECRET_BYTES = 4 * KIB


class AccessRules:
    """The source that ``--access`` names: a file, which can be read anew."""

    def __init__(self, path: str) -> None:
        """Raises `UsageError` for a file that can't be read, and for a line that is wrong."""
        self._path = path
        self._file = self._read()

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        return await self._file.grant(request, room, action)

    def reload(self) -> None:
        """Read the file anew. If it can't be used, the rules from before stay in force."""
        try:
            if Path(self._path).is_fifo():  # opening it would wait, and the server with it
                raise UsageError(f"--access {self._path} is a pipe, which can be read only once; give a file")
            self._file = self._read()
        except UsageError as error:
            logs.server_line(logging.ERROR, FAULT, f"{error}; the rules from before stay in force")
        else:
            message = f"--access {self._path} is read anew, for requests from now on: {self._file.summary}"
            logs.server_line(logging.INFO, STATE, message)

    def _read(self) -> AccessFile:
        text = read_file("--access", self._path, MAX_FILE_BYTES)
        try:
            return AccessFile(text)
        except UsageError as error:
            raise UsageError(f"--access {self._path}, {error}") from None


def make_rules(options: argparse.Namespace) -> AccessRules | None:
    """Return the rules of ``--access``, if it is given. Raises `UsageError`."""
    return None if options.access is None else AccessRules(options.access)


def combine(rules: AccessRules | None, tokens: TokenSources | None = None, own: Source | None = None) -> Sources | None:
    """Return all sources as one, in the order in which they are asked; None if there are none.

    A source passes on what isn't for it: a token of another kind, or that it doesn't know, and, unless the rules have a
    line about anonymous clients, a request without a token. The backend comes last, since it decides about everything.
    The program's ``own`` client comes first; it has a grant only where others need one.
    """
    by_token, backend = (None, None) if tokens is None else (tokens.tokens, tokens.backend)
    sources: list[Source] = [source for source in (by_token, rules, backend) if source is not None]
    if not sources:
        return None
    return Sources(sources if own is None else [own, *sources])


def read_publish_token(options: argparse.Namespace) -> str | None:
    """Return the token of ``--publish-token`` or ``--publish-token-file``. Raises `UsageError`."""
    if options.publish_token_file is None:
        token: str | None = options.publish_token
        return token
    if options.publish_token is not None:
        raise UsageError("--publish-token and --publish-token-file are two tokens; remove one of them")
    return read_secret("--publish-token-file", options.publish_token_file)


def read_secret(flag: str, path: str) -> str:
    """Return the secret that a file has on its only line. Raises `UsageError`, which doesn't repeat the secret."""
    secret = read_file(flag, path, MAX_SECRET_BYTES).strip()
    if not secret or len(secret.split()) > 1:
        raise UsageError(f"{flag} {path} {'holds several words' if secret else 'is empty'}; it holds a secret alone")
    return secret


def read_file(flag: str, path: str, max_bytes: int) -> str:
    """Return the text of a file that a flag names. Raises `UsageError`."""
    try:
        with open(path, "rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise UsageError(f"{flag} {path} can't be read: {error.strerror or error}") from None
    if len(data) > max_bytes:
        raise UsageError(f"{flag} {path} has over {max_bytes} bytes")
    try:
        return data.decode("utf-8-sig")  # some editors on Windows begin a file with a byte order mark
    except UnicodeDecodeError:
        raise UsageError(f"{flag} {path} is not a text in UTF-8") from None
