"""The command line: arguments to objects, errors to one sentence and an exit status."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial

import trio

from rawws import logs, web
from rawws.asgi_app import asgi, load_app
from rawws.errors import ListenError, RawwsError, UsageError
from rawws.hub import Hub, Mode
from rawws.limits import MAX_LAG_BYTES, Limits
from rawws.program import load_tls, run_program
from rawws.server import serve
from rawws.version import __version__
from rawws.wire.handshake import Origins

DEFAULT_HELLO = "Hello! Message From Server!!"
COMMANDS = ("serve",)

OK, FAILED, MISUSED = 0, 1, 2

_SIZE = re.compile(r"([0-9]+)\s*(k|m|g)?(i?b)?", re.IGNORECASE)
_SIZE_FACTORS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 failed, 2 misused."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or (given[0] not in COMMANDS and given[0] not in ("-h", "--help", "--version")):
        given.insert(0, "serve")  # what everybody comes for needs no name
    options = _parser().parse_args(given)
    logs.configure(options.log_level)
    try:
        trio.run(_serve, options)
    except (RawwsError, ExceptionGroup) as error:
        cause = _alone(error)
        if not isinstance(cause, UsageError | ListenError):
            raise
        print(f"rawws: {cause}", file=sys.stderr)
        return MISUSED if isinstance(cause, UsageError) else FAILED
    return OK


def _alone(error: Exception) -> Exception:
    """Return the one exception in a group of groups of one, as nurseries make them."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


async def _serve(options: argparse.Namespace) -> None:
    if options.tls_key and not options.tls_cert:
        raise UsageError("--tls-key is of no use without --tls-cert; give the certificate too")
    hub = Hub(mode=options.mode, hello=options.hello, max_lag_bytes=options.max_lag)
    app = asgi(load_app(options.app)) if options.app else web.HelloApp()
    start = partial(
        serve,
        hub,
        http=app,
        origins=Origins(options.allow_origin),
        subprotocols=options.subprotocol,
        max_size=options.max_size,
        ping_interval=options.ping_interval,
        ping_timeout=options.ping_timeout,
        drain=options.drain,
        compression="deflate" if options.compression else None,
        fast_lane=options.fast_lane,
        ssl=load_tls(options.tls_cert, options.tls_key) if options.tls_cert else None,
    )
    await run_program(
        options.host, options.port, lambda listeners, status: start(listeners=listeners, task_status=status)
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rawws",
        description="WebSockets that you can see through.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"rawws {__version__}")
    commands = parser.add_subparsers(title="commands", required=True)
    serve = commands.add_parser("serve", help="run the server")
    _add_serve(serve)
    parser.epilog = f"Without a command it serves:\n\n{serve.format_help()}"
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    defaults = Limits()
    parser.description = (
        "Answers HTTP requests with 'hi there', upgrades WebSockets, and sends every message "
        "to all who are connected to the same path."
    )
    listen = parser.add_argument_group("where it listens")
    listen.add_argument(
        "--host", default="127.0.0.1", help="name or address (default: %(default)s; '' for every interface)"
    )
    listen.add_argument("--port", type=_port, default=8080, help="default: %(default)s; 0 for any free one")
    listen.add_argument("--tls-cert", metavar="FILE", help="speak TLS (https, wss) with this certificate chain, PEM")
    listen.add_argument("--tls-key", metavar="FILE", help="its private key, if that is not in the same file")
    talk = parser.add_argument_group("what it does")
    talk.add_argument(
        "--hello",
        type=_text,
        metavar="TEXT",
        default=DEFAULT_HELLO,
        help="greets each new peer (default: %(default)r; '' for none)",
    )
    talk.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.BROADCAST.value,
        help="send each message to the whole room, or back to its sender alone (default: %(default)s)",
    )
    talk.add_argument(
        "--allow-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="let pages from there connect too, such as https://hoppscotch.io; * for any; may be repeated",
    )
    talk.add_argument(
        "--subprotocol",
        metavar="NAME",
        action="append",
        default=[],
        help="agree to this subprotocol when a client offers it; may be repeated, the favourite first",
    )
    talk.add_argument(
        "--app",
        metavar="MODULE:NAME",
        help="have this ASGI application (Starlette, FastAPI, ...) answer the requests that don't upgrade",
    )
    talk.add_argument(
        "--no-compression", dest="compression", action="store_false", help="decline permessage-deflate (RFC 7692)"
    )
    talk.add_argument(
        "--no-fast-lane", dest="fast_lane", action="store_false", help="read and write each frame through wsproto"
    )
    limits = parser.add_argument_group("limits (sizes take k, M and G, in powers of 1,024)")
    limits.add_argument(
        "--max-size", type=_size, metavar="BYTES", default=defaults.max_message_bytes,
        help="of one message; a larger one is refused with 1009 (default: 1M)",
    )  # fmt: skip
    limits.add_argument(
        "--max-lag", type=_size, metavar="BYTES", default=MAX_LAG_BYTES,
        help="how far a peer may fall behind before it is closed with 1013 (default: 16M)",
    )  # fmt: skip
    for flag, seconds, what in (
        ("--ping-interval", defaults.ping_interval_s, "between two pings to a peer; 0 for none"),
        ("--ping-timeout", defaults.ping_timeout_s, "that a peer has to send any byte after a ping; 0 for no limit"),
        ("--drain", defaults.drain_s, "that a stopping server waits for its peers"),
    ):
        limits.add_argument(
            flag, type=_seconds, metavar="SECONDS", default=seconds, help=f"{what} (default: %(default)g)"
        )
    show = parser.add_argument_group("what it shows, on standard error")
    levels = show.add_mutually_exclusive_group()
    levels.add_argument("--log-level", choices=list(logs.LEVELS), default="info", help="default: %(default)s")
    levels.add_argument("-v", dest="log_level", action="store_const", const="debug", help="the whole story (debug)")
    levels.add_argument(
        "-vv", dest="log_level", action="store_const", const="trace", help="and each frame's bytes in hex (trace)"
    )


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 0xFFFF:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 0 to 65535")
    return int(text)


def _size(text: str) -> int:
    parts = _SIZE.fullmatch(text.strip())
    if parts is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size; give bytes, or such as 64k, 1M, 2GiB")
    return int(parts[1]) * _SIZE_FACTORS[(parts[2] or "").lower()]


def _text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text!a} is not UTF-8, as text in a WebSocket has to be") from None
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; give 0 or more")
    return seconds
