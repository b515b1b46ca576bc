"""``/metrics`` for Prometheus. The loop and the rooms count anyway; their counts are gathered for each request.

Needs the extra ``metrics`` (prometheus-client).
"""

from __future__ import annotations

import operator
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import trio

from rawws.errors import UsageError
from rawws.extras import install_command
from rawws.hub.hub import Hub
from rawws.hub.paths import METRICS
from rawws.relay.loop import current_loop
from rawws.server.apps import Exchange, HttpApp, Middleware
from rawws.store.committer import Committer
from rawws.store.stored_rooms import StoredRooms
from rawws.wire.messages import NO_STORE, Request, Response

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class MetricsApp(Middleware):
    """Answers ``/metrics``, and passes every other request to another app."""

    def __init__(self, hub: Hub, elsewhere: HttpApp, worker: int | None = None) -> None:
        """With the number of a ``worker``, every metric has it as a label, since any worker may answer a request.

        Raises `UsageError` when prometheus-client is not installed.
        """
        try:
            import prometheus_client
        except ImportError:
            command = install_command("prometheus-client")
            raise UsageError(f"--metrics needs prometheus-client, which isn't installed: {command}") from None
        self._prometheus = prometheus_client
        self._hub = hub
        self.elsewhere: HttpApp = elsewhere
        self._worker = worker

    async def serve_exchange(self, exchange: Exchange) -> None:
        if not self.concerns(exchange.request):
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.discard_body()
        await self._hub.queues.refresh()
        registry = self._prometheus.CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._hub, exchange, self._worker))
        body = self._prometheus.generate_latest(registry)
        headers = [("Content-Type", self._prometheus.CONTENT_TYPE_LATEST), NO_STORE]
        await exchange.answer(Response(200, body, headers))

    def concerns(self, request: Request) -> bool:
        return request.path == METRICS and request.method in ("GET", "HEAD")


class _Figures:
    """The objects that are read for one answer."""

    def __init__(self, hub: Hub, exchange: Exchange) -> None:
        self.hub = hub
        self.exchange = exchange
        self.loop = current_loop()
        self.stats = self.loop.stats
        self.rooms = list(hub.registry.in_use.values())

    def peers(self) -> list[tuple[str, float]]:
        """Return the number of peers of each kind."""
        kinds = Counts({"websocket": 0, "events": 0})
        kinds.update(peer.encoding.label for room in self.rooms for peer in room.peers)
        return list(kinds.items())

    def slowest_lag_bytes(self) -> float:
        """Return the largest lag of a peer, where a lag is counted in bytes; 0 if no peer lags."""
        lags = [
            room.policy.lag_bytes(peer.lag(room)) for room in self.rooms for peer in room.lagging if peer.is_lagging
        ]
        return max(lags, default=0)

    def handshakes(self) -> list[tuple[str, float]]:
        """Return the number of handshakes by status."""
        return [(str(status), count) for status, count in sorted(self.exchange.handshakes.items())]

    def turns(self) -> list[tuple[str, float]]:
        """Return the number of the loop's turns, and the seconds that they took together."""
        return [("count", self.stats.turns), ("sum", self.stats.turns_s)]

    def of_groups(
        self, name: str, joined: Callable[[float, float], float] = operator.add
    ) -> list[tuple[str, float]] | None:
        """Return a figure of the groups of each name, over all rooms; None without groups."""
        values: dict[str, float] = {}
        for figures in self.hub.queues.figures():
            if (value := figures.values.get(name)) is not None:
                values[figures.group] = joined(values.get(figures.group, 0.0), value)
        return sorted(values.items()) or None

    def backplane_up(self) -> float | None:
        """Return 1 if the backplane can be reached, else 0; None without a backplane."""
        backplane = self.hub.backplane
        return None if backplane is None else float(not backplane.is_away)

    def backplane_waiting(self) -> float | None:
        """Return the number of messages that the backplane has not confirmed; None without a backplane."""
        backplane = self.hub.backplane
        return None if backplane is None else backplane.waiting

    @property
    def store(self) -> Committer | None:
        """The committer of the hub's store; None without one."""
        return self.hub.stored.committer if isinstance(self.hub.stored, StoredRooms) else None

    def store_up(self) -> float | None:
        """Return 1 if something can be stored, else 0; None without a store."""
        return None if self.store is None else float(self.store.trouble is None)

    def store_waiting(self) -> float | None:
        """Return the number of messages that are not stored yet; None without a store."""
        return None if self.store is None else self.store.waiting_messages

    def store_bytes(self) -> float | None:
        """Return the bytes that were stored since the start; None without a store."""
        return None if self.store is None else self.store.statistics.bytes

    def store_commits(self) -> list[tuple[str, float]] | None:
        """Return the number of commits, and the seconds that they took together; None without a store."""
        if self.store is None:
            return None
        return [("count", self.store.statistics.commits), ("sum", self.store.statistics.seconds)]


# A getter returns one value, or a value for each label, or None where there is nothing to measure.
_Values = float | Iterable[tuple[str, float]] | None


class MetricRow(NamedTuple):
    """One metric: its name and description as Prometheus has them, its type, and where its values are."""

    name: str
    description: str
    type: str
    read: Callable[[_Figures], _Values]
    label: str = ""  # the name of the label, if there are several values

    def family(self, figures: _Figures) -> Metric | None:
        """Return the metric with its values of this moment; None where there is nothing to measure."""
        from prometheus_client import core

        values = self.read(figures)
        if values is None:
            return None
        if self.type == "summary":
            assert not isinstance(values, float | int)
            parts = dict(values)
            return core.SummaryMetricFamily(self.name, self.description, int(parts["count"]), parts["sum"])
        kind = core.CounterMetricFamily if self.type == "counter" else core.GaugeMetricFamily
        if isinstance(values, float | int):
            return kind(self.name, self.description, values)
        family = kind(self.name, self.description, labels=[self.label])
        for label, value in values:
            family.add_metric([label], value)
        return family


TABLE = (
    MetricRow("rawws_peers", "Peers in rooms, by kind of connection.", "gauge", _Figures.peers, "kind"),
    MetricRow("rawws_rooms", "Rooms that have a peer or a history.", "gauge", lambda at: len(at.rooms)),
    MetricRow(
        "rawws_handshakes", "WebSocket handshakes, by status of the response.", "counter", _Figures.handshakes, "status"
    ),
    MetricRow("rawws_messages_received", "Messages received from peers.", "counter", lambda at: at.stats.messages_in),
    MetricRow(
        "rawws_deliveries",
        "Messages sent or queued to peers, counted once for each peer.",
        "counter",
        lambda at: at.stats.messages_out,
    ),
    MetricRow("rawws_received_bytes", "Bytes received after handshakes.", "counter", lambda at: at.stats.bytes_in),
    MetricRow("rawws_sent_bytes", "Bytes sent after handshakes.", "counter", lambda at: at.stats.bytes_out),
    MetricRow(
        "rawws_skipped_messages",
        "Messages not sent to a peer because it lagged.",
        "counter",
        lambda at: at.stats.messages_skipped,
    ),
    MetricRow(
        "rawws_closes",
        "Connections that have ended, by cause.",
        "counter",
        lambda at: [(cause.value, count) for cause, count in at.stats.ends.items()],
        "cause",
    ),
    MetricRow(
        "rawws_slowest_peer_lag_bytes",
        "Largest lag of a peer in its room, in bytes.",
        "gauge",
        _Figures.slowest_lag_bytes,
    ),
    MetricRow(
        "rawws_held_bytes",
        "Memory used by connections, rooms and requests, in bytes (limited by --max-memory).",
        "gauge",
        lambda at: at.loop.memory.used_bytes(),
    ),
    MetricRow(
        "rawws_longest_block_seconds",
        "Longest time the event loop was blocked, in seconds.",
        "gauge",
        lambda at: at.stats.longest_block_s,
    ),
    MetricRow(
        "rawws_limit",
        "Limits, by the flag that sets each; a limit that is switched off is omitted.",
        "gauge",
        lambda at: sorted(at.exchange.limits_by_flag.items()),
        "flag",
    ),
    MetricRow(
        "rawws_log_bytes",
        "Bytes retained in the logs of all rooms.",
        "gauge",
        lambda at: sum(room.log.held_bytes for room in at.rooms),
    ),
    MetricRow(
        "rawws_backplane_up", "Whether the backplane can be reached (1) or not (0).", "gauge", _Figures.backplane_up
    ),
    MetricRow(
        "rawws_backplane_waiting_messages",
        "Messages not yet confirmed by the backplane.",
        "gauge",
        _Figures.backplane_waiting,
    ),
    MetricRow("rawws_store_up", "Whether messages can be stored (1) or not (0).", "gauge", _Figures.store_up),
    MetricRow("rawws_store_waiting_messages", "Messages accepted and not stored yet.", "gauge", _Figures.store_waiting),
    MetricRow("rawws_store_bytes", "Bytes of messages and keys given to the store.", "counter", _Figures.store_bytes),
    MetricRow(
        "rawws_store_commit_seconds", "Time per commit of the store, in seconds.", "summary", _Figures.store_commits
    ),
    MetricRow(
        "rawws_group_waiting_messages",
        "Messages that no worker of a group has, summed over rooms.",
        "gauge",
        lambda at: at.of_groups("waiting"),
        "group",
    ),
    MetricRow(
        "rawws_group_leased_jobs",
        "Jobs that the workers of a group have.",
        "gauge",
        lambda at: at.of_groups("leased"),
        "group",
    ),
    MetricRow(
        "rawws_group_workers", "Connected workers of a group.", "gauge", lambda at: at.of_groups("workers"), "group"
    ),
    MetricRow(
        "rawws_group_oldest_seconds",
        "Time since the oldest unfinished message of a group was stored, in seconds.",
        "gauge",
        lambda at: at.of_groups("oldest_s", max),
        "group",
    ),
    MetricRow(
        "rawws_group_redeliveries",
        "Deliveries of jobs that had been delivered before.",
        "counter",
        lambda at: at.of_groups("redelivered"),
        "group",
    ),
    MetricRow(
        "rawws_group_done_jobs", "Jobs that were acknowledged.", "counter", lambda at: at.of_groups("done"), "group"
    ),
    MetricRow(
        "rawws_group_dead_jobs",
        "Jobs that were moved to the dead room of their group.",
        "counter",
        lambda at: at.of_groups("dead"),
        "group",
    ),
    MetricRow(
        "rawws_tasks",
        "Trio tasks in this process.",
        "gauge",
        lambda _: float(trio.lowlevel.current_statistics().tasks_living),
    ),
    MetricRow("rawws_loop_turn_seconds", "Time per turn of the event loop, in seconds.", "summary", _Figures.turns),
)


class _Collector:
    """Reads the metrics once, when Prometheus asks."""

    def __init__(self, hub: Hub, exchange: Exchange, worker: int | None) -> None:
        self._hub = hub
        self._exchange = exchange
        self._labels = {} if worker is None else {"worker": str(worker)}

    def collect(self) -> Iterator[Metric]:
        figures = _Figures(self._hub, self._exchange)
        for metric in TABLE:
            if (family := metric.family(figures)) is not None:
                family.samples = [each._replace(labels=self._labels | each.labels) for each in family.samples]
                yield family
