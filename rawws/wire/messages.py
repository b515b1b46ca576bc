"""The heads and bodies of HTTP: header fields, requests, responses (RFC 9110).

The parser has checked what a peer sends. Values from our own caller are checked here, when the object is made: a CR or
LF in a value would end the header field and begin another one (RFC 9110 §5.5).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeVar, overload

from rawws.errors import Refusal, UsageError
from rawws.wire.origins import Origins

# RFC 9110 §5.6.2.
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]+")
# RFC 9110 §5.6.1, §5.6.4: commas divide a list, and semicolons an element of it, except within quotes.
_ELEMENT = re.compile(r'(?:[^",]++|"(?:[^"\\]++|\\.)*+"?)++')
_PART = re.compile(r'(?:[^";]++|"(?:[^"\\]++|\\.)*+"?)++')
# RFC 9110 §12.4.2, and also ".2", which Java's own HTTP client sends.
_WEIGHT = re.compile(r"0?\.[0-9]+|0\.?|1(?:\.0*)?")
# RFC 9110 §5.5 without obs-text, and without white space at the ends, which a parser would take off.
_VALUE = re.compile(r"(?:[!-~](?:[ \t!-~]*[!-~])?)?")

# Fields as a caller may give them: a mapping, or pairs where a name occurs twice or the order matters.
FieldsLike = Mapping[str, str] | Iterable[tuple[str, str]]

# Without this field, a cache may store even a 404 (RFC 9111 §4.2.2), and some store each 200. Responses that depend on
# the moment, or on the client's Accept header, have it.
NO_STORE = ("Cache-Control", "no-store")

_Default = TypeVar("_Default")


def is_token(text: str) -> bool:
    """Say whether a text is what RFC 9110 §5.6.2 calls a token, as names of fields and subprotocols are."""
    return _TOKEN.fullmatch(text) is not None


class Headers:
    """The fields of one message in their order; names are compared without regard to case.

    ``headers[name]`` is a field's value; of a repeated field all of them, joined with commas (RFC 9110 §5.3). It raises
    KeyError if there is none. ``name in headers`` says whether there is one, and an iteration has pairs of name and
    value.
    """

    __slots__ = ("_fields", "_lines", "_lower", "_values")

    def __init__(self, fields: Sequence[tuple[str, str]] | None = None) -> None:
        fields = fields or ()
        self._fields = tuple(fields)
        self._lines: bytes | None = None  # once they were asked for
        self._lower: tuple[tuple[bytes, bytes], ...] | None = None  # likewise
        self._values: dict[str, list[str]] = {}
        values = self._values
        for name, value in fields:
            lower = name.lower()
            if lower in values:
                values[lower].append(value)
            else:
                values[lower] = [value]

    @classmethod
    def checked(cls, given: FieldsLike) -> Headers:
        """Return fields that our caller gave. Raises `UsageError` for those that can't be sent."""
        try:
            fields = [(name, value) for name, value in (given.items() if isinstance(given, Mapping) else given)]
        except (TypeError, ValueError):  # such as of one line as it is in HTTP
            raise UsageError(f"headers can't be {given!r}; give a dict, or pairs of a name and a value") from None
        for name, value in fields:
            if not _TOKEN.fullmatch(name):
                raise UsageError(f"{name!r} is not the name of a header field; it may have letters, digits and -")
            if not _VALUE.fullmatch(value):
                raise UsageError(
                    f"the {name} header can't have the value {value!r}; give printable ASCII, no line ends, and no "
                    "space around it"
                )
        return cls(fields)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __contains__(self, name: str) -> bool:
        return name.lower() in self._values

    def __getitem__(self, name: str) -> str:
        """Return a field's value; of a repeated field all of them, joined with commas (RFC 9110 §5.3)."""
        return ", ".join(self._values[name.lower()])

    def __eq__(self, other: object) -> bool:
        return self._fields == other._fields if isinstance(other, Headers) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._fields)

    def __repr__(self) -> str:
        return f"Headers({list(self._fields)})"

    @overload
    def get(self, name: str) -> str | None: ...
    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: _Default) -> str | _Default: ...
    def get(self, name: str, default: object = None) -> object:
        """Return what ``headers[name]`` does, or the default when there is no such field."""
        values = self._values.get(name.lower())
        if values is None:
            return default
        return values[0] if len(values) == 1 else ", ".join(values)

    def has_any(self, names: frozenset[str]) -> bool:
        """Say whether there is a field with one of these names, which are in lower case."""
        return not names.isdisjoint(self._values)

    def get_all(self, name: str) -> list[str]:
        """Return the value of every field of that name."""
        return list(self._values.get(name.lower(), ()))

    def tokens(self, name: str) -> list[str]:
        """Return the members of a comma-separated field in lower case, over all its lines (RFC 9110 §5.6.1)."""
        return [token for value in self.get_all(name) for part in value.split(",") if (token := part.strip().lower())]

    def elements(self, name: str) -> list[list[str]]:
        """Return the elements of a comma-separated field, over all its lines, each as the parts between semicolons.

        Commas and semicolons in quotes don't separate (RFC 9110 §5.6.4, §5.6.6). Empty elements and parts are omitted.
        """
        elements = (element for value in self.get_all(name) for element in _ELEMENT.findall(value))
        parted = ([part for each in _PART.findall(element) if (part := each.strip())] for element in elements)
        return [parts for parts in parted if parts]

    def raw(self) -> list[tuple[bytes, bytes]]:
        """Return the fields as h11 takes them."""
        return [(name.encode("ascii"), value.encode("ascii")) for name, value in self._fields]

    def raw_lower(self) -> tuple[tuple[bytes, bytes], ...]:
        """Return the fields as ASGI has them: with names in lower case. They are kept, as the lines are."""
        if self._lower is None:
            self._lower = tuple((name.lower(), value) for name, value in self.raw())
        return self._lower

    def lines(self) -> bytes:
        """Return the fields as they go on the wire, each as a line; empty if one of them can't be sent as it is.

        They are kept, since one response often answers many requests.
        """
        if self._lines is None:
            is_sound = all(_TOKEN.fullmatch(name) and _VALUE.fullmatch(value) for name, value in self._fields)
            lines = (f"{name}: {value}\r\n" for name, value in self._fields)
            self._lines = "".join(lines).encode("ascii") if is_sound else b""
        return self._lines


# RFC 7239, RFC 9110 §7.6.3, and what nginx's manual has everybody add; beside X-Forwarded-*.
_SAME_HOST = Origins()
_PAGE = re.compile(r"https?://[^/?#@]+(?=[/?#]|$)", re.IGNORECASE)  # the origin in a Referer
_OF_PROXIES = frozenset({"forwarded", "via", "x-real-ip"})

# A request's field takes this much memory besides its bytes, which are held twice (CPython 3.11 on 64 bits).
FIELD_BYTES = 400

# RFC 9112 §3.2.2, without user information, which RFC 9110 §4.2.4 has a recipient refuse.
_ABSOLUTE_FORM = re.compile(r"https?://([^/?#@]+)(/[^?#]*)?(?![^?#])", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """A request's head, and its body if that was read. All of the head is ASCII."""

    method: str  # in capitals, such as GET
    target: str  # the path and the query, as they were sent
    http_version: str  # 1.0 or 1.1
    headers: Headers
    raw_head: bytes = field(repr=False, default=b"")  # the bytes of the head, as they came
    body: bytes = field(repr=False, default=b"")  # the whole body, where it was read before the application was called
    action: str = ""  # the access to its path's room that it needs: "read", "write", "read write", or none
    client: str = ""  # the address of its sender, or the one that a trusted proxy reports; empty if that isn't known
    _path: str | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_path", _path_of(self.target))

    @property
    def held_bytes(self) -> int:
        """About how many bytes of memory it takes: its head as received, and each field's name and value as objects."""
        return 2 * len(self.raw_head) + FIELD_BYTES * len(self.headers) + len(self.body)

    @property
    def path(self) -> str | None:
        """The target's path without its query; None when it has none, as ``*`` (RFC 9112 §3.2)."""
        return self._path

    @property
    def authority(self) -> str:
        """The host, and the port if one is given, that is asked: the target's, or else the Host header's.

        RFC 9112 §3.2.2 has it in this order. Empty when there is none, as HTTP/1.0 allows.
        """
        if not self.target.startswith("/") and (absolute := _ABSOLUTE_FORM.match(self.target)):
            return absolute[1]
        return self.headers.get("Host") or ""

    @property
    def query(self) -> str:
        """The part after the target's question mark, as it was sent; empty if there is none."""
        return self.target.partition("?")[2]

    def accepts(self, media_type: str, *, rather_than: str | None = None) -> bool:
        """Say whether the Accept field names a media type with a weight above 0; ``*/*`` alone names none.

        If the field also accepts ``rather_than``, by ``*/*`` too, the weight of that must not be higher (RFC 9110
        §12.5.1).
        """
        if media_type not in self.headers.get("Accept", "").lower():
            return False  # as for nearly every request; to take the field apart costs more
        weights: dict[str, float] = {}
        for media_range, *parameters in self.headers.elements("Accept"):
            weight = _weight_of(parameters)
            if weight is not None:
                weights[media_range.lower()] = max(weight, weights.get(media_range.lower(), 0.0))
        weight = weights.get(media_type, 0.0)
        if rather_than is None:
            return weight > 0
        closest_first = (rather_than, f"{rather_than.partition('/')[0]}/*", "*/*")
        return weight > 0 and weight >= next((weights[each] for each in closest_first if each in weights), 0.0)

    @property
    def was_forwarded(self) -> bool:
        """Whether a proxy says that it passed the request on. Its sender is then unknown."""
        names = [name.lower() for name, _ in self.headers]
        return any(name in _OF_PROXIES or name.startswith("x-forwarded-") for name in names)

    @property
    def is_cross_origin(self) -> bool:
        """Whether a page of another origin sent it, which browsers say in Origin, or else in Sec-Fetch-Site.

        Such a request may come with the user's cookies, or reach a server that only the user's machine can reach. A
        handler of requests that change something should refuse it. Other programs send neither field.
        """
        origin = self.headers.get("Origin")
        if origin is not None:
            return not _SAME_HOST.allow(origin, self.authority)
        return self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin")

    @property
    def may_be_embedded(self) -> bool:
        """Whether a browser may have sent it for another site's page, such as for an image or a link there.

        Unlike a script's request, one of these has no Origin. Sec-Fetch-Site tells, but browsers send it to https and
        to their own machine alone, and old ones not at all. Then the Referer has to name a page of this server. Other
        programs with a browser's name in User-Agent send no Accept (PowerShell), and scripts alone an
        ``Authorization: Bearer``.
        """
        headers = self.headers
        if "Origin" in headers or headers.get("Authorization", "").lower().startswith("bearer "):
            return False
        site = headers.get("Sec-Fetch-Site")
        if site is not None:
            return site not in ("none", "same-origin")
        referer = headers.get("Referer")
        if referer is not None:
            page = _PAGE.match(referer)
            return page is None or not _SAME_HOST.allow(page[0], self.authority)
        return headers.get("User-Agent", "").startswith("Mozilla/") and "Accept" in headers

    @property
    def has_body(self) -> bool:
        """Whether a body follows, even an empty chunked one (RFC 9112 §6)."""
        if "Content-Length" in self.headers:
            lengths = self.headers.get_all("Content-Length")
            return "Transfer-Encoding" in self.headers or any(value.strip("0 ,") for value in lengths)
        return "Transfer-Encoding" in self.headers


def _path_of(target: str) -> str | None:
    if target.startswith("/"):
        return target.partition("?")[0]
    absolute = _ABSOLUTE_FORM.match(target)
    return absolute and (absolute[2] or "/")


def _weight_of(parameters: Sequence[str]) -> float | None:
    """Return the weight of a media range, 0 if it is not acceptable; None for an invalid weight (RFC 9110 §12.4.2)."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            return float(value) if _WEIGHT.fullmatch(value.strip()) else None
    return 1.0


def check_status(status: object) -> int:
    """Return a status that our caller gave. Raises `UsageError` for one that does not exist."""
    if not isinstance(status, int) or not 100 <= status <= 599:
        raise UsageError(f"{status!r} is not an HTTP status; give one from 200 to 599")
    return status


class Response:
    """An HTTP response: a status, header fields, and a whole body.

    A ``str`` as body is sent as UTF-8, with a ``Content-Type`` of ``text/plain`` if the headers name none.
    ``Content-Length``, ``Connection`` and ``Date`` are added when it is sent. The arguments are attributes too, where
    ``body`` is always bytes, and ``headers`` are `Headers`. ``raw_head`` is the head of a response that was received.

    Raises `UsageError` for a status that isn't one, a body where it has none, or a header that can't be sent.
    """

    __slots__ = ("body", "headers", "raw_head", "status")

    def __init__(
        self,
        status: int = 200,
        body: str | bytes | None = None,
        headers: FieldsLike | None = None,
        *,
        raw_head: bytes | None = None,
    ) -> None:
        check_status(status)
        if body and (status < 200 or status in (204, 304)):
            raise UsageError(f"a response with status {status} has no body (RFC 9110 §6.4.1); leave the body out")
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers.checked(headers or ())
        self.raw_head = raw_head or b""  # the bytes of a received response's head
        if isinstance(body, str):
            self.body = body.encode()
            if "Content-Type" not in self.headers:
                self.headers = Headers([("Content-Type", "text/plain; charset=utf-8"), *self.headers])
        else:
            self.body = body or b""

    @classmethod
    def from_refusal(cls, refusal: Refusal) -> Response:
        """Return the response that tells a client in one sentence why it is refused."""
        headers = [(name.decode("ascii"), value.decode("ascii")) for name, value in refusal.headers]
        if not any(name == NO_STORE[0] for name, _ in headers):
            headers.append(NO_STORE)
        return cls(refusal.status, refusal.sentence + "\n" if refusal.body is None else refusal.body, Headers(headers))

    @property
    def reason(self) -> str:
        """The phrase that goes with the status, such as ``Not Found``; empty for a status that has none."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return ""

    def __repr__(self) -> str:
        return f"Response({self.status} {self.reason}, {self.headers}, body={len(self.body)} bytes)"
