"""The records that a tracer's sinks get, and the file that ``--record`` writes."""

from __future__ import annotations

import json
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import rawws
import rawws.cli
from rawws import tracing
from rawws.inspection.records import Record, frame_bytes, frame_record, from_line
from rawws.tracing import Recording, Tracer
from rawws.wire.frames import Frame
from rawws.wire.role import Role
from tests.serving.client import Client
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import close, text

LARGE = "x" * 100_000


class Memory:
    """A sink that keeps its records."""

    def __init__(self, shown_bytes: int = 0) -> None:
        self.shown_bytes = shown_bytes
        self.wants_frames = True
        self.taken: list[tuple[int, Record]] = []

    def take(self, connection: int, record: Record) -> None:
        self.taken.append((connection, record))

    def take_frame(self, connection: int, sender: Role, frame: Frame) -> None:
        self.take(connection, frame_record(sender, frame))

    def kinds(self) -> list[str]:
        return [f"{record['kind']} {record.get('sender', '')}".strip() for _, record in self.taken]


def frames_of(sink: Memory) -> list[tuple[str, bytes]]:
    return [
        (record["sender"], bytes.fromhex(record["payload"])) for _, record in sink.taken if record["kind"] == "frame"
    ]


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_a_connection_from_its_beginning_to_its_end(nursery: trio.Nursery, fast_lane: bool) -> None:
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    start = partial(rawws.serve, rawws.Hub(), 0, host="127.0.0.1", tracer=tracer, fast_lane=fast_lane)
    server = await nursery.start(start)
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://127.0.0.1:{server.port}/room", headers={"Cookie": "secret"}) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        while memory.kinds()[-1:] != ["end"]:
            await trio.sleep(0.01)
    assert memory.kinds() == [
        *("open", "head client", "checks client", "head server", "checks server", "switch"),
        *("frame client", "frame server", "frame client", "frame server", "end"),
    ]
    assert len({connection for connection, _ in memory.taken}) == 1
    assert "secret" not in str(memory.taken)
    assert "Cookie: (masked, 6 bytes)\r\n" in memory.taken[1][1]["head"]
    assert bytes.fromhex(memory.taken[6][1]["payload"]) == b"hello"
    assert memory.taken[-1][1]["told"] == "closed by the client with 1000 (normal closure)"
    tracer.remove(memory)
    server.stop()


async def test_a_late_sink_gets_the_open_connections(nursery: trio.Nursery) -> None:
    tracer, late = Tracer(), Memory()
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host="127.0.0.1", tracer=tracer))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://127.0.0.1:{server.port}/room") as ws:
            for message in ("before", "while", "after"):
                if message == "while":
                    tracer.add(late)
                await ws.send(message)
                assert await ws.recv() == message
                if message == "while":
                    tracer.remove(late)
    assert frames_of(late) == [("client", b"while"), ("server", b"while")]
    server.stop()


async def test_a_sink_sets_the_recorded_length_of_a_payload(nursery: trio.Nursery) -> None:
    tracer, short, long = Tracer(), Memory(), Memory(shown_bytes=1000)
    tracer.add(short)
    tracer.add(long)
    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host="127.0.0.1", tracer=tracer))
    with trio.fail_after(PATIENCE_S):
        async with rawws.connect(f"ws://127.0.0.1:{server.port}/", compression=None) as ws:
            await ws.send(LARGE)
            await ws.recv()
    (frame,) = [record for _, record in long.taken if record["kind"] == "frame" and record["sender"] == "server"][:1]
    assert len(frame["payload"]) == 2 * 1000
    assert frame["left_out"] == len(LARGE) - 1000 - len(frame["tail"]) // 2
    tracer.remove(short)
    tracer.remove(long)
    server.stop()


def test_tracing_costs_nothing_without_a_sink(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, "rawws.frames")
    monkeypatch.setattr(tracing, "_watching", 0)  # the tracers of other tests may still have sinks
    tracer = Tracer()
    assert tracer.frame_watcher(1, Role.SERVER) is None
    assert not tracing.frames_are_shown()
    sink = Memory()
    tracer.add(sink)
    assert tracing.frames_are_shown()
    assert tracer.frame_watcher(1, Role.SERVER) is not None
    tracer.remove(sink)
    assert not tracing.frames_are_shown()
    assert repr(tracer) == "<Tracer sinks=0>"


async def test_a_recording_is_whole_and_can_be_decoded(
    start_program: StartProgram, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "record.jsonl"
    program = start_program("--record", str(file), "--hello", "", "--no-compression")
    client: Client = await program.connect()
    await client.open("/room", "Authorization: Bearer secret", then=text(LARGE) + text("ü"))
    await client.frames(2)
    await client.send(close(1001, "bye"))
    await client.frames_to_close()
    client.hang_up()
    await trio.to_thread.run_sync(program.wait_for_line, "closed by the client")
    program.signal(signal.SIGTERM)
    assert program.wait() == 0
    written = file.read_text()
    assert "secret" not in written
    records = [from_line(line) for line in written.splitlines()]
    assert [record.at for record in records] == sorted(record.at for record in records)
    sent = [record.frame for record in records if record.frame is not None and record.sender is Role.CLIENT]
    assert [frame_bytes(frame) for frame in sent] == [text(LARGE), text("ü"), close(1001, "bye")]
    assert rawws.cli.main(["decode", "--brief", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "    Authorization: (masked, 13 bytes)\n" in shown
    assert shown.splitlines()[-1].endswith("end: closed by the client with 1001 (going away) 'bye'")


async def test_a_recording_is_appended_to_an_existing_file(tmp_path: Path) -> None:
    for _ in range(2):
        recording = Recording(tmp_path / "record.jsonl")
        recording.take(1, {"kind": "switch"})
        recording.close()
        recording.close()
        recording.take(1, {"kind": "switch"})
    lines = (tmp_path / "record.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["switch", "switch"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/dev/full is Linux's")
async def test_a_full_disk_ends_the_recording_and_nothing_else(start_program: StartProgram) -> None:
    program = start_program("--record", "/dev/full", "--hello", "")
    client = await program.connect()
    await client.open("/room", then=text("hello"))
    await client.frames(1)
    program.signal(signal.SIGTERM)
    await client.frames_to_close()
    client.hang_up()
    assert program.wait() == 0
    lines = [line for line in program.lines if "/dev/full" in line]
    assert len(lines) == 1
    assert lines[0].endswith("can't be written any more: No space left on device; nothing is recorded from here on")


def test_a_recording_file_that_cannot_be_opened_is_reported(start_program: StartProgram) -> None:
    ran = start_program.run("--record", "/nowhere/file")
    assert ran.returncode == 2
    assert ran.stderr == "rawws: /nowhere/file can't be written for --record: No such file or directory\n"
