"""JSON Web Tokens (RFC 7519) as grants: finding the token, checking it, and reading its claims.

The algorithm and the key come from the configuration, and never from the token (RFC 8725 §3.1). PyJWT checks the
signature, the audience and the issuer. The times are checked here, more strictly: PyJWT also takes an ``exp`` that is
a text. A token without an end is refused.

The claims::

    {"sub": "alice", "exp": 1767225600, "rawws": {"read": ["/room/*"], "write": ["/room/a"], "info": {"name": "Alice"}}}

PyJWT is optional, so it is imported when the first rules are made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from rawws.access.credentials import TWO_TOKENS, find_tokens
from rawws.access.grant import LAST_SECOND, Grant
from rawws.access.patterns import Patterns
from rawws.errors import Refusal, UsageError
from rawws.limits import KIB
from rawws.wire.messages import Request

# RFC 8725 §3.1. "none" isn't among them, and those with an "HS" are for secrets alone.
SYMMETRIC = ("HS256", "HS384", "HS512")
ASYMMETRIC = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
ALGORITHMS = (*SYMMETRIC, *ASYMMETRIC)

# A token that fits into a request's head. A larger one is refused before anything of it is decoded.
MAX_TOKEN_BYTES = 8 * KIB
# A token may come this long before its nbf, since clocks differ. Its exp is exact: the grant ends then, whatever the
# connection.
LEEWAY_S = 30
MAX_KID_CHARACTERS = 255
# Keys of a set that are looked at. Large providers have about five.
MAX_KEYS = 100

_LEAST_RSA_BITS = 2048  # NIST SP 800-131A
_BY_CURVE = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
# The members of a JWK that make a public key (RFC 7518 §6, RFC 8037 §2). PyJWT would take a private one too.
_PUBLIC = frozenset({"kty", "crv", "x", "y", "n", "e"})

# RFC 7515 §3.1: three parts in base64url. Any other token may be for another source.
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)


def is_jwt(token: str) -> bool:
    """Say whether a token has the form of a JWT."""
    return _JWT.fullmatch(token) is not None


def invalid(reason: str, hint: str = "") -> Refusal:
    """Return the refusal of a token (RFC 6750 §3.1). Nothing of the token may be in the reason, which is logged."""
    fields = ((b"WWW-Authenticate", b'Bearer realm="rooms", error="invalid_token"'),)
    return Refusal(401, "invalid_token", f"The token can't be used: {reason}.", fields, hint)


def find_jwt(request: Request, cookie: str | None) -> str | Refusal | None:
    """Return the one JWT that a request carries, a refusal if it carries several tokens, or None if it has no JWT."""
    found = find_tokens(request)
    if cookie is not None:
        found = list(dict.fromkeys([*found, *_cookies_of(request, cookie)]))
    if len(found) > 1:
        return TWO_TOKENS
    return found[0] if found and is_jwt(found[0]) else None


def _cookies_of(request: Request, name: str) -> list[str]:
    """Return the values of the cookies of a name: there may be several, for paths and domains (RFC 6265 §5.4)."""
    pairs = (pair.strip().partition("=") for value in request.headers.get_all("Cookie") for pair in value.split(";"))
    return [value.strip('"') for given, _, value in pairs if given == name]


def kid_of(token: str) -> str | Refusal | None:
    """Return the name of the key that a token claims to be signed with, which is unverified; None if it names none.

    The bounds are checked here, before anything is decoded.
    """
    if len(token) > MAX_TOKEN_BYTES:
        return invalid(f"it is longer than {MAX_TOKEN_BYTES} bytes")
    import jwt

    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError, RecursionError):
        return invalid("it is not a proper JWT")
    if "crit" in header:  # RFC 7515 §4.1.11; some versions of PyJWT ignore it
        return invalid("it needs an extension ('crit'), and this server has none")
    kid = header.get("kid")
    if kid is not None and not (isinstance(kid, str) and len(kid) <= MAX_KID_CHARACTERS):
        return invalid("the name of its key is not a text, or too long")
    return kid


@dataclass(frozen=True, slots=True)
class Rules:
    """The requirements for a token, all from the configuration."""

    algorithm: str
    audience: str | None = None
    issuer: str | None = None

    def __post_init__(self) -> None:
        """Raises `UsageError` for an algorithm that isn't accepted."""
        if self.algorithm not in ALGORITHMS:
            raise UsageError(f"there is no algorithm {self.algorithm[:40]!r} here; give {_either(ALGORITHMS)}")

    def read(self, token: str, key: Any, now: float) -> Grant | Refusal:
        """Check a token with a key, and return the grant in its claims. ``now`` is in Unix seconds."""
        import jwt

        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[self.algorithm],
                audience=self.audience,
                issuer=self.issuer,
                options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            return invalid(_explain(error))
        return _read_times(claims, now) or _read_grant(claims)


def _read_times(claims: Mapping[str, Any], now: float) -> Refusal | None:
    """Return why a token isn't valid at this time (RFC 7519 §4.1.4, §4.1.5)."""
    if "exp" not in claims:
        return invalid("it never ends, since it has no exp")
    if not _is_date(claims["exp"]) or not _is_date(claims.get("nbf", 0)):
        return invalid("its exp or nbf is not a number of Unix seconds")
    if now >= claims["exp"]:
        return invalid("it has expired")
    if now + LEEWAY_S < claims.get("nbf", 0):
        return invalid("it isn't valid yet", hint="the clocks of this machine and of the issuer may differ")
    return None


def _is_date(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LAST_SECOND


def _read_grant(claims: Mapping[str, Any]) -> Grant | Refusal:
    given = claims.get("rawws", {})
    if not isinstance(given, dict):
        return invalid("its claim 'rawws' is not an object")
    rooms = {name: given.get(name, []) for name in ("read", "write")}
    if not all(isinstance(patterns, list) for patterns in rooms.values()):
        return invalid("'read' and 'write' in its claim 'rawws' are not lists")
    try:
        return Grant(
            claims.get("sub"),
            Patterns(rooms["read"]),
            Patterns(rooms["write"]),
            expires_at=float(claims["exp"]),
            info=given.get("info"),
        )
    except UsageError as error:
        return invalid("its claims are not as this server needs them", hint=str(error))


def _explain(error: Exception) -> str:
    """Return PyJWT's error in words that have nothing of the token in them."""
    import jwt

    match error:
        case jwt.InvalidSignatureError():
            return "its signature doesn't fit the key of this server"
        case jwt.InvalidAlgorithmError():
            return "it isn't signed with the algorithm of this server"
        case jwt.InvalidAudienceError():
            return "it is for another audience"
        case jwt.InvalidIssuerError():
            return "it comes from another issuer"
        case jwt.MissingRequiredClaimError():
            return f"it lacks the claim '{error.claim}'"
        case _:
            return "it is not a proper JWT"


# Keys


class Keys(Protocol):
    """The keys that tokens are checked with."""

    def find(self, kid: str | None) -> Any | None:
        """Return the key that a token names, or that is for a token without a name; None if there is none."""


class OneKey:
    """One key for all tokens, whatever name they give it."""

    def __init__(self, key: Any) -> None:
        self._key = key

    def find(self, kid: str | None) -> Any | None:
        return self._key


class KeySet:
    """The public keys of a JSON Web Key Set (RFC 7517) by their names.

    A name is looked up among these and nowhere else: it is neither a path nor an address.
    """

    def __init__(self, data: bytes, algorithm: str) -> None:
        """Raises `UsageError` if there is no key for the algorithm. Keys for other algorithms are passed over."""
        try:
            given = json.loads(data)["keys"]
        except (ValueError, KeyError, TypeError, RecursionError):
            raise UsageError('it is not a JSON Web Key Set, as in {"keys": [...]}') from None
        self._keys: dict[str | None, Any] = {}
        for each in given[:MAX_KEYS] if isinstance(given, list) else ():
            key = _read_jwk(each, algorithm)
            if key is not None:
                self._keys.setdefault(each.get("kid"), key)
        if not self._keys:
            raise UsageError(f"it has no public key for {algorithm} (--jwt-algorithm)")

    def find(self, kid: str | None) -> Any | None:
        if kid is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(kid)


def _read_jwk(given: object, algorithm: str) -> Any | None:
    """Return the key in a JWK; None for one that isn't for checking this algorithm's signatures."""
    import jwt

    if not isinstance(given, dict) or given.get("kty") == "oct" or given.get("use", "sig") != "sig":
        return None
    if given.get("alg", algorithm) != algorithm or not isinstance(given.get("kid", ""), str):
        return None
    public = {name: value for name, value in given.items() if name in _PUBLIC}
    try:
        key = jwt.PyJWK(public, algorithm).key
        check_public_key(key, algorithm)
    except (jwt.PyJWTError, UsageError, ValueError, TypeError):
        return None
    return key


def read_secret(data: bytes, algorithm: str | None) -> tuple[OneKey, str]:
    """Return the secret in a file, and the algorithm. Raises `UsageError` for one that can't be used.

    A line end after the secret isn't part of it. The error repeats nothing of the secret.
    """
    algorithm = algorithm or SYMMETRIC[0]
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if algorithm not in SYMMETRIC:
        raise UsageError(
            f"a secret is for {_either(SYMMETRIC)}, and --jwt-algorithm is {algorithm[:40]}; give --jwt-key"
        )
    if b"-----BEGIN" in secret or secret.startswith((b"ssh-", b"ecdsa-")) or secret.lstrip().startswith(b"{"):
        raise UsageError("it holds a key and not a secret: everybody may know a public key; give it with --jwt-key")
    least = int(algorithm[2:]) // 8  # RFC 7518 §3.2
    if len(secret) < least:
        raise UsageError(
            f"the secret has {len(secret)} bytes, and {algorithm} needs {least} or more; 'openssl rand -hex {least}' "
            "makes one"
        )
    return OneKey(secret), algorithm


def read_public_key(pem: bytes, algorithm: str | None) -> tuple[OneKey, str]:
    """Return the public key in a PEM file, and the algorithm, which is that of the key by default.

    Raises `UsageError` for a file without a public key, and for an algorithm that the key isn't for.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if b"PRIVATE KEY-----" in pem:
        raise UsageError("it holds a private key, and this server needs only the public one: 'openssl pkey -pubout'")
    try:
        if b"-----BEGIN CERTIFICATE-----" in pem:
            key: Any = x509.load_pem_x509_certificate(pem).public_key()
        else:
            key = load_pem_public_key(pem)
    except Exception:  # cryptography raises errors of many kinds
        raise UsageError("it holds no public key in PEM, as 'openssl pkey -pubout' writes it") from None
    algorithm = algorithm or _algorithms_for(key)[0]
    check_public_key(key, algorithm)
    return OneKey(key), algorithm


def check_public_key(key: object, algorithm: str) -> None:
    """Raise `UsageError` for a key that can't check the algorithm's signatures, or is too weak."""
    suitable = _algorithms_for(key)
    if algorithm not in suitable:
        raise UsageError(f"the key is for {_either(suitable)}, and --jwt-algorithm is {algorithm[:40]}")
    if algorithm[:2] in ("RS", "PS") and key.key_size < _LEAST_RSA_BITS:  # type: ignore[attr-defined]
        raise UsageError(f"the RSA key has fewer than {_LEAST_RSA_BITS} bits, so others can find its secret half")


def _algorithms_for(key: object) -> tuple[str, ...]:
    """Return the algorithms that a public key can be for, the default first."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    match key:
        case rsa.RSAPublicKey():
            return tuple(name for name in ASYMMETRIC if name[:2] in ("RS", "PS"))
        case ec.EllipticCurvePublicKey() if key.curve.name in _BY_CURVE:
            return (_BY_CURVE[key.curve.name],)
        case ed25519.Ed25519PublicKey():
            return ("EdDSA",)
        case _:
            raise UsageError("the key is of another kind than RSA, P-256, P-384, P-521 and Ed25519; give one of these")


def _either(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
