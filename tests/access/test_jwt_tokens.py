"""JSON Web Tokens: their places, the attacks on them, their claims, and the keys."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from rawws.access.credentials import TWO_TOKENS
from rawws.access.grant import Action, Grant
from rawws.access.jwt_tokens import (
    ALGORITHMS,
    LEEWAY_S,
    MAX_KEYS,
    MAX_TOKEN_BYTES,
    Keys,
    KeySet,
    OneKey,
    Rules,
    find_jwt,
    is_jwt,
    kid_of,
    read_public_key,
    read_secret,
)
from rawws.errors import Refusal, UsageError
from tests.access.helpers import bearer, request_for

SECRET = b"0123456789abcdef0123456789abcdef"
NOW = 1_800_000_000.0
CLAIMS: dict[str, Any] = {"sub": "alice", "exp": NOW + 60, "rawws": {"read": ["/room/*"], "write": ["/room/a"]}}


@cache
def rsa_key(bits: int = 2048, name: str = "ours") -> rsa.RSAPrivateKey:  # noqa: ARG001 - another one for each name
    return rsa.generate_private_key(65537, bits)


def public_pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def sign(claims: dict[str, Any], key: Any = SECRET, algorithm: str = "HS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm, headers=header)


def forge(header: object, claims: object, secret: bytes | None = SECRET) -> str:
    """Return a token that PyJWT would not make, signed with HMAC; without a secret it has no signature."""
    parts = [part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims)]
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    digest = b"" if secret is None else hmac.digest(secret, signed, hashlib.sha256)
    return (signed + b"." + base64.urlsafe_b64encode(digest).rstrip(b"=")).decode()


def read(token: str, key: Any = SECRET, algorithm: str = "HS256", now: float = NOW) -> Grant | Refusal:
    return Rules(algorithm).read(token, key, now)


def reason_of(answer: object) -> str:
    assert isinstance(answer, Refusal), answer
    assert (answer.status, answer.code) == (401, "invalid_token")
    assert answer.headers == ((b"WWW-Authenticate", b'Bearer realm="rooms", error="invalid_token"'),)
    return answer.sentence.removeprefix("The token can't be used: ")


# Where a token is


TOKEN = "eyJ.eyJ.c2ln"


@pytest.mark.parametrize(
    ("target", "field"),
    [
        ("/", bearer(TOKEN)),
        (f"/?access_token={TOKEN}", ("Host", "a")),
        ("/", ("Sec-WebSocket-Protocol", f"rawws.id.v1, rawws.token.{TOKEN}")),
        ("/", ("Cookie", f'a=1; session="{TOKEN}"; b=2')),
        (f"/?access_token={TOKEN}", ("Cookie", f"session={TOKEN}")),
    ],
)
def test_a_token_is_found_in_any_place(target: str, field: tuple[str, str]) -> None:
    assert find_jwt(request_for(target, field), "session") == TOKEN


def test_a_cookie_is_read_only_by_its_name() -> None:
    request = request_for("/", ("Cookie", f"session={TOKEN}"))
    assert find_jwt(request, None) is None
    assert find_jwt(request, "sessio") is None


@pytest.mark.parametrize("field", [bearer("eyJ.eyJ.b3RoZXI"), bearer("opaque"), ("Cookie", "session=eyJ.eyJ.b3RoZXI")])
def test_two_tokens_that_disagree_are_refused(field: tuple[str, str]) -> None:
    assert find_jwt(request_for(f"/?access_token={TOKEN}", field), "session") is TWO_TOKENS


@pytest.mark.parametrize("token", ["opaque", "a.b", "a.b.c.d", "a.b.c d", "", "ä.b.c"])
def test_another_kind_of_token_is_for_another_source(token: str) -> None:
    assert not is_jwt(token)
    assert find_jwt(request_for("/", bearer(token)), None) is None


def test_a_token_without_a_signature_is_a_token() -> None:
    assert is_jwt("eyJ.eyJ.")


# The name of its key


def test_the_name_of_the_key_is_read() -> None:
    assert kid_of(sign(CLAIMS)) is None
    assert kid_of(sign(CLAIMS, kid="../../etc/passwd")) == "../../etc/passwd"


@pytest.mark.parametrize(
    "token",
    [
        forge({"alg": "HS256", "kid": 5}, CLAIMS),
        forge({"alg": "HS256", "kid": "k" * 300}, CLAIMS),
        forge(b"[" * 3000, CLAIMS),
        forge([], CLAIMS),
        "a.b.c",
        "x" * (MAX_TOKEN_BYTES + 1),
    ],
)
def test_a_token_whose_header_can_not_be_read_is_refused(token: str) -> None:
    assert reason_of(kid_of(token))


@pytest.mark.parametrize("critical", [{"crit": ["x"], "x": 1}, {"crit": []}, {"crit": ["b64"], "b64": True}])
def test_a_token_that_needs_an_extension_is_refused(critical: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    header = {"alg": "HS256", **critical}
    monkeypatch.setattr(jwt, "get_unverified_header", lambda _: header)  # as PyJWT 2.10 reads it
    assert "it needs an extension ('crit')" in reason_of(kid_of(forge(header, CLAIMS)))


def test_a_huge_token_is_refused_before_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    token = sign({**CLAIMS, "x": "y" * 100_000})
    monkeypatch.setattr(jwt, "get_unverified_header", None)
    assert reason_of(kid_of(token)) == f"it is longer than {MAX_TOKEN_BYTES} bytes."


# Signatures


@pytest.mark.parametrize("algorithm", ["HS256", "HS512"])
def test_a_token_with_the_right_secret_is_a_grant(algorithm: str) -> None:
    secret = SECRET * 2
    grant = read(sign(CLAIMS, secret, algorithm), secret, algorithm)
    assert isinstance(grant, Grant)
    assert (grant.user, grant.expires_at) == ("alice", NOW + 60)
    assert grant.allowed("/room/a") == Action.READ | Action.WRITE
    assert grant.allowed("/room/b") == Action.READ


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa_key(), "RS256"),
        (rsa_key(), "PS512"),
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_a_token_with_the_right_key_is_a_grant(key: Any, algorithm: str) -> None:
    one, _ = read_public_key(public_pem(key), algorithm)
    assert isinstance(read(sign(CLAIMS, key, algorithm), one.find(None), algorithm), Grant)


def test_a_token_of_another_secret_is_refused() -> None:
    assert reason_of(read(sign(CLAIMS, SECRET[::-1]))) == "its signature doesn't fit the key of this server."


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(name: str) -> None:
    for secret in (None, SECRET):
        token = forge({"alg": name, "typ": "JWT"}, CLAIMS, secret)
        assert reason_of(read(token)) == "it isn't signed with the algorithm of this server."


def test_a_public_key_is_never_taken_for_a_secret() -> None:
    # CVE-2015-9235: the public key is known to everybody, and HS256 would take it as the secret.
    pem = public_pem(rsa_key())
    key = read_public_key(pem, None)[0].find(None)
    for secret in (pem, pem.rstrip(b"\n")):
        token = forge({"alg": "HS256", "typ": "JWT"}, CLAIMS, secret)
        assert reason_of(read(token, key, "RS256")) == "it isn't signed with the algorithm of this server."


def test_a_key_in_the_token_itself_is_ignored() -> None:
    ours = read_public_key(public_pem(rsa_key()), "RS256")[0].find(None)
    theirs = jwk(rsa_key(name="other").public_key())
    for header in ({"jwk": theirs}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/chain"}):
        token = sign(CLAIMS, rsa_key(name="other"), "RS256", **header)
        assert reason_of(read(token, ours, "RS256")) == "its signature doesn't fit the key of this server."


def test_a_token_can_not_choose_among_the_algorithms_of_a_key() -> None:
    key = read_public_key(public_pem(rsa_key()), "RS256")[0].find(None)
    assert reason_of(read(sign(CLAIMS, rsa_key(), "RS512"), key, "RS256"))


@pytest.mark.parametrize("header", [{}, {"alg": 5}, {"alg": ["HS256"]}])
def test_an_odd_header_is_refused(header: dict[str, Any]) -> None:
    assert reason_of(read(forge(header, CLAIMS)))


# Claims


def test_the_audience_and_the_issuer_have_to_be_ours() -> None:
    rules = Rules("HS256", audience="rooms", issuer="https://a.example")
    right = {**CLAIMS, "aud": ["shop", "rooms"], "iss": "https://a.example"}
    assert isinstance(rules.read(sign(right), SECRET, NOW), Grant)
    for change, reason in (
        ({"aud": "shop"}, "it is for another audience."),
        ({"iss": "https://b.example"}, "it comes from another issuer."),
    ):
        assert reason_of(rules.read(sign({**right, **change}), SECRET, NOW)) == reason
    for name in ("aud", "iss"):
        lacking = {key: value for key, value in right.items() if key != name}
        assert reason_of(rules.read(sign(lacking), SECRET, NOW)) == f"it lacks the claim '{name}'."


def test_a_token_for_an_audience_is_refused_where_none_is_configured() -> None:
    assert reason_of(read(sign({**CLAIMS, "aud": "shop"}))) == "it is for another audience."  # RFC 7519 §4.1.3


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": str(NOW + 60)}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": True}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": float("inf")}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": float("nan")}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": 10**400}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": None}, "its exp or nbf is not a number of Unix seconds."),
        ({"nbf": "0"}, "its exp or nbf is not a number of Unix seconds."),
        ({"exp": NOW}, "it has expired."),
        ({"exp": 0}, "it has expired."),
        ({"nbf": NOW + LEEWAY_S + 1}, "it isn't valid yet."),
        ({"rawws": []}, "its claim 'rawws' is not an object."),
        ({"rawws": {"read": "/room/*"}}, "'read' and 'write' in its claim 'rawws' are not lists."),
        ({"rawws": {"write": {"/a": 1}}}, "'read' and 'write' in its claim 'rawws' are not lists."),
        ({"rawws": {"read": ["room"]}}, "its claims are not as this server needs them."),
        ({"rawws": {"read": [5]}}, "its claims are not as this server needs them."),
        ({"rawws": {"info": "x" * 2000}}, "its claims are not as this server needs them."),
        ({"sub": "x" * 300}, "its claims are not as this server needs them."),
        ({"sub": 5}, "it is not a proper JWT."),
    ],
)
def test_a_claim_that_can_not_be_used_is_refused(claims: dict[str, Any], reason: str) -> None:
    token = forge({"alg": "HS256", "typ": "JWT"}, {**CLAIMS, **claims})
    assert reason_of(read(token)) == reason


def test_a_token_without_an_end_is_refused() -> None:
    assert reason_of(read(sign({"sub": "alice"}))) == "it never ends, since it has no exp."


@pytest.mark.parametrize("claims", [b"[]", b"5", b"{", b"[" * 3000, b"\xff"])
def test_claims_that_are_no_object_are_refused(claims: bytes) -> None:
    assert reason_of(read(forge({"alg": "HS256"}, claims))) == "it is not a proper JWT."


def test_a_token_may_come_a_little_before_it_is_valid_and_never_after_its_end() -> None:
    token = sign({**CLAIMS, "nbf": NOW, "iat": NOW})
    assert isinstance(read(token, now=NOW - LEEWAY_S), Grant)
    assert isinstance(read(token, now=NOW + 59.9), Grant)
    assert isinstance(read(token, now=NOW + 60), Refusal)


def test_a_token_without_rights_gives_none() -> None:
    grant = read(sign({"exp": NOW + 60}))
    assert isinstance(grant, Grant)
    assert grant.user is None
    assert not grant.allowed("/room/a")


def test_a_token_says_more_about_its_user() -> None:
    grant = read(sign({**CLAIMS, "rawws": {"info": {"name": "Alïce"}}}))
    assert isinstance(grant, Grant)
    assert grant.info == {"name": "Alïce"}


# Configuration


@pytest.mark.parametrize("name", ["none", "hs256", "HS1", "", "ES256K"])
def test_an_algorithm_that_is_not_accepted_is_an_error(name: str) -> None:
    assert name not in ALGORITHMS
    with pytest.raises(UsageError, match="there is no algorithm"):
        Rules(name)


def test_a_secret_is_the_file_without_its_line_end() -> None:
    for data in (SECRET, SECRET + b"\n", SECRET + b"\r\n"):
        key, algorithm = read_secret(data, None)
        assert (key.find(None), algorithm) == (SECRET, "HS256")
    assert read_secret(SECRET * 2, "HS512")[1] == "HS512"


@pytest.mark.parametrize(
    ("data", "algorithm", "reason"),
    [
        (SECRET[:-1], None, "has 31 bytes, and HS256 needs 32"),
        (SECRET, "HS512", "has 32 bytes, and HS512 needs 64"),
        (b"", None, "has 0 bytes"),
        (SECRET, "RS256", "a secret is for HS256, HS384 or HS512"),
        (public_pem(rsa_key()), None, "a key and not a secret"),
        (b'{"kty": "RSA", "n": "0123456789abcdef0123456789abcdef"}', None, "a key and not a secret"),
        (b"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABgQ", None, "a key and not a secret"),
    ],
)
def test_a_secret_that_can_not_be_used_is_an_error(data: bytes, algorithm: str | None, reason: str) -> None:
    with pytest.raises(UsageError, match=reason) as raised:
        read_secret(data, algorithm)
    assert "89ab" not in str(raised.value)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (rsa_key(), "RS256"),
        (ec.generate_private_key(ec.SECP521R1()), "ES512"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_the_algorithm_is_that_of_the_key_by_default(key: Any, algorithm: str) -> None:
    assert read_public_key(public_pem(key), None)[1] == algorithm


def test_a_certificate_has_a_public_key() -> None:
    import trustme

    pem = trustme.CA(key_type=trustme.KeyType.ECDSA).cert_pem.bytes()
    assert read_public_key(pem, None)[1] == "ES256"


@pytest.mark.parametrize(
    ("pem", "algorithm", "reason"),
    [
        (b"", None, "no public key in PEM"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", None, "no public key in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None, "no public key in PEM"),
        (public_pem(rsa_key()), "HS256", "the key is for RS256"),
        (public_pem(rsa_key()), "none", "the key is for RS256"),
        (public_pem(ec.generate_private_key(ec.SECP256R1())), "ES384", "the key is for ES256, and"),
        (public_pem(ec.generate_private_key(ec.SECP256K1())), None, "of another kind"),
        (public_pem(dsa.generate_private_key(1024)), None, "of another kind"),
        (public_pem(rsa_key(1024)), None, "fewer than 2048 bits"),
        (
            rsa_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
            None,
            "it holds a private key",
        ),
    ],
)
def test_a_key_that_can_not_be_used_is_an_error(pem: bytes, algorithm: str | None, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        read_public_key(pem, algorithm)


# Sets of keys


def jwk(key: Any, kid: str | None = None, **more: Any) -> dict[str, Any]:
    kind = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey) else None
    algorithm = kind or jwt.algorithms.ECAlgorithm
    made = json.loads(algorithm.to_jwk(key))
    made.pop("key_ops", None)
    return {**made, **({} if kid is None else {"kid": kid}), **more}


def key_set(*keys: object) -> bytes:
    return json.dumps({"keys": keys}).encode()


def test_a_key_of_a_set_is_found_by_its_name() -> None:
    keys: Keys = KeySet(
        key_set(jwk(rsa_key().public_key(), "a", alg="RS256", use="sig"), jwk(rsa_key(name="other").public_key(), "b")),
        "RS256",
    )
    assert isinstance(read(sign(CLAIMS, rsa_key(), "RS256"), keys.find("a"), "RS256"), Grant)
    assert isinstance(read(sign(CLAIMS, rsa_key(), "RS256"), keys.find("b"), "RS256"), Refusal)
    assert keys.find("c") is None
    assert keys.find("../a") is None
    assert keys.find(None) is None


def test_a_token_without_a_name_is_for_the_only_key() -> None:
    keys = KeySet(key_set(jwk(rsa_key().public_key(), "a")), "RS256")
    assert keys.find(None) is keys.find("a") is not None


def test_a_private_key_in_a_set_is_used_as_a_public_one() -> None:
    key = KeySet(key_set(jwk(rsa_key(), "a")), "RS256").find("a")
    assert isinstance(key, rsa.RSAPublicKey)


SYMMETRIC_JWK = {"kty": "oct", "kid": "a", "k": base64.urlsafe_b64encode(SECRET).decode()}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"keys": {}}',
        b'{"keys": []}',
        key_set(5, {"kty": "RSA"}, {"kty": "RSA", "n": 5, "e": "AQAB"}, SYMMETRIC_JWK),
        key_set(jwk(rsa_key(1024).public_key(), "a")),
        key_set(jwk(rsa_key().public_key(), "a", use="enc")),
        key_set(jwk(rsa_key().public_key(), "a", alg="PS256")),
        key_set({**jwk(rsa_key().public_key()), "kid": 5}),
        key_set(jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), "a")),
        key_set(*[5] * MAX_KEYS, jwk(rsa_key().public_key(), "a")),
    ],
)
def test_a_set_without_a_key_for_the_algorithm_is_an_error(data: bytes) -> None:
    with pytest.raises(UsageError):
        KeySet(data, "RS256")


def test_a_secret_in_a_set_is_passed_over() -> None:
    with pytest.raises(UsageError):
        KeySet(key_set(SYMMETRIC_JWK), "HS256")


def test_one_key_is_for_every_name() -> None:
    assert OneKey(b"k").find("a") == OneKey(b"k").find(None) == b"k"
