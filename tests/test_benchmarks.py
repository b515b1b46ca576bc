"""The benchmark works: its counting is exact, and every case runs for a moment on rawws alone.

No figure is checked: the speed of the machine is no subject of a test. In the suite, two cases stand for all of a
benchmark; the thorough tests run every case, and those that start many programs.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from benchmarks import backplane, cases, expiry, hostile, jobs, report, scale_model, servers, threads, wire
from benchmarks.cases import Measurement
from benchmarks.fanout import DeflatedStream, PlainStream, Stream, json_payload, text_payload
from benchmarks.http_load import BODY, Requests, read_answer
from benchmarks.load import Echo, LoadError
from benchmarks.report import Row
from benchmarks.soak.checker import Faults, Message, Reader, Room
from benchmarks.soak.ledger import Ledger
from tests.browser import need_node_module
from tests.serving.machine import PATIENCE_S, need

ROOT = Path(__file__).resolve().parent.parent
CHUNKS = [1, 2, 3, 65, 66, 67, 1000, 10**6]
linux_only = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="pins processes and reads /proc")


def own_messages(stream: Stream, data: bytes, chunk: int) -> int:
    """Return how many own messages the stream finds in the data, received in chunks into a used buffer."""
    buffer = bytearray(b"C" * 2 * 10**6)
    found = 0
    for start in range(0, len(data), chunk):
        part = data[start : start + chunk]
        buffer[: len(part)] = part
        found += stream.own(buffer, len(part))
    return found


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_publisher_finds_each_of_its_messages_once_in_any_chunking(chunk: int) -> None:
    frames = [wire.server_frame(text_payload(publisher, 64)) for publisher in range(3)]
    data = b"".join(frames[number % 3] for number in range(100))
    assert own_messages(PlainStream(ord("C"), 66, 64), data, chunk) == 33


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_publisher_finds_its_compressed_messages_too(chunk: int) -> None:
    first = wire.FIN | wire.TEXT | wire.RSV1
    frames = [wire.server_frame(wire.deflate(json_payload(each, 1024)), first) for each in range(3)]
    data = b"".join(frames[number % 3] for number in range(100))
    assert own_messages(DeflatedStream(frames[2]), data, chunk) == 33


@pytest.mark.parametrize("size", [0, 1, 64, 125, 126, 1024, 65535, 65536, 2**20])
def test_frames_are_as_long_as_they_say(size: int) -> None:
    payload = b"x" * size
    frame = wire.server_frame(payload)
    assert wire.frame_end(bytearray(frame), 0, len(frame)) == (len(frame) - size, len(frame))
    assert wire.frame_end(bytearray(frame), 0, len(frame) - 1) is None
    masked = wire.client_frame(payload)
    assert len(masked) == len(frame) + 4
    assert wire.masked(masked[len(frame) - size + 4 :], masked[len(frame) - size : len(frame) - size + 4]) == payload


@linux_only
def test_a_stretch_lasts_until_a_message_has_come() -> None:
    payload = b"x" * 64
    ours, theirs = socket.socketpair()
    theirs.send(wire.server_frame(payload))  # the load compares it with its own payload
    load = Echo([ours], payload, window=2, opcode=wire.TEXT)
    late = threading.Timer(0.1, theirs.send, [wire.server_frame(payload)])
    late.start()
    assert load.run(0.01).messages == 1
    late.join()
    load.poller.close()
    ours.close()
    theirs.close()


def test_payloads_have_the_size_of_their_case() -> None:
    for publisher in range(10):
        assert len(text_payload(publisher, 64)) == 64
        assert len(json_payload(publisher, 1024)) == 1024
        assert wire.inflate(wire.deflate(json_payload(publisher, 1024))) == json_payload(publisher, 1024)


def test_a_row_survives_json() -> None:
    row = Row("echo", "rawws", [Measurement(3.0, 1.0, 0.5), Measurement(1.0, 1.0, 0.5), Measurement(2.0, 1.0, 0.5)])
    again = Row.from_json(json.loads(json.dumps(row.as_json())))
    assert again == row
    assert again.value == 2.0


@pytest.mark.parametrize(
    ("server_cpu", "load_cpu", "marked"), [(1.0, 1.0, False), (0.6, 0.99, True), (0.99, 0.6, False)]
)
def test_the_load_is_the_bottleneck_if_only_it_is_busy(server_cpu: float, load_cpu: float, marked: bool) -> None:
    assert Row("echo", "rawws", [Measurement(1.0, server_cpu, load_cpu)]).load_was_the_bottleneck is marked


@pytest.mark.parametrize(
    ("value", "text"),
    [(10_204_000, "10.2 M"), (1_234_567, "1.23 M"), (164_123, "164 k"), (4648, "4,648"), (0, "0")],
)
def test_figures_keep_three_digits(value: float, text: str) -> None:
    assert report.figure(value) == text


def test_the_jobs_of_a_group_are_measured() -> None:
    figure = jobs.measure(300)
    assert figure.jobs == 300
    assert "µs of the server's CPU a job" in str(figure)


async def test_publishing_from_threads_is_measured() -> None:
    found = await threads.measure(rounds=1, share=0.01)
    assert list(found) == ["in the loop", "1 thread", "8 threads", "1 thread that waits"]
    assert all(microseconds > 0 for microseconds in found.values())


@pytest.mark.thorough
@linux_only
def test_sharing_rooms_is_measured_with_every_server() -> None:
    need(shutil.which("redis-server"), "redis-server")
    folder = need_node_module("@socket.io/redis-streams-adapter").parent.parent
    command = [sys.executable, "-m", "benchmarks.backplane", "--smoke"]
    environment = os.environ | {"NODE_PATH": str(folder)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not here" not in done.stdout
    for name in ("rawws, one node", "rawws, two workers", *(system.name for system in backplane.SYSTEMS)):
        assert f"\n{name}" in done.stdout
    assert "64 rooms followed" in done.stdout


@pytest.mark.thorough
@pytest.mark.patience(180)
@linux_only
def test_a_store_is_measured_in_each_mode() -> None:
    # Dozens of fsyncs, of which each may take a tenth of a second.
    command = [sys.executable, "-m", "benchmarks.store", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("no store", "never", "interval", "always"):
        assert f"\n{name}" in done.stdout


@pytest.mark.thorough
def test_a_server_with_a_store_is_killed() -> None:
    command = [sys.executable, "-m", "benchmarks", "soak", "--store", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing lost, nothing twice, nothing out of order" in done.stdout
    for mode in ("always", "interval", "never"):
        assert f"\n{mode}, groups " in done.stdout


@pytest.mark.thorough
@linux_only
def test_the_end_of_many_grants_is_measured() -> None:
    command = [sys.executable, "-m", "benchmarks", "expiry", "--smoke"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("before", "while they are closed", "afterwards", "all closed with 4401 within"):
        assert f"\n{name} " in done.stdout


def test_a_message_belongs_to_the_stretch_that_it_could_be_delayed_in() -> None:
    ages = {8.0: [0.1], 9.9: [0.05, 0.3], 10.5: [0.2], 11.9: [0.2], 12.1: [0.1]}  # by the time of sending
    messages = [expiry.Message(sent_at, ages_s, 0.001) for sent_at, ages_s in ages.items()]
    found = expiry.Found(100, messages, ends_at=10, first_closed_at=10.1, last_closed_at=12)
    sent_at = [[message.sent_at for message in stretch] for stretch in found.stretches().values()]
    assert sent_at == [[8.0], [9.9, 10.5, 11.9], [12.1]]
    _, _, before, meanwhile, after, end = expiry.table(found)
    assert before.split()[-6:] == ["1", "100.00", "100.00", "100.00", "1.00", "1.00"]
    assert meanwhile.split()[-6:] == ["3", "200.00", "300.00", "300.00", "1.00", "1.00"]
    assert after.split()[1] == "1"
    assert end == "all closed with 4401 within 1.90 s, the first 0.100 s after the end of the grants"


def test_a_larger_world_takes_more() -> None:
    costs = scale_model.Costs()
    small, load, gave_way = scale_model.plan_for(scale_model.World(1000, 100, 50), costs)
    assert (small, gave_way) == (scale_model.Plan(1, 1), [])
    assert load.p50_ms < load.p99_ms < scale_model.MAX_AGE_MS
    larger, _, gave_way = scale_model.plan_for(scale_model.World(50_000, 5000, 1250), costs)
    assert larger.nodes > 1
    assert "nodes" in gave_way


@pytest.mark.thorough
def test_a_larger_machine_serves_a_larger_world() -> None:
    costs = scale_model.LocalCosts()
    (small, load, full), (large, _, _) = [scale_model.largest_for(cores, costs) for cores in (2, 4)]
    assert small.peers < large.peers
    assert load.p50_ms < load.p99_ms <= scale_model.MAX_AGE_MS
    assert full == "workers"
    slow = dataclasses.replace(costs, redis_add_s=1e-2)
    assert scale_model.largest_for(2, slow)[2] == "the sequencer"


def test_each_room_has_its_share_of_the_peers() -> None:
    for rooms in (1, 100, 12_345, 10_000_000):
        shares = scale_model.World(1, rooms, 1).shares()
        assert sum(count for count, _ in shares) == rooms
        assert sum(count * share for count, share in shares) == pytest.approx(1, rel=1.0 if rooms == 1 else 0.02)


@pytest.mark.parametrize(("peers", "nodes", "on"), [(1, 10, 1), (1e9, 10, 10), (5, 1, 1), (2, 2, 1.5)])
def test_a_room_is_on_as_many_nodes_as_its_peers_happen_to_be(peers: float, nodes: int, on: float) -> None:
    assert scale_model.present(peers, nodes) == pytest.approx(on)


def measured(folder: Path, server: str, names: list[str]) -> list[dict[str, Any]]:
    """Return the results of these cases with a moment for each."""
    out = folder / "out.json"
    command = [sys.executable, "-m", "benchmarks", "--only", server, "--smoke", "--json", str(out)]
    command += ["--cases", ",".join(names)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    results: list[dict[str, Any]] = json.loads(out.read_text())["results"]
    return results


@linux_only
@pytest.mark.parametrize(
    "names", [["echo"], pytest.param(list(cases.BY_NAME), marks=pytest.mark.thorough)], ids=["one", "all"]
)
def test_every_case_runs_for_a_moment_on_rawws(tmp_path: Path, names: list[str]) -> None:
    results = measured(tmp_path, "rawws", names)
    assert {each["case"] for each in results} == set(names)
    # Memory may not grow at all with so few peers.
    assert {each["case"] for each in results if not each.get("median", 0) > 0} <= {"memory"}


GOOD = b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n" + BODY


@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_an_answer_is_read_to_its_end_in_any_chunking(chunk: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:

        def write() -> None:
            for start in range(0, len(GOOD), chunk):
                theirs.sendall(GOOD[start : start + chunk])

        writer = threading.Thread(target=write)
        writer.start()
        assert read_answer(ours) == GOOD
        writer.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (GOOD.replace(b"200 OK", b"404 Not Found"), "expected the status 200, got b'HTTP/1.1 404 Not Found'"),
        (GOOD.replace(b"there", b"their"), "expected the body b'hi there', got b'hi their'"),
        (GOOD.replace(b"content-length", b"content-type"), "no Content-Length in "),
        (GOOD[:-1], "closed in an answer, after "),
    ],
    ids=["status", "body", "no length", "cut off"],
)
def test_a_wrong_answer_gets_no_figure(answer: bytes, reason: str) -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            theirs.sendall(answer)
        with pytest.raises(LoadError, match=re.escape(reason)):
            read_answer(ours)


@contextmanager
def answering(answer_later: bytes) -> Iterator[int]:
    """Serve a right answer on each connection, and then this one for every further request; yield the port."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            answer = GOOD
            try:
                while self.request.recv(4096).endswith(wire.END_OF_HEADERS):
                    self.request.sendall(answer)
                    answer = answer_later
            except ConnectionError:
                pass  # the load closes with RST

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


@linux_only
@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (GOOD, ""),
        (GOOD.replace(b"200", b"500"), "expected the status 200"),
        (GOOD.replace(b"OK", b"Fine"), "the size of the answers changes"),
    ],
    ids=["alike", "another status", "another size"],
)
def test_answers_are_counted_and_the_last_is_checked(later: bytes, reason: str) -> None:
    with answering(later) as port:
        load = Requests(port, 3)
        try:
            assert load.run(0.01, at_least=20).messages >= 20
            if not reason:
                load.check()
                return
            with pytest.raises(LoadError, match=reason):
                load.check()
        finally:
            load.close()


def test_each_case_has_rows_for_the_servers_of_its_kind() -> None:
    application = {"rawws", "uvicorn", "uvicorn-httptools", "hypercorn"}
    for case in cases.CASES:
        takers = {server.name for server in servers.SERVERS if server.takes(case.wish)}
        assert takers == (application if case.wish.http else {*servers.BY_NAME} - application | {"rawws"}), case.name


def test_the_tables_are_one_for_each_kind_of_server() -> None:
    rows = [
        Row("echo", "rawws", [Measurement(4.0)]),
        Row("echo", "picows", [Measurement(2.0)]),
        Row("app", "rawws", [Measurement(150.0, extra={"requests_s": 3000.0})]),
        Row("app", "uvicorn", [Measurement(300.0)]),
        Row("app", "hypercorn", unavailable="hypercorn not installed"),
    ]
    first, second = report.markdown({"results": [row.as_json() for row in rows]}).split("\n\n")
    assert first.splitlines()[0] == "| | rawws | picows | rawws ÷ the best other |"
    assert first.endswith("messages/s | **4.00** | 2.00 | 2.00× |")
    assert second.splitlines()[0] == "| | rawws | uvicorn (h11, asyncio) | rawws ÷ the best other |"
    assert second.endswith("µs of CPU a request | **150** | 300 | 2.00× |")
    assert "3,000 requests/s" in "\n".join(report.table(rows, cases.BY_NAME["app"]))


def test_a_version_without_a_loop_for_applications_says_so() -> None:
    on_asyncio = servers.application_flags(servers.Answerer.ASYNCIO, "--app --app-loop")
    assert on_asyncio == ["--app", servers.APPLICATION, "--app-loop", "asyncio"]
    assert servers.application_flags(servers.Answerer.TRIO, "--app MODULE:NAME") == ["--app", servers.APPLICATION]
    with pytest.raises(servers.Unavailable, match="this version has no application on asyncio"):
        servers.application_flags(servers.Answerer.ASYNCIO, "--app MODULE:NAME")


@pytest.mark.thorough
@linux_only
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn"])
def test_other_servers_of_applications_are_measured(tmp_path: Path, name: str) -> None:
    for package in servers.BY_NAME[name].packages:
        need(importlib.util.find_spec(package), package)
    results = measured(tmp_path, name, ["app", "app-16", "app-echo"])
    assert [each["case"] for each in results if each.get("median", 0) > 0] == ["app", "app-16", "app-echo"]


class Script:
    """A room with published messages, and a reader of it."""

    def __init__(self, written: int = 5) -> None:
        self.faults = Faults()
        room = Room("/room", self.faults)
        chance = random.Random(0)
        self.messages = [room.next_message("w", chance) for _ in range(written)]
        self.reader = room.read("reader 1", "polling")
        self.other = room.read("reader 2", "polling")

    def take(self, *numbers: int, reader: Reader | None = None, ids: list[str] | None = None) -> list[str]:
        """Give these messages to the reader, and return the faults that it finds."""
        for place, number in enumerate(numbers):
            message = self.messages[number - 1]
            given = ids[place] if ids else f"170-{number}"
            (reader or self.reader).take(message.payload, is_text=message.is_text, message_id=given)
        (reader or self.reader).finish()
        return self.faults.messages


WHO = "reader 1 (polling) in /room: "


def test_the_soak_is_content_when_every_message_comes_once_and_in_order() -> None:
    script = Script(500)
    assert script.take(*range(1, 501)) == []
    assert script.reader.has_all
    assert not script.faults
    assert {message.is_text for message in script.messages} == {True, False}
    sizes = [len(message.payload) for message in script.messages]
    assert min(sizes) < 20
    assert max(sizes) > 50_000


@pytest.mark.parametrize(
    ("numbers", "fault"),
    [
        ((1, 2, 4, 5), f"lost: {WHO}1 messages of w before 5: 3"),
        ((2, 3, 4, 5), f"lost: {WHO}1 messages of w before 5: 1"),
        ((1, 2, 3), f"lost: {WHO}messages 4 to 5 of w"),
        ((), f"lost: {WHO}messages 1 to 5 of w"),
    ],
    ids=["in between", "the first", "the last", "all"],
)
def test_the_soak_finds_a_lost_message(numbers: tuple[int, ...], fault: str) -> None:
    assert Script().take(*numbers) == [fault]


def test_the_soak_finds_a_repeated_message() -> None:
    ids = ["170-1", "170-2", "170-3", "170-4", "170-5", "170-6"]
    faults = Script().take(1, 2, 3, 3, 4, 5, ids=ids)
    assert faults == [f"twice: {WHO}message 3 of w (id 170-4) came again; expected 4"]


def test_the_soak_finds_swapped_messages() -> None:
    swapped, *ids = Script().take(1, 2, 4, 3, 5)
    assert swapped == f"out of order: {WHO}message 3 of w (id 170-3) came behind 4"
    assert ids == [f"out of order: {WHO}message 3 of w has the id 170-3, behind 170-4"]


def test_the_soak_finds_a_message_with_two_ids() -> None:
    script = Script(2)
    assert script.take(1, 2, ids=["170-1", "170-2"]) == []
    faults = script.take(1, 2, reader=script.other, ids=["170-2", "170-3"])
    who = "reader 2 (polling) in /room: "
    assert faults == [f"out of order: {who}message 1 of w has the id 170-2, which is another's"]


@pytest.mark.parametrize("damage", ["payload", "kind", "all"])
def test_the_soak_finds_a_damaged_message(damage: str) -> None:
    script = Script(1)
    message: Message = script.messages[0]
    payload = {"payload": message.payload + b"!", "kind": message.payload, "all": b"hello"}[damage]
    assert script.reader.take(payload, is_text=message.is_text is not (damage == "kind")) is None
    assert script.faults.counts == {"damaged": 1}


def test_the_soak_counts_a_gap_as_a_fault() -> None:
    script = Script(0)
    script.reader.note({"at": "170-3"})
    assert (script.reader.last_id, script.faults.messages) == ("170-3", [])
    script.reader.note({"at": "170-9", "gap": {"since": "170-3", "after": "170-9"}})
    assert script.faults.counts == {"gap": 1}


class Group:
    """A ledger of a group with two workers, a and b."""

    def __init__(self) -> None:
        self.ledger = Ledger("g")
        self.a, self.b = (self.ledger.open(name, 2) for name in "ab")

    def done(self, *jobs: str) -> list[str]:
        self.ledger.check_done(jobs)
        return self.ledger.faults

    def dead(self, *jobs: tuple[str, int]) -> list[str]:
        found = [{"id": job, "tries": tries, "reason": "no"} for job, tries in jobs]
        self.ledger.check_dead(["1"], found, 2)
        return self.ledger.faults


def test_the_soak_is_content_with_jobs_that_kills_have_doubled() -> None:
    group = Group()
    ledger, a, b = group.ledger, group.a, group.b
    ledger.get(a, "1", 1, 0)
    ledger.get(a, "2", 1, 0)
    ledger.ack(a, "1")
    ledger.kill(a)
    ledger.get(b, "1", 2, 0)
    ledger.ack(b, "1")
    ledger.get(b, "2", 3, 0)  # the second try was under way to a
    ledger.kill_server()
    c = ledger.open("c", 2)
    ledger.get(c, "2", 4, 0)
    ledger.get(b, "3", 1, 0)  # sent before the kill, and read after it
    ledger.get(c, "3", 2, 0)
    for job in "23":
        ledger.ack(c, job)
    assert group.done("1", "2", "3") == []
    assert ledger.counts["jobs done twice"] == 1


def test_the_soak_finds_what_groups_do_not_promise() -> None:
    group = Group()
    ledger, a, b = group.ledger, group.a, group.b
    ledger.get(a, "1", 1, 0)
    ledger.get(b, "1", 2, 0)
    assert ledger.faults.pop() == "g: b has got 1, which a has"
    ledger.note_lost(a, "1")
    assert ledger.faults.pop() == "g: a has lost 1 while it had it"
    ledger.ack(b, "1")
    ledger.get(a, "1", 2, 0)
    assert ledger.faults.pop() == "g: try 2 of 1 has been delivered twice"
    ledger.ack(a, "1")
    ledger.get(a, "3", 3, 0)
    ledger.ack(a, "3")
    assert group.done("1", "2") == [
        "g: 2 was never done",
        "g: 3 was done, and is no message",
        "g: 1 jobs were done twice; kills explain 0",
        "g: 2 deliveries were seen by nobody; kills explain 0",
    ]


def test_the_soak_finds_a_lease_that_ends_too_soon() -> None:
    group = Group()
    curl = group.ledger.open("curl", 1, outlives=True)
    group.ledger.get(curl, "1", 1, now=0)
    group.ledger.kill(curl, kept_until=4)
    group.ledger.kill_server()
    again = group.ledger.open("again", 1)
    group.ledger.get(again, "1", 2, now=3)
    ended = "again has got 1 before the end of the lease of a worker that had vanished"
    assert group.ledger.faults == [f"g: {ended}"]


def test_the_soak_finds_the_messages_of_a_key_out_of_order() -> None:
    ledger, a = (group := Group()).ledger, group.a
    ledger.get(a, "1", 1, 0, "k", 1)
    ledger.get(a, "3", 1, 0, "k", 3)
    assert ledger.faults.pop() == "g: message 3 of the key k came before 2 was done"
    ledger.ack(a, "3")
    ledger.get(a, "2", 1, 0, "k", 2)
    assert ledger.faults[0] == "g: message 2 of the key k came after 3"
    assert ledger.faults[1:] == ["g: message 2 of the key k came before 1 was done"]


@pytest.mark.parametrize(
    ("dead", "faults"),
    [
        ([("1", 2)], []),
        ([], ["g: 1 is not dead"]),
        ([("1", 2), ("2", 2)], ["g: 2 is dead, and is no message"]),
        ([("1", 2), ("1", 2)], ["g: 1 is dead 2 times"]),
        ([("1", 1)], ["g: 1 is dead after 1 tries: no"]),
    ],
)
def test_the_soak_finds_a_job_that_is_not_dead_as_it_should_be(dead: list[tuple[str, int]], faults: list[str]) -> None:
    group = Group()
    for tried in (1, 2):
        group.ledger.get(group.a, "1", tried, 0)
        group.ledger.give_back(group.a, "1")
    assert group.dead(*dead) == faults


def test_the_soak_finds_a_poison_job_that_was_done_or_tried_too_often() -> None:
    group = Group()
    for tried in (1, 2, 3):
        group.ledger.get(group.a, "1", tried, 0)
        group.ledger.ack(group.a, "1")
    group.ledger.excused = 9
    assert group.dead(("1", 2)) == ["g: 1 was delivered 3 times", "g: 1 jobs were done"]


def run_soak(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks", "soak", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.thorough
@linux_only
def test_the_soak_runs_for_a_moment() -> None:
    need(shutil.which("redis-server"), "redis-server")
    report = run_soak("--minutes", "0.05")
    assert "\nnothing lost, nothing twice, nothing out of order; nothing left over\n" in report
    assert re.search(r"\nRedis killed and started again +2\n", report)
    for way in ("WebSocket", "WebSocket, cut", "WebSocket, rawws.connect", "Server-Sent Events", "polling"):
        assert re.search(rf"\ndeliveries checked, {way} +[1-9]", report)


@pytest.mark.thorough
@linux_only
def test_the_soak_runs_for_a_moment_with_a_store_and_groups() -> None:
    report = run_soak("--on", "store", "--minutes", "0.05")
    assert "\nnothing lost, nothing twice, nothing out of order; nothing left over\n" in report
    assert re.search(r"\ngroups and jobs in the store +0 +0\n", report)
    assert re.search(r"\njobs done +[1-9]", report)


@pytest.mark.thorough
@linux_only
def test_idle_and_busy_peers_are_weighed() -> None:
    report = run_soak("--idle", "200", "--minutes", "0.01")
    assert re.search(r"\nabove an empty server +\S+ MiB, of 64\n", report)
    assert re.search(r"\npeers at the end +300\n", report)


@linux_only
@pytest.mark.parametrize(
    "surfaces", [hostile.SURFACES[:1], pytest.param(hostile.SURFACES, marks=pytest.mark.thorough)], ids=["one", "all"]
)
def test_the_cost_of_hostile_clients_is_measured_for_each_surface(surfaces: list[hostile.Surface]) -> None:
    only = ",".join(each.name for each in surfaces)
    command = [sys.executable, "-m", "benchmarks", "hostile", "--smoke", "--only", only]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=2 * PATIENCE_S)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == [each.title for each in surfaces]
    assert all(wait.removesuffix(" |").endswith(" ms") for row in rows for wait in row[2:])
