"""The log as an interface: one whole connection line by line, and content that it must never have."""

from __future__ import annotations

import logging
import re
import shlex
import signal
import subprocess
import sys
from typing import NoReturn

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

import rawws
import rawws.logs
from rawws.wire.allowed_hosts import Hosts
from rawws.wire.frames import Opcode
from rawws.wire.handshake import check_origin
from rawws.wire.origins import Origins
from tests.serving.programs import StartProgram
from tests.serving.server import Running, Serve
from tests.serving.wire import ACCEPT, KEY, binary, close, get, masked, ping, seen_text, text, upgrade

HELLO = "Hello! Message From Server!!"


def logged(caplog: pytest.LogCaptureFixture, *loggers: str) -> list[str]:
    """Return the log line by line, as logger, level and message, without the parts that change from run to run."""
    lines = []
    for record in caplog.records:
        if record.name.startswith("rawws") and (not loggers or record.name in loggers):
            message = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:PORT", record.getMessage())
            message = re.sub(r"Date: .*", "Date: NOW", message)
            message = re.sub(r"\d+\.\d (?:ms|s)$", "TIME", message)
            lines.append(f"{record.levelname} {record.name.removeprefix('rawws.')} {message}")
    return lines


async def wait_left(running: Running) -> None:
    """Wait until the server has dropped its last peer, and logged it."""
    while running.server.peer_count:
        await wait_all_tasks_blocked()


STORY = """
DEBUG http #1 = accepted from 127.0.0.1:PORT
DEBUG http #1 < GET /about HTTP/1.1
DEBUG http #1 < Host: localhost
DEBUG http #1 < User-Agent: a test
DEBUG http #1 > HTTP/1.1 200 OK
DEBUG http #1 > Date: NOW
DEBUG http #1 > Content-Type: text/plain; charset=utf-8
DEBUG http #1 > Cache-Control: no-store
DEBUG http #1 > Content-Length: 8
INFO http #1 = GET /about: 200 in TIME
DEBUG http #1 < GET /chat?name=alice HTTP/1.1
DEBUG http #1 < Host: localhost
DEBUG http #1 < Upgrade: websocket
DEBUG http #1 < Connection: Upgrade
DEBUG http #1 < Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==
DEBUG http #1 < Sec-WebSocket-Version: 13
DEBUG http #1 < Origin: http://localhost
DEBUG handshake #1 = RFC 6455 §4.2.1 item 1: the method is GET? yes: GET
DEBUG handshake #1 = RFC 6455 §4.2.1 item 1: HTTP is 1.1 or higher? yes: HTTP/1.1
DEBUG handshake #1 = RFC 6455 §4.2.1 item 1: the target has a path? yes: /chat?name=alice
DEBUG handshake #1 = RFC 6455 §4.2.1 item 2: one Host header? yes: localhost
DEBUG handshake #1 = RFC 6455 §4.2.1 item 3: Upgrade has the token 'websocket'? yes: websocket
DEBUG handshake #1 = RFC 6455 §4.2.1 item 4: Connection has the token 'Upgrade'? yes: Upgrade
DEBUG handshake #1 = RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? yes: dGhlIHNhbXBsZSBub25jZQ==
DEBUG handshake #1 = RFC 6455 §4.2.1 item 6: Sec-WebSocket-Version is 13? yes: 13
DEBUG handshake #1 = RFC 9110 §7.8: no body? yes: none
DEBUG handshake #1 = RFC 6455 §10.2: the Origin is this host, allowed, or none? yes: http://localhost
DEBUG handshake #1 = key            dGhlIHNhbXBsZSBub25jZQ==
DEBUG handshake #1 = key + GUID     dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11
DEBUG handshake #1 = SHA-1 of that  b37a4f2cc0624f1690f64606cf385945b2bec4ea
DEBUG handshake #1 = in base64      s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
DEBUG handshake #1 = proves         that this server speaks WebSocket and has read this request; it authenticates nobody
DEBUG handshake #1 > HTTP/1.1 101 Switching Protocols
DEBUG handshake #1 > Upgrade: websocket
DEBUG handshake #1 > Connection: Upgrade
DEBUG handshake #1 > Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
DEBUG handshake #1 = HTTP ends, WebSocket begins: handed over with 11 bytes \
that came after the request
INFO hub #1 = joined room /chat (peers in it: 1)
DEBUG frames #1 > TEXT fin=1 rsv=000 mask=none len=28 'Hello! Message From Server!!'
DEBUG frames #1 < TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'
DEBUG frames #1 > TEXT fin=1 rsv=000 mask=none len=5 'Hello'
DEBUG frames #1 < TEXT fin=0 rsv=000 mask=37fa213d len=3 'Hel'
DEBUG frames #1 < PING fin=1 rsv=000 mask=37fa213d len=2 68 69
DEBUG frames #1 > PONG fin=1 rsv=000 mask=none len=2 68 69
DEBUG frames #1 < CONTINUATION fin=1 rsv=000 mask=37fa213d len=2 6c 6f
DEBUG frames #1 = the message: TEXT, 5 bytes: 'Hello'
DEBUG frames #1 > TEXT fin=1 rsv=000 mask=none len=5 'Hello'
DEBUG frames #1 < BINARY fin=1 rsv=000 mask=37fa213d len=256 \
00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f … f8 f9 fa fb fc fd fe ff
DEBUG frames #1 > BINARY fin=1 rsv=000 mask=none len=256 \
00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f … f8 f9 fa fb fc fd fe ff
DEBUG frames #1 < CLOSE fin=1 rsv=000 mask=37fa213d len=6 1000 'done'
DEBUG frames #1 > CLOSE fin=1 rsv=000 mask=none len=6 1000 'done'
INFO hub #1 = closed by the client with 1000 (normal closure) 'done'
"""


async def test_one_whole_connection_line_by_line(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "rawws")
    running = await serve(hello=HELLO)
    client = await running.connect()
    await client.ask(get("/about", "User-Agent: a test"))
    await client.open("/chat?name=alice", "Origin: http://localhost", then=text("Hello"))
    assert await client.frames(2) == [seen_text(HELLO), seen_text("Hello")]
    # One read each, so that received and sent frames alternate.
    for frames in (
        masked(Opcode.TEXT, b"Hel", fin=False) + ping(b"hi"),
        masked(Opcode.CONTINUATION, b"lo"),
        binary(bytes(range(256))),
        close(1000, "done"),
    ):
        await client.send(frames)
        await client.frame()
    await client.assert_end()
    client.hang_up()
    await wait_left(running)
    assert logged(caplog) == STORY.strip().split("\n")


async def test_level_info_logs_only_events_that_matter_to_an_operator(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve(hello=HELLO)
    client = await running.connect()
    await client.ask(get("/about"))
    await client.open("/chat", then=text("Hello") + close(1001))
    await client.frames_to_close()
    await client.assert_end()
    client.hang_up()
    await wait_left(running)
    assert logged(caplog) == [
        "INFO http #1 = GET /about: 200 in TIME",
        "INFO hub #1 = joined room /chat (peers in it: 1)",
        "INFO hub #1 = closed by the client with 1001 (going away)",
    ]


async def test_every_line_has_the_connections_number_and_one_mark(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(rawws.logs.TRACE, "rawws")
    running = await serve(hello=HELLO)
    for number in range(1, 4):
        caplog.clear()
        client = await running.connect()
        await client.ask(get())
        await client.open(then=text("Hello") + (masked(0x3) if number == 2 else close()))
        await client.frames_to_close()
        client.reset()
        await wait_left(running)
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("rawws")]
        assert [line for line in lines if not re.match(rf"#{number} [<>=!-] \S", line)] == []


# Ends


async def test_a_refused_handshake_logs_every_check_and_its_verdict(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "rawws")
    client = await (await serve()).connect()
    await client.ask(upgrade().replace(KEY, b"c2hvcnQ="))
    lines = logged(caplog, "rawws.handshake")
    assert sum(" yes: " in line for line in lines) == 9
    assert "DEBUG handshake #1 ! RFC 6455 §4.2.1 item 5: one Sec-WebSocket-Key of 16 bytes? NO (400): c2hvcnQ=" in lines
    assert "INFO handshake #1 ! refused with 400 (key): The Sec-WebSocket-Key decodes to 5 bytes, not 16." in lines
    assert not any(ACCEPT.decode() in line for line in lines)


async def test_the_line_of_a_refused_origin_ends_with_the_flag_that_would_allow_it(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    client = await (await serve()).connect()
    assert (await client.ask(upgrade("/", "Origin: https://evil.example"))).status == 403
    (line,) = logged(caplog)
    assert line.startswith("WARNING handshake #1 ! refused with 403 (origin)")
    assert line.endswith(" to this server; to allow it, start the server with --allow-origin https://evil.example")


async def test_the_advice_for_a_refused_origin_lets_it_in(start_program: StartProgram) -> None:
    sent = ["https://a.example", "http://[2001:db8::1]:81", "file://", "null", "", "capacitor://localhost", "app://."]
    program = start_program()
    advised = []
    for origin in sent:
        assert (await (await program.connect()).ask(upgrade("/", f"Origin: {origin}"))).status == 403
        advised += shlex.split(program.wait_for_line("(origin)").partition("start the server with ")[2])
    followed = start_program(*advised)
    for origin in sent:
        await (await followed.connect()).open("/", f"Origin: {origin}")


@pytest.mark.parametrize(
    ("frames", "end"),
    [
        (masked(0x3), "! failed by us with 1002 (protocol error) 'Invalid opcode 0x3 (RFC 6455 §5.2)'"),
        (masked(Opcode.TEXT, b"\xff"), "! failed by us with 1007 (invalid frame payload data) "),
        (close(4000), "= closed by the client with 4000"),
        (masked(Opcode.CLOSE), "= closed by the client with 1005 (no status received)"),
        (b"", "! lost without a close (1006): the client ended the stream"),
        (text("Hello")[:4], "! lost without a close (1006): the client ended the stream"),
    ],
    ids=["bad opcode", "not UTF-8", "a close", "an empty close", "no close", "inside a frame"],
)
async def test_the_last_line_says_who_closed_with_which_code_and_why(
    serve: Serve, caplog: pytest.LogCaptureFixture, frames: bytes, end: str
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    client = await running.open()
    await client.send(frames)
    await wait_all_tasks_blocked()
    client.end_stream()
    await client.wait_lost()
    await wait_left(running)
    assert logged(caplog)[-1].startswith(f"INFO hub #1 {end}")


async def test_the_log_of_a_vanished_peer_has_its_last_frames_and_unsent_bytes(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    client = await running.open()
    await client.send(text("Hello"))
    assert await client.frame() == seen_text("Hello")
    await client.send(ping(b"?"))
    await client.frame()
    for _ in range(100):
        running.hub.room("/").publish(b"x" * 100_000)
    client.reset()
    await wait_left(running)
    before, end = logged(caplog)[-2:]
    pattern = r"INFO hub #1 = the last frames from the client were TEXT of 5 bytes, PING of 1 byte, \d\.\d s ago; "
    assert re.fullmatch(pattern + r"[\d,]+ bytes for it had not gone out", before), before
    assert end.startswith("INFO hub #1 ! lost without a close (1006): ")


async def test_the_log_of_an_orderly_close_has_no_last_frames(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "rawws")
    running = await serve()
    client = await running.open()
    await client.send(text("Hello") + close())
    await client.frames_to_close()
    client.hang_up()
    await wait_left(running)
    assert "the last frames" not in "".join(logged(caplog))


# Secrets and forgeries


async def test_secrets_are_masked_on_the_way_in(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(rawws.logs.TRACE, "rawws")
    running = await serve()
    secrets = ["Authorization: Basic c2VjcmV0", "cookie: session=c2VjcmV0", "PROXY-AUTHORIZATION: c2VjcmV0"]
    client = await running.connect()
    await client.ask(get("/", *secrets))
    await client.open("/", *secrets)
    refused = await running.connect()
    await refused.ask(get("/", *secrets, "Host: b"))
    assert "c2VjcmV0" not in caplog.text
    lines = logged(caplog, "rawws.http")
    assert lines.count("DEBUG http #1 < Authorization: (masked, 14 bytes)") == 2
    assert lines.count("DEBUG http #1 < cookie: (masked, 16 bytes)") == 2
    assert lines.count("DEBUG http #2 < PROXY-AUTHORIZATION: (masked, 8 bytes)") == 1


@pytest.mark.parametrize(
    "secret_line",
    [b"Cookie : c2VjcmV0", b" Cookie: c2VjcmV0", b"Cookie\t: c2VjcmV0", b"Authorization: Basic\r\n c2VjcmV0"],
    ids=["space before the colon", "space before the name", "tab before the colon", "folded"],
)
async def test_secrets_are_masked_in_a_malformed_head_too(
    serve: Serve, caplog: pytest.LogCaptureFixture, secret_line: bytes
) -> None:
    caplog.set_level(rawws.logs.TRACE, "rawws")
    client = await (await serve()).connect()
    assert (await client.ask(get()[:-2] + secret_line + b"\r\n\r\n")).status == 400
    assert "c2VjcmV0" not in caplog.text


FORGED = "\r\nINFO rawws.http #7 = GET /forged: 200 in 1.2 ms"


@pytest.mark.parametrize(
    "stream",
    [
        get("/").replace(b"localhost", b"a\x1b[31m\x07"),
        b"GET /\x1b[31m HTTP/1.1\r\n\r\n",
        b"\x00\x1b\x7f\x80\xff\n\n",
        get("/", "X: y")[:-2] + "Z: žluť \u2028".encode() + b"\r\n\r\n",
        upgrade() + text(f"\x1b[31m{FORGED}\u2028\x85\x00"),
        upgrade() + close(1000, FORGED),
        upgrade() + ping(FORGED.encode()) + masked(Opcode.TEXT, FORGED.encode() + b"\xff"),
    ],
    ids=["a header", "a target", "no HTTP", "beyond ASCII", "a text", "a close's reason", "a ping, and bad UTF-8"],
)
async def test_control_characters_are_spelt_out(serve: Serve, caplog: pytest.LogCaptureFixture, stream: bytes) -> None:
    caplog.set_level(rawws.logs.TRACE, "rawws")
    running = await serve()
    client = await running.connect()
    await client.send(stream)
    client.end_stream()
    await client.wait_lost()
    await wait_left(running)
    messages = logged(caplog)
    assert len(messages) > 2
    assert [line for line in messages if not line.isprintable()] == []


@pytest.mark.parametrize(
    "character", ["\n", "\r", "\x00", "\x1b", "\x7f", "\x85", "\x9b", "\u2028", "\u2029", "\u202e"]
)
def test_no_line_contains_line_ends_or_terminal_controls(caplog: pytest.LogCaptureFixture, character: str) -> None:
    caplog.set_level(logging.INFO, "rawws")
    rawws.logs.line(rawws.logs.http, logging.INFO, 1, "!", f"žluť {character}[31m")
    spelt = character.encode("unicode_escape").decode()
    assert logged(caplog) == [f"INFO http #1 ! žluť {spelt}[31m"]


def test_no_traceback_contains_control_characters() -> None:
    """An exception of a program's may quote its peer."""
    program = """if True:
        from rawws import logs
        logs.configure("info")
        try:
            raise ValueError("a peer said: \\x1b[2J \\x9b \\u202e")
        except ValueError:
            logs.hub.exception("#1 ! the handler failed")
    """
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    lines = ran.stderr.splitlines()
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == r"ValueError: a peer said: \x1b[2J \x9b \u202e"
    assert all(map(str.isprintable, lines))


@pytest.mark.parametrize("field", ["Host", "Origin"])
@pytest.mark.parametrize("size", [255, 256, 15_000])
def test_a_name_is_shown_up_to_255_characters(field: str, size: int) -> None:
    fields = {"Host": "localhost", field: "'" * size}
    request = rawws.Request("GET", "/", "1.1", rawws.Headers(list(fields.items())))
    refusal = Hosts().refuse(request) if field == "Host" else check_origin(request, Origins()).refusal
    assert refusal is not None
    rest = "" if size == 255 else f"… ({size - 255} characters more)"
    assert "'" * 255 + rest in refusal.sentence
    assert "'" * 256 not in refusal.sentence
    assert "'" * 6 not in refusal.hint  # a value that no flag accepts is in none


# The levels


async def test_the_level_trace_adds_each_frames_bytes_in_hex(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(rawws.logs.TRACE, "rawws")
    client = await (await serve()).open()
    await client.send(text("Hello"))
    await client.frame()
    lines = [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "rawws.frames"]
    assert lines == [
        (logging.DEBUG, "#1 < TEXT fin=1 rsv=000 mask=37fa213d len=5 'Hello'"),
        (rawws.logs.TRACE, "#1 < 81 85 | 37 fa 21 3d | 7f 9f 4d 51 58"),
        (logging.DEBUG, "#1 > TEXT fin=1 rsv=000 mask=none len=5 'Hello'"),
        (rawws.logs.TRACE, "#1 > 81 05 | 48 65 6c 6c 6f"),
    ]


async def test_nothing_is_formatted_when_debug_is_off(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def formatted(*_: object) -> NoReturn:
        pytest.fail("something was formatted that nobody reads")

    for name in ("logs.frame_line", "logs.frame_hex", "server.connection.head_lines"):
        monkeypatch.setattr(f"rawws.{name}", formatted)
    monkeypatch.setattr("rawws.wire.checks.Check.__str__", formatted)
    caplog.set_level(logging.INFO, "rawws")
    running = await serve(hello=HELLO)
    client = await running.connect()
    await client.ask(get())
    await client.open(then=text("Hello") + ping() + close())
    assert len(await client.frames_to_close()) == 4
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("flags", "levels"),
    [
        ([], {"INFO"}),
        (["--log-level", "debug"], {"INFO", "DEBUG"}),
        (["-v"], {"INFO", "DEBUG"}),
        (["-vv"], {"INFO", "DEBUG", "TRACE"}),
    ],
    ids=["no flag", "--log-level debug", "-v", "-vv"],
)
async def test_the_programs_flags_choose_the_log_level(
    start_program: StartProgram, flags: list[str], levels: set[str]
) -> None:
    program = start_program(*flags)
    client = await (await program.connect()).open(then=close())
    await client.frames_to_close()
    client.hang_up()
    program.wait_for_line("closed by the client with 1000")
    program.signal(signal.SIGTERM)
    assert await trio.to_thread.run_sync(program.wait) == 0
    # As "2026-11-23 10:15:00,123 INFO    rawws.hub       #1 = joined room / (peers in it: 1)".
    assert {line.split()[2] for line in program.lines} == levels
    assert all(re.fullmatch(r"rawws\.[a-z]+ +#\d+ [<>=!-] .*", line.split(maxsplit=3)[3]) for line in program.lines)
