"""JSON Web Tokens as a source of grants: with a key from a file, or with a set of keys that is fetched."""

from __future__ import annotations

import logging
import ssl as ssl_module
import time
from typing import Protocol

import trio

from rawws import logs
from rawws.access.grant import Action, Grant
from rawws.access.jwt_tokens import Keys, KeySet, Rules, find_jwt, invalid, kid_of
from rawws.errors import RETRY_SOON, RawwsError, Refusal, UsageError, sentence_of
from rawws.limits import KIB
from rawws.net.http_get import HttpServer
from rawws.wire.http_url import parse_http_url
from rawws.wire.messages import Request
from rawws.wire.trace import FAULT, shorten

# A set of keys has some kilobytes, and is fetched while clients wait.
MAX_KEY_SET_BYTES = 256 * KIB
FETCH_TIMEOUT_S = 5.0
# Nobody can have the set fetched more often, whatever keys the tokens name (RFC 8725 §3.10 warns of such requests).
LEAST_FETCH_INTERVAL_S = 60.0
# The same while there are no keys at all, since then nobody gets in.
LEAST_RETRY_INTERVAL_S = 5.0
# After this time, the next token has the set fetched again, so that a withdrawn key doesn't stay valid.
MAX_KEY_AGE_S = 3600.0

NO_KEYS = Refusal(
    503,
    "no_keys",
    "The keys that tokens are checked with are not available at present; try again soon.",
    RETRY_SOON,
    hint="see the last log line about --jwt-jwks",
)


class KeySource(Protocol):
    """The keys of the configuration."""

    async def keys_for(self, kid: str | None) -> Keys | None:
        """Return the keys to look a name up in; None if there are none at present."""


class FixedKeys:
    """Keys that are read from a file."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def keys_for(self, kid: str | None) -> Keys | None:
        return self._keys


class FetchedKeys:
    """The key set at an address. It is fetched when it is first needed, for an unknown name, and every hour.

    Requests wait for it whose key isn't known. The hourly fetch holds up the one that began it alone.
    """

    def __init__(self, url: str, algorithm: str, *, ssl: ssl_module.SSLContext | None = None) -> None:
        """Raises `UsageError` for an address that can't be asked."""
        self._server = HttpServer(parse_http_url(url), max_body_bytes=MAX_KEY_SET_BYTES, ssl=ssl)
        self._algorithm = algorithm
        self._keys: KeySet | None = None
        self._fetched_at = float("-inf")
        self._fetching = trio.Lock()

    async def keys_for(self, kid: str | None) -> Keys | None:
        if self._is_due(kid) and not (self._fetching.locked() and self._knows(kid)):
            async with self._fetching:
                if self._is_due(kid):  # otherwise another request has fetched it meanwhile
                    try:
                        await self._fetch()
                    finally:
                        self._fetched_at = trio.current_time()
        return self._keys

    def _is_due(self, kid: str | None) -> bool:
        age_s = trio.current_time() - self._fetched_at
        if self._keys is None:
            return age_s >= LEAST_RETRY_INTERVAL_S
        return age_s >= MAX_KEY_AGE_S or (age_s >= LEAST_FETCH_INTERVAL_S and not self._knows(kid))

    def _knows(self, kid: str | None) -> bool:
        return self._keys is not None and self._keys.find(kid) is not None

    async def _fetch(self) -> None:
        """Fetch the set. If that fails, it is logged, and the keys stay as they are."""
        why = f"no whole answer came within {FETCH_TIMEOUT_S:g} s"
        with trio.move_on_after(FETCH_TIMEOUT_S):
            try:
                response = await self._server.get([("Accept", "application/json")])
                if response.status == 200:
                    self._keys = KeySet(response.body, self._algorithm)
                    return
                why = f"the answer has the status {response.status}"
            except (RawwsError, OSError, UsageError) as error:
                why = sentence_of(error)
        message = f"the keys of --jwt-jwks could not be fetched: {shorten(why)}"
        logs.server_line(logging.WARNING, FAULT, message)

    def close(self) -> None:
        """Close the connection to the server."""
        self._server.close()


class JwtSource:
    """Tokens that are checked here, without asking anybody."""

    def __init__(self, rules: Rules, keys: KeySource, *, cookie: str | None = None) -> None:
        self._cookie = cookie
        self.use(rules, keys)

    def use(self, rules: Rules, keys: KeySource) -> None:
        """Check tokens by these rules and with these keys from now on."""
        self._rules = rules
        self._keys = keys

    async def grant(self, request: Request, room: str, action: Action) -> Grant | Refusal | None:
        """Return the grant in a token's claims, or why the token can't be used; None for a request without a JWT."""
        token = find_jwt(request, self._cookie)
        if not isinstance(token, str):
            return token
        kid = kid_of(token)
        if isinstance(kid, Refusal):
            return kid
        rules, source = self._rules, self._keys  # others may be in use after the wait
        keys = await source.keys_for(kid)
        if keys is None:
            return NO_KEYS
        key = keys.find(kid)
        if key is None:
            return invalid("its key is not known here")
        return rules.read(token, key, time.time())
