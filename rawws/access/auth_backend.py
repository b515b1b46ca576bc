"""Asking a server of the user's own who may do what, as nginx's ``auth_request`` does: the question and the answer.

The question is a GET with the credentials of the client's request, and fields about the room. The answer is its status:

* **2xx** lets the client in. Its fields may say more: ``Rawws-User`` the user's name in UTF-8, ``Rawws-Allow`` the
  rooms, ``Rawws-Expires`` the end in Unix seconds, and ``Rawws-Info`` JSON about the user.
* **401 and 403** are passed on to the client, with their body and ``WWW-Authenticate``. The question asks for a body
  without a Content-Encoding; one that has it all the same is passed on to a client that accepts it.
* Any other answer, and none, is a 503: without a decision, nobody is let in.

``Rawws-Allow`` is a list of ``read=PATTERN`` and ``write=PATTERN``, divided by commas; a pattern with a comma or a
semicolon in it is written in quotes. Without the field, the answer is about the action and the room that were asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence

from rawws.access.grant import Action, Grant
from rawws.access.patterns import NO_ROOM, Patterns
from rawws.errors import RETRY_SOON, Refusal, UsageError
from rawws.limits import KIB
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import shorten

# The most of an answer's body that is passed on: enough for a page that leads to the login.
MAX_BODY_BYTES = 64 * KIB
# Grants that are remembered: some 10 MiB with one of 1 KiB for each.
MAX_REMEMBERED = 10_000

# RFC 5842 §7.2. The server that asked takes it for no decision. Without it, one request would become any number.
LOOP = Refusal(
    508,
    "loop",
    "This is a question to the server of --auth-url, and a room can't answer it.",
    hint="--auth-url names this server, or another one that asks; have it name your application",
)

_CREDENTIALS = ("Cookie", "Authorization", "Origin")
_WITHOUT_BODY = frozenset({"www-authenticate"})
_WITH_BODY = _WITHOUT_BODY | {"content-type", "content-language", "content-encoding"}
_NEVER = re.compile(r"q\s*=\s*0(?:\.0*)?", re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")
# RFC 2047, in which Django writes a name that Latin-1 doesn't have.
_MIME = re.compile(r"=\?[^?]+\?[bq]\?[^?]*\?=", re.IGNORECASE)
_SEND_UTF_8 = "send the bytes of the name in UTF-8, or another name of the user in ASCII"
# NumericDate of a time before the year 10000.
_SECONDS = re.compile(r"[0-9]{1,12}")


def question_about(request: Request, room: str, action: Action) -> list[tuple[str, str]]:
    """Return the fields of the question, without ``Host``."""
    fields = [(name, value) for name in _CREDENTIALS for value in request.headers.get_all(name)]
    fields.append(("X-Original-URI", request.target))
    if request.client:
        fields.append(("X-Forwarded-For", request.client))
    return [*fields, ("Accept-Encoding", "identity"), ("Rawws-Room", room), ("Rawws-Action", action.words)]


def is_question(request: Request) -> bool:
    """Say whether a request is a question itself: the backend's address leads back to a server such as this one."""
    return "Rawws-Room" in request.headers and "Rawws-Action" in request.headers


def read_answer(response: Response, request: Request, room: str, action: Action) -> Grant | Refusal:
    """Return the decision about a request that is in an answer. An answer that can't be read lets nobody in."""
    if response.status in (401, 403):
        return _pass_on(response, request)
    if not 200 <= response.status <= 299:
        return unavailable(f"it answered with {response.status}, and 2xx, 401 and 403 are decisions")
    try:
        return _read_grant(response, room, action)
    except UsageError as error:
        return unavailable(f"its answer can't be used: {error}")


def unavailable(reason: str) -> Refusal:
    """Return the refusal of a request about which there is no decision. The reason is for the operator."""
    sentence = "There is no decision at present whether this request is allowed; try again soon."
    return Refusal(503, "no_decision", sentence, RETRY_SOON, hint=f"the server of --auth-url: {shorten(reason)}")


def _pass_on(response: Response, request: Request) -> Refusal:
    """Return the backend's refusal. A body that the client couldn't decode is left out, with the fields about it."""
    body: bytes | None = response.body[:MAX_BODY_BYTES]
    names, hint = _WITH_BODY, ""
    codings = [coding for coding in response.headers.tokens("Content-Encoding") if coding != "identity"]
    if codings and (len(response.body) >= MAX_BODY_BYTES or not _codings_of(request).issuperset(codings)):
        names, body = _WITHOUT_BODY, None
        hint = f"its body is left out, since the client can't decode it ({shorten(', '.join(codings))}); have the "
        hint += "server use no Content-Encoding in answers to 'Accept-Encoding: identity'"
    fields = tuple(
        (name.encode("ascii"), value.encode("ascii")) for name, value in response.headers if name.lower() in names
    )
    if response.status == 401:
        return Refusal(401, "refused_by_backend", "The server of --auth-url wants a login.", fields, hint, body)
    return Refusal(403, "refused_by_backend", "The server of --auth-url does not allow this.", fields, hint, body)


def _codings_of(request: Request) -> set[str]:
    """Return the content codings that a client accepts by name (RFC 9110 §12.5.3)."""
    elements = request.headers.elements("Accept-Encoding")
    return {coding.lower() for coding, *rest in elements if not any(map(_NEVER.fullmatch, rest))}


def _read_grant(response: Response, room: str, action: Action) -> Grant:
    """Raises `UsageError` for a field that can't be read."""
    headers = response.headers
    here = frozenset({room})  # and not a pattern, since the client chose this path, and it may have a * in it
    read: Container[str] = here if Action.READ in action else NO_ROOM
    write: Container[str] = here if Action.WRITE in action else NO_ROOM
    if "Rawws-Allow" in headers:
        read, write = _read_allow(headers)
    return Grant(
        _read_user(response),
        read,
        write,
        expires_at=_read_expiry(_one(headers, "Rawws-Expires")),
        info=_read_info(_one(headers, "Rawws-Info")),
    )


def _one(headers: Headers, name: str) -> str | None:
    values = headers.get_all(name)
    if len(values) > 1:
        raise UsageError(f"it has {len(values)} {name} headers")
    return values[0].strip() or None if values else None


def _read_user(response: Response) -> str | None:
    """Return the name of the user. RFC 9110 §5.5 leaves open what bytes beyond ASCII mean: here they are UTF-8."""
    name = _one(response.headers, "Rawws-User")
    if name is not None and _MIME.search(name):
        raise UsageError(f"Rawws-User is in MIME's encoding, which HTTP doesn't have; {_SEND_UTF_8}")
    for field, raw in _beyond_ascii(response):
        if field != "rawws-user":
            raise UsageError(f"its {field} header has bytes beyond ASCII; percent-encode paths, and use \\u in JSON")
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            raise UsageError(f"Rawws-User is not UTF-8; {_SEND_UTF_8}") from None
    return name


def _beyond_ascii(response: Response) -> Iterator[tuple[str, bytes]]:
    """Yield our fields that have bytes beyond ASCII, as they came; a `Response` has these bytes as escapes."""
    if response.raw_head.isascii():
        return
    for line in response.raw_head.splitlines():
        name, _, value = line.partition(b":")
        if name.lower().startswith(b"rawws-") and not value.isascii():
            yield name.strip().decode("ascii").lower(), value.strip()


def _read_allow(headers: Headers) -> tuple[Patterns, Patterns]:
    found: dict[str, list[str]] = {"read": [], "write": []}
    for parts in headers.elements("Rawws-Allow"):
        for part in parts:
            name, equals, given = part.partition("=")
            patterns = found.get(name.strip().lower())
            if patterns is None or not equals:
                raise UsageError(f"Rawws-Allow has {part[:80]!r}, and its parts are read=PATTERN and write=PATTERN")
            patterns.append(_unquote(given.strip()))
    return Patterns(found["read"]), Patterns(found["write"])


def _unquote(given: str) -> str:
    quoted = _QUOTED.fullmatch(given)
    return _ESCAPED.sub(r"\1", quoted[1]) if quoted else given


def _read_expiry(given: str | None) -> float | None:
    if given is None:
        return None
    if not _SECONDS.fullmatch(given):
        raise UsageError(f"Rawws-Expires is {given[:40]!r}, and not a whole number of Unix seconds")
    return float(given)


def _read_info(given: str | None) -> object:
    if given is None:
        return None
    try:
        return json.loads(given)
    except (ValueError, RecursionError):
        raise UsageError("Rawws-Info is not JSON, in ASCII with \\u escapes") from None


class RememberedGrants:
    """Grants of the backend, each for a number of seconds, for clients that connect again in a storm.

    A grant holds for exactly the question that it answered. Questions are kept as digests, since credentials are among
    them. Refusals are not remembered: a client that has just logged in must not wait for the old one to be forgotten.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._grants: OrderedDict[bytes, tuple[float, Grant]] = OrderedDict()  # the oldest first

    def __len__(self) -> int:
        return len(self._grants)

    def find(self, question: Sequence[tuple[str, str]], now: float) -> Grant | None:
        """Return the grant for a question at a time (Unix seconds); None if the backend has to be asked."""
        until, grant = self._grants.get(_digest(question), (0.0, None)) if self._grants else (0.0, None)
        return grant if now < until else None

    def add(self, question: Sequence[tuple[str, str]], grant: Grant, now: float) -> None:
        """Remember a grant, for as long as it lasts itself at most. The oldest ones make room for it."""
        if not self._seconds:
            return
        until = now + self._seconds
        if grant.expires_at is not None:
            until = min(until, grant.expires_at)
        digest = _digest(question)
        self._grants.pop(digest, None)
        self._grants[digest] = (until, grant)
        while self._grants and (len(self._grants) > MAX_REMEMBERED or self._oldest_until <= now):
            self._grants.popitem(last=False)

    @property
    def _oldest_until(self) -> float:
        return next(iter(self._grants.values()))[0]


def _digest(question: Sequence[tuple[str, str]]) -> bytes:
    # No field has a line feed in it.
    return hashlib.sha256("\n".join(f"{name}:{value}" for name, value in question).encode()).digest()
