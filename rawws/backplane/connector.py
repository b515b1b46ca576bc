"""The address of a Redis, read from its URL, and connections to it."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import trio

from rawws import logs
from rawws.backplane.troubles import (
    GIBBERISH,
    Address,
    Refused,
    Trouble,
    Unusable,
    ask_what_answers,
    diagnose,
    is_of_answer,
    of_greeting,
    of_service,
    version_of,
)
from rawws.errors import UsageError
from rawws.extras import install_command

if TYPE_CHECKING:
    from coredis import Redis

    Client = Redis[bytes]

# coredis logs each failure with a traceback, and without any set-up of logging that goes to stderr. Our own log has the
# part that matters, in a sentence.
logging.getLogger("coredis").addHandler(logging.NullHandler())

# The longest time for an answer of Redis.
TIMEOUT_S = 3.0
FIRST_REST_S, MAX_REST_S = 0.05, 2.0
_KINDS = "redis://HOST, rediss://HOST, unix:///PATH or redis+sentinel://HOST,HOST/SERVICE"
_SCHEMES = ("redis", "rediss", "unix", "redis+sentinel")
# The options of a URL: a pattern for each one's values, and a description of it.
_FILE = (r".+", "a file's name")
_OPTIONS = {
    "db": (r"[0-9]{1,9}", "a number"),
    "client_name": (r"[!-~]+", "ASCII characters without a space"),  # as CLIENT SETNAME takes them
}
_TLS_OPTIONS = {
    "ssl_ca_certs": _FILE,
    "ssl_certfile": _FILE,
    "ssl_keyfile": _FILE,
    "ssl_check_hostname": (r"true|false|yes|no|1|0", "true or false"),
    "ssl_cert_reqs": (r"required|optional|none", "required, optional or none"),
}


class Connector:
    """Makes connections to one Redis, and makes them again after it has been away."""

    def __init__(self, url: str) -> None:
        """Raises `UsageError` when coredis is not installed, or the URL is invalid."""
        try:
            import coredis
            from coredis.retry import NoRetryPolicy
        except ImportError:
            raise UsageError(
                f"sharing rooms needs coredis, which isn't installed: {install_command('coredis')}"
            ) from None
        self._coredis = coredis
        self._no_retry = NoRetryPolicy()
        self._url = url
        try:
            self._parts = urlsplit(url)
            is_whole = _is_whole(self._parts)
            if is_whole and self._parts.scheme in _SCHEMES:
                _check_options(self._parts)
            self._connect = self._connecting(self._parts)
            self.address = _address_of(self._parts)
        except UsageError:
            raise
        except OSError as error:  # TLS files
            reason = error.strerror or error.args[0]
            raise UsageError(f"the TLS files in Redis's URL can't be used: {reason}") from None
        except Exception:  # the message may contain a piece of the password
            is_whole = False
        if not is_whole:
            sentence = "with special characters in a password percent-encoded, such as %2F for a slash"
            raise UsageError(f"this is not a valid URL for Redis; give one of {_KINDS}, {sentence}")
        self._version = ""  # of Redis, once it is known

    def __str__(self) -> str:
        """The URL without the password."""
        where = self._parts.netloc.rpartition("@")[2]
        return f"{self._parts.scheme}://{where}{self._parts.path}"

    def _connecting(self, parts: SplitResult) -> Callable[[], AbstractAsyncContextManager[Client]]:
        match parts.scheme:
            case "redis" | "rediss" | "unix":
                self._client()  # this only checks the URL, and doesn't connect yet
                return self._client
            case "redis+sentinel":
                return self._through_sentinels(parts)
            case "redis+cluster":
                sentence = "a Redis Cluster can't be asked for several streams at once"
                raise UsageError(f"{sentence}, so it can't be a backplane; give one of {_KINDS}")
        if not parts.netloc and not parts.path.startswith("//"):
            raise UsageError(f"the address of Redis begins with no scheme; give one of {_KINDS}")
        raise UsageError(f"{parts.scheme}:// is not a scheme for Redis; give one of {_KINDS}")

    def _client(self) -> Client:
        return self._coredis.Redis.from_url(
            self._url, retry_policy=self._no_retry, connect_timeout=TIMEOUT_S, decode_components=True
        )

    def _through_sentinels(self, parts: SplitResult) -> Callable[[], AbstractAsyncContextManager[Client]]:
        """Return a function that connects to the service's primary. Each call asks the sentinels for it."""
        credentials, _, hosts = parts.netloc.rpartition("@")
        service, _, db = parts.path.removeprefix("/").partition("/")
        if not service:
            raise UsageError("a Sentinel's URL names the service: redis+sentinel://HOST,HOST/SERVICE")
        sentinels = []
        for each in hosts.split(","):
            host, _, port = each.partition(":")
            sentinels.append(self._coredis.connection.TCPLocation(host, int(port or 26379)))
        user, _, password = (unquote(each) for each in credentials.partition(":"))
        options: dict[str, Any] = {"connect_timeout": TIMEOUT_S}
        if password:
            options |= {"password": password} | ({"username": user} if user else {})
        if db:
            options["db"] = int(db)

        @asynccontextmanager
        async def connect() -> AsyncGenerator[Client]:
            sentinel = self._coredis.Sentinel(sentinels, retry_policy=self._no_retry, **options)
            async with sentinel:
                if await self._is_unknown(service, sentinel):
                    raise Unusable(of_service(service))
                async with sentinel.primary_for(service) as client:
                    yield client

        return connect

    async def _is_unknown(self, service: str, sentinel: Any) -> bool:
        """Return whether the first Sentinel that answers doesn't know a service."""
        for each in sentinel.sentinels:
            with contextlib.suppress(self._coredis.exceptions.ConnectionError, OSError):
                return not await each.sentinel_get_master_addr_by_name(service)
        return False

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Client]:
        """Connect. Any failure, now or within the block, is raised as it is or in a group."""
        async with self._connect() as client:
            with trio.fail_after(TIMEOUT_S):
                greeting: Any = await client.hello()
            self._version = version_of(greeting)
            if trouble := of_greeting(greeting, self.address):
                raise Unusable(trouble)
            yield client

    async def run_with_reconnect(
        self, work: Callable[[Client], Awaitable[None]], *, on_away: Callable[[Trouble], None]
    ) -> None:
        """Connect and do some endless work. Do both again whenever Redis has been away, or the work has failed.

        ``on_away`` is called with the reason when Redis can't be reached or refuses the work. An error in rawws itself
        doesn't count as that: it is logged once, and the work is tried again.
        """
        rest_s = FIRST_REST_S
        failure = ""
        while True:
            trouble: Trouble | None = None
            began = trio.current_time()
            try:
                async with self.connect() as client:
                    await work(client)
            except* (OSError, trio.TooSlowError, Unusable, Refused, self._coredis.exceptions.RedisError) as errors:
                trouble = diagnose(errors, self.address, self._version)
            except* Exception as errors:
                reason = repr(errors.exceptions[0])
                if is_of_answer(errors):
                    trouble = GIBBERISH
                elif reason != failure:  # nothing that Redis does should cause this
                    logs.server.exception("#%d ! an error in rawws itself; it is tried again", logs.SERVER)
                failure = reason
            await trio.lowlevel.checkpoint_if_cancelled()  # coredis turns a cancellation into a failure to connect
            if trouble is not None:
                on_away(await self._look_closer(trouble))
            rest_s = FIRST_REST_S if trio.current_time() - began > MAX_REST_S else min(2 * rest_s, MAX_REST_S)
            await trio.sleep(rest_s)

    async def _look_closer(self, trouble: Trouble) -> Trouble:
        """Find out whether a server that has never answered as Redis speaks another protocol."""
        if trouble.kind != "away" or self._version or self.address.scheme == "redis+sentinel":
            return trouble
        return await ask_what_answers(self.address) or trouble


def _is_whole(parts: SplitResult) -> bool:
    """Return whether a URL is complete. A slash in a password ends the host too early, for example."""
    if parts.scheme == "unix":
        return bool(parts.path) and not parts.netloc.rpartition("@")[2]
    database = "" if parts.scheme == "redis+sentinel" else parts.path.strip("/")
    is_cut_short = bool(parts.fragment) or "@" in parts.path + parts.query
    return bool(parts.hostname) and not is_cut_short and (not database or database.isdecimal())


def _address_of(parts: SplitResult) -> Address:
    user = unquote(parts.username or "") or "default"
    if parts.scheme == "unix":
        return Address(parts.scheme, unquote(parts.path), 0, user, _db_of(parts), _has_name(parts))
    if parts.scheme == "redis+sentinel":
        db = parts.path.removeprefix("/").partition("/")[2]
        return Address(parts.scheme, parts.netloc.rpartition("@")[2], 0, user, int(db or 0))
    host, port = unquote(parts.hostname or ""), parts.port or 6379
    return Address(parts.scheme, host, port, user, _db_of(parts), _has_name(parts))


def _has_name(parts: SplitResult) -> bool:
    return "client_name" in dict(parse_qsl(parts.query))


def _db_of(parts: SplitResult) -> int:
    given = dict(parse_qsl(parts.query)).get("db")
    return int(given or (parts.path.strip("/") if parts.scheme != "unix" else "") or 0)


def _check_options(parts: SplitResult) -> None:
    """Raise `UsageError` for options of a URL that coredis would silently ignore or misread."""
    given = parse_qsl(parts.query, keep_blank_values=True)
    known = _OPTIONS | (_TLS_OPTIONS if parts.scheme == "rediss" else {})
    if parts.scheme == "redis+sentinel":
        known = {}
    names = [name for name, _ in given]
    for name, value in given:
        if name not in known:
            raise UsageError(_explain_unknown(name, list(known), parts.scheme))
        if names.count(name) > 1 or (name == "db" and parts.scheme != "unix" and parts.path.strip("/")):
            raise UsageError(f"Redis's URL has {name} twice; give it once")
        pattern, would_do = known[name]
        if not re.fullmatch(pattern, value):
            raise UsageError(f"the option {name} in Redis's URL can't have this value; give {would_do}")
    if ("ssl_certfile" in names) != ("ssl_keyfile" in names):
        raise UsageError("ssl_certfile and ssl_keyfile in Redis's URL go together; both may name the same file")


def _explain_unknown(name: str, known: list[str], scheme: str) -> str:
    fault = f"Redis's URL has the option {name!r}, which rawws doesn't support for {scheme}://"
    if not known:
        return f"{fault}; leave it out"
    if name in _TLS_OPTIONS:
        return f"{fault}; it is for rediss://"
    near = get_close_matches(name, known, 1)
    return f"{fault}; {f'did you mean {near[0]}?' if near else 'it has ' + ' and '.join(known)}"
