"""Publishing a message by POST, as a client does it: the request, the meaning of an answer, and when to try again.

Every request has an Idempotency-Key. If an answer is lost, the same request is safe to send again: the server publishes
one message for a key, for ten minutes. An answer is a `Published`, or a `Setback`: a reason why there is no such
answer, which may pass.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from rawws.errors import PublishError, PublishRefused, PublishUnsure, UsageError
from rawws.limits import check_number
from rawws.wire.events import Data, as_message
from rawws.wire.frames import Opcode
from rawws.wire.http_url import parse_http_url
from rawws.wire.messages import Headers, Request, Response
from rawws.wire.trace import printable, shorten
from rawws.wire.uri import WebSocketURI

# The beginning of a server's sentence about a message that its backplane may have.
UNSURE = "It isn't known whether this was published."
MAX_KEY_CHARACTERS = 255

# The wait between two tries is a random part of a bound that doubles, so that programs which a server has refused
# together come back at different times.
FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0

# The statuses after which another try may succeed (RFC 9110 §15.5.9, RFC 8470, RFC 6585, RFC 9110 §15.6).
_PASSING = frozenset({408, 425, 429, 502, 503, 504})
# Those of a proxy whose server may have the request.
_OF_PROXIES = frozenset({502, 504})
_VISIBLE = re.compile("[!-~]+")
_KEY = re.compile(r"[!-~](?:[ -~]*[!-~])?")


class Published(NamedTuple):
    """A message that was published over HTTP."""

    id: str | None  # None if the room is shared with other nodes, and its backplane hasn't told the id
    peers: int | None  # the number of the room's peers at the server that was asked, if the client may know it


class Setback(NamedTuple):
    """A try without success. ``sentence`` says why."""

    sentence: str
    may_pass: bool  # whether another try may succeed
    may_be_published: bool  # whether the message may have been published all the same
    status: int = 0  # of the server's answer, if there was one
    wait_s: float = 0.0  # the least wait before another try


class Post:
    """A message on its way: the request that is sent in each try, and the meaning of the answer."""

    def __init__(
        self,
        url: str,
        message: Data,
        *,
        text: bool | None,
        token: str | None,
        key: str | None,
        idempotency_key: str,
    ) -> None:
        """Raises `UsageError` for an address, a token or a key that can't be sent, without repeating a secret.

        Raises TypeError and ValueError for what can't be a message.
        """
        self.uri: WebSocketURI = parse_http_url(url, example="http://localhost:8080/room")
        opcode, payload = as_message(message, text)
        content_type = "text/plain; charset=utf-8" if opcode is Opcode.TEXT else "application/octet-stream"
        fields = [
            ("Host", self.uri.authority),
            ("Content-Type", content_type),
            ("Content-Length", str(len(payload))),
            ("Idempotency-Key", _check_key("idempotency_key", idempotency_key)),
        ]
        if token is not None:
            fields.append(("Authorization", f"Bearer {_check_token(token)}"))
        if key is not None:
            fields.append(("Rawws-Key", _check_key("key", key)))
        self.request = Request("POST", self.uri.resource_name, "1.1", Headers(fields), body=bytes(payload))

    def read(self, response: Response) -> Published | Setback:
        """Return the meaning of the server's answer."""
        status = response.status
        if 200 <= status < 300:
            return _read_success(response)
        sentence = f"the server answered {status}{_words_of(response)}"
        if 300 <= status < 400:
            target = printable(shorten(response.headers.get("Location") or "nowhere"))
            sentence = f"the server redirects to {target}, and no redirect is followed; publish there"
        elif status == 401:
            sentence += "; give a token that may publish there"
        elif status in (404, 405):
            sentence += "; no room is published in at this address: check host, port and path"
        may_be_published = status in _OF_PROXIES or UNSURE.encode() in response.body
        wish = response.headers.get("Retry-After") or ""
        wait_s = float(wish) if re.fullmatch("[0-9]{1,9}", wish) else 0.0
        return Setback(sentence, status in _PASSING, may_be_published, status, wait_s)


class Tries:
    """The tries of one message: their number and their time are bounded."""

    def __init__(self, most: int, timeout_s: float, now: float) -> None:
        """Raises `UsageError` for a number that isn't one."""
        check_number("tries", most, least=1)
        check_number("timeout", timeout_s, whole=False)
        self._left = most
        self._until = now + timeout_s
        self._backoff_s = FIRST_BACKOFF_S
        self._made = 0
        self._may_be_published = False

    def left_s(self, now: float) -> float:
        """Return the seconds that are left for the try that begins now, and for waiting."""
        return max(0.0, self._until - now)

    def wait_after(self, setback: Setback, now: float, chance: float) -> float | None:
        """Return the seconds to wait before the next try; None if that was the last one.

        ``chance`` is a random number from 0 to 1.
        """
        self._made += 1
        self._may_be_published |= setback.may_be_published
        self._left -= 1
        wait_s = max(setback.wait_s, chance * self._backoff_s)
        self._backoff_s = min(self._backoff_s * 2, MAX_BACKOFF_S)
        return wait_s if setback.may_pass and self._left > 0 and wait_s < self.left_s(now) else None

    def error(self, setback: Setback, where: str) -> PublishError:
        """Return the exception after the last try."""
        sentence = f"{where}: {setback.sentence}"
        if self._made > 1:
            sentence += f" (after {self._made} tries)"
        if self._may_be_published:
            sentence += "; it isn't known whether the message was published: publish it with the same idempotency_key"
            return PublishUnsure(sentence)
        return PublishRefused(sentence, setback.status) if setback.status else PublishError(sentence)


def _read_success(response: Response) -> Published | Setback:
    try:
        answer = json.loads(response.body)
        published = Published(answer["id"], answer.get("peers"))
        if isinstance(published.id, str | None) and isinstance(published.peers, int | None):
            return published
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    sentence = f"the server's answer ({response.status}) isn't that of a room of rawws; check host, port and path"
    return Setback(sentence, may_pass=False, may_be_published=False, status=response.status)


def _words_of(response: Response) -> str:
    """Return the first line of an answer's text for an error message, or else the name of its status."""
    words = ""
    if (response.headers.get("Content-Type") or "").partition(";")[0].strip().lower() == "text/plain":
        words = response.body.decode(errors="replace").strip().partition("\n")[0].strip()
    return f": {printable(shorten(words)).rstrip('.')}" if words else f" {response.reason}".rstrip()


def _check_token(token: str) -> str:
    if not _VISIBLE.fullmatch(token):
        raise UsageError(f"the token is {'not printable ASCII without spaces' if token else 'empty'}")
    return token


def _check_key(keyword: str, key: str) -> str:
    if len(key) > MAX_KEY_CHARACTERS or not _KEY.fullmatch(key):
        raise UsageError(
            f"{keyword} can't be {shorten(repr(key))}; give 1 to {MAX_KEY_CHARACTERS} characters of printable ASCII"
        )
    return key
