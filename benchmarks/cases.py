"""The cases: each is a kind of traffic, with a figure, its unit, and the direction that is better."""

from __future__ import annotations

import gc
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time

from benchmarks import procinfo, wire
from benchmarks.fanout import Fanout
from benchmarks.handshakes import Handshakes
from benchmarks.http_load import Requests
from benchmarks.latency import Trickle
from benchmarks.load import Echo, Sample, close_clients, open_clients
from benchmarks.memory import bytes_a_peer
from benchmarks.servers import NOT_YET, Answerer, Running, Unavailable, Wish, answers

# A server needs several ticks of the clock of its CPU time for this number of requests, however short the run is.
ENOUGH_REQUESTS = 500

KIB = 2**10
MIB = 2**20


@dataclass(frozen=True)
class Settings:
    seconds: float
    # Fewer clients than in the cases, to check that everything works. The figures are then meaningless.
    most_peers: int = 10**6

    @property
    def warmup_s(self) -> float:
        return min(1.0, self.seconds / 2)

    def peers(self, wanted: int) -> int:
        return min(wanted, self.most_peers)


@dataclass
class Measurement:
    value: float
    server_cpu: float = 0.0  # share of a core, while it was measured
    load_cpu: float = 0.0
    extra: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Case:
    name: str  # as typed after --cases
    title: str
    unit: str
    wish: Wish
    measure: Callable[[Running, Settings], Measurement]
    more_is_better: bool = True


@contextmanager
def clients_of(clients: list[socket.socket]) -> Iterator[list[socket.socket]]:
    # A full garbage collection during a run would be a pause of the load, not of the server.
    gc.collect()
    gc.disable()
    try:
        yield clients
    finally:
        gc.enable()
        close_clients(clients)


def metered(server: Running, run: Callable[[], Measurement]) -> Measurement:
    """Run, and add the shares of the cores that the server, this process and other processes used."""
    both = set(procinfo.cores())
    begin, load, cpu = perf_counter(), process_time(), procinfo.cpu_seconds(server.pid)
    busy = sum(map(procinfo.busy_seconds, both))
    result = run()
    busy = sum(map(procinfo.busy_seconds, both)) - busy
    used, load = procinfo.cpu_seconds(server.pid) - cpu, process_time() - load
    seconds = perf_counter() - begin
    result.server_cpu, result.load_cpu = used / seconds, load / seconds
    result.extra["others"] = max(0.0, (busy - used - load) / seconds)
    return result


def counted(sample: Sample, factor: float = 1.0) -> Measurement:
    measurement = Measurement(sample.rate * factor)
    if sample.closed:
        measurement.extra["closed"] = sample.closed
    if sample.stalls:
        measurement.extra["stalls"] = sample.stalls
    return measurement


def echo(peers: int, window: int, payload_bytes: int, opcode: int = wire.TEXT) -> Callable[..., Measurement]:
    payload = (b"rawws echoes " * (payload_bytes // 13 + 1))[:payload_bytes]
    # Large messages are binary, and reported in megabytes; small ones are text, and counted.
    factor = payload_bytes / 1e6 if opcode == wire.BINARY else 1.0

    def measure(server: Running, settings: Settings) -> Measurement:
        with clients_of(open_clients(server.port, settings.peers(peers))) as clients:
            load = Echo(clients, payload, window, opcode)
            load.run(settings.warmup_s)
            return metered(server, lambda: counted(load.run(settings.seconds), factor))

    return measure


def broadcast(
    peers: int, publishers: int = 10, window: int = 8, payload_bytes: int = 64, stalled: int = 0
) -> Callable[..., Measurement]:
    def measure(server: Running, settings: Settings) -> Measurement:
        wish = server.wish
        count = settings.peers(peers) - stalled
        opened = open_clients(server.port, count, deflate=wish.compression, tls=wish.tls)
        with clients_of(opened) as clients:
            load = Fanout(clients, publishers, window, payload_bytes, deflated=wish.compression)
            # With a small receive buffer, the peer that never reads soon blocks the server's sends.
            silent = open_clients(server.port, stalled, receive_buffer=4096)
            try:
                load.run(settings.warmup_s)
                return metered(server, lambda: counted(load.run(settings.seconds)))
            finally:
                close_clients(silent)

    return measure


def trickle(peers: int, per_second: float, payload_bytes: int) -> Callable[..., Measurement]:
    def measure(server: Running, settings: Settings) -> Measurement:
        with clients_of(open_clients(server.port, settings.peers(peers))) as clients:
            load = Trickle(clients, per_second, payload_bytes)
            load.run(settings.warmup_s)

            def run() -> Measurement:
                ages = load.run(settings.seconds)
                extra = {f"p{percent}": ages.percentile_ms(percent) for percent in (50, 99, 99.9)}
                if len(ages.sorted_ns) < ages.expected:
                    extra["arrived"] = len(ages.sorted_ns) / ages.expected
                return Measurement(extra["p99"], extra=extra)

            return metered(server, run)

    return measure


def handshakes(under_way: int) -> Callable[..., Measurement]:
    def measure(server: Running, settings: Settings) -> Measurement:
        load = Handshakes(server.port, under_way)
        try:
            load.run(settings.warmup_s)
            return metered(server, lambda: counted(load.run(settings.seconds)))
        finally:
            load.close()

    return measure


def requests(connections: int) -> Callable[..., Measurement]:
    """Measure the CPU time that a request costs, in µs, and as an extra the requests a second."""

    def measure(server: Running, settings: Settings) -> Measurement:
        load = Requests(server.port, settings.peers(connections))
        try:
            load.run(settings.warmup_s)
            result = metered(server, lambda: counted(load.run(settings.seconds, at_least=ENOUGH_REQUESTS)))
            load.check()
        finally:
            load.close()
        result.extra["requests_s"] = result.value
        result.value = result.server_cpu / result.value * 1e6
        return result

    return measure


def application_echo(peers: int, window: int) -> Callable[..., Measurement]:
    measure_echo = echo(peers, window, 64)

    def measure(server: Running, settings: Settings) -> Measurement:
        if server.name == "rawws" and not answers(server.port, handshake=True):
            raise Unavailable(f"{NOT_YET} WebSockets of an application")
        result = measure_echo(server, settings)
        result.extra["cpu_us"] = result.server_cpu / result.value * 1e6 if result.value else 0.0
        return result

    return measure


def memory(peers: int) -> Callable[..., Measurement]:
    def measure(server: Running, settings: Settings) -> Measurement:
        settle_s = min(1.0, settings.seconds)
        return Measurement(bytes_a_peer(server, settings.peers(peers), settle_s))

    return measure


ECHO, RELAY = Wish(), Wish(broadcast=True)
BUILT_IN, ON_TRIO, ON_ASYNCIO = (Wish(http=each) for each in Answerer)
PER_S, DELIVERIES, MEGABYTES, CPU = "messages/s", "deliveries/s", "MB/s", "µs of CPU a request"

CASES = (
    Case("echo", "Echo, 16 peers × 64 in flight, 64 B", PER_S, ECHO, echo(16, 64, 64)),
    Case("roundtrip", "Echo, 64 peers × 1 in flight, 64 B", PER_S, ECHO, echo(64, 1, 64)),
    Case("handler", "Echo by a handler, 16 peers × 64 in flight", PER_S, Wish(handler=True), echo(16, 64, 64)),
    Case("handler-roundtrip", "Echo by a handler, 64 peers × 1 in flight", PER_S, Wish(handler=True), echo(64, 1, 64)),
    Case("callback", "Echo by a callback, 16 peers × 64 in flight", PER_S, Wish(callbacks=True), echo(16, 64, 64)),
    Case(
        "callback-roundtrip",
        "Echo by a callback, 64 peers × 1 in flight",
        PER_S,
        Wish(callbacks=True),
        echo(64, 1, 64),
    ),
    Case("broadcast", "Broadcast to 100, 64 B", DELIVERIES, RELAY, broadcast(100)),
    Case("broadcast-1k", "Broadcast to 100, 1 KiB", DELIVERIES, RELAY, broadcast(100, payload_bytes=KIB)),
    Case("broadcast-1000", "Broadcast to 1,000, 64 B", DELIVERIES, RELAY, broadcast(1000)),
    # With few messages under way there is little to batch. uWebSockets is at its best here.
    Case(
        "broadcast-1000-few",
        "Broadcast to 1,000, 2 publishers only",
        DELIVERIES,
        RELAY,
        broadcast(1000, publishers=2),
    ),
    # The publishers send plain frames, which is legal: only the server's compression is measured.
    Case(
        "compressed",
        "Compressed, to 100, 1 KiB of JSON",
        DELIVERIES,
        Wish(broadcast=True, compression=True),
        broadcast(100, payload_bytes=KIB),
    ),
    Case(
        "latency",
        "Age on arrival, 40/s to 1,000, p99",
        "ms",
        Wish(broadcast=True, distinct=True),
        trickle(1000, 40, 64),
        more_is_better=False,
    ),
    Case(
        "stalled",
        "Broadcast to 99, 1 KiB, one never reads",
        DELIVERIES,
        RELAY,
        broadcast(100, payload_bytes=KIB, stalled=1),
    ),
    Case(
        "echo-64k",
        "Echo of 64 KiB, 4 peers × 4 in flight",
        MEGABYTES,
        ECHO,
        echo(4, 4, 64 * KIB, wire.BINARY),
    ),
    Case("echo-1m", "Echo of 1 MiB, 4 peers × 2 in flight", MEGABYTES, ECHO, echo(4, 2, MIB, wire.BINARY)),
    Case("handshakes", "Handshakes, 32 under way", "handshakes/s", ECHO, handshakes(32)),
    Case("memory", "Memory an idle peer, 5,000 peers", "bytes", RELAY, memory(5000), more_is_better=False),
    Case("tls", "TLS broadcast to 100, 64 B", DELIVERIES, Wish(broadcast=True, tls=True), broadcast(100)),
    # The other servers run the application in all of these.
    Case("hello", "rawws's own “hi there”, 1 connection", CPU, BUILT_IN, requests(1), more_is_better=False),
    Case("hello-16", "rawws's own “hi there”, 16 connections", CPU, BUILT_IN, requests(16), more_is_better=False),
    Case("app", "Application on trio, 1 connection", CPU, ON_TRIO, requests(1), more_is_better=False),
    Case("app-16", "Application on trio, 16 connections", CPU, ON_TRIO, requests(16), more_is_better=False),
    Case("app-asyncio", "Application on asyncio, 1 connection", CPU, ON_ASYNCIO, requests(1), more_is_better=False),
    Case(
        "app-asyncio-16",
        "Application on asyncio, 16 connections",
        CPU,
        ON_ASYNCIO,
        requests(16),
        more_is_better=False,
    ),
    Case("app-echo", "Echo by the application, 16 peers × 64 in flight", PER_S, ON_TRIO, application_echo(16, 64)),
    Case(
        "app-echo-roundtrip",
        "Echo by the application, 64 peers × 1 in flight",
        PER_S,
        ON_TRIO,
        application_echo(64, 1),
    ),
)
BY_NAME = {case.name: case for case in CASES}
