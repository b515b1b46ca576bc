"""``/metrics`` for Prometheus. The loop and the rooms count anyway; their counts are gathered for each request.

The workers of one machine answer for all: the one that gets a request asks the others for their figures.

Needs the extra ``metrics`` (prometheus-client).
"""

from __future__ import annotations

import operator
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from rawws.errors import UsageError
from rawws.extras import install_command
from rawws.hub.hub import Hub
from rawws.hub.paths import METRICS
from rawws.local.local_rooms import LocalRooms
from rawws.relay.loop import current_loop
from rawws.server.apps import Exchange, HttpApp, Middleware
from rawws.server.config import ServerFigures
from rawws.store.committer import Committer
from rawws.store.stored_rooms import StoredRooms
from rawws.wire.messages import NO_STORE, Request, Response

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

# The question of a worker to the others, and the time in which they have to answer.
QUESTION, PATIENCE_S = "metrics/1", 1.0


class MetricsApp(Middleware):
    """Answers ``/metrics``, and passes every other request to another app."""

    def __init__(self, hub: Hub, elsewhere: HttpApp, worker: int | None = None, *, of_all: bool = False) -> None:
        """With the number of a ``worker``, every metric has it as a label, since any worker may answer a request.

        With ``of_all``, the answer has the figures of all nodes of the hub's backplane, which have to be workers, too.

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
        self._of_all = of_all
        self._server: ServerFigures | None = None
        if of_all:
            hub.commands.answer_with(QUESTION, self._answer)

    def begin(self, server: ServerFigures) -> None:
        """Note the server whose figures other workers ask for."""
        self._server = server

    async def _answer(self, _: object) -> Iterable[object]:
        """Return the number of this worker, and its figures."""
        if self._server is None:
            return []
        return [self._worker, *_read_all(_Figures(self._hub, self._server)).items()]

    async def _ask(self, own: _Figures) -> list[_OfWorker]:
        """Return the figures of the other workers. The number of those that are silent becomes one of our own."""
        if not self._of_all or self._hub.backplane is None:
            return []
        gathered = await self._hub.backplane.ask(QUESTION, {}, PATIENCE_S)
        found = [each for answer in gathered.answers if (each := _read_answer(answer.items)) is not None]
        own.silent = len(gathered.silent) + len(gathered.answers) - len(found)
        return found

    async def serve_exchange(self, exchange: Exchange) -> None:
        if not self.concerns(exchange.request):
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.discard_body()
        await self._hub.queues.refresh()
        registry = self._prometheus.CollectorRegistry(auto_describe=False)
        own = _Figures(self._hub, exchange)
        others = await self._ask(own)
        registry.register(_Collector([_OfWorker(self._worker, _read_all(own)), *others]))
        body = self._prometheus.generate_latest(registry)
        headers = [("Content-Type", self._prometheus.CONTENT_TYPE_LATEST), NO_STORE]
        await exchange.answer(Response(200, body, headers))

    def concerns(self, request: Request) -> bool:
        return request.path == METRICS and request.method in ("GET", "HEAD")


class _Served(Protocol):
    """The figures of a server, as an `Exchange` and `ServerFigures` have them."""

    @property
    def handshakes(self) -> Counts[int]: ...
    @property
    def limits_by_flag(self) -> Mapping[str, float]: ...


class _Figures:
    """The objects that are read for one answer."""

    def __init__(self, hub: Hub, served: _Served) -> None:
        self.hub = hub
        self.served = served
        self.silent: int | None = None  # workers that have not answered; None if none was asked
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
        return [(str(status), count) for status, count in sorted(self.served.handshakes.items())]

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
    def sequencer(self) -> LocalRooms | None:
        """Our link to the first process, where the workers' rooms are; None in all answers but one."""
        if self.silent is None or self.hub.backplane is None:
            return None
        return next((each for each in self.hub.backplane if isinstance(each, LocalRooms)), None)

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

    def store_used(self) -> float | None:
        """Return the bytes of the store's file that are in use; None without a store."""
        return None if self.store is None else self.store.engine.usage.used_bytes

    def store_file(self) -> float | None:
        """Return the bytes of the store's files; None without a store."""
        return None if self.store is None else self.store.engine.usage.file_bytes

    def store_rooms(self) -> float | None:
        """Return the number of rooms in the store; None without a store."""
        return None if self.store is None else self.store.engine.usage.rooms

    def store_commits(self) -> list[tuple[str, float]] | None:
        """Return the number of commits, and the seconds that they took together; None without a store."""
        if self.store is None:
            return None
        return [("count", self.store.statistics.commits), ("sum", self.store.statistics.seconds)]


# A getter returns one value, or a value for each label, or None where there is nothing to measure.
_Present = float | Iterable[tuple[str, float]]
_Values = _Present | None


class MetricRow(NamedTuple):
    """One metric: its name and description as Prometheus has them, its type, and where its values are."""

    name: str
    description: str
    type: str
    read: Callable[[_Figures], _Values]
    label: str = ""  # the name of the label, if there are several values

    def family(self, values: _Present) -> Metric:
        """Return the metric with some values."""
        from prometheus_client import core

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
        lambda at: sorted(at.served.limits_by_flag.items()),
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
    MetricRow(
        "rawws_silent_workers",
        "Workers that have not answered in time, so that their figures are missing.",
        "gauge",
        lambda at: at.silent,
    ),
    MetricRow(
        "rawws_first_process_rooms",
        "Rooms that the first process remembers for its workers.",
        "gauge",
        lambda at: None if at.sequencer is None else at.sequencer.sequencer_rooms,
    ),
    MetricRow(
        "rawws_first_process_bytes",
        "Memory used by rooms in the first process, and by messages on their way to workers, in bytes.",
        "gauge",
        lambda at: None if at.sequencer is None else at.sequencer.sequencer_bytes,
    ),
    MetricRow("rawws_store_up", "Whether messages can be stored (1) or not (0).", "gauge", _Figures.store_up),
    MetricRow("rawws_store_waiting_messages", "Messages accepted and not stored yet.", "gauge", _Figures.store_waiting),
    MetricRow("rawws_store_bytes", "Bytes of messages and keys given to the store.", "counter", _Figures.store_bytes),
    MetricRow(
        "rawws_store_used_bytes",
        "Bytes in use of the store's file (limited by --store-bytes).",
        "gauge",
        _Figures.store_used,
    ),
    MetricRow(
        "rawws_store_file_bytes",
        "Bytes of the store's file, free space included, and of the log beside it.",
        "gauge",
        _Figures.store_file,
    ),
    MetricRow("rawws_store_rooms", "Rooms in the store (limited by --store-rooms).", "gauge", _Figures.store_rooms),
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


class _OfWorker(NamedTuple):
    """The figures of one worker, by the names of their metrics; ``number`` is None for a server without workers."""

    number: int | None
    values: Mapping[str, _Present]


def _read_all(figures: _Figures) -> dict[str, _Present]:
    """Return the values of all metrics for which there is something to measure."""
    read = ((metric.name, metric.read(figures)) for metric in TABLE)
    return {name: values for name, values in read if values is not None}


def _read_answer(items: Sequence[Any]) -> _OfWorker | None:
    """Return the figures in another worker's answer; None for one that no worker would give."""
    try:
        number, *pairs = items
        values = {str(name): _read_values(given) for name, given in pairs}
    except (TypeError, ValueError):
        return None
    return _OfWorker(number, values) if isinstance(number, int) else None


def _read_values(given: Any) -> _Present:
    return float(given) if isinstance(given, int | float) else [(str(label), float(value)) for label, value in given]


class _Collector:
    """Gives the figures of one or several workers to Prometheus."""

    def __init__(self, workers: Sequence[_OfWorker]) -> None:
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        for metric in TABLE:
            family: Metric | None = None
            for number, values in self._workers:
                if metric.name in values:
                    labels = {} if number is None else {"worker": str(number)}
                    own = metric.family(values[metric.name])
                    samples = [each._replace(labels=labels | each.labels) for each in own.samples]
                    if family is None:
                        family, own.samples = own, []
                    family.samples += samples
            if family is not None:
                yield family
