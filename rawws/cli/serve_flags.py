"""The flags of ``rawws serve``, one row each; ``python -m tests.flag_table`` makes the manual's page from them."""

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
    port,
    proxy,
    seconds,
    size,
    text,
)
from rawws.cli.flags import Flag, FlagTable, Value, show_size
from rawws.cli.room_flags import ROOM_FLAGS
from rawws.cli.token_sources import TOKEN_FLAGS
from rawws.hub.hub import Hub
from rawws.hub.hub_arguments import Mode
from rawws.server.serve import serve

WORD = Value()
FILE = Value(metavar="FILE")
PATH = Value(metavar="PATH")
NAME = Value(metavar="NAME")
BYTES = Value(above_zero(size), "BYTES", show_size)
LIMIT = Value(above_zero(count), "N")
SECONDS = Value(seconds, "SECONDS", "{:g}".format)

DEFAULT_HELLO = "Hello! Message From Server!!"


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
        "rooms": ROOM_FLAGS,
        "logins and tokens": TOKEN_FLAGS,
        "limits (sizes take k, M and G, in powers of 1,024)": _LIMITS,
        "output, on standard error and in a browser": _OUTPUT,
    },
    {"hub": Hub, "serve": serve},
)
