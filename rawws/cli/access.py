"""The sources of grants of ``rawws serve``, and the token of an operator."""

from __future__ import annotations

import argparse
import logging

import trio

from rawws import logs
from rawws.access.access_file import AccessFile
from rawws.access.grant import Action, Grant
from rawws.access.shared_token import SharedToken
from rawws.access.source import Source, Sources
from rawws.cli.files import RereadFile, RereadFiles, decode
from rawws.cli.token_sources import TokenSources
from rawws.errors import Refusal, UsageError
from rawws.hub.regranting import regrant_all
from rawws.limits import MIB
from rawws.server.operators import check_admin_token
from rawws.wire.messages import Request
from rawws.wire.trace import STATE

MAX_FILE_BYTES = 4 * MIB


class AccessRules(RereadFile[AccessFile]):
    """The source that ``--access`` names: a file, which can be read anew."""

    def __init__(self, path: str) -> None:
        """Raises `UsageError` for a file that can't be read, and for a line that is wrong."""
        super().__init__(
            "--access", path, lambda data: AccessFile(decode(data), self._in_force), max_bytes=MAX_FILE_BYTES
        )

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        return await self.content.grant(request, room, action)

    async def _parse_again(self, data: bytes) -> AccessFile:
        """Read the rules in steps, between which others are served: ten thousand take a tenth of a second."""
        try:
            for step in AccessFile.read_in_steps(decode(data), self._in_force):
                file = step
                await trio.lowlevel.checkpoint()
        except UsageError as error:
            raise self._named(error) from None
        return file

    def _in_force(self) -> AccessFile:
        return self.content

    async def _report(self) -> None:
        """Log that the rules hold from now on, and apply them to the connections that are open."""
        logs.server_line(logging.INFO, STATE, f"{self.name} is read anew: {self.content.summary}")
        closed, changed = await regrant_all()
        if closed or changed:
            message = f"open connections that the new rules have closed: {closed}, and given other rights: {changed}"
            logs.server_line(logging.INFO, STATE, message)


def read_rules(options: argparse.Namespace, files: RereadFiles) -> AccessRules | None:
    """Return the rules of ``--access``, if it is given. Raises `UsageError`."""
    return None if options.access is None else files.add(AccessRules(options.access))


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


def read_publish_token(options: argparse.Namespace, files: RereadFiles) -> SharedToken | None:
    """Return the token of ``--publish-token`` or ``--publish-token-file``. Raises `UsageError`."""
    if options.publish_token_file is None:
        return None if options.publish_token is None else SharedToken(options.publish_token)
    if options.publish_token is not None:
        raise UsageError("--publish-token and --publish-token-file are two tokens; remove one of them")
    return files.token("--publish-token-file", options.publish_token_file)


def read_admin_token(options: argparse.Namespace, files: RereadFiles) -> SharedToken | None:
    """Return the token of ``--admin-token-file``, if it is given. Raises `UsageError`."""
    path = options.admin_token_file
    return None if path is None else files.token("--admin-token-file", path, check_admin_token)
