"""Where Redis is, from a URL, and connections to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, unquote, urlsplit

import trio

from rawws import logs
from rawws.errors import UsageError

if TYPE_CHECKING:
    from coredis import Redis

    Client = Redis[bytes]

# So long an answer of Redis's may take.
TIMEOUT_S = 3.0
FIRST_REST_S, MAX_REST_S = 0.05, 2.0
_KINDS = "redis://HOST, rediss://HOST, unix:///PATH or redis+sentinel://HOST,HOST/SERVICE"


class Connector:
    """Makes connections to one Redis, each for one use, and again when it has been away."""

    def __init__(self, url: str) -> None:
        """Raises `UsageError` when the extra is not installed, or the URL can't be one."""
        try:
            import coredis
            from coredis.retry import NoRetryPolicy
        except ImportError:
            raise UsageError("sharing rooms needs coredis: pip install 'rawws[redis]'") from None
        self._coredis = coredis
        self._no_retry = NoRetryPolicy()
        self._url = url
        try:
            self._parts = urlsplit(url)
            self._connect = self._connecting(self._parts)
            is_whole = _is_whole(self._parts)
        except UsageError:
            raise
        except Exception:  # whose words may have a piece of the password in them
            is_whole = False
        if not is_whole:
            told = "with what is special in a password percent-encoded, such as %2F for a slash"
            raise UsageError(f"this can't be where Redis is; give one of {_KINDS}, {told}")

    def __str__(self) -> str:
        """Where it is, without the password."""
        where = self._parts.netloc.rpartition("@")[2]
        return f"{self._parts.scheme}://{where}{self._parts.path}"

    def _connecting(self, parts: SplitResult) -> Callable[[], AbstractAsyncContextManager[Client]]:
        match parts.scheme:
            case "redis" | "rediss" | "unix":
                self._client()  # which makes no connection yet, but reads the URL
                return self._client
            case "redis+sentinel":
                return self._through_sentinels(parts)
            case "redis+cluster":
                told = "a Redis Cluster can't be asked for several streams at once"
                raise UsageError(f"{told}, so it can't be a backplane; give one of {_KINDS}")
        raise UsageError(f"{parts.scheme or 'no'}:// is not how Redis is reached; give one of {_KINDS}")

    def _client(self) -> Client:
        return self._coredis.Redis.from_url(
            self._url, retry_policy=self._no_retry, connect_timeout=TIMEOUT_S, decode_components=True
        )

    def _through_sentinels(self, parts: SplitResult) -> Callable[[], AbstractAsyncContextManager[Client]]:
        """Ask the sentinels which server is the service's primary, each time anew."""
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
            async with sentinel, sentinel.primary_for(service) as client:
                yield client

        return connect

    @asynccontextmanager
    async def connect(self) -> AsyncGenerator[Client]:
        """Connect. Raises whatever is in the way, or comes in the way later, as it is or in a group."""
        async with self._connect() as client:
            with trio.fail_after(TIMEOUT_S):
                await client.ping()
            yield client

    async def keep_at(
        self, work: Callable[[Client], Awaitable[None]], *, on_back: Callable[[], None], on_away: Callable[[str], None]
    ) -> None:
        """Connect and do some work without end, and again whenever Redis has been away, or the work has failed.

        ``on_away`` is called with the reason when Redis can't be reached or refuses the work. An error in rawws itself
        is no such reason: it is logged once, and the work is tried again.
        """
        rest_s = FIRST_REST_S
        failure = ""
        while True:
            why = ""
            began = trio.current_time()
            try:
                async with self.connect() as client:
                    on_back()
                    await work(client)
            except* (OSError, trio.TooSlowError, self._coredis.exceptions.RedisError) as errors:
                why = _told(errors)
            except* Exception as errors:  # which nothing that Redis does should bring about
                reason = _told(errors)
                if reason != failure:
                    logs.server.exception("#%d ! an error in rawws itself; it is tried again", logs.SERVER)
                failure = reason
            await trio.lowlevel.checkpoint_if_cancelled()  # of which coredis makes a failure to connect
            if why:
                on_away(why)
            rest_s = FIRST_REST_S if trio.current_time() - began > MAX_REST_S else min(2 * rest_s, MAX_REST_S)
            await trio.sleep(rest_s)


def _is_whole(parts: SplitResult) -> bool:
    """Whether a URL has what it needs, and where it belongs: a password with a slash in it ends the host, and so on."""
    if parts.scheme == "unix":
        return bool(parts.path) and not parts.netloc.rpartition("@")[2]
    database = "" if parts.scheme == "redis+sentinel" else parts.path.strip("/")
    is_cut_short = "@" in parts.path + parts.query + parts.fragment
    return bool(parts.hostname) and not is_cut_short and (not database or database.isdecimal())


def _told(error: BaseException) -> str:
    """Return the cause among what was raised, in a few words."""
    cause = error.exceptions[0] if isinstance(error, BaseExceptionGroup) else error.__cause__
    if isinstance(error, BaseExceptionGroup) or isinstance(cause, OSError | ExceptionGroup):
        assert cause is not None
        return _told(cause)  # which "All connection attempts failed" has been raised from
    if isinstance(error, trio.TooSlowError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).rstrip(".") or type(error).__name__
