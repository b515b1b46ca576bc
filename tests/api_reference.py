"""The manual's pages about the API: ``python -m tests.api_reference`` writes them anew from the code's docstrings."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import enum
import inspect
import io
import itertools
import re
import textwrap
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trio

import rawws
import rawws.testing
import rawws.wire
from rawws.websocket.base import WebSocketBase

FOLDER = Path(__file__).resolve().parent.parent / "rawws" / "docs" / "reference"
COLUMNS = 120
# Members of public classes that are for rawws itself.
INTERNAL = {
    *("Hub.action", "Hub.admit", "Hub.adopt", "Hub.limits_by_flag", "Hub.paths", "Hub.peers_publish", "Hub.prepare"),
    *(
        "Hub.refuse_room",
        "Hub.for_dead_jobs",
        "Hub.keep_dead_jobs",
        "Hub.refuse_settings",
        "Hub.obstacle",
        "Hub.share_through",
        "Hub.store_through",
        "Hub.stream_events",
        "Hub.serving",
        "Hub.subprotocols",
        "Sender.of",
    ),
    *("Headers.checked", "Headers.raw", "Request.held_bytes", "Response.from_refusal", "RoomSettings.policy"),
    *("HttpPhase.held_bytes", "Origins.of", "Session.answers_pings", "Session.held_bytes", "Session.memory_bytes"),
    *("Server.run", "Server.uses_tls", "Session.outgoing", "Session.recent_frames", "Session.shown_bytes"),
}
# Classes whose objects a program is given, and doesn't make.
GIVEN = {"Room", "Member", "Server", "WebSocket", "Delivery", "Gap", "Closed", "CloseFrame", "Request", "Job"}
GIVEN |= {"Sender", "Callbacks", "CallbackWebSocket"}
OWN_DEFAULTS = {id(rawws.SAME_HOST): "SAME_HOST", id(trio.TASK_STATUS_IGNORED): "trio.TASK_STATUS_IGNORED"}
# Names of annotations that are no public names.
TYPES = {
    "Address": "`tuple[str, int] | str`: host and port, or the path of a Unix socket.",
    "Agreement": "The parameters of permessage-deflate that both sides agreed on (RFC 7692 §7.1).",
    "Accept": "How `Sec-WebSocket-Accept` is made: `key`, `sha1`, `value`, and `steps` in words.",
    "AnswerCheck": "A `Check` whose problem is a sentence.",
    "AnyStream": "`trio.abc.Stream | socket.socket`",
    "Answer": "`Callable[[Request], Awaitable[Response | str | None]]`: an application for HTTP in one function.",
    "Application": "An ASGI 3 application: `async def app(scope, receive, send)`.",
    "AsgiApp": "An `HttpApp`.",
    "Authenticate": "`Callable[[Request], Awaitable[object] | object]`",
    "ClientConnector": "`async with` opens a `WebSocket` and closes it; `async for` connects again and again; "
    "`await connector.open()` opens one that the program closes.",
    "Data": "`str | bytes | bytearray | memoryview`: the payload of a message.",
    "Deflater": "A compressor of messages.",
    "Fault": "Why we failed a connection: `close_code`, `code`, `sentence`.",
    "FieldsLike": "`Mapping[str, str] | Iterable[tuple[str, str]]`: header fields.",
    "Handler": "`Callable[[WebSocket], Awaitable[None]]`: a program for one connection.",
    "HttpEvent": "`Request | BodyPart | Refusal | Signal`: a refusal is for a request that is no valid HTTP.",
    "HttpApp": "An application for HTTP: the result of `rawws.asgi`, `rawws.wsgi` or `rawws.rooms`.",
    "Limits": "The limits of a connection: `rawws.limits.Limits()` has the defaults.",
    "Membership": "A context manager: `async with room.join(ws):` leaves the room at its end.",
    "Mode": "`\"broadcast\"`, or `\"echo\"` to send each message back to its sender alone.",
    "Problem": "The `Refusal` of a request, or a sentence about an answer.",
    "OnMember": "`Callable[[Member], object]`",
    "OnMessage": "`Callable[[Sender, str | bytes], str | bytes | bytearray | memoryview | Close | None]`",
    "ProcessRequest": "`Callable[[Request], Awaitable[Response | None] | Response | None]`",
    "ProcessResponse": "`Callable[[Request, Response], Awaitable[Response | None] | Response | None]`",
    "PlainEvent": "An `Event`, with `tuple[Opcode, bytes | bytearray]` in place of a `Message`.",
    "Refusal": "Why a request is refused: `status`, `code`, `sentence`, `headers` and `hint`; see "
    "[Refusals](refusals.md).",
    "RequestCheck": "A `Check` whose problem is a `Refusal`.",
    "Routes": "`Mapping[str, Handler | Hub | Callbacks]`: handlers by path.",
    "SeenMessage": "A message for a viewer: its size, and its beginning.",
    "Source": "An object that gives grants for requests, as `--access` has one: `rawws.access.source.Source`.",
    "SelectSubprotocol": "`Callable[[Request, Sequence[str]], str | None]`",
    "Shards": "The connections to the Redises.",
    "Tracer": "Passes heads and frames to recordings and pages: `rawws.tracing.Tracer()`.",
    "WsgiApplication": "A WSGI application (PEP 3333): `def app(environ, start_response)`.",
}  # fmt: skip


class Group(NamedTuple):
    """Names that serve one task."""

    title: str
    names: Sequence[str]
    words: str = ""


class Reference(NamedTuple):
    """A page of the reference: a module's public names, by task."""

    file: str
    module: types.ModuleType
    introduction: str
    groups: Sequence[Group]


_SECTIONS = (
    "A section without a document, such as §5.5.1, is one of RFC 6455. A function that is called with `await` may be "
    "cancelled by trio's cancel scopes, and says so if anything is lost then."
)

PAGES = (
    Reference(
        "api.md",
        rawws,
        "Everything here is a name of `rawws`. Helpers for tests are in [`rawws.testing`](api-testing.md), and the "
        f"protocols without I/O are in [`rawws.wire`](api-wire.md). {_SECTIONS}",
        (
            Group("Serve", ["serve", "Server", "SAME_HOST"]),
            Group("Connect", ["connect"]),
            Group("Attach to another server", ["attach"]),
            Group(
                "A connection",
                ["WebSocket", "Callbacks", "CallbackWebSocket", "State", "Closed", "Cause", "CloseFrame", "Gap"],
            ),
            Group("Publish from another process", ["publish", "publish_async", "Published"]),
            Group("Do the jobs of a group", ["work", "Job"]),
            Group(
                "Rooms",
                [
                    *("Hub", "Room", "Delivery", "Member", "Sender", "Close", "RoomSettings", "History", "Slow"),
                    *("share", "User"),
                ],
            ),
            Group("HTTP, ASGI and WSGI", ["asgi", "wsgi", "rooms", "Request", "Response", "Headers"]),
            Group(
                "Errors",
                [
                    *("RawwsError", "UsageError", "InvalidURI", "ListenError", "BackplaneAway"),
                    *("InvalidHandshake", "InvalidStatus"),
                    *("InvalidResponse", "NoResponse", "InvalidRedirect", "ProxyError", "HandshakeRefused", "TlsError"),
                    *("CertificateError", "OpenTimeout", "PublishError", "NotServing", "QueueFull", "PublishRefused"),
                    *("PublishUnsure", "ConnectionClosed", "ConnectionClosedOK", "ConnectionClosedError"),
                ],
                "The page [Exceptions and exit statuses](errors.md) says what to do about each.",
            ),
            Group("Version", ["__version__"]),
        ),
    ),
    Reference(
        "api-testing.md",
        rawws.testing,
        f"{inspect.getdoc(rawws.testing)}\n\n{_SECTIONS}",
        (
            Group("A connected pair", ["open_pair"]),
            Group("A peer that sends any bytes", ["open_raw", "RawPeer", "ReceivedFrame", "Role", "Opcode"]),
        ),
    ),
    Reference(
        "api-wire.md",
        rawws.wire,
        "The protocols, sans-IO: bytes in, events and bytes out. Nothing here opens a socket, waits, or reads a clock, "
        "so that a program can speak WebSocket over any transport of its own: a `ClientHandshake`, or an `HttpPhase` "
        f"and `examine`, until the 101; then a `Session`. {_SECTIONS}",
        (
            Group("The HTTP phase", ["HttpPhase", "ResponsePhase", "Signal", "BodyPart"]),
            Group(
                "The opening handshake",
                ["examine", "Handshake", "ClientHandshake", "ServerAnswer", "Check", "Origins"],
            ),
            Group("A connection", ["Session", "Role"]),
            Group(
                "Events",
                [
                    *("Event", "Message", "MessagePart", "PingReceived", "PongReceived", "CloseReceived"),
                    "Failed",
                ],
            ),
            Group("Frames", ["encode_frame", "parse_header", "FrameHeader", "Frame", "Opcode"]),
            Group(
                "Addresses and heads",
                ["parse_uri", "WebSocketURI"],
                "`Request`, `Response`, `Headers`, `CloseFrame` and `State` are those of [`rawws`](api.md).",
            ),
        ),
    ),
)  # fmt: skip


# Text


def anchor(heading: str) -> str:
    """Return the name by which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def fill(text: str, indent: str = "") -> str:
    return textwrap.fill(text, COLUMNS, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def as_markdown(docstring: str, links: Mapping[str, str]) -> str:
    """Return a docstring as Markdown: code in single backticks, and public names as links to their targets."""
    blocks: list[str] = []
    for paragraph in re.split(r"\n\s*\n", docstring.strip()):
        for part in re.split(r"\n(?=- )", paragraph):
            words = " ".join(line.strip() for line in part.splitlines())
            text = fill(_link(words, links), "  " if words.startswith("- ") else "")
            joined = words.startswith("- ") and blocks and blocks[-1].startswith("- ")
            if joined:
                blocks[-1] += f"\n{text}"
            else:
                blocks.append(text)
    return "\n\n".join(blocks)


def _link(words: str, links: Mapping[str, str]) -> str:
    def replace(found: re.Match[str]) -> str:
        if (code := found[1]) is not None:
            return f"`{code}`"
        name = found[2]
        target = links.get(name) or links.get(name.removeprefix("rawws.")) or elsewhere(name)
        return f"`{name}`" if target is None else f"[`{name}`]({target})"

    return re.sub(r"``(.+?)``|`([^`]+)`", replace, words)


def elsewhere(name: str) -> str | None:
    """Return the target of a link to a public name that is written with its module, such as ``rawws.connect``."""
    for reference in PAGES:
        module = f"{reference.module.__name__}."
        if name.startswith(module) and name.removeprefix(module) in reference.module.__all__:
            return f"{reference.file}#{anchor(name)}"
    return None


# Signatures


def show_default(value: object) -> str:
    if id(value) in OWN_DEFAULTS:
        return OWN_DEFAULTS[id(value)]
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if repr(value).startswith("<factory"):
        return "..."
    if isinstance(value, str | bytes):
        return repr(value).replace("'", '"')
    return f"{value:_}" if type(value) is int and value >= 10_000 else repr(value)


def show_type(annotation: object) -> str:
    if annotation is inspect.Parameter.empty:
        return ""
    given = annotation.__forward_arg__ if isinstance(annotation, typing.ForwardRef) else annotation
    text = given if isinstance(given, str) else str(getattr(given, "__name__", given))
    return text.replace("'", '"').replace("plain_apps.", "").replace("ssl_module.", "ssl.")


def show_parameter(parameter: inspect.Parameter) -> str:
    text = f"*{parameter.name}" if parameter.kind is parameter.VAR_POSITIONAL else parameter.name
    if annotation := show_type(parameter.annotation):
        text += f": {annotation}"
    if parameter.default is not parameter.empty:
        text += f" = {show_default(parameter.default)}" if annotation else f"={show_default(parameter.default)}"
    return text


def show_call(name: str, function: Any, *, prefix: str = "", is_method: bool = False) -> str:
    """Return a signature in Python: on one line if it is short, and otherwise with a parameter a line."""
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[1 if is_method else 0 :]
    shown: list[str] = []
    for parameter in parameters:
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in shown and not any(p[:1] == "*" for p in shown):
            shown.append("*")
        shown.append(show_parameter(parameter))
    result = show_type(signature.return_annotation)
    if prefix == "async with ":
        result = re.sub(r"^Async(?:Iterator|Generator)\[(.*)\]$", r"\1", result)
    arrow = f" -> {result}" if result and not inspect.isclass(function) else ""
    one = f"{prefix}{name}({', '.join(shown)}){arrow}"
    if len(one) <= 88:
        return one
    return f"{prefix}{name}(\n" + "".join(f"    {each},\n" for each in shown) + f"){arrow}"


def prefix_of(function: Any) -> str:
    inner = inspect.unwrap(function)
    if inner is not function and (inspect.isasyncgenfunction(inner)):
        return "async with "
    return "await " if inspect.iscoroutinefunction(inner) else ""


# Members


class Field(NamedTuple):
    """An attribute, and what the comment beside or above it says."""

    name: str
    annotation: str
    default: str
    comment: str


def fields_of(cls: type) -> Iterator[Field]:
    """Yield the attributes that the body of a class names, in order, with their comments."""
    if cls.__module__.partition(".")[0] != "rawws":
        return
    source = textwrap.dedent(inspect.getsource(cls))
    comments = {
        token.start[0]: (token.string.lstrip("# "), token.line.lstrip().startswith("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    tree = ast.parse(source).body[0]
    assert isinstance(tree, ast.ClassDef)
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name, annotation = node.target.id, ast.unparse(node.annotation)
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name, annotation = node.targets[0].id, ""
        else:
            continue
        if name.startswith("_"):
            continue
        default = "" if node.value is None else ast.unparse(node.value)
        comment, is_own_line = comments.get(node.end_lineno or 0, ("", True))
        yield Field(name, annotation, default, "" if is_own_line else comment)


def members_of(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class or its internal base defines, with their names."""
    parts = [WebSocketBase, cls] if issubclass(cls, WebSocketBase) else [cls]
    for name, member in itertools.chain.from_iterable(vars(each).items() for each in parts):
        function = member.fget if isinstance(member, property) else getattr(member, "__func__", member)
        if name.startswith("_") or f"{cls.__name__}.{name}" in INTERNAL or not inspect.isfunction(function):
            continue
        yield name, member


def is_made_by_programs(name: str, cls: type) -> bool:
    return name not in GIVEN and not issubclass(cls, enum.Enum | BaseException)


# Pages


class Writer:
    """Writes one page."""

    def __init__(self, reference: Reference) -> None:
        self.reference = reference
        self.blocks: list[str] = []
        self.used: set[str] = set()  # capitalized names in signatures
        self.links: dict[str, str] = {}
        for group in reference.groups:
            for name in group.names:
                found = getattr(reference.module, name)
                self.links[name] = f"#{anchor(self._heading(name))}"
                if inspect.isclass(found):
                    self.links |= {f"{name}.{each}": f"#{anchor(f'{name}.{each}')}" for each, _ in members_of(found)}

    def _heading(self, name: str) -> str:
        return f"{self.reference.module.__name__}.{name}"

    def page(self) -> str:
        name = self.reference.module.__name__
        self.blocks = [f"# The API: `{name}`", as_markdown(self.reference.introduction, {})]
        for group in self.reference.groups:
            links = ", ".join(f"[`{each}`]({self.links[each]})" for each in group.names)
            self.blocks.append(fill(f"* **{group.title}**: {links}", "  "))
        self.blocks = [*self.blocks[:2], "\n".join(self.blocks[2:])]
        for group in self.reference.groups:
            self.blocks.append(f"## {group.title}")
            if group.words:
                self.blocks.append(fill(group.words))
            for each in group.names:
                self._name(each)
        self._types()
        return "\n\n".join(self.blocks) + "\n"

    def _name(self, name: str) -> None:
        found = getattr(self.reference.module, name)
        self.blocks.append(f"### `{self._heading(name)}`")
        if inspect.isclass(found):
            self._class(name, found)
        elif inspect.isfunction(found):
            self._code(show_call(self._heading(name), found, prefix=prefix_of(found)))
            self._text(found)
        elif isinstance(found, str):
            self.blocks.append(f"The version of rawws, as a text such as `{found}`.")
        elif name == "Event":
            self._code(f"{name} = {' | '.join(each.__name__ for each in typing.get_args(found))}")
            self.blocks.append(f"An event of a [`Session`]({self.links['Session']}).")
        else:
            self.blocks.append(f"The `{type(found).__name__}` that is the default of `origins`.")
            self._text(type(found))

    def _text(self, documented: Any, owner: str = "") -> None:
        """Show a docstring. Within a class, the ``owner``, its members are named alone."""
        text = inspect.getdoc(documented) or ""
        own = vars(documented).get("__doc__") if inspect.isclass(documented) else text
        assert own, f"{documented} has no docstring"
        assert not text.startswith(f"{documented.__name__}("), f"{documented} has no docstring of its own"
        members = {
            name.removeprefix(f"{owner}."): self.links[name] for name in self.links if owner in name.split(".")[:1]
        }
        self.blocks.append(as_markdown(text, {**members, **self.links} if owner else self.links))

    def _code(self, code: str) -> None:
        self.used |= set(re.findall(r"(?<![\w.'\"])[A-Z][a-z]\w*\b(?!\.\w)", code))
        self.blocks.append(f"```py\n{code}\n```")

    def _class(self, name: str, cls: type) -> None:
        if issubclass(cls, BaseException):
            bases = [f"ssl.{each.__name__}" if each.__module__ == "ssl" else each.__name__ for each in cls.__bases__]
            self.blocks.append(f"```py\nclass {name}({', '.join(bases)})\n```")
        elif is_made_by_programs(name, cls):
            self._code(show_call(self._heading(name), cls))
        self._text(cls, name)
        self._fields(cls)
        for member_name, member in members_of(cls):
            full = f"{name}.{member_name}"
            self.blocks.append(f"#### `{full}`")
            if isinstance(member, property):
                result = show_type(inspect.signature(member.fget).return_annotation)  # type: ignore[arg-type]
                self._code(f"{full}: {result}")
                self._text(member.fget, name)
            else:
                function = getattr(member, "__func__", member)
                self._code(show_call(full, function, prefix=prefix_of(function), is_method=True))
                self._text(function, name)

    def _fields(self, cls: type) -> None:
        """List the attributes of a record, and the members of an enumeration."""
        is_record = dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")
        lines = []
        for each in fields_of(cls):
            if f"{cls.__name__}.{each.name}" in INTERNAL:
                continue
            if issubclass(cls, enum.Enum):
                value = getattr(cls, each.name).value
                shown = f"`{each.name}`" + (f" (`{value!r}`)" if isinstance(value, str | int) else "")
            else:
                shown = f"`{each.name}`" + (f", `{each.annotation}`" if each.annotation else "")
                self.used |= set(re.findall(r"(?<![\w.'\"])[A-Z][a-z]\w*\b(?!\.\w)", each.annotation))
            is_in_signature = is_record and cls.__name__ not in GIVEN
            if not each.comment and (is_in_signature or not (is_record or issubclass(cls, enum.Enum))):
                continue
            comment = _link(each.comment, self.links)
            lines.append(fill(f"* {shown}" + (f": {comment}" if comment else ""), "  "))
        if lines:
            self.blocks.append("\n".join(lines))

    def _types(self) -> None:
        """Explain the names in signatures that are no public names of the module."""
        known = {"None", "True", "False", *self.links}
        known |= {"Callable", "Awaitable", "Iterable", "Sequence", "Mapping", "AsyncIterator", "AsyncIterable"}
        known |= {"Collection", "AsyncGenerator", "Literal", "Iterator", "Any", "Enum", "Exception"}
        known |= set(vars(builtins))
        missing = sorted(self.used - known)
        rows = []
        for name in missing:
            home = next((each for each in PAGES if name in getattr(each.module, "__all__", ())), None)
            if home is None:
                words = TYPES[name]
            else:
                full = f"{home.module.__name__}.{name}"
                words = f"see [`{full}`]({home.file}#{anchor(full)})."
            rows.append(fill(f"* `{name}`: {words}", "  "))
        if rows:
            self.blocks += ["## Types in signatures", "\n".join(rows)]


def page(reference: Reference) -> str:
    return Writer(reference).page()


def main() -> None:
    for reference in PAGES:
        (FOLDER / reference.file).write_text(page(reference), "utf-8")


if __name__ == "__main__":
    main()
