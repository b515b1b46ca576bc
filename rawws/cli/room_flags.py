"""The flags of ``rawws serve`` about rooms: what they keep, who shares them, and who may publish there."""

from __future__ import annotations

from rawws.cli.arguments import above_zero, count, path_prefix, rate, seconds, size, token, workers
from rawws.cli.flags import Flag, Value, show_size
from rawws.hub.hub import STORE_SYNCS
from rawws.relay.lag_policies import POLICIES

_FILE = Value(metavar="FILE")
_BYTES = Value(size, "BYTES", show_size)
_LIMIT = Value(above_zero(count), "N")
_SECONDS = Value(seconds, "SECONDS", "{:g}".format)


def _policies_in_words() -> str:
    *others, last = (f"{policy.summary} (`{policy.name}`)" for policy in POLICIES.values())
    return f"policy for a peer that reads too slowly: it {', '.join(others)}, or {last}"


ROOM_FLAGS = (
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
        _BYTES,
        "approximate size at which a room's history drops its oldest messages",
        goes_to="hub.history_bytes",
    ),
    Flag("--history-age", _SECONDS, "seconds for which a message stays in the history", goes_to="hub.history_age_s"),
    Flag(
        "--slow",
        Value.one_of(POLICIES),
        _policies_in_words,
        goes_to="hub.slow",
        needs_rooms=True,
    ),
    Flag(
        "--store",
        _FILE,
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
        _SECONDS,
        "for `--store-sync interval`: seconds within which a message is on the disk",
        goes_to="hub.store_interval_s",
        needs_store=True,
    ),
    Flag(
        "--store-bytes",
        _BYTES,
        "for `--store`: bytes that its file may have; near them, publishers wait, and a POST is answered with 507",
        goes_to="hub.store_bytes",
        manual="See [Bounds](../howto/store.md#bounds).",
        shown_default="no limit",
        needs_store=True,
    ),
    Flag(
        "--store-rooms",
        _LIMIT,
        "for `--store`: rooms that its file may have; further ones are refused with 503",
        goes_to="hub.store_rooms",
        manual="See [Bounds](../howto/store.md#bounds).",
        needs_store=True,
    ),
    Flag(
        "--queue-bytes",
        _BYTES,
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
        _LIMIT,
        "number of rooms; further ones are refused with 503",
        goes_to="hub.max_rooms",
        shown_default="no limit",
    ),
    Flag(
        "--max-peers",
        _LIMIT,
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
        _FILE,
        "file that holds this token alone, so that `ps` doesn't show it",
        needs_rooms=True,
        is_reread=True,
    ),
    Flag(
        "--admin-token-file",
        _FILE,
        "file that holds the token with which an operator lists and ends connections below `/_rawws/`",
        shown_default="the page's token, only where this machine alone can reach the server",
        manual="The token has 16 characters or more, such as `openssl rand -hex 16` makes. See [Administer a running "
        "server](../howto/administer.md).",
        needs_rooms=True,
        is_reread=True,
    ),
    Flag(
        "--access",
        _FILE,
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
