"""Misconfigured Redis servers: some faults end the start, others are logged once, and the manual's rights suffice."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shlex
import shutil
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trustme import CA

import rawws
from rawws.backplane import connector, lease_scripts, publisher, reader, scripts, troubles, turn_script
from rawws.backplane.troubles import GROUP_RIGHTS, Address, Lasts, diagnose, grouping, reading, writing
from rawws.broadcast.stream_entries import PREFIX
from rawws.errors import UsageError
from tests.backplane.ids import next_with_id, open_with_ids
from tests.manual import page
from tests.redis_server import RedisServer, free_port, network, redis_server
from tests.room_serving import Rooms, post, rooms
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.wire import get, seen_text, text

GRANT = shlex.split(re.findall(r"^\$ redis-cli (ACL SETUSER .*)$", page("howto/cluster"), re.MULTILINE)[0])
GROUP_GRANT = shlex.split(GROUP_RIGHTS)
RIGHTS = [word for word in GRANT if word.startswith("+") and word not in GROUP_GRANT]
# The bus has the server's port and 10,000, if it isn't given another one: that may be too high.
CLUSTER = ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]
SCRIPTS = (
    *(publisher.PUBLISH, publisher.TAKE_OVER, scripts.READ_PAGE, scripts.RING, scripts.APPEND, scripts.ASK),
    *(lease_scripts.OPEN, lease_scripts.END, lease_scripts.STATES, lease_scripts.TICK, lease_scripts.LIST),
    *(lease_scripts.NEWEST, turn_script.TURN),
)


@pytest.fixture
async def redis(bounded: None, tmp_path: Path) -> AsyncIterator[RedisServer]:  # noqa: ARG001
    async with redis_server(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def patient_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a start wait for Redis as long as a busy machine needs."""
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", PATIENCE_S)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a short pause before Redis is tried again."""
    monkeypatch.setattr(connector, "FIRST_REST_S", 0.01)
    monkeypatch.setattr(connector, "MAX_REST_S", 0.02)
    monkeypatch.setattr(reader, "BLOCK_S", 0.1)


async def refusal(url: str) -> str:
    """Return why a hub can't be shared through this Redis."""
    with pytest.raises(UsageError) as caught:
        async with rawws.share(rawws.Hub(), url):
            pass
    return str(caught.value)


def as_user(redis: RedisServer) -> str:
    return f"redis://rawws:PASSWORD@{LOOPBACK}:{redis.port}"


# The rights of a user


def _paths_of(node: Rooms) -> Callable[[Mapping[str, Any]], Awaitable[list[str]]]:
    async def list_paths(_: Mapping[str, Any]) -> list[str]:
        return list(node.hub.rooms)

    return list_paths


@pytest.mark.usefixtures("impatient")
async def test_the_rights_in_the_manual_are_enough(
    nursery: trio.Nursery, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CUT_EVERY_BYTES", 1)
    monkeypatch.setattr(publisher, "IDLE_S", 0.01)
    monkeypatch.setattr("rawws.broadcast.stream_entries.LEAST_BYTES", 8000)
    monkeypatch.setattr("rawws.backplane.redis_streams.LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(reader, "RECHECK_S", 0.01)
    await redis.ask(*GRANT)
    url = as_user(redis)
    async with (
        rooms(nursery, backplane=url, history=100, history_bytes=8000) as a,
        rooms(nursery, backplane=url, history=100, history_bytes=8000) as b,
    ):
        named, begin = await open_with_ids(a, "/room/x")
        first = await b.publish("/room/x", "paid", "Idempotency-Key: k")
        assert (await a.publish("/room/x", "paid", "Idempotency-Key: k"))["id"] == first["id"]
        assert await next_with_id(named) == (first["id"], b"paid")
        await named.send(text("by WebSocket"))
        assert (await next_with_id(named))[1] == b"by WebSocket"
        resumed = await b.poll(f"/room/x?since={begin}")
        assert [message["text"] for message in resumed["messages"]] == ["paid", "by WebSocket"]
        assert 0 < await redis.ask("TTL", "rawws:/room/x") <= 3600
        for _ in range(20):
            await b.publish("/room/cut", 1000 * "x")
        assert await redis.ask("XLEN", "rawws:/room/cut") < 20
        await b.open("/room/x")
        b.hub.commands.answer_with("rooms/1", _paths_of(b))
        assert a.hub.backplane is not None
        gathered = await a.hub.backplane.ask("rooms/1", {}, PATIENCE_S)
        assert [answer.items for answer in gathered.answers] == [("/room/x",)]
        a.hub.disconnect(user="Al")
        await _work_for_a_group(a)
        await redis.ask("SCRIPT", "FLUSH")
        await redis.ask("CLIENT", "KILL", "TYPE", "normal")
        await a.hub.room("/room/x").ready()
        a.hub.room("/room/x").publish("after a new connection")
        assert (await next_with_id(named))[1] == b"after a new connection"
        keys = (await redis.ask("EVAL", "return table.concat(redis.call('KEYS', '*'), '\\n')", "0")).split()
    assert {key.partition(PREFIX)[0] for key in keys if ":" in key} == {""}
    assert {re.split("[:/]", key)[1] for key in keys if key.startswith(PREFIX)} == {
        *("", "node", "once", "bell", "trial", "nodes", "commands", "answers", "group", "groups")
    }
    assert await redis.ask("ACL", "LOG") == "0", "nothing was refused"


async def _work_for_a_group(node: Rooms) -> None:
    """Take and finish jobs, kill one, and end the group."""
    await node.publish("/room/jobs", "1", "Rawws-Key: k")
    await node.publish("/room/jobs", "2", "Rawws-Key: k")
    for verb, body in ("ack", b"1"), ("term", b"2"):
        job = await node.ask(get("/room/jobs?group=g&wait=9"))
        assert job.body == body, job
        answered = await node.ask(post(f"/room/jobs?group=g&{verb}={job.headers['rawws-id']}", b""))
        assert answered.status == 204, answered
    assert (await node.ask(get("/room/jobs?group=g&state"))).status == 200
    await node.hub.queues.refresh()
    assert [(each.values["done"], each.values["dead"]) for each in node.hub.queues.figures()] == [(1, 1)]
    await node.publish("/room/jobs", "3")  # its script looks at the group
    assert await node.hub.queues.end("/room/jobs", "g") is True


@pytest.mark.usefixtures("impatient")
async def test_without_the_rights_for_groups_rooms_work_and_the_log_says_what_to_grant(
    redis: RedisServer, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    await redis.ask(*(word for word in GRANT if word not in GROUP_GRANT))
    async with rooms(nursery, backplane=as_user(redis)) as node:
        reader_of_it = await node.open("/room/x")
        await node.publish("/room/x", "hello")
        assert (await reader_of_it.frame()).payload == b"hello"
        refused = await node.ask(get("/room/x?group=g"))
        assert (refused.status, b"can't be reached just now" in refused.body) == (503, True)
        with trio.fail_after(PATIENCE_S):
            while "groups can't have their leases in Redis" not in caplog.text:
                await trio.sleep(0.01)
        assert caplog.text.count("groups can't have their leases") == 1
        (advice,) = re.findall("groups can't have .* as its administrator run redis-cli (.*)", caplog.text)
        await redis.ask(*shlex.split(advice))
        with trio.fail_after(PATIENCE_S):
            while (await node.ask(get("/room/x?group=g"))).status != 204:
                await trio.sleep(0.01)
        assert "groups have their leases in Redis again" in caplog.text


@pytest.mark.usefixtures("impatient")
async def test_each_right_in_the_manual_is_needed_and_the_error_for_a_missing_one_grants_it(
    redis: RedisServer,
) -> None:
    need(shutil.which("redis-cli"), "redis-cli")
    for right in RIGHTS:
        await redis.ask(*GRANT)
        await redis.ask("SCRIPT", "FLUSH")
        await redis.ask("ACL", "SETUSER", "rawws", right.replace("+", "-"))
        if right == "+ping":  # it keeps a connection alive, and is not sent at its beginning
            continue
        sentence = await refusal(as_user(redis))
        command, advice = re.findall(
            "let its user 'rawws' run (.*); as its administrator run redis-cli (.*)", sentence
        )[0]
        assert command.lower() == right[1:]
        subprocess.run(["redis-cli", "-p", str(redis.port), *shlex.split(advice)], check=True, capture_output=True)
        async with rawws.share(rawws.Hub(), as_user(redis)) as backplane:
            assert not backplane.is_away


async def test_errors_name_the_missing_rights_to_keys_and_to_a_database(redis: RedisServer) -> None:
    await redis.ask(*GRANT, "resetkeys", "~rawws-node:*")
    sentence = await refusal(as_user(redis))
    assert (
        "doesn't let its user 'rawws' use keys that begin with rawws:; as its administrator run redis-cli" in sentence
    )
    assert "'~rawws:*'" in sentence
    for addition, command in (("/1", "SELECT"), ("?client_name=rooms", "CLIENT|SETNAME")):
        await redis.ask("ACL", "DELUSER", "rawws")
        await redis.ask(*GRANT)
        sentence = await refusal(as_user(redis) + addition)
        assert f"run {command}; as" in sentence
        await redis.ask(*shlex.split(sentence.partition("redis-cli ")[2]))
        async with rawws.share(rawws.Hub(), as_user(redis) + addition) as backplane:
            assert not backplane.is_away


def test_every_command_of_a_script_is_tried_at_the_beginning() -> None:
    used = set()
    for script in SCRIPTS:
        for command, word in re.findall(r"redis\.p?call\('(\w+)'(?:, (?:stream, )?'(\w+)')?", script):
            used.add(f"{command}|{word}" if command in ("XINFO", "MEMORY", "XGROUP") else command)
        used |= set(re.findall(r"in_chunks\('(\w+)'", script))
        if "redis.pcall(range" in script:
            used |= {"XRANGE", "XREVRANGE"}
    tried = {command for command, *_ in (*reading(""), *writing("", ""), *grouping("", ""))}
    assert used | {"XREAD"} == tried


def test_the_manual_grants_every_right_that_is_needed() -> None:
    rules = shlex.split(Address("redis", "localhost", 6379).rules)
    assert {*rules, *GROUP_GRANT} == {word for word in GRANT if word[0] in "~+"}
    sentinel = shlex.split(Address("redis+sentinel", "localhost:26379/x", 0, db=1, has_client_name=True).rules)
    assert set(sentinel) - set(rules) == {"+role", "+select", "+client|setname"}


# Faults that end a start


@asynccontextmanager
async def started(tmp_path: Path, *options: str) -> AsyncIterator[str]:
    is_for_start = bool(options) and options[0].startswith("--")
    async with redis_server(tmp_path, *(options if is_for_start else ())) as server:
        if options and not is_for_start:
            await server.ask("CONFIG", "SET", *options)
        yield f"{LOOPBACK}:{server.port}"


@pytest.mark.parametrize(
    ("options", "url", "reason"),
    [
        (["requirepass", "secret"], "redis://{}", "Redis requires a password; give it in the URL"),
        (["requirepass", "secret"], "redis://:other@{}", "Redis refuses the password in the URL, or the user"),
        (
            CLUSTER,
            "redis://{}",
            "this is a Redis Cluster, which can't be asked for",
        ),
        (CLUSTER, "redis://{}/1", "this is a Redis Cluster"),
        (
            ["--replicaof", f"{LOOPBACK} 1"],
            "redis://{}",
            "this is a replica, which takes no writes; give",
        ),
        (["--databases", "2"], "redis://{}/2", "this Redis has no database 2"),
        (
            ["--rename-command", "HELLO", "OTHER"],
            "redis://{}",
            "doesn't know the command HELLO .* Redis 7 or later",
        ),
        ([], "rediss://{}", "this port doesn't speak TLS; give redis:// in place of rediss://"),
        ([], "redis+sentinel://{}/service", "is no Sentinel; give redis://"),
    ],
)
@pytest.mark.usefixtures("bounded")
async def test_a_server_that_can_not_be_the_backplane_ends_the_start(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: list[str],
    url: str,
    reason: str,
) -> None:
    monkeypatch.setattr(connector, "TIMEOUT_S", 0.5)  # a Redis without TLS answers no ClientHello
    async with started(tmp_path, *options) as where:
        sentence = await refusal(url.format(where))
    assert re.search(f"^redis.*://{where}.* can't be the backplane: .*{reason}", sentence)
    assert "secret" not in sentence
    assert [record for record in caplog.records if record.name == "rawws.server"] == []


@pytest.mark.usefixtures("bounded")
async def test_a_sentinel_in_place_of_a_redis_ends_the_start(tmp_path: Path) -> None:
    need(shutil.which("redis-server"), "redis-server")
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(f"sentinel monitor rooms {LOOPBACK} {free_port()} 1\n")
    sentinel = RedisServer(tmp_path)
    try:
        await sentinel.watch(configuration)
        for url in (sentinel.url, f"redis://{LOOPBACK}:{sentinel.port}/1"):
            sentence = await refusal(url)
            assert f"this is a Sentinel; give redis+sentinel://{LOOPBACK}:{sentinel.port}/SERVICE" in sentence
        sentence = await refusal(f"redis+sentinel://{LOOPBACK}:{sentinel.port}/other")
        assert "its Sentinel watches no service 'other'" in sentence
    finally:
        sentinel.end()


@pytest.mark.usefixtures("bounded")
async def test_tls_on_one_side_only_ends_the_start_and_the_advice_helps(tmp_path: Path) -> None:
    authority, certificate = CA(), tmp_path / "certificate.pem"
    issued = authority.issue_cert(LOOPBACK)
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    port = free_port()
    files = ["--tls-cert-file", "--tls-key-file"]
    options = ["--tls-port", str(port), "--tls-ca-cert-file", str(tmp_path / "ca.pem")]
    options += [word for option in files for word in (option, str(certificate))]
    async with redis_server(tmp_path, *options, "--tls-auth-clients", "optional") as server:
        url = f"redis://{LOOPBACK}:{port}"
        assert "this port expects TLS; give rediss:// in place of redis://" in await refusal(url)
        url = url.replace("redis://", "rediss://")
        sentence = await refusal(url)
        assert "can't be trusted" in sentence
        assert "give the certificate of its authority in the URL, as ?ssl_ca_certs=FILE" in sentence
        url += f"?ssl_ca_certs={tmp_path / 'ca.pem'}&ssl_check_hostname=true"
        async with rawws.share(rawws.Hub(), url) as backplane:
            assert not backplane.is_away
        await server.ask("CONFIG", "SET", "tls-auth-clients", "yes")
        assert "requires a client certificate; give it in the URL, as ?ssl_certfile=FILE" in await refusal(url)
        async with rawws.share(rawws.Hub(), f"{url}&ssl_certfile={certificate}&ssl_keyfile={certificate}") as backplane:
            assert not backplane.is_away


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "speaks HTTP and isn't Redis; give the host and port of Redis"),
        (b"220 mail.example.org ESMTP\r\n", "sent b'220 mail.example.org' and isn't Redis"),
    ],
)
@pytest.mark.usefixtures("bounded")
async def test_a_server_of_another_protocol_ends_the_start(nursery: trio.Nursery, answer: bytes, reason: str) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(answer)

    (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=LOOPBACK))
    port = listener.socket.getsockname()[1]
    for scheme in ("redis", "rediss"):
        assert reason in await refusal(f"{scheme}://{LOOPBACK}:{port}")


def bulk(text: bytes) -> bytes:
    return b"$%d\r\n%s\r\n" % (len(text), text)


def greeting(version: bytes = bulk(b"7.2.0"), mode: bytes = bulk(b"standalone")) -> bytes:
    fields = (b"server", bulk(b"redis")), (b"version", version), (b"mode", mode), (b"role", bulk(b"master"))
    return b"%4\r\n" + b"".join(bulk(name) + value for name, value in fields)


ODD = "what answers there isn't Redis, or something on the way has changed its answer"


@asynccontextmanager
async def answering(hello: bytes, others: bytes) -> AsyncIterator[tuple[str, Callable[[], int]]]:
    """Answer HELLO and other commands with these bytes; yield the URL and a function that counts connections."""
    connected = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal connected
        connected += 1
        async with stream:
            with contextlib.suppress(trio.BrokenResourceError):
                async for data in stream:
                    for command in re.findall(rb"HELLO|CLIENT|SCRIPT|EVALSHA|PING|XREAD", data):
                        await stream.send_all({b"HELLO": hello, b"CLIENT": b"+OK\r\n"}.get(command, others))

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=LOOPBACK))
        yield f"redis://{LOOPBACK}:{listener.socket.getsockname()[1]}", lambda: connected
        nursery.cancel_scope.cancel()


def own_records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.startswith("rawws.")]


@pytest.mark.parametrize(
    "answer",
    [b":1\r\n", b"_\r\n", greeting(mode=b"*1\r\n:1\r\n"), greeting(bulk(b"\xff\x1b[2J"))],
    ids=["number", "null", "mode", "version"],
)
@pytest.mark.usefixtures("bounded")
async def test_a_greeting_that_no_redis_gives_ends_the_start(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with answering(answer, b":1\r\n") as (url, _):
        assert "isn't Redis; give the host and port of Redis" in await refusal(url)
    assert own_records(caplog) == []


@pytest.mark.parametrize(
    ("hello", "others", "reason"),
    [
        (greeting(), b"-ERR \xff\x1b[2J\r\n", ODD),
        (b"-ERR " + b"A" * 60_000 + b"\r\n", b"+OK\r\n", "A" * 250),
    ],
    ids=["no text", "long"],
)
@pytest.mark.usefixtures("bounded", "impatient")
async def test_answers_that_no_redis_gives_are_logged_once_in_a_sentence(
    hello: bytes, others: bytes, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rawws.backplane.redis_streams.START_S", 0.5)
    async with answering(hello, others) as (url, connected), rawws.share(rawws.Hub(), url):
        while connected() < 4:
            await trio.sleep(0.01)
    (record,) = own_records(caplog)
    message = record.getMessage()
    assert reason in message
    assert message.endswith("; peers stay, and published messages wait")
    assert len(message) < 500
    assert (record.levelname, record.exc_info) == ("WARNING", None)


@pytest.mark.parametrize("workers", [[], ["--workers", "2"]], ids=["one process", "workers"])
async def test_the_program_ends_with_one_sentence_and_status_2(
    bounded: None,  # noqa: ARG001
    tmp_path: Path,
    start_program: StartProgram,
    workers: list[str],
) -> None:
    async with started(tmp_path, *CLUSTER) as where:
        arguments = ["--port", "0", *workers, "--backplane", f"redis://{where}"]
        ended = await trio.to_thread.run_sync(lambda: start_program.run(*arguments))
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"rawws: redis://{where} can't be the backplane: this is a Redis Cluster")
    assert len(ended.stderr.splitlines()) == 1


# Faults that begin later, or pass


async def _tries(redis: RedisServer, count: int) -> None:
    """Wait until this number of connections has been made from now on."""

    async def made() -> int:
        info = await redis.ask("INFO", "commandstats")
        found = re.search(r"cmdstat_hello:calls=(\d+)", info)
        return int(found[1]) if found else 0

    before = await made()
    while await made() < before + count:
        await trio.sleep(0.02)


def _logged(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [
        (record.levelname, record.getMessage().partition("the backplane")[2].strip(": "))
        for record in caplog.records
        if record.name == "rawws.server" and "the backplane" in record.getMessage()
    ]


@pytest.mark.parametrize(
    ("breaks", "mends", "reason"),
    [
        (
            [("CONFIG", "SET", "maxmemory", "1")],
            [("CONFIG", "SET", "maxmemory", "0")],
            "Redis is full and takes no writes; raise its 'maxmemory'",
        ),
        (
            [("REPLICAOF", LOOPBACK, "1")],
            [("REPLICAOF", "NO", "ONE")],
            "this is a replica, which takes no writes",
        ),
        (
            [("ACL", "SETUSER", "default", "-xadd")],
            [("ACL", "SETUSER", "default", "+xadd")],
            "Redis doesn't let its user 'default' run all of its commands; as its administrator run",
        ),
        (
            [("ACL", "SETUSER", "default", "resetkeys", "~other:*")],
            [("ACL", "SETUSER", "default", "allkeys")],
            "Redis doesn't let its user 'default' use keys that begin with rawws:",
        ),
        (
            [("CONFIG", "SET", "save", "1 1"), ("BGSAVE",)],
            [("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")],
            "Redis can't save its data, and so takes no writes",
        ),
    ],
    ids=["full", "a replica", "a right is taken away", "keys are taken away", "a disk that fails"],
)
@pytest.mark.usefixtures("impatient")
async def test_a_later_fault_is_logged_once_and_its_end_when_the_command_works_again(
    nursery: trio.Nursery,
    redis: RedisServer,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    breaks: list[tuple[str, ...]],
    mends: list[tuple[str, ...]],
    reason: str,
) -> None:
    (tmp_path / "dump.rdb" / "is no file").mkdir(parents=True)
    caplog.set_level("INFO", "rawws")
    async with rooms(nursery, backplane=redis.url, history=10) as node:
        here = await node.open("/room/x")
        await node.publish("/room/x", "before")
        assert await here.frame() == seen_text("before")
        for command in breaks:
            await redis.ask(*command)
        if breaks[-1] == ("BGSAVE",):
            while "rdb_last_bgsave_status:err" not in await redis.ask("INFO", "persistence"):
                await trio.sleep(0.01)
        await here.send(text("waits"))
        while not _logged(caplog):
            await trio.sleep(0.01)
        await _tries(redis, 10)
        (why,) = [why for level, why in _logged(caplog) if level != "WARNING"]  # a lost connection is a warning
        assert why.startswith(reason)
        assert (await node.ask(post("/room/x", b"is refused meanwhile"))).status == 503
        for command in mends:
            await redis.ask(*command)
        assert await here.frame() == seen_text("waits")
        while _logged(caplog)[-1] != ("INFO", "is back"):
            await trio.sleep(0.01)
        assert [level for level, _ in _logged(caplog) if level != "WARNING"] == ["ERROR", "INFO"]
        await node.publish("/room/x", "after")


@pytest.mark.usefixtures("impatient")
async def test_a_withdrawn_post_is_not_logged_as_the_end_of_an_outage(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.room_posts.HELD_S", 0.05)
    caplog.set_level("INFO", "rawws")
    async with rooms(nursery, backplane=redis.url) as node:
        await redis.ask("ACL", "SETUSER", "default", "-xadd")
        assert (await node.ask(post("/room/x", b"in vain"))).status == 503
        await _tries(redis, 10)
        assert [level for level, _ in _logged(caplog)] == ["ERROR"]
        await redis.ask("ACL", "SETUSER", "default", "+xadd")
        while len(_logged(caplog)) < 2:
            await trio.sleep(0.01)
        assert _logged(caplog)[1:] == [("INFO", "is back")]


@pytest.mark.usefixtures("impatient")
async def test_a_full_redis_does_not_end_a_start_and_can_be_read(
    nursery: trio.Nursery, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "rawws")
    await redis.ask("XADD", "rawws:/room/x", "*", "data", "kept")
    await redis.ask("CONFIG", "SET", "maxmemory", "1")
    async with rooms(nursery, backplane=redis.url, history=10) as node:
        assert (await node.poll("/room/x?last=1"))["messages"][0]["text"] == "kept"
        assert (await node.ask(post("/room/x", b"in vain"))).status == 503
        assert [level for level, _ in _logged(caplog)] == ["ERROR"]
        await redis.ask("CONFIG", "SET", "maxmemory", "0")
        while node.hub.backplane is None or node.hub.backplane.is_away:
            await trio.sleep(0.01)
        await node.publish("/room/x", "now")


@pytest.mark.usefixtures("impatient")
async def test_a_start_also_ends_when_redis_comes_late_and_refuses(redis: RedisServer) -> None:
    await redis.ask("CONFIG", "SET", "requirepass", "secret")
    async with network(redis.port) as between, trio.open_nursery() as nursery:
        between.cut()
        nursery.start_soon(_after, 0.2, between.heal)
        assert "Redis requires a password" in await refusal(between.url)


async def _after(seconds: float, work: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    work()


@pytest.mark.usefixtures("impatient", "bounded")
async def test_a_start_waits_for_a_redis_that_loads_its_data(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "rawws")
    async with redis_server(tmp_path) as server:
        # Redis answers while it loads only after each 1024 bytes of the file, so these must not be compressed.
        await server.ask("CONFIG", "SET", "rdbcompression", "no")
        for number in range(20):
            await server.ask("SET", f"key {number}", 3000 * "x")
        await server.ask("SAVE")
        server.kill()
        slow = ("--key-load-delay", "50000", "--loading-process-events-interval-bytes", "1024")
        loading = RedisServer(tmp_path, *slow)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(loading.start)
                async with rawws.share(rawws.Hub(), loading.url) as backplane:
                    assert not backplane.is_away
        finally:
            loading.end()
    assert [level for level, _ in _logged(caplog)] == ["WARNING", "INFO"]


@pytest.mark.parametrize(
    ("answer", "reason", "lasts"),
    [
        # Redis 6.2, 7.0, 7.2 and 8 say these.
        ("ERR Unknown Redis command called from script script", "(it is version 6.2.14)", Lasts.FOR_EVER),
        ("ERR The user executing the script can't run this command or subcommand", "run XADD", Lasts.FOR_EVER),
        ("NOPERM User rawws has no permissions to run the 'xadd' command", "run XADD", Lasts.FOR_EVER),
        ("DENIED Redis is running in protected mode because", "set its 'requirepass'", Lasts.FOR_EVER),
        ("NOREPLICAS Not enough good replicas to write.", "'min-replicas-to-write'", Lasts.A_WHILE),
        ("BUSY Redis is busy running a script.", "BUSY Redis is busy running a script", Lasts.A_WHILE),
    ],
)
def test_refusals_within_a_script_are_diagnosed(answer: str, reason: str, lasts: Lasts) -> None:
    trouble = diagnose(troubles.Refused(answer, "XADD"), Address("redis", "localhost", 6379, "rawws"), "6.2.14")
    assert reason in trouble.sentence
    assert trouble.lasts is lasts


async def test_a_node_is_ready_when_it_listens(redis: RedisServer, start_program: StartProgram) -> None:
    program = start_program("--backplane", redis.url)
    client = await program.connect()
    answer = await client.ask(post("/room/x", b"the first of all"))
    assert (answer.status, json.loads(answer.body)["peers"]) == (202, 0)
    client = await program.connect()
    assert (await client.ask(get("/readyz"))).status == 200
