"""Jobs that are pushed to a URL."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trio

import rawws
from rawws.broadcast.message_ids import MessageId
from rawws.errors import UsageError
from rawws.groups.limits import TOO_MANY
from rawws.groups.protocol import Verb
from rawws.groups.push import Outcome, PushRequest, PushTarget, read_push, retry_after
from rawws.groups.shelf import StoredMessage
from rawws.store.sqlite_engine import SqliteEngine
from rawws.store.stored_rooms import StoredRooms
from rawws.wire.frames import Opcode
from tests.groups.test_workers import serving

JOB = MessageId("9f2c41d7", 7)


class Hook(ThreadingHTTPServer):
    """An endpoint that answers with the given statuses, and then with 204."""

    daemon_threads = True

    def __init__(self, *statuses: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses = list(statuses)
        self.got: list[tuple[str, str, bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook"


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.headers["Idempotency-Key"], self.headers["Rawws-Try"], body))
        self.send_response(self.server.statuses.pop(0) if self.server.statuses else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with listening_hook(503, 204, 400) as server:
        yield server


@contextmanager
def listening_hook(*statuses: int) -> Iterator[Hook]:
    server = Hook(*statuses)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


async def test_a_job_is_sent_until_it_is_taken_or_dead(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.groups.push.FIRST_WAIT_S", 0.01)
    caplog.set_level("INFO")
    hub = rawws.Hub(store=tmp_path / "rooms.db", store_sync="never", push=[f"/pay sms {hook.url}"])
    async with serving(hub) as running:
        (first,) = await running.say("pay 1")
        while (await running.state())["done"] < 1:
            await trio.sleep(0.01)
        (second,) = await running.say("pay 2")
        while (await running.state())["dead"] < 1:
            await trio.sleep(0.01)
        assert hook.got == [(first, "1", b"pay 1"), (first, "2", b"pay 1"), (second, "1", b"pay 2")]
        assert "has failed: the answer was 503" in caplog.text
        assert f"pushes to {hook.url} succeed again" in caplog.text
        assert await hub.queues.end("/pay", "sms")
        assert f"no more jobs are pushed to {hook.url}" in caplog.text


async def test_pushes_go_on_with_a_group_that_begins_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.groups.push.AGAIN_S", 0.01)
    with listening_hook() as hook:
        hub = rawws.Hub(store=tmp_path / "rooms.db", store_sync="never", push=[f"/pay sms {hook.url}"])
        async with serving(hub) as running:
            await running.say("old")
            while (await running.state())["done"] < 1:
                await trio.sleep(0.01)
            assert isinstance(hub.stored, StoredRooms)
            engine = hub.stored.committer.engine
            assert isinstance(engine, SqliteEngine)
            engine._writer.execute("UPDATE rooms SET newest = 77")  # a damaged row
            engine._rooms.clear()
            monkeypatch.setattr("rawws.groups.groups.MAX_GROUPS", 0)
            (new,) = await running.say("new")
            refused = f"jobs can't be pushed to {hook.url}, which is tried again: {TOO_MANY.sentence}"
            while refused not in caplog.text:
                await trio.sleep(0.01)
            monkeypatch.setattr("rawws.groups.groups.MAX_GROUPS", 1)
            while len(hook.got) < 2:
                await trio.sleep(0.01)
            assert hook.got[1] == (new, "1", b"new")
    assert "no more jobs are pushed" not in caplog.text


async def test_a_job_waits_for_an_endpoint_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    hook = Hook()
    hook.server_close()
    hub = rawws.Hub(queue_in_memory=True, push=[f"/pay sms {hook.url}"])
    async with serving(hub) as running:
        await running.say("pay 1")
        while "has failed: ConnectionRefusedError" not in caplog.text:
            await trio.sleep(0.01)
        assert (await running.state())["waiting"] == 1


@pytest.mark.parametrize(
    ("outcome", "tried", "verb", "in_s"),
    [
        (Outcome(200), 1, Verb.ACK, 0.0),
        (Outcome(503), 1, Verb.NAK, 1.0),
        (Outcome(503), 4, Verb.NAK, 8.0),
        (Outcome(503), 99, Verb.NAK, 14_400.0),
        (Outcome(429, "", 60.0), 1, Verb.NAK, 60.0),
        (Outcome(0, "no answer within 30 s"), 1, Verb.NAK, 1.0),
        (Outcome(404), 1, Verb.TERM, 0.0),
        (Outcome(301), 1, Verb.TERM, 0.0),
    ],
)
def test_the_status_is_the_word_of_the_worker(outcome: Outcome, tried: int, verb: Verb, in_s: float) -> None:
    answer = outcome.answer(JOB, tried)
    assert (answer.verb, answer.in_s, answer.job) == (verb, in_s, JOB)


def test_a_push_is_a_room_a_group_and_a_url() -> None:
    assert read_push("/room/pay sms https://host/hook?a=1") == PushTarget("/room/pay", "sms", "https://host/hook?a=1")


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "/pay sms",
            "pay sms http://host/",
            "/pay s.ms http://host/",
            "/pay sms ftp://host/",
            "/pay sms http:///x",
        ),
        *("/pay sms http://host:99999/", "/pay sms http://h\u00f6st/"),
    ],
)
def test_a_push_that_can_not_be_read_is_explained(text: str) -> None:
    with pytest.raises(UsageError, match=r"give it as|a group's name"):
        read_push(text)


async def test_a_push_needs_a_store() -> None:
    with pytest.raises(UsageError, match="push sends the jobs of groups, which need a store or a backplane"):
        await rawws.serve(rawws.Hub(push=["/pay sms http://host/"]), 0, host="127.0.0.1")


@pytest.mark.parametrize("host", ["a..b", "a" * 64 + ".example"])
def test_a_host_that_can_not_have_an_address_is_refused(host: str) -> None:
    with pytest.raises(UsageError, match="push can't go to"):
        read_push(f"/pay sms http://{host}/hook")


async def test_an_answer_that_does_not_end_is_given_up_before_its_lease_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.groups.push.LONGEST_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        hub = rawws.Hub(store=tmp_path / "rooms.db", store_sync="never", push=[f"/pay sms {url}"])
        async with serving(hub) as running:
            await running.say("1")
            while f"a push to {url} has failed: no answer within 0.1 s" not in caplog.text:
                await trio.sleep(0.01)
            # The request has ended, and not only its result is ignored.
            await trio.to_thread.run_sync(dripping.join)


def drip(listener: socket.socket) -> None:
    """Answer with an endless number of interim responses, until the other side ends the connection."""
    connected, _ = listener.accept()
    with connected, suppress(OSError):
        while connected.send(b"HTTP/1.1 100 Continue\r\n\r\n"):
            time.sleep(0.005)


async def test_an_error_of_a_push_costs_this_try_alone(
    hook: Hook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook.statuses = []
    monkeypatch.setattr("rawws.groups.push.FIRST_WAIT_S", 0.01)
    send, mistakes = PushRequest.send, [LookupError("a mistake of rawws's own")]

    def send_or_fail(request: PushRequest) -> Outcome:
        if mistakes:
            raise mistakes.pop()
        return send(request)

    monkeypatch.setattr(PushRequest, "send", send_or_fail)
    hub = rawws.Hub(store=tmp_path / "rooms.db", store_sync="never", push=[f"/pay sms {hook.url}"])
    async with serving(hub) as running:
        (job,) = await running.say("1")
        while (await running.state())["done"] < 1:
            await trio.sleep(0.01)
        assert hook.got == [(job, "2", b"1")]
        assert f"an error in rawws itself; the push to {hook.url} is tried again" in caplog.text


NOON = 1_735_732_800.0  # of 2025-01-01, in UTC


@pytest.mark.parametrize(
    ("field", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("14401", 14_400.0),
        ("1" + 12 * "0", 14_400.0),
        ("9" * 5000, 14_400.0),
        ("-5", 0.0),
        ("1e9", 0.0),
        ("²", 0.0),
        ("soon", 0.0),
        ("Wed, 01 Jan 2025 12:00:30 GMT", 30.0),
        ("Wed, 01 Jan 2025 12:00:30 -0000", 30.0),
        ("Wed, 01 Jan 2025 11:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 14_400.0),
        ("Fri, 31 Dec 99999 23:59:59 GMT", 0.0),
        ("Wed, 01 Jan 2025 12:00:30 GMT" * 5000, 0.0),
    ],
)
def test_a_retry_after_is_a_number_or_a_date(field: str | None, seconds: float) -> None:
    assert retry_after(field, NOON) == seconds


async def test_a_request_that_is_aborted_before_it_is_connected_sends_nothing(hook: Hook) -> None:
    request = PushRequest(hook.url, None, JOB, 1, StoredMessage(Opcode.TEXT, b"1"))
    request.abort()
    outcome = await trio.to_thread.run_sync(request.send)
    assert outcome == Outcome(0, "ConnectionAbortedError: given up")
    assert hook.got == []
    request.abort()


ANSWERS = {
    "endless headers": (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 10_000, 0, "HTTPException: got more than 100 headers"),
    "a long header": (b"HTTP/1.1 200 OK\r\na: " + b"b" * 70_000, 0, "LineTooLong"),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", 0, "BadStatusLine"),
    "no status": (b"HTTP/1.1 99999 OK\r\n\r\n", 0, "BadStatusLine"),
    "nothing": (b"", 0, "RemoteDisconnected"),
    "a redirect": (b"HTTP/1.1 307 Away\r\nLocation: http://127.0.0.1:1/\r\n\r\n", 307, ""),
    "a large body": (b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n" + bytes(10_000_000), 200, ""),
    "another protocol": (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", 101, ""),
}


@pytest.mark.parametrize(("answer", "status", "why"), ANSWERS.values(), ids=ANSWERS)
async def test_an_answer_can_be_anything(answer: bytes, status: int, why: str) -> None:
    def reply() -> None:
        connected, _ = listener.accept()
        with connected, suppress(OSError):
            connected.recv(65536)
            connected.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/hook"
        request = PushRequest(url, None, JOB, 1, StoredMessage(Opcode.BINARY, b"1"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, reply)
            outcome = await trio.to_thread.run_sync(request.send)
    assert outcome.status == status
    assert outcome.why.startswith(why)
    assert outcome.answer(JOB, 1).verb is (Verb.ACK if status == 200 else Verb.TERM if status else Verb.NAK)
