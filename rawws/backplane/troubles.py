"""Reasons why Redis is unusable: each is a sentence with advice, and says whether waiting helps.

Some show in Redis's answer to HELLO (`of_greeting`), and most in its answer to a command (`diagnose`). A server that
isn't Redis, or that expects TLS, gives no answer that a Redis client understands, and is probed in another way
(`ask_what_answers`).

A successful connection proves little: a Redis that is full, and one that denies a right to our user, both answer HELLO.
So each of our connections begins with a trial of all commands, on keys that serve nothing else (`try_out`).
"""

from __future__ import annotations

import contextlib
import enum
import re
import shlex
import ssl
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from rawws.broadcast.stream_entries import PREFIX
from rawws.wire.trace import shorten

if TYPE_CHECKING:
    from coredis import Redis

# The commands outside of scripts. `reading`, `writing` and `grouping` return the commands within scripts.
DIRECT = ("PING", "EVALSHA", "SCRIPT|LOAD", "XREAD")
# The rights to the commands of `grouping`, as arguments of ``ACL SETUSER``.
GROUP_RIGHTS = "+@stream +@hash +@sortedset +@set +@list +exists +persist +del +unlink"
TRIAL_EXPIRY_S = 60
ASK_TIMEOUT_S = 1.5


class Lasts(enum.Enum):
    """How long a trouble may last."""

    A_WHILE = "it may end by itself"
    UNTIL_MENDED = "somebody has to repair this Redis"
    FOR_EVER = "the URL or the configuration is wrong"


class Trouble(NamedTuple):
    """A reason why Redis is unusable. One of each ``kind`` is logged until Redis is usable again."""

    kind: str
    sentence: str
    lasts: Lasts = Lasts.A_WHILE


class Unusable(Exception):
    """Redis is unusable, for a reason that is known already."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(trouble.sentence)
        self.trouble = trouble


class Refused(Exception):
    """Redis has refused a command within a script. The message is Redis's, with its code at the beginning."""

    def __init__(self, message: str, command: str = "") -> None:
        super().__init__(message)
        self.command = command


class Address(NamedTuple):
    """The address of a Redis, as much of it as sentences need."""

    scheme: str
    host: str  # or the path of a Unix domain socket
    port: int
    user: str = "default"
    db: int = 0
    has_client_name: bool = False

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port}" if self.port else self.host

    @property
    def rules(self) -> str:
        """The rights that rawws needs, as arguments of ``ACL SETUSER``, quoted for a shell."""
        commands = [*DIRECT, *(command for command, *_ in (*reading(""), *writing("", "")))]
        if self.db:
            commands.append("SELECT")
        if self.has_client_name:
            commands.append("CLIENT|SETNAME")
        if self.scheme == "redis+sentinel":
            commands.append("ROLE")
        return shlex.join([f"~{PREFIX}*", *(f"+{each.lower()}" for each in dict.fromkeys(commands))])


# A trial of all commands


def reading(stream: str) -> list[tuple[str, ...]]:
    """Return the commands that a reader runs within scripts; a bar separates a subcommand."""
    return [
        ("TIME",),
        ("XINFO|STREAM", stream),
        ("PEXPIRETIME", stream),
        ("XRANGE", stream, "-", "+", "COUNT", "1"),
        ("XREVRANGE", stream, "+", "-", "COUNT", "1"),
        ("XREAD", "COUNT", "1", "STREAMS", stream, "0"),
    ]


def writing(stream: str, text: str) -> list[tuple[str, ...]]:
    """Return the commands that a publisher runs within scripts: on the key of a stream, and on that of a string."""
    return [
        ("GET", text),
        ("SET", text, "", "EX", str(TRIAL_EXPIRY_S)),
        ("XADD", stream, "MAXLEN", "1", "*", "", ""),
        ("EXPIRE", stream, str(TRIAL_EXPIRY_S)),
        ("MEMORY|USAGE", stream, "SAMPLES", "0"),
        ("XTRIM", stream, "MINID", "0"),
    ]


def grouping(stream: str, other: str) -> list[tuple[str, ...]]:
    """Return the commands that groups run within scripts: on the key of a stream, and on another key."""
    zset, text = f"{other}:zset", f"{other}:hash"
    return [
        ("EXISTS", stream),
        ("XGROUP|CREATE", stream, "trial", "$", "MKSTREAM"),
        ("XREADGROUP", "GROUP", "trial", "trial", "COUNT", "1", "STREAMS", stream, ">"),
        ("XPENDING", stream, "trial"),
        ("XACK", stream, "trial", "0-1"),
        ("XINFO|GROUPS", stream),
        ("XLEN", stream),
        ("XGROUP|DESTROY", stream, "trial"),
        ("PERSIST", stream),
        ("ZADD", zset, "0", "a"),
        ("ZCARD", zset),
        ("ZRANGE", zset, "0", "0"),
        ("ZRANGEBYSCORE", zset, "0", "0"),
        ("ZRANGEBYLEX", zset, "-", "+"),
        ("ZREM", zset, "a"),
        ("HSET", text, "a", "1"),
        ("HSETNX", text, "a", "1"),
        ("HINCRBY", text, "a", "1"),
        ("HGET", text, "a"),
        ("HMGET", text, "a"),
        ("HGETALL", text),
        ("HLEN", text),
        ("HDEL", text, "a"),
        ("SADD", other, "a"),
        ("SISMEMBER", other, "a"),
        ("SMEMBERS", other),
        ("SREM", other, "a"),
        ("RPUSH", other, "a"),
        ("LSET", other, "0", "a"),
        ("LINDEX", other, "0"),
        ("LRANGE", other, "0", "0"),
        ("LPOP", other),
        ("DEL", other, stream),
        ("UNLINK", other, stream),
    ]


# KEYS: the keys of the commands. ARGV: for each command the number of its words, and the words. Returns the index of
# the command that was refused, and the error; or an empty table.
TRY_OUT = """
local place, count = 1, 0
while place <= #ARGV do
  local last = place + tonumber(ARGV[place])
  local answer = redis.pcall(unpack(ARGV, place + 1, last))
  if type(answer) == 'table' and answer.err and not string.find(answer.err, 'no such key', 1, true) then
    return {count, answer.err}
  end
  place, count = last + 1, count + 1
end
return {}
"""


async def try_out(client: Redis[bytes], keys: Sequence[str], commands: Sequence[tuple[str, ...]]) -> None:
    """Run commands in a script. Raises `Refused` for the first that Redis refuses."""
    arguments: list[str | int] = []
    for name, *rest in commands:
        words = [*name.split("|"), *rest]
        arguments += [len(words), *words]
    await client.script_load(TRY_OUT)  # coredis's Script would do so by itself, and hide a missing right
    answer: Any = await client.register_script(TRY_OUT)(list(keys), arguments)
    if answer:
        place, why = answer
        raise Refused(why.decode(errors="replace"), commands[place][0])


def concerns_everything(message: str) -> bool:
    """Return whether the error of a command within a script concerns all keys, not only its own."""
    return message.startswith(("NOPERM ", _NO_RIGHT_IN_SCRIPT))


# Diagnosis from Redis's answers


def of_greeting(greeting: Mapping[bytes, Any], at: Address) -> Trouble | None:
    """Return the trouble that shows in a server's answer to HELLO; None if there is none."""
    match greeting.get(b"mode"), greeting.get(b"role"):
        case b"cluster", _:
            return _CLUSTER
        case b"sentinel", _:
            return _of_sentinel(at)
        case _, b"replica" | b"slave":
            return _REPLICA
    return None


def version_of(greeting: Mapping[bytes, Any]) -> str:
    """Return the version that a server names in its answer to HELLO; empty if it names none."""
    version = greeting.get(b"version")
    return shorten(version.decode(errors="replace")) if isinstance(version, bytes) else ""


GIBBERISH = Trouble("away", "what answers there isn't Redis, or something on the way has changed its answer")
_CLUSTER = Trouble(
    "cluster",
    "this is a Redis Cluster, which can't be asked for several streams at once; "
    "give a Redis that has 'cluster-enabled no'",
    Lasts.FOR_EVER,
)
_REPLICA = Trouble(
    "replica",
    "this is a replica, which takes no writes; give the address of its primary, "
    "or its Sentinels as redis+sentinel://HOST:PORT/SERVICE",
    Lasts.FOR_EVER,
)
_NO_RIGHT_IN_SCRIPT = "ERR The user executing the script can't run this command"
# coredis's messages lack the code, which is the type of the exception.
_CODES = {
    "AuthorizationError": "NOPERM",
    "AuthenticationRequiredError": "NOAUTH",
    "AuthenticationFailureError": "WRONGPASS",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterCrossSlotError": "CROSSSLOT",
    "ClusterDownError": "CLUSTERDOWN",
    "UnknownCommandError": "UNKNOWN",
}


def diagnose(error: BaseException, at: Address, version: str = "") -> Trouble:
    """Return the trouble that an exception of coredis stands for. ``version`` is Redis's, if it is known."""
    cause = _cause_of(error)
    if isinstance(cause, Unusable):
        return cause.trouble
    if isinstance(cause, ssl.SSLError) and (trouble := _of_tls(cause, at)):
        return trouble
    message = str(cause).rstrip(".")
    if not isinstance(cause, OSError | trio.TooSlowError):
        code = _CODES.get(type(cause).__name__) or message.partition(" ")[0]
        command = getattr(cause, "command", "") or _named_in(message)
        if trouble := _of_answer(code, message, command, at, version):
            return trouble
    if type(cause).__name__ == "PrimaryNotFoundError":
        return Trouble("away", f"{shorten(message)}: no Sentinel that can be reached knows that name and its primary")
    if cause.__cause__ is not None and is_of_answer(cause.__cause__):
        return GIBBERISH
    return Trouble("away", _message_of(cause))


def _of_answer(code: str, message: str, command: str, at: Address, version: str) -> Trouble | None:
    """Return the trouble that an error in Redis's answer shows; None for an error without a sentence of its own."""
    lowered = message.lower()
    if code in ("MOVED", "ASK", "CROSSSLOT", "CLUSTERDOWN") or "not allowed in cluster mode" in lowered:
        return _CLUSTER
    if code == "UNKNOWN" or "unknown redis command" in lowered:
        return _of_unknown(command, at, version)
    if code == "NOPERM" or message.startswith(_NO_RIGHT_IN_SCRIPT):
        what = f"run {command or 'all of its commands'}"
        if not command and "key" in lowered:
            what = f"use keys that begin with {PREFIX}"
        of_rooms = {each for each, *_ in (*reading(""), *writing("", ""))}
        of_groups = {each for each, *_ in grouping("", "")} - of_rooms
        rules = f"{at.rules} {GROUP_RIGHTS}" if command in of_groups else at.rules
        grant = f"redis-cli ACL SETUSER {shlex.quote(at.user)} {rules}"
        sentence = f"Redis doesn't let its user {at.user!r} {what}; as its administrator run {grant}"
        return Trouble("rights", sentence, Lasts.FOR_EVER)
    if "db index" in lowered:
        sentence = f"this Redis has no database {at.db}; give a lower number in the URL, or raise 'databases' there"
        return Trouble("database", sentence, Lasts.FOR_EVER)
    return _ANSWERS.get(code)


_ANSWERS = {
    "NOAUTH": Trouble(
        "login", "Redis requires a password; give it in the URL, as in redis://USER:PASSWORD@HOST", Lasts.FOR_EVER
    ),
    "WRONGPASS": Trouble(
        "login",
        "Redis refuses the password in the URL, or the user; "
        "special characters in a password are percent-encoded, and a password without a user is :PASSWORD@HOST",
        Lasts.FOR_EVER,
    ),
    "DENIED": Trouble(
        "login",
        "Redis refuses clients on other machines, since it has no password (protected mode); "
        "set its 'requirepass', and give the password in the URL, as in redis://:PASSWORD@HOST",
        Lasts.FOR_EVER,
    ),
    "READONLY": _REPLICA,
    "OOM": Trouble(
        "full",
        "Redis is full and takes no writes; raise its 'maxmemory', or delete keys that nobody needs",
        Lasts.UNTIL_MENDED,
    ),
    "MISCONF": Trouble(
        "disk",
        "Redis can't save its data, and so takes no writes; see its log, mend its disk, "
        "or let it accept writes without saving: CONFIG SET stop-writes-on-bgsave-error no",
        Lasts.UNTIL_MENDED,
    ),
    "LOADING": Trouble("loading", "Redis is loading its data"),
    "NOREPLICAS": Trouble("replicas", "Redis has fewer replicas than its 'min-replicas-to-write'"),
}


def _of_unknown(command: str, at: Address, version: str) -> Trouble:
    command = command.upper()
    if command == "SELECT":  # every Redis knows it
        return _of_sentinel(at)
    if command == "SENTINEL":
        sentence = f"{at.place} is no Sentinel; give redis://{at.place} for a Redis"
        return Trouble("sentinel", sentence, Lasts.FOR_EVER)
    named = f"it is version {version}" if version else "it is an older version"
    sentence = f"this Redis doesn't know the command {command or 'of a script'} ({named}); rawws needs Redis 7 or later"
    return Trouble("version", sentence, Lasts.FOR_EVER)


def _of_sentinel(at: Address) -> Trouble:
    sentence = (
        f"this is a Sentinel; give redis+sentinel://{at.place}/SERVICE, with the name of the service that it watches"
    )
    return Trouble("sentinel", sentence, Lasts.FOR_EVER)


def of_service(service: str) -> Trouble:
    """Return the trouble with a service that no Sentinel watches."""
    sentence = f"its Sentinel watches no service {service!r}; give one of those that SENTINEL MASTERS names there"
    return Trouble("sentinel", sentence, Lasts.FOR_EVER)


def _of_tls(error: ssl.SSLError, at: Address) -> Trouble | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        sentence = (
            f"the certificate of {at.place} can't be trusted ({error.verify_message.rstrip('.')}); "
            "give the certificate of its authority in the URL, as ?ssl_ca_certs=FILE"
        )
        return Trouble("certificate", sentence, Lasts.FOR_EVER)
    if "CERTIFICATE_REQUIRED" in (error.reason or ""):
        sentence = (
            f"{at.place} requires a client certificate; give it in the URL, as ?ssl_certfile=FILE&ssl_keyfile=FILE"
        )
        return Trouble("certificate", sentence, Lasts.FOR_EVER)
    return None


def is_of_answer(error: BaseException) -> bool:
    """Say whether the client's own code has failed, as it does at an answer that no Redis gives."""
    cause = _cause_of(error)
    place = cause.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return place is not None and place.tb_frame.f_globals.get("__name__", "").startswith("coredis.")


def _named_in(message: str) -> str:
    found = re.search(r"run the '([^']+)'|unknown (?:sub)?command ['`]([^'`]+)['`]", message)
    return shorten(found[1] or found[2]).upper() if found else ""


def _cause_of(error: BaseException) -> BaseException:
    """Return the exception that explains an error: "All connection attempts failed" is raised from it."""
    while True:
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        elif isinstance(error.__cause__, OSError | ExceptionGroup):
            error = error.__cause__
        elif error.__cause__ is not None and isinstance(error.__cause__.__cause__, OSError):
            error = error.__cause__.__cause__  # anyio raises a BrokenResourceError from it
        else:
            return error


def _message_of(error: BaseException) -> str:
    if isinstance(error, trio.TooSlowError | TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return shorten(str(error).rstrip(".")) or type(error).__name__


# Servers that speak another protocol


async def ask_what_answers(at: Address) -> Trouble | None:
    """Return the trouble that a server speaks another protocol, if it does. Takes up to `ASK_TIMEOUT_S`, twice."""
    if answer := await _first_bytes(at, None):
        if answer.startswith(_OF_REDIS):
            return _NOT_TLS if at.scheme == "rediss" else None
        if not answer.startswith(_OF_TLS):
            return _of_stranger(answer, at)
    if at.scheme == "unix":
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    answer = await _first_bytes(at, context)
    if answer is None:
        return None
    if answer and not answer.startswith(_OF_REDIS):
        return _of_stranger(answer, at)
    return None if at.scheme == "rediss" else _TLS


# A request in two protocols: HTTP, and Redis, which answers "-ERR wrong number of arguments" or "-NOAUTH".
_QUESTION = b"PING / HTTP/1.0\r\n\r\n"
_OF_REDIS = (b"-", b"+")
_OF_TLS = b"\x15\x03"  # an alert (RFC 8446 §6)
_TLS = Trouble("tls", "this port expects TLS; give rediss:// in place of redis://", Lasts.FOR_EVER)
_NOT_TLS = Trouble("tls", "this port doesn't speak TLS; give redis:// in place of rediss://", Lasts.FOR_EVER)


def _of_stranger(answer: bytes, at: Address) -> Trouble:
    speaks = "speaks HTTP" if answer.startswith(b"HTTP/") else f"sent {answer[:20]!r}"
    sentence = f"the server at {at.place} {speaks} and isn't Redis; give the host and port of Redis"
    return Trouble("stranger", sentence, Lasts.FOR_EVER)


async def _first_bytes(at: Address, tls: ssl.SSLContext | None) -> bytes | None:
    """Return the first bytes of the answer; empty if there is no answer; None if there is no connection."""
    stream: trio.abc.Stream | None = None
    answer: bytes | None = None
    try:
        with trio.move_on_after(ASK_TIMEOUT_S), contextlib.suppress(OSError, trio.BrokenResourceError):
            if at.scheme == "unix":
                stream = await trio.open_unix_socket(at.host)
            else:
                stream = await trio.open_tcp_stream(at.host, at.port)
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_hostname=at.host, https_compatible=True)
                await stream.do_handshake()
            answer = b""
            await stream.send_all(_QUESTION)
            answer = bytes(await stream.receive_some(100))
    finally:
        if stream is not None:
            await trio.aclose_forcefully(stream)
    return answer
