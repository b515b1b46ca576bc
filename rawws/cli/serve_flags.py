"""The flags of ``rawws serve``: one row each. The manual's page is made from it, by ``python -m tests.flag_table``."""

from __future__ import annotations

from rawws import logs
from rawws.application.choice import AUTO, LOOPS
from rawws.application.loading import INTERFACES
from rawws.application.threads import DEFAULT_THREADS
from rawws.cli.arguments import (
    above_zero,
    count,
    host_name,
    origin,
    page_token,
    path_prefix,
    port,
    proxy,
    rate,
    seconds,
    size,
    text,
    token,
    workers,
)
from rawws.cli.flags import Flag, FlagTable, Value, show_size
from rawws.cli.token_sources import TOKEN_FLAGS
from rawws.hub.hub import STORE_SYNCS, Hub
from rawws.hub.hub_arguments import Mode
from rawws.relay.lag_policies import POLICIES
from rawws.server.serve import serve

WORD = Value()
FILE = Value(metavar="FILE")
PATH = Value(metavar="PATH")
NAME = Value(metavar="NAME")
BYTES = Value(above_zero(size), "BYTES", show_size)
LIMIT = Value(above_zero(count), "N")
SECONDS = Value(seconds, "SECONDS", "{:g}".format)

DEFAULT_HELLO = "Hello! Message From Server!!"


def _policies_in_words() -> str:
    *others, last = (f"{policy.summary} (`{policy.name}`)" for policy in POLICIES.values())
    return f"policy for a peer that reads too slowly: it {', '.join(others)}, or {last}"


_LISTENING = (
    Flag("--host", WORD, "name or address to listen on; `''` for every interface", own_default="127.0.0.1"),
    Flag("--port", Value(port), "port to listen on; `0` for any free one", own_default=8080),
    Flag(
        "--tls-cert",
        FILE,
        "certificate chain (PEM) for TLS: `https` and `wss`",
        manual="A client that speaks plain HTTP there gets 400.",
    ),
    Flag("--tls-key", FILE, "private key (PEM) of the certificate, if it is in another file"),
)

_SERVING = (
    Flag(
        "--hello",
        Value(text, "TEXT"),
        "greeting for each new peer; `''` for none",
        goes_to="hub.hello",
        own_default=DEFAULT_HELLO,
    ),
    Flag(
        "--mode",
        Value.one_of([mode.value for mode in Mode]),
        "`broadcast` sends each message to the whole room, `echo` back to its sender alone",
        goes_to="hub.mode",
    ),
    Flag(
        "--allow-origin",
        Value(origin, "ORIGIN"),
        "let web pages of this origin connect too, such as `https://hoppscotch.io`; `*` for any; may be repeated",
        manual="Apps have origins such as `file://`, `capacitor://localhost`, or `''` for an empty one. A page of any "
        "site can send `null`.",
        repeats=True,
    ),
    Flag(
        "--allow-host",
        Value(host_name, "NAME"),
        "name by which clients may call the server (`Host`), besides addresses and `localhost`; `*` for any; may be "
        "repeated",
        goes_to="serve.hosts",
        shown_default="any, but only those when listening on this machine alone",
        repeats=True,
    ),
    Flag(
        "--subprotocol",
        NAME,
        "agree to this subprotocol when a client offers it; may be repeated, the favourite first",
        goes_to="serve.subprotocols",
        repeats=True,
    ),
    Flag(
        "--app",
        Value(metavar="MODULE:NAME"),
        "application (FastAPI, Django, Flask, ...) for all that is not a room: HTTP, and WebSockets of its own",
        manual="`MODULE:FUNCTION()` is an application that a function makes, as in `flaskr:create_app()`. "
        "[Upgrades](http.md#upgrades) has the order in which paths are claimed.",
    ),
    Flag(
        "--root-path",
        PATH,
        "for `--app`: path prefix that a proxy in front removes, such as `/api`",
        manual="The application gets it as ASGI's `root_path`.",
        needs_app=True,
    ),
    Flag(
        "--app-loop",
        Value.one_of(LOOPS),
        "for `--app`: event loop in which the application runs: `asyncio` or `uvloop` in a thread of its own, or "
        "`trio` in the server's; `auto` looks for trio in the application's modules",
        manual="`auto` is asyncio, unless the application's modules use trio, or it can't start on asyncio. The log "
        "says which it is. [Run your application](../howto/run-your-application.md) has more about it.",
        own_default=AUTO,
        needs_app=True,
        needs_interface="asgi",
    ),
    Flag(
        "--app-interface",
        Value.one_of(INTERFACES),
        "for `--app`: interface of the application: `asgi`, `wsgi` (Flask, Django), or `auto` by the arguments that it "
        "takes",
        own_default=AUTO,
        needs_app=True,
    ),
    Flag(
        "--app-threads",
        LIMIT,
        "for `--app`: number of threads for an application of WSGI, which are the requests that it answers at a time",
        own_default=DEFAULT_THREADS,
        needs_app=True,
        needs_interface="wsgi",
    ),
    Flag(
        "--no-compression",
        None,
        "decline permessage-deflate (RFC 7692)",
        goes_to="serve.compression",
        dest="compression",
        stores=None,
    ),
    Flag(
        "--no-fast-lane",
        None,
        "read and write each head through h11 and each frame through wsproto, for study",
        goes_to="serve.fast_lane",
        dest="fast_lane",
        stores=False,
    ),
)

_ROOMS = (
    Flag(
        "--history",
        Value(count, "N"),
        "messages to keep per room for clients that join later",
        goes_to="hub.history",
        shown_default="`0`, or `1000` with `--store`",
        needs_rooms=True,
    ),
    Flag(
        "--history-bytes",
        Value(size, "BYTES", show_size),
        "approximate size at which a room's history drops its oldest messages",
        goes_to="hub.history_bytes",
    ),
    Flag("--history-age", SECONDS, "seconds for which a message stays in the history", goes_to="hub.history_age_s"),
    Flag(
        "--slow",
        Value.one_of(POLICIES),
        _policies_in_words,
        goes_to="hub.slow",
        needs_rooms=True,
    ),
    Flag(
        "--store",
        FILE,
        "file in which rooms survive a restart: their messages, ids, and the Idempotency-Keys of POST requests",
        goes_to="hub.store",
        manual="See [Rooms that survive a restart](../howto/store.md).",
        needs_rooms=True,
    ),
    Flag(
        "--store-sync",
        Value.one_of(STORE_SYNCS),
        "for `--store`: a message that anybody is told of is on the disk (`always`), is there soon (`interval`), or is "
        "left to the system (`never`); in each mode it survives the end of the process",
        goes_to="hub.store_sync",
        needs_store=True,
    ),
    Flag(
        "--store-interval",
        SECONDS,
        "for `--store-sync interval`: seconds within which a message is on the disk",
        goes_to="hub.store_interval_s",
        needs_store=True,
    ),
    Flag(
        "--store-bytes",
        Value(size, "BYTES", show_size),
        "for `--store`: bytes that its file may have; near them, publishers wait, and a POST is answered with 507",
        goes_to="hub.store_bytes",
        manual="See [Bounds](../howto/store.md#bounds).",
        shown_default="no limit",
        needs_store=True,
    ),
    Flag(
        "--store-rooms",
        LIMIT,
        "for `--store`: rooms that its file may have; further ones are refused with 503",
        goes_to="hub.store_rooms",
        manual="See [Bounds](../howto/store.md#bounds).",
        needs_store=True,
    ),
    Flag(
        "--queue-bytes",
        Value(size, "BYTES", show_size),
        "bytes that the groups of a room (`?group=`) keep from being trimmed; beyond it publishers wait there, and a "
        "POST is answered with 507",
        goes_to="hub.queue_bytes",
        manual="See [Hand work to another back end](../howto/queues.md).",
        needs_rooms=True,
    ),
    Flag(
        "--queue-in-memory",
        None,
        "allow groups (`?group=`) without `--store`, though jobs that are left end with the server",
        goes_to="hub.queue_in_memory",
        needs_rooms=True,
    ),
    Flag(
        "--push",
        Value(metavar="'ROOM GROUP URL'"),
        "send the jobs of a group to a URL, each by a POST, such as `'/room/pay sms https://sms.internal/hook'`; may "
        "be repeated",
        goes_to="hub.push",
        manual="See [Without any client](../howto/queues.md#without-any-client).",
        repeats=True,
        needs_rooms=True,
    ),
    Flag(
        "--backplane",
        Value(metavar="URL"),
        "share rooms with other nodes through this Redis, such as `redis://localhost`; may be repeated, to spread the "
        "rooms over several",
        repeats=True,
    ),
    Flag(
        "--workers",
        Value(workers, "N"),
        "number of worker processes sharing the port and the rooms; `auto` for one for each core. `--max-connections` "
        "and `--max-memory` are divided among them; other limits apply to each",
        manual="Without `--backplane` the first process shares the rooms among the workers (`--backplane local:`), and "
        "a restart forgets them. Of the rooms that nobody uses, as many keep their history as `--max-rooms` says. "
        "With a Redis each worker is a node of it.",
    ),
    Flag(
        "--latest-key",
        Value(metavar="MEMBER"),
        "for `--slow latest`: JSON member that says what a message is about",
        goes_to="hub.key",
        manual="Messages over 64 KiB are not searched for it, and share one key unless they have a `Rawws-Key`.",
    ),
    Flag(
        "--exclude-sender",
        None,
        "send a peer's messages to all other peers of the room only",
        goes_to="hub.exclude_sender",
        needs_rooms=True,
    ),
    Flag(
        "--read-only",
        None,
        "peers may not send; messages come by POST",
        goes_to="hub.read_only",
        needs_rooms=True,
    ),
    Flag(
        "--max-rooms",
        LIMIT,
        "number of rooms; further ones are refused with 503",
        goes_to="hub.max_rooms",
        shown_default="no limit",
    ),
    Flag(
        "--max-peers",
        LIMIT,
        "number of peers in a room; further ones are refused with 503",
        goes_to="hub.max_peers",
        shown_default="no limit",
    ),
    Flag(
        "--rate",
        Value(rate, "N"),
        "messages per second from one peer; further ones are read later, or refused with 429 if they come by POST",
        goes_to="serve.rate",
        shown_default="no limit",
        needs_rooms=True,
    ),
    Flag(
        "--publish-token",
        Value(token, "TOKEN"),
        "token that a POST to a room must carry, as `Authorization: Bearer TOKEN`",
        manual="It is printable ASCII without spaces. WebSockets publish without it, unless `--read-only` or "
        "`--access` is given too.",
        needs_rooms=True,
    ),
    Flag(
        "--publish-token-file",
        FILE,
        "file that holds this token alone, so that `ps` doesn't show it",
        needs_rooms=True,
        is_reread=True,
    ),
    Flag(
        "--admin-token-file",
        FILE,
        "file that holds the token with which an operator lists and ends connections below `/_rawws/`",
        shown_default="the page's token, only where this machine alone can reach the server",
        manual="The token has 16 characters or more, such as `openssl rand -hex 16` makes. See [Administer a running "
        "server](../howto/administer.md).",
        needs_rooms=True,
        is_reread=True,
    ),
    Flag(
        "--access",
        FILE,
        "file that says which tokens may read and write which rooms; nobody else may",
        manual="[Decide who may read and write](../howto/access.md) has its format.",
        needs_rooms=True,
        is_reread=True,
    ),
    Flag(
        "--rooms",
        Value(path_prefix, "PATH"),
        "this path and all paths below it are rooms, over WebSocket and HTTP",
        goes_to="hub.rooms_at",
        shown_default="`/` for any path, or `/room/` with `--app`",
        manual="Paths are compared as they stand in the request: `/` is every path, and `/room/` is every path that "
        "begins so. `//room/x`, `/Room/x`, `/%72oom/x` and paths with `..` are not below `/room/`. With `--app`, other "
        "paths are the application's; without it, an upgrade elsewhere gets 404.",
    ),
)

_LIMITS = (
    Flag(
        "--max-size",
        BYTES,
        "size of a message; a larger one is refused with 1009",
        goes_to="serve.max_size",
        manual="The refusal comes as soon as the header of the message says so.",
    ),
    Flag(
        "--max-lag",
        BYTES,
        "bytes that a room keeps for a lagging peer before it applies `--slow`: by default it closes the peer with "
        "1013",
        goes_to="hub.max_lag_bytes",
        manual="It counts the bytes of the messages, and some 160 more for each that came alone.",
    ),
    Flag(
        "--max-memory",
        BYTES,
        "memory for connections, rooms and requests together; beyond it, histories are dropped, then the largest "
        "connections are closed",
        goes_to="serve.max_memory",
        shown_default="no limit",
        manual="The sum is within a factor of 1.5 of what the process really uses. An idle WebSocket counts as 1 KiB; "
        "an HTTP connection, or a WebSocket of a program, as 8 KiB; TLS adds 14 KiB. Beyond the limit, histories and "
        "keys of empty rooms are dropped first. Then the largest item goes: a history, a peer (1013), a request (503), "
        "an HTTP connection, or messages of a client that has gone and that the program hasn't taken yet.",
        is_divided=True,
    ),
    Flag(
        "--max-connections",
        LIMIT,
        "number of connections at a time; further ones get 503",
        goes_to="serve.max_connections",
        shown_default="no limit",
        is_divided=True,
    ),
    Flag(
        "--max-connections-per-ip",
        LIMIT,
        "number of connections from one IPv4 address, or one IPv6 /64; further ones get 429",
        goes_to="serve.max_connections_per_ip",
        shown_default="no limit",
        manual="A /64 is the smallest network that an IPv6 client is given.",
    ),
    Flag(
        "--trusted-proxy",
        Value(proxy, "NETWORK"),
        "trust `X-Forwarded-For` and `X-Forwarded-Proto`, or else `Forwarded`, from proxies at this address or "
        "network, such as `10.0.0.0/8`; may be repeated",
        goes_to="serve.trusted_proxies",
        repeats=True,
    ),
    Flag("--max-head", BYTES, "size of a request's head; a larger one gets 431", goes_to="serve.max_head"),
    Flag("--max-target", BYTES, "size of a request's target; a longer one gets 414", goes_to="serve.max_target"),
    Flag(
        "--max-headers",
        LIMIT,
        "number of header fields in a request; more get 431",
        goes_to="serve.max_headers",
    ),
    Flag(
        "--open-timeout",
        SECONDS,
        "seconds for a request's head to arrive, otherwise it gets 408; `0` for no limit",
        goes_to="serve.open_timeout",
        manual="The same holds for a body that is read as a whole.",
    ),
    Flag(
        "--keep-alive",
        SECONDS,
        "seconds between two requests, or between two pieces of an upload; `0` for no limit",
        goes_to="serve.keep_alive",
    ),
    Flag(
        "--close-timeout",
        SECONDS,
        "seconds for a peer's half of the closing handshake; `0` for no limit",
        goes_to="serve.close_timeout",
    ),
    Flag(
        "--ping-interval", SECONDS, "seconds between two pings to a peer; `0` for none", goes_to="serve.ping_interval"
    ),
    Flag(
        "--ping-timeout",
        SECONDS,
        "seconds for a peer to send a byte after a ping, or to accept one while `--slow wait` waits for it; `0` for no "
        "limit",
        goes_to="serve.ping_timeout",
    ),
    Flag(
        "--max-lifetime",
        SECONDS,
        "seconds that a WebSocket or an event stream may last; then it is closed, with 1012",
        goes_to="serve.max_lifetime",
        shown_default="no limit",
        manual="A client that connects again is asked for its token again.",
    ),
    Flag(
        "--drain",
        SECONDS,
        "seconds that a stopping server waits for its peers and for pending requests",
        goes_to="serve.drain",
        manual="The closes of many peers are spread over it.",
    ),
)

_OUTPUT = (
    Flag(
        "--metrics",
        None,
        "answer `/metrics` for Prometheus; requires `prometheus-client`",
        manual="That is the extra `metrics`.",
        own_default=False,
    ),
    Flag(
        "--page",
        None,
        "show what crosses the wire to a browser that has the page's token; the link with the token is logged at "
        "startup",
        shown_default="only where this machine alone can reach it",
        manual="The page is at `/_rawws/`. By default it is on if the server listens on loopback, without "
        "`--trusted-proxy` and `--workers`.",
        negatable=True,
    ),
    Flag(
        "--page-token",
        Value(page_token, "TOKEN"),
        "token of the page: letters, digits and `-._~`",
        shown_default="a new one at each start",
    ),
    Flag("--record", FILE, "write each HTTP head and frame to this file too, for `rawws decode` to read"),
    Flag(
        "--log-level",
        Value.one_of(logs.LEVELS),
        "lowest level to log: `trace`, `debug`, `info`, `warning` or `error`",
        own_default="info",
        alternative="level",
    ),
    Flag("-v", None, "log the whole story (debug)", dest="log_level", stores="debug", alternative="level"),
    Flag(
        "-vv", None, "log each frame's bytes in hex too (trace)", dest="log_level", stores="trace", alternative="level"
    ),
)

FLAGS = FlagTable(
    {
        "where it listens": _LISTENING,
        "what it does": _SERVING,
        "rooms": _ROOMS,
        "logins and tokens": TOKEN_FLAGS,
        "limits (sizes take k, M and G, in powers of 1,024)": _LIMITS,
        "output, on standard error and in a browser": _OUTPUT,
    },
    {"hub": Hub, "serve": serve},
)
