"""The flags about tokens and a backend that decides, and the sources of grants that they ask for."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rawws.access.jwt_tokens import ALGORITHMS, Keys, Rules, read_public_key, read_secret
from rawws.access.source import Source
from rawws.cli.arguments import checked, seconds
from rawws.cli.files import RereadFile, RereadFiles
from rawws.cli.flags import Flag, Value
from rawws.errors import UsageError
from rawws.extras import install_command
from rawws.limits import KIB
from rawws.server.auth_url import AuthBackend
from rawws.server.jwt_source import FetchedKeys, FixedKeys, JwtSource
from rawws.wire.http_url import parse_http_url
from rawws.wire.messages import is_token

_FILE = Value(metavar="FILE")
_URL = Value(checked(parse_http_url), "URL")
_SECONDS = Value(seconds, "SECONDS", "{:g}".format)

_MAX_KEY_FILE_BYTES = 64 * KIB


def _cookie(name: str) -> None:
    if not is_token(name):
        raise UsageError("that can't be the name of a cookie")


TOKEN_FLAGS = (
    Flag(
        "--auth-url",
        _URL,
        "ask this server what each client may do, with the client's cookies, as nginx's `auth_request` does",
        manual="Each connection and room is one GET, with `Rawws-Room` and `Rawws-Action`. 2xx lets the client in; 401 "
        "and 403 are passed on; anything else is 503. See [Let your logins decide](../howto/tokens.md). With "
        "`https://`, the certificate comes from an authority that this machine trusts, or from one in the file that "
        "the variable `SSL_CERT_FILE` names.",
        needs_rooms=True,
    ),
    Flag(
        "--auth-timeout",
        _SECONDS,
        "seconds for the server of `--auth-url` to answer, otherwise the client gets 503",
        own_default=1.0,
        needs_rooms=True,
    ),
    Flag(
        "--auth-cache",
        _SECONDS,
        "seconds for which a grant of `--auth-url` holds for the same request again; `0` to ask each time",
        manual="It helps if many clients connect again at once. A user that has logged out may still get in for as "
        "long.",
        own_default=0.0,
        needs_rooms=True,
    ),
    Flag(
        "--jwt-key",
        _FILE,
        "accept JSON Web Tokens that fit the public key in this file (PEM)",
        manual="The key is one of RSA with 2,048 bits or more, P-256, P-384, P-521 or Ed25519, or a certificate with "
        "one. Requires PyJWT, which is the extra `auth`.",
        alternative="keys of tokens",
        is_reread=True,
        needs_rooms=True,
    ),
    Flag(
        "--jwt-secret-file",
        _FILE,
        "accept JSON Web Tokens that fit the secret in this file, without the line end after it",
        manual="The secret has as many bytes as the algorithm's hash or more: 32 for `HS256`. Requires PyJWT, which is "
        "the extra `auth`.",
        alternative="keys of tokens",
        is_reread=True,
        needs_rooms=True,
    ),
    Flag(
        "--jwt-jwks",
        _URL,
        "accept JSON Web Tokens that fit one of the public keys at this address (a JWK Set)",
        manual="The keys are fetched when the first token comes, then every hour, and for a token with an unknown key "
        "at most once a minute. Requires PyJWT, which is the extra `auth`.",
        alternative="keys of tokens",
        needs_rooms=True,
    ),
    Flag(
        "--jwt-algorithm",
        Value.one_of(ALGORITHMS),
        "the algorithm of all tokens; that in a token is only compared with it",
        shown_default="`HS256` for a secret, that of the key for a key, `RS256` for `--jwt-jwks`",
        needs_rooms=True,
    ),
    Flag(
        "--jwt-audience",
        Value(metavar="TEXT"),
        "the `aud` that tokens must have; without it, a token with an `aud` is refused",
        needs_rooms=True,
    ),
    Flag("--jwt-issuer", Value(metavar="TEXT"), "the `iss` that tokens must have", needs_rooms=True),
    Flag(
        "--jwt-cookie",
        Value(checked(_cookie), "NAME"),
        "take the token from this cookie too, besides `Authorization: Bearer`, `?access_token=` and a subprotocol",
        needs_rooms=True,
    ),
)


def check_token_flags(options: argparse.Namespace) -> None:
    """Raises `UsageError` for flags that don't go together."""
    if options.auth_url is None:
        for name, given in (("--auth-timeout", options.auth_timeout != 1.0), ("--auth-cache", options.auth_cache)):
            if given:
                raise UsageError(f"{name} is for --auth-url; give that too, or leave it out")
    if not options.auth_timeout:
        raise UsageError("--auth-timeout 0 would let nobody in; give the number of seconds to wait for a decision")
    if options.auth_url is not None and 0 < options.open_timeout <= options.auth_timeout:
        raise UsageError(
            f"--auth-timeout {options.auth_timeout:g} is not less than --open-timeout {options.open_timeout:g}, at "
            "which a request is given up; have the former less or the latter more"
        )
    if not _has_keys(options):
        for name in ("algorithm", "audience", "issuer", "cookie"):
            if getattr(options, f"jwt_{name}") is not None:
                keys = "--jwt-key, --jwt-secret-file or --jwt-jwks"
                raise UsageError(f"--jwt-{name} has no effect without the keys of tokens; give {keys} too")


def _has_keys(options: argparse.Namespace) -> bool:
    return any(given is not None for given in (options.jwt_key, options.jwt_secret_file, options.jwt_jwks))


class _Key(NamedTuple):
    """The content of a key's file: the key, and the requirements for tokens, with the algorithm that it is for."""

    rules: Rules
    keys: Keys


class TokenSources:
    """The sources of grants that the flags ask for: tokens, and a backend that decides about everybody."""

    def __init__(self, options: argparse.Namespace, files: RereadFiles) -> None:
        """Raises `UsageError` for files and addresses that can't be used, and without PyJWT if that is needed."""
        self._close: list[Callable[[], None]] = []
        self._files = files
        self.tokens: Source | None = self._make_tokens(options) if _has_keys(options) else None
        self.backend: Source | None = None
        if options.auth_url is not None:
            backend = AuthBackend(options.auth_url, timeout_s=options.auth_timeout, cache_s=options.auth_cache)
            self._close.append(backend.close)
            self.backend = backend

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Close connections to other servers at the end of the block."""
        try:
            yield
        finally:
            for close in self._close:
                close()

    def _make_tokens(self, options: argparse.Namespace) -> JwtSource:
        try:
            import cryptography  # noqa: F401 - it is imported when the first key is read
            import jwt  # noqa: F401
        except ImportError:
            raise UsageError(f"--jwt-... needs PyJWT, which isn't installed: {install_command('pyjwt')}") from None
        if options.jwt_jwks is not None:
            return self._make_fetching_source(options)
        file = self._files.add(_key_file(options))
        source = JwtSource(file.content.rules, FixedKeys(file.content.keys), cookie=options.jwt_cookie)
        file.use = lambda content: source.use(content.rules, FixedKeys(content.keys))
        return source

    def _make_fetching_source(self, options: argparse.Namespace) -> JwtSource:
        algorithm = options.jwt_algorithm or "RS256"
        if algorithm.startswith("HS"):
            raise UsageError(f"--jwt-jwks has public keys, and --jwt-algorithm {algorithm} is for a secret")
        keys = FetchedKeys(options.jwt_jwks, algorithm)
        self._close.append(keys.close)
        return JwtSource(_rules_with(algorithm, options), keys, cookie=options.jwt_cookie)


def _key_file(options: argparse.Namespace) -> RereadFile[_Key]:
    """Return the file of ``--jwt-key`` or ``--jwt-secret-file``. Raises `UsageError`."""
    flag, path = "--jwt-key", options.jwt_key
    read_key: Callable[[bytes, str | None], tuple[Keys, str]] = read_public_key
    if path is None:
        flag, path, read_key = "--jwt-secret-file", options.jwt_secret_file, read_secret

    def read(data: bytes) -> _Key:
        keys, algorithm = read_key(data, options.jwt_algorithm)
        return _Key(_rules_with(algorithm, options), keys)

    return RereadFile(flag, path, read, max_bytes=_MAX_KEY_FILE_BYTES)


def _rules_with(algorithm: str, options: argparse.Namespace) -> Rules:
    return Rules(algorithm, options.jwt_audience, options.jwt_issuer)
