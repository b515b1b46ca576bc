"""``/metrics``, as Prometheus reads it: what the loop and the rooms count anyway, gathered when it is asked for.

Needs the extra ``metrics`` (prometheus-client).
"""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import trio

from rawws.errors import UsageError
from rawws.exchange import Exchange
from rawws.extras import install_command
from rawws.hub import Hub
from rawws.limits import Limits
from rawws.loop import current_loop
from rawws.room_paths import METRICS
from rawws.web import NO_STORE, HttpApp, InFront
from rawws.wire.messages import Response

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


class MetricsApp(InFront):
    """Answers ``/metrics``, and passes every other request to another app."""

    def __init__(self, hub: Hub, elsewhere: HttpApp, worker: int | None = None) -> None:
        """With the number of a ``worker``, all has that for a label: who asks is answered by any of them.

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

    def max_body_bytes(self, limits: Limits) -> int:
        return self.elsewhere.max_body_bytes(limits)

    def lifespan(self) -> AbstractAsyncContextManager[None]:
        return self.elsewhere.lifespan()

    async def serve_exchange(self, exchange: Exchange) -> None:
        if exchange.request.path != METRICS or exchange.request.method not in ("GET", "HEAD"):
            await self.elsewhere.serve_exchange(exchange)
            return
        await exchange.pass_over_body()
        registry = self._prometheus.CollectorRegistry(auto_describe=False)
        registry.register(_Collector(self._hub, exchange, self._worker))
        body = self._prometheus.generate_latest(registry)
        headers = [("Content-Type", self._prometheus.CONTENT_TYPE_LATEST), NO_STORE]
        await exchange.answer(Response(200, body, headers))


class _Collector:
    """Reads what is counted, once."""

    def __init__(self, hub: Hub, exchange: Exchange, worker: int | None) -> None:
        self._hub = hub
        self._exchange = exchange
        self._labels = {} if worker is None else {"worker": str(worker)}

    def collect(self) -> Iterator[Metric]:
        for family in self._families():
            family.samples = [each._replace(labels=self._labels | each.labels) for each in family.samples]
            yield family

    def _families(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily as Counter
        from prometheus_client.core import GaugeMetricFamily as Gauge
        from prometheus_client.core import SummaryMetricFamily as Summary

        traffic, rooms = current_loop().traffic, list(self._hub.registry.in_use.values())
        peers = [peer for room in rooms for peer in room.peers]
        kinds = Counts({"websocket": 0, "events": 0})
        kinds.update(peer.encoding.label for peer in peers)
        yield _with_label(
            Gauge("rawws_peers", "Peers in rooms, by how they read.", labels=["kind"]),
            kinds.items(),
        )
        yield Gauge("rawws_rooms", "Rooms that somebody is in, or that have a history.", len(rooms))
        yield _with_label(
            Counter("rawws_handshakes", "WebSocket handshakes, by the status of the answer.", labels=["status"]),
            [(str(status), count) for status, count in sorted(self._exchange.handshakes.items())],
        )
        yield Counter("rawws_messages_received", "Messages that peers have sent.", traffic.messages_in)
        yield Counter(
            "rawws_deliveries", "Messages sent to peers, or on their way, once for each.", traffic.messages_out
        )
        yield Counter("rawws_received_bytes", "Bytes received behind a handshake.", traffic.bytes_in)
        yield Counter("rawws_sent_bytes", "Bytes sent behind a handshake.", traffic.bytes_out)
        yield Counter("rawws_skipped_messages", "Messages that slow peers did not get.", traffic.messages_skipped)
        yield _with_label(
            Counter("rawws_closes", "Connections that have ended, by cause.", labels=["cause"]),
            [(cause.value, count) for cause, count in traffic.ends.items()],
        )
        lags = [room.policy.lag_bytes(peer.lag(room)) for room in rooms for peer in room.behind if peer.is_lagging]
        yield Gauge(
            "rawws_slowest_peer_lag_bytes", "How far the slowest peer is behind its room.", max(lags, default=0)
        )
        yield Gauge(
            "rawws_held_bytes",
            "Memory that connections, rooms and requests take, in bytes (--max-memory).",
            current_loop().memory.used_bytes(),
        )
        yield Gauge("rawws_longest_block_seconds", "That the loop was kept waiting, at most.", traffic.longest_block_s)
        yield _with_label(
            Gauge("rawws_limit", "Limits, by their flag; what is switched off is not here.", labels=["flag"]),
            sorted(self._exchange.limits_by_flag.items()),
        )
        yield Gauge(
            "rawws_log_bytes", "Bytes kept in the logs of all rooms.", sum(room.log.held_bytes for room in rooms)
        )
        if (backplane := self._hub.backplane) is not None:
            yield Gauge("rawws_backplane_up", "Whether the backplane can be reached.", float(not backplane.is_away))
            yield Gauge("rawws_backplane_waiting_messages", "Messages on their way to it.", backplane.waiting)
        yield Gauge(
            "rawws_tasks", "Tasks of trio's in this process.", float(trio.lowlevel.current_statistics().tasks_living)
        )
        yield Summary(
            "rawws_loop_turn_seconds", "Turns of the loop.", count_value=traffic.turns, sum_value=traffic.turns_s
        )


def _with_label(family: Metric, values: Iterable[tuple[str, float]]) -> Metric:
    for label, value in values:
        family.add_metric([label], value)  # type: ignore[attr-defined]
    return family
