"""How many nodes and Redis servers are needed, and which part is the bottleneck? A model with measured costs.

    python -m benchmarks.scale_model              the table, from the costs below
    python -m benchmarks.scale_model --measure    measure the costs here, and then the table

A *world* has a number of peers, rooms, and messages a second. Rooms are as popular as words are: the
k-th has 1/k of the first one's peers, and of the messages (Zipf's law); but no room has more than 100 messages a
second, since nobody could follow it. Peers are spread over the nodes at random, so a room of p peers is on about
n(1 - (1 - 1/n)^p) of n nodes.

A node is one process on one core. In a turn of its loop it takes what has come, publishes what its own peers said in
one call, has each of its readers that something came for make another, and makes one send for each peer of each of
these rooms. A busy loop has long turns, and therefore few calls and large sends. That is simulated turn by turn, for a
node with its share of every room, which gives the load and the age of a message on arrival.

A shard is one Redis; a room is on one of them. It takes each message once, gives it to each node that is in the room,
and answers calls. When the nodes of the most popular room are too many for one shard, they can be fed by others: in a
tree of fan-out f a shard gives each message to f relays, and each of these to f nodes or relays.

One machine without Redis is the same: its workers are nodes, on all cores but one, and the sequencer is the shard, on
the last core. A worker reads all of its rooms in one call.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import time
from dataclasses import dataclass, fields, replace
from typing import ClassVar

from benchmarks import procinfo
from benchmarks.backplane import PAYLOAD_BYTES, RAWWS, WORKERS, nodes, peers, redis_server
from benchmarks.fanout import Fanout
from benchmarks.latency import Trickle
from benchmarks.memory import allow_open_files
from rawws.backplane.reader import ROOMS_PER_READER

# The share of a node's memory and of a core that may be used.
MEMORY_BYTES = 8 * 2**30
FULL = 0.7
MAX_FANOUT = 64
MAX_ROOM_RATE = 100.0
MAX_AGE_MS = 100.0
TURNS = 400
# A node whose turn takes this long never catches up.
HOPELESS_S = 5.0


@dataclass(frozen=True)
class Costs:
    """Seconds of CPU time, and bytes. The figures are of one run with --measure, on two cores of an AMD EPYC."""

    send_s: float = 5.9e-6  # one send() to one peer, with all its data of the turn
    publish_call_s: float = 350e-6  # a call that publishes any number of messages
    publish_s: float = 18e-6  # and each message in it
    read_call_s: float = 714e-6  # a call that reads new messages in a reader's rooms
    read_s: float = 18e-6  # and each message in it, into its room's log
    redis_call_s: float = 70e-6  # Redis's own part in a call
    redis_add_s: float = 2.5e-6  # a message into its stream
    redis_give_s: float = 2.5e-6  # and out of it, to one node
    peer_bytes: float = 1647.0  # an idle peer, with its socket's memory in the kernel
    way_s: float = 1.79e-3  # from a node through Redis to another, when all are idle
    rooms_per_reader: ClassVar[float] = ROOMS_PER_READER


@dataclass(frozen=True)
class LocalCosts(Costs):
    """The costs of workers without Redis, whose shard is the sequencer: of one run on two cores that were busy."""

    publish_call_s: float = 104e-6
    publish_s: float = 1.2e-6
    read_call_s: float = 104e-6
    read_s: float = 1.2e-6
    redis_call_s: float = 30e-6
    redis_add_s: float = 0.2e-6
    redis_give_s: float = 0.2e-6
    way_s: float = 3.4e-3
    rooms_per_reader: ClassVar[float] = math.inf


@dataclass(frozen=True)
class World:
    """The load to be served."""

    peers: int
    rooms: int
    messages_per_s: float

    def rate(self, share: float) -> float:
        """Return the messages a second of a room with that share of all."""
        return min(MAX_ROOM_RATE, share * self.messages_per_s)

    def shares(self) -> list[tuple[int, float]]:
        """Return (how many rooms, the share of each) from the most popular on; many small ones are one line."""
        total = math.log(self.rooms) + 0.5772
        lines = [(1, 1 / rank / total) for rank in range(1, min(100, self.rooms) + 1)]
        first = 101
        while first <= self.rooms:
            last = min(self.rooms, int(first * 1.5))
            count = last - first + 1
            lines.append((count, (math.log(last + 0.5) - math.log(first - 0.5)) / count / total))
            first = last + 1
        return lines


@dataclass(frozen=True)
class Plan:
    """The servers for a load."""

    nodes: int
    shards: int
    fanout: int = 0  # of the tree by which a message comes to the nodes; 0 for none


@dataclass(frozen=True)
class Load:
    """How busy the parts are, 1 being a whole core or all the memory there is, and how old messages are on arrival."""

    node: float
    memory: float
    shard: float
    hot_shard: float  # the one that has the most popular room
    p50_ms: float
    p99_ms: float


def present(peers_of_room: float, nodes_: int) -> float:
    """Return the number of nodes that have peers of a room."""
    if nodes_ == 1:
        return min(1.0, peers_of_room)
    return nodes_ * -math.expm1(peers_of_room * math.log1p(-1 / nodes_))


def feeds(room_nodes: float, plan: Plan) -> float:
    """Return the number of nodes to which a shard sends a message itself."""
    return min(room_nodes, plan.fanout) if plan.fanout else room_nodes


@dataclass(frozen=True)
class Node:
    """The result of the simulation of a node."""

    busy: float
    calls_per_s: float
    p50_s: float
    p99_s: float


def simulate_node(world: World, plan: Plan, costs: Costs, seed: int = 1) -> Node:
    """Run the loop of one node for some turns."""
    chance = random.Random(seed)
    lines = []  # of rooms alike: how many are here, the messages a second of each, and its peers here
    for count, share in world.shares():
        peers_of_room = world.peers * share
        here = min(1.0, present(peers_of_room, plan.nodes) / plan.nodes)
        lines.append((count * here, world.rate(share), peers_of_room / plan.nodes / here))
    readers = max(1.0, sum(rooms for rooms, _, _ in lines) / costs.rooms_per_reader)
    published_per_s = sum(count * world.rate(share) for count, share in world.shares()) / plan.nodes
    rate = sum(rooms * rate for rooms, rate, _ in lines) + published_per_s
    clock = busy = calls = 0.0
    turn_s = costs.publish_call_s
    ages: list[tuple[float, float]] = []  # seconds, and how many deliveries had them
    for _ in range(TURNS):
        published = poisson(chance, published_per_s * turn_s)
        came = [poisson(chance, rooms * rate * turn_s) for rooms, rate, _ in lines]
        reads = readers * -math.expm1(-sum(came) / readers)
        length = bool(published) * costs.publish_call_s + published * costs.publish_s + reads * costs.read_call_s
        calls += bool(published) + reads
        for (rooms, _, room_peers), messages in zip(lines, came, strict=True):
            if messages:
                # Among similar rooms, each with new messages has one send per peer, whatever their size.
                active = rooms * -math.expm1(-messages / rooms) if rooms > 1 else 1.0
                took = messages * costs.read_s + active * room_peers * costs.send_s
                # A message came at any moment of the turn before, and a peer's send is at any moment of this part.
                ages.append((turn_s * chance.random() + length + took * chance.random(), messages * room_peers))
                length += took
        # A loop with little to do sleeps until something comes.
        idle = chance.expovariate(rate) if length * rate < 1 else 0.0
        busy += length
        turn_s = length + idle
        clock += turn_s
        if turn_s > HOPELESS_S:
            return Node(1.0, calls / clock, math.inf, math.inf)
    return Node(busy / clock, calls / clock, percentile(ages, 50), percentile(ages, 99))


def poisson(chance: random.Random, mean: float) -> int:
    if mean > 50:
        return max(0, round(chance.gauss(mean, math.sqrt(mean))))
    limit, count, product = math.exp(-mean), 0, chance.random()
    while product > limit:
        count += 1
        product *= chance.random()
    return count


def percentile(ages: list[tuple[float, float]], percent: float) -> float:
    ages.sort()
    rest = sum(weight for _, weight in ages) * percent / 100
    for age, weight in ages:
        rest -= weight
        if rest <= 0:
            return age
    return ages[-1][0] if ages else 0.0


def loads(world: World, plan: Plan, costs: Costs) -> Load:
    node = simulate_node(world, plan, costs)
    shard = plan.nodes * node.calls_per_s * costs.redis_call_s / plan.shards
    hot = 0.0
    for count, share in world.shares():
        given = feeds(present(world.peers * share, plan.nodes), plan)
        busy = world.rate(share) * (costs.redis_add_s + given * costs.redis_give_s)
        shard += count * busy / plan.shards
        hot = max(hot, busy)
    levels = math.ceil(math.log(max(plan.nodes, 2), plan.fanout)) if plan.fanout else 1
    way_s = costs.way_s * levels
    return Load(
        node.busy,
        world.peers / plan.nodes * costs.peer_bytes / MEMORY_BYTES,
        shard,
        max(shard, hot),
        1000 * (way_s + node.p50_s),
        1000 * (way_s + node.p99_s),
    )


def plan_for(world: World, costs: Costs) -> tuple[Plan, Load, list[str]]:
    """Return the smallest plan that holds, its load, and the bottlenecks on the way there, in that order."""
    plan, gave_way = Plan(1, 1), [""]
    while True:
        load = loads(world, plan, costs)
        if load.memory > FULL:
            plan, what = replace(plan, nodes=math.ceil(plan.nodes * 1.25)), "memory"
        elif load.p99_ms > MAX_AGE_MS:
            plan, what = replace(plan, nodes=math.ceil(plan.nodes * 1.25)), "nodes"
        elif load.shard > FULL:
            plan, what = replace(plan, shards=math.ceil(plan.shards * 1.25)), "shards"
        elif load.hot_shard > FULL and plan.fanout != 2:
            # The one room that is on every node: no number of shards helps.
            plan, what = replace(plan, fanout=plan.fanout // 2 or MAX_FANOUT), "the hottest room's shard"
        else:
            return plan, load, gave_way[1:]
        if gave_way[-1] != what:
            gave_way.append(what)


def measure() -> Costs:
    """Measure the costs here."""
    allow_open_files()
    own, rest = procinfo.cores()
    os.sched_setaffinity(0, {rest})
    few, many = (trickled(count, own) for count in (10, 200))
    send_s = (many - few) / 190
    with redis_server(rest) as redis, nodes(RAWWS, redis, [own, own]) as (near, far):
        spent = Spent(near.pid, far.pid, find_redis(redis))
        with peers(RAWWS, [near, far], 1) as clients:
            trickle = Trickle(clients, 500, PAYLOAD_BYTES)
            spent.begin()
            ages = trickle.run(2.0)
            near_s, far_s, redis_s = spent.each(1000)
        with peers(RAWWS, [near, far], 1) as clients:
            flood = Fanout(clients, 1, 512, PAYLOAD_BYTES)
            spent.begin()
            messages = flood.run(2.0).messages / 2
            near_flood_s, far_flood_s, redis_flood_s = spent.each(messages)
    return Costs(
        send_s=send_s,
        publish_call_s=near_s - far_s,
        publish_s=max(1e-6, near_flood_s - far_flood_s),
        read_call_s=far_s - send_s,
        read_s=far_flood_s,
        redis_call_s=redis_s / 3,
        redis_add_s=redis_flood_s / 3,
        redis_give_s=redis_flood_s / 3,
        way_s=ages.percentile_ms(50) / 1000,
        peer_bytes=idle_bytes(own),
    )


def measure_local() -> LocalCosts:
    """Measure the costs of two workers without Redis here.

    Both workers have some of eight peers. A call to publish counts as much as one to read, and so do their messages.
    """
    allow_open_files()
    own, rest = procinfo.cores()
    os.sched_setaffinity(0, {rest})
    few, many = (trickled(count, own) for count in (10, 200))
    send_s = (many - few) / 190
    with nodes(WORKERS, "", [own]) as (program,):
        with peers(WORKERS, [program], 8) as clients:
            spent = Spent(*procinfo.tree(program.pid))
            trickle = Trickle(clients, 500, PAYLOAD_BYTES)
            spent.begin()
            ages = trickle.run(2.0)
            all_s, *each_s = spent.each(1000)
            call_s = (sum(each_s) - 8 * send_s) / 3
            sequencer_call_s = (all_s - sum(each_s)) / 3
        with peers(WORKERS, [program], 8) as clients:
            flood = Fanout(clients, 1, 512, PAYLOAD_BYTES)
            spent.begin()
            messages = flood.run(2.0).messages / 8
            all_s, *each_s = spent.each(messages)
    message_s, sequencer_s = sum(each_s) / 3, (all_s - sum(each_s)) / 3
    return LocalCosts(
        send_s=send_s,
        publish_call_s=call_s,
        publish_s=message_s,
        read_call_s=call_s,
        read_s=message_s,
        redis_call_s=sequencer_call_s,
        redis_add_s=sequencer_s,
        redis_give_s=sequencer_s,
        way_s=ages.percentile_ms(50) / 1000,
    )


def trickled(count: int, core: int) -> float:
    """Return the CPU time of a node for one message to this many peers, when messages come one by one."""
    with nodes(RAWWS, "", [core]) as running, peers(RAWWS, running, count) as clients:
        trickle = Trickle(clients, 500, PAYLOAD_BYTES)
        spent = Spent(running[0].pid)
        spent.begin()
        trickle.run(2.0)
        return spent.each(1000)[0]


class Spent:
    """The CPU time of some processes."""

    def __init__(self, *pids: int) -> None:
        self.pids = pids
        self.before: list[float] = []

    def begin(self) -> None:
        self.before = [procinfo.cpu_seconds(pid) for pid in self.pids]

    def each(self, messages: float) -> list[float]:
        """Return the CPU time of each process since then, per message."""
        now = [procinfo.cpu_seconds(pid) for pid in self.pids]
        return [(after - before) / messages for before, after in zip(self.before, now, strict=True)]


def find_redis(url: str) -> int:
    port = url.rpartition(":")[2]
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    command = file.read()
            except OSError:
                continue
            if b"redis-server" in command and f":{port}".encode() in command:
                return int(name)
    raise RuntimeError("the Redis of this run is not to be found")


def idle_bytes(core: int, count: int = 5000) -> float:
    """Return the memory of an idle peer on the whole machine, for both ends of its connection; half is the server's."""
    with nodes(RAWWS, "", [core]) as running:
        before = available_bytes()
        with peers(RAWWS, running, count):
            time.sleep(1)
            return (before - available_bytes()) / count / 2


def available_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("no MemAvailable")


WORLDS = (
    World(10_000, 1_000, 1_000),
    World(100_000, 10_000, 5_000),
    World(1_000_000, 100_000, 10_000),
    World(10_000_000, 1_000_000, 50_000),
    World(100_000_000, 10_000_000, 250_000),
)


def table(costs: Costs) -> str:
    head = (
        "peers",
        "rooms",
        "messages/s",
        "deliveries/s",
        "nodes",
        "shards",
        "tree",
        "busy",
        "p50",
        "p99",
        "what gave way, in this order",
    )
    rows = [head]
    for world in WORLDS:
        plan, load, gave_way = plan_for(world, costs)
        deliveries = sum(count * world.rate(share) * share for count, share in world.shares()) * world.peers
        rows.append(
            (
                f"{world.peers:,}",
                f"{world.rooms:,}",
                f"{world.messages_per_s:,.0f}",
                f"{deliveries / 1e6:,.1f} M",
                f"{plan.nodes:,}",
                f"{plan.shards:,}",
                str(plan.fanout or "–"),
                f"{load.node:.0%}",
                f"{load.p50_ms:.1f} ms",
                f"{load.p99_ms:.1f} ms",
                ", ".join(dict.fromkeys(gave_way)) or "–",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            each.rjust(width) if column < len(head) - 1 else each
            for column, (each, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def largest_for(cores: int, costs: Costs) -> tuple[World, Load, str]:
    """Return the largest world that a machine without Redis serves, its load, and the part that is full.

    In a turn, the sequencer reads from each worker, and writes to each. The more it has to do, the more messages are in
    a turn. So its calls don't fill it, and only make messages older.
    """
    workers = cores - 1

    def fullness(world: World) -> tuple[Load, dict[str, float]]:
        load = loads(world, Plan(workers, 1), replace(costs, redis_call_s=0.0))
        turn_ms = 2000 * workers * costs.redis_call_s / max(1e-9, 1 - load.shard)
        load = replace(load, p50_ms=load.p50_ms + turn_ms, p99_ms=load.p99_ms + 2 * turn_ms)
        late = load.p99_ms / MAX_AGE_MS
        return load, {"memory": load.memory / FULL, "workers": late, "the sequencer": load.shard / FULL}

    def world_of(peers_: int) -> World:
        return World(peers_, max(1, peers_ // 10), peers_ / 20)

    fits, too_many = 1000, 10_000_000
    while too_many > 1.02 * fits:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if max(fullness(world_of(middle))[1].values()) <= 1 else (fits, middle)
    world = world_of(fits)
    load, parts = fullness(world)
    return world, load, max(parts, key=lambda part: parts[part])


def local_table(costs: Costs) -> str:
    lines = [
        f"{'one machine of':<16}{'peers':>9}{'rooms':>9}{'messages/s':>12}{'p50':>10}{'p99':>10}  the part that is full"
    ]
    for cores in (4, 16, 64):
        world, load, full = largest_for(cores, costs)
        sizes = f"{world.peers:>9,}{world.rooms:>9,}{world.messages_per_s:>12,.0f}"
        lines.append(f"{f'{cores} cores':<16}{sizes}{load.p50_ms:>7.1f} ms{load.p99_ms:>7.1f} ms  {full}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true", help="measure the costs here first")
    options = parser.parse_args()
    costs = measure() if options.measure else Costs()
    local = measure_local() if options.measure else LocalCosts()
    for each in fields(costs):
        figure, local_figure = getattr(costs, each.name), getattr(local, each.name)
        print(
            f"{each.name:<14}{figure:>10,.0f} B"
            if each.name == "peer_bytes"
            else f"{each.name:<14}{figure * 1e6:>10.1f} µs   without Redis {local_figure * 1e6:>8.1f} µs"
        )
    print(f"\n{table(costs)}\n\n{local_table(local)}")


if __name__ == "__main__":
    main()
