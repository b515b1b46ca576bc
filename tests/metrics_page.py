"""The manual's page of metrics: ``python -m tests.metrics_page`` writes it anew from the server's table of metrics."""

from __future__ import annotations

import textwrap
from pathlib import Path

from rawws.server.metrics import TABLE, MetricRow

PAGE = Path(__file__).resolve().parent.parent / "rawws" / "docs" / "reference" / "metrics.md"
COLUMNS = 120
INTRODUCTION = """\
# Metrics

`rawws serve --metrics` answers `/metrics` in the format of Prometheus. It needs the extra `metrics`
(`pip install '.[metrics]'`). With `--app`, it answers before the application does. The
loop and the rooms keep these figures anyway, and gather them when they are asked.

`/metrics` needs no token. It names no peer and no room; still, have a proxy in front of the server keep it from the
public. With [`--workers`](flags.md#--workers), each figure has the number of its worker as the label `worker`. A worker
that is asked has the figures of all; as nodes of a Redis, workers show their own figures alone.

[Watch a server](../howto/monitor.md) has a configuration of Prometheus, alerts and a dashboard.
"""
# The values of labels, and what else a reader has to know.
NOTES = {
    "rawws_peers": "`websocket`, or `events` for a reader of Server-Sent Events.",
    "rawws_handshakes": "101 is an upgrade; the other statuses are [refusals](refusals.md), or answers of hooks.",
    "rawws_deliveries": "A message to a room of 100 peers counts as 100.",
    "rawws_closes": "The causes are those of [close codes and causes](close-codes.md#causes).",
    "rawws_limit": "For example `rawws_limit{flag=\"--max-size\"} 1048576`, so that an alert can refer to it.",
    "rawws_backplane_up": "Only with a backplane.",
    "rawws_backplane_waiting_messages": "Only with a backplane.",
    "rawws_group_waiting_messages": "The groups of all rooms that have one name count together.",
    "rawws_group_oldest_seconds": "Of the room in which it is oldest; as old as when a worker last came near it.",
    "rawws_group_dead_jobs": "Ever, with a store.",
    "rawws_silent_workers": "Only with workers that share their rooms without Redis. They have a second to answer.",
    "rawws_first_process_rooms": "Only with workers that share their rooms without Redis; a second old at most.",
    "rawws_first_process_bytes": "Likewise. It has a share of `--max-memory`, beyond which histories are dropped.",
    "rawws_store_up": "Only with a store. At 0, the [log](log.md#nothing-can-be-stored) has the reason.",
    "rawws_store_waiting_messages": "Only with a store.",
    "rawws_store_bytes": "Only with a store.",
    "rawws_store_used_bytes": "Only with a store. Its limit is `rawws_limit{flag=\"--store-bytes\"}`.",
    "rawws_store_file_bytes": "Only with a store. Free space is used again, or given back when the server is idle.",
    "rawws_store_rooms": "Only with a store. Its limit is `rawws_limit{flag=\"--store-rooms\"}`.",
    "rawws_store_commit_seconds": "Only with a store. Its `_sum` over its `_count` is the mean time of a commit.",
    "rawws_tasks": "A relayed WebSocket has no task; a connection in its HTTP phase, and a handler, has one each.",
    "rawws_loop_turn_seconds": "Its `_sum` over its `_count` is the mean time of a turn.",
    "rawws_longest_block_seconds": "Since the server was started. See [the log](log.md#event-loop-blocked).",
}  # fmt: skip


def names_of(row: MetricRow) -> list[str]:
    """Return the names of the samples of a metric, as Prometheus has them."""
    if row.type == "summary":
        return [f"{row.name}_count", f"{row.name}_sum"]
    return [f"{row.name}_total" if row.type == "counter" else row.name]


def describe(row: MetricRow) -> str:
    """Return the section about a metric."""
    names = ", ".join(f"`{name}`" for name in names_of(row))
    label = f", by `{row.label}`" if row.label else ""
    text = f"{row.type.capitalize()}{label}. {row.description} {NOTES.get(row.name, '')}".strip()
    return f"### {names}\n\n" + textwrap.fill(text, COLUMNS, break_long_words=False, break_on_hyphens=False)


def page() -> str:
    return "\n\n".join([INTRODUCTION + "\n## All metrics", *map(describe, TABLE)]) + "\n"


def main() -> None:
    PAGE.write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
