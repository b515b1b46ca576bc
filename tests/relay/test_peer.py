"""The HTTP phase of a connection, over real sockets: requests, answers, refusals, and the upgrade."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from rawws.limits import Limits
from rawws.wire.frames import Opcode
from tests.serving.client import Client
from tests.serving.server import Serve
from tests.serving.wire import binary, close, get, masked, seen_close, seen_text, text, upgrade

HTTP_ANSWER_HEADERS = {"date", "content-type", "content-length", "cache-control"}


@pytest.fixture
def http_log(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """The messages that ``rawws.http`` has written at INFO and above; to be read while the test goes on."""
    messages: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(re.sub(r"\d+\.\d (?:ms|s)$", "TIME", record.getMessage()))

    collect = Collect(logging.INFO)
    caplog.set_level(logging.INFO, logger="rawws")
    logging.getLogger("rawws.http").addHandler(collect)
    yield messages
    logging.getLogger("rawws.http").removeHandler(collect)


# Ordinary requests


@pytest.mark.parametrize("target", ["/", "/anything", "/a/b?c=d", "/%7Eme", "http://server.example/absolute"])
async def test_any_path_is_answered_hi_there_and_logged(serve: Serve, http_log: list[str], target: str) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get(target))
    assert (answer.status, answer.body) == (200, b"hi there")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert http_log == [f"#1 = GET {target}: 200 in TIME"]


CHECK = b"GET /healthz HTTP/1.0\r\n\r\n"


@pytest.mark.parametrize("asked", [b"", CHECK, get("/healthz")], ids=["nothing", "HTTP/1.0", "HTTP/1.1"])
async def test_a_health_check_that_ends_with_a_reset_is_not_logged_as_lost(
    serve: Serve, http_log: list[str], asked: bytes
) -> None:
    running = await serve()
    client = await running.connect()
    if asked:
        assert (await client.ask(asked)).status == 200
    client.reset()
    await wait_all_tasks_blocked()
    await (await running.connect()).ask(get("/after"))
    assert http_log == ["#1 = GET /healthz: 200 in TIME"] * bool(asked) + ["#2 = GET /after: 200 in TIME"]


@pytest.mark.parametrize("asked", [b"GET / HT", get("/healthz") + b"GET / HT"], ids=["the first", "the second"])
async def test_a_reset_within_a_request_is_logged(serve: Serve, http_log: list[str], asked: bytes) -> None:
    running = await serve()
    client = await running.connect()
    await client.send(asked)
    await wait_all_tasks_blocked()
    client.reset()
    await wait_all_tasks_blocked()
    await (await running.connect()).ask(get("/after"))
    assert "#1 ! lost in the HTTP phase: Connection reset by peer" in http_log


async def test_healthz_is_answered_200(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get("/healthz"))
    assert (answer.status, answer.body) == (200, b"ok")


async def test_the_connection_is_kept_for_further_requests(serve: Serve, http_log: list[str]) -> None:
    client = await (await serve()).connect()
    for number in range(5):
        answer = await client.ask(get(f"/{number}"))
        assert (answer.status, set(answer.headers)) == (200, HTTP_ANSWER_HEADERS)
    assert http_log == [f"#1 = GET /{number}: 200 in TIME" for number in range(5)]


async def test_pipelined_requests_are_answered_in_order(serve: Serve, http_log: list[str]) -> None:
    client = await (await serve()).connect()
    await client.send(get("/1") + get("/healthz") + get("/3"))
    assert [(await client.answer()).body for _ in range(3)] == [b"hi there", b"ok", b"hi there"]
    assert [line.split()[3] for line in http_log] == ["/1:", "/healthz:", "/3:"]


async def test_pipelined_requests_may_be_cut_anywhere(serve: Serve) -> None:
    running = await serve()
    requests = get("/1") + get("/healthz")
    for cut in range(1, len(requests)):
        client = await running.connect()
        await client.send_in_pieces(requests, at=[cut])
        assert [(await client.answer()).body for _ in range(2)] == [b"hi there", b"ok"]
        client.hang_up()


@pytest.mark.parametrize("cuts", [[], [len(get())], [len(get()) + 1], [len(get()) + 2]])
async def test_an_empty_line_before_a_request_line_is_ignored(serve: Serve, cuts: list[int]) -> None:
    client = await (await serve()).connect()
    await client.send_in_pieces(get("/1") + b"\r\n" + get("/2"), at=[cut + 1 for cut in cuts])
    assert [(await client.answer()).status for _ in range(2)] == [200, 200]


async def test_head_gets_the_headers_of_get_and_no_body(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get(method="HEAD"))
    assert (answer.status, answer.headers["content-length"]) == (200, str(len(b"hi there")))
    assert (await client.ask(get())).body == b"hi there"  # nothing of a body lay between


async def test_http_1_0_is_answered_and_closed(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.headers["connection"], answer.body) == (200, "close", b"hi there")
    await client.assert_end()


async def test_a_client_that_asks_for_close_is_closed_after_its_answer(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get("/", "Connection: close"))
    assert (answer.headers["connection"], answer.body) == ("close", b"hi there")
    await client.assert_end()


async def test_a_client_that_half_closes_after_its_request_is_answered(serve: Serve) -> None:
    client = await (await serve()).connect()
    await client.send(get())
    client.end_stream()
    assert (await client.answer()).body == b"hi there"
    await client.assert_end()


@pytest.mark.parametrize("target", ["/", "/any", "/healthz", "*"])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_9110_9_3_7_options_lists_the_methods(serve: Serve, target: str, version: str) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get(target, method="OPTIONS", version=version))
    assert (answer.status, answer.headers["allow"], answer.body) == (204, "GET, HEAD, OPTIONS", b"")


@pytest.mark.parametrize("target", ["/", "/healthz", "/readyz"])
async def test_9111_4_2_2_no_cache_keeps_an_answer_of_the_moment(serve: Serve, target: str) -> None:
    client = await (await serve()).connect()
    for request in (get(target), get(target, method="HEAD"), get(target, method="DELETE"), b"nonsense\r\n\r\n"):
        assert (await client.ask(request)).headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "TRACE", "BREW"])
async def test_other_methods_are_405_with_allow_and_the_connection_is_kept(serve: Serve, method: str) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get(method=method))
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
    assert answer.body == f"The method {method} is not allowed here; use GET or HEAD.\n".encode()
    assert (await client.ask(get())).body == b"hi there"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        ("Content-Length: 5", b"hello"),
        ("Transfer-Encoding: chunked", b"3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n"),
    ],
    ids=["counted", "chunked"],
)
async def test_a_body_is_passed_over_and_the_connection_is_kept(serve: Serve, fields: str, body: bytes) -> None:
    client = await (await serve()).connect()
    assert (await client.ask(get("/", fields, method="POST") + body)).status == 405
    assert (await client.ask(get())).body == b"hi there"


async def test_a_client_that_waits_for_100_continue_gets_its_answer_at_once(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(get("/", "Content-Length: 5", "Expect: 100-continue", method="POST"))
    assert (answer.status, answer.headers["connection"]) == (405, "close")
    await client.assert_end()


async def test_another_protocols_upgrade_is_answered_as_an_ordinary_request(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(
        get("/", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABk")
    )
    assert (answer.status, answer.body) == (200, b"hi there")


async def test_a_head_within_the_limits_is_taken_however_it_is_cut(serve: Serve) -> None:
    running = await serve()
    request = get("/" + "a" * 8000, *[f"A{n}: {'b' * 400}" for n in range(19)])
    assert 15_000 < len(request) < 16_384
    for cuts in ([], [8000], [8500], [16_000 - 500], range(1000, len(request), 1000)):
        client = await running.connect()
        await client.send_in_pieces(request, at=cuts)
        assert (await client.answer()).status == 200
        client.hang_up()


# Refusals


def _with_field(line: bytes) -> bytes:
    return get().removesuffix(b"\r\n") + line + b"\r\n\r\n"


REFUSED = {
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two hosts": (get("/", "Host: b"), 400),
    "a host that is none": (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
    "no request line": (b"what is this\r\n\r\n", 400),
    "bytes that are no HTTP": (bytes(range(0x80, 0x100)) + b"\r\n\r\n", 400),
    "a TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 32 + b"\r\n\r\n", 400),
    "a field without a colon": (_with_field(b"no colon"), 400),
    "a space before the colon": (_with_field(b"A : b"), 400),
    "a folded field": (_with_field(b"A: b\r\n c"), 400),
    "a bare LF": (_with_field(b"A: b\nC: d"), 400),
    "a NUL": (_with_field(b"A: \0"), 400),
    "a control character": (_with_field(b"A: \x1b[31m"), 400),
    "UTF-8 in a field": (_with_field("Origin: https://exämple.org".encode()), 400),
    "an odd byte in Connection": (_with_field(b"Connection: \xff"), 400),
    "an odd byte in Sec-WebSocket-Extensions": (_with_field(b"Sec-WebSocket-Extensions: permessage-\xe4"), 400),
    "a length that is no number": (get("/", "Content-Length: many"), 400),
    "two lengths": (get("/", "Content-Length: 1", "Content-Length: 2"), 400),
    "length and chunks": (get("/", "Content-Length: 3", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "a body that breaks its framing": (get("/", "Transfer-Encoding: chunked", method="POST") + b"zzz\r\n", 400),
    "a body over the limit": (get("/", "Content-Length: 65537", method="POST"), 413),
    "a chunked body over the limit": (
        get("/", "Transfer-Encoding: chunked", method="POST") + b"10001\r\n" + b"a" * 0x10001 + b"\r\n",
        413,
    ),
    "a long target": (get("/" + "a" * 9000), 414),
    "a target without end": (b"GET /" + b"a" * 20_000, 414),
    "a long head": (get("/", *[f"A{n}: {'b' * 400}" for n in range(45)]), 431),
    "a head without end": (get("/", *[f"A{n}: {'b' * 400}" for n in range(80)])[:-2], 431),
    "many fields": (get("/", *["A: b"] * 101), 431),
    "a coding that is unknown": (get("/", "Transfer-Encoding: gzip"), 501),
    "HTTP/2.0": (get(version="2.0"), 505),
    "HTTP/2 with prior knowledge": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "an upgrade with a body": (upgrade("/", "Content-Length: 4") + b"\x81\x80\0\0", 400),
    "an upgrade with chunks": (upgrade("/", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "an upgrade in HTTP/1.0": (upgrade().replace(b"HTTP/1.1", b"HTTP/1.0"), 400),
    "an upgrade by POST": (upgrade().replace(b"GET", b"POST"), 405),
    "an upgrade with two keys": (upgrade("/", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 400),
    "an upgrade to version 8": (upgrade().replace(b"Version: 13", b"Version: 8"), 426),
    "an upgrade that a proxy has cut short": (upgrade().replace(b"Upgrade: websocket\r\n", b""), 426),
    "an upgrade from another origin": (upgrade("/", "Origin: https://evil.example"), 403),
}


@pytest.mark.parametrize(("request_bytes", "status"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refusal_has_a_status_and_one_sentence_and_closes(
    serve: Serve, http_log: list[str], request_bytes: bytes, status: int
) -> None:
    running = await serve()
    client = await running.connect()
    answer = await client.ask(request_bytes)
    assert answer.status == status
    sentence = answer.body.decode("ascii")
    assert sentence.endswith(".\n")
    assert sentence.count("\n") == 1
    assert sentence[:-1].isprintable()
    assert "close" in answer.headers["connection"]
    await client.assert_end()
    assert not any("error in rawws" in line for line in http_log)
    assert (await (await running.connect()).ask(get())).body == b"hi there"


async def test_refusals_name_the_supported_version_and_method(serve: Serve) -> None:
    running = await serve()
    wrong_version = await (await running.connect()).ask(upgrade().replace(b"Version: 13", b"Version: 8"))
    assert wrong_version.headers["sec-websocket-version"] == "13"
    wrong_method = await (await running.connect()).ask(upgrade().replace(b"GET", b"POST"))
    assert wrong_method.headers["allow"] == "GET"


async def test_every_426_names_version_13(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(upgrade().replace(b"Upgrade: websocket\r\n", b""))
    assert (answer.status, answer.headers.get("sec-websocket-version")) == (426, "13")


async def test_bytes_after_a_refused_upgrade_are_not_read_as_a_request(serve: Serve, http_log: list[str]) -> None:
    client = await (await serve()).connect()
    await client.send(upgrade("/", "Origin: https://evil.example") + get("/smuggled"))
    assert (await client.answer()).status == 403
    await client.assert_end()
    assert not any("/smuggled" in line for line in http_log)


async def test_a_refusal_reaches_a_client_that_has_sent_more_than_was_read(serve: Serve) -> None:
    client = await (await serve()).connect()
    await client.send(b"GET /" + b"a" * (1 << 20))
    assert (await client.answer()).status == 414
    await client.assert_end()  # in order: a reset could have overtaken the answer


# Deadlines


async def test_a_head_that_drips_is_408_after_ten_seconds_in_all(serve: Serve, mock_clock: MockClock) -> None:
    client = await (await serve()).connect()
    for byte in b"GET / HTT":
        await client.send(bytes([byte]))
        await wait_all_tasks_blocked()
        mock_clock.jump(1.0)
    await wait_all_tasks_blocked()
    with pytest.raises(BlockingIOError):  # nine seconds: not yet
        client.stdlib_socket.recv(1)
    mock_clock.jump(1.0)
    answer = await client.answer()
    assert (answer.status, answer.headers["connection"]) == (408, "close")
    assert answer.body == b"The request did not arrive within 10 seconds (--open-timeout).\n"
    await client.assert_end()


async def test_a_client_that_sends_nothing_is_408_after_ten_seconds(serve: Serve, mock_clock: MockClock) -> None:
    client = await (await serve()).connect()
    await wait_all_tasks_blocked()
    mock_clock.jump(10.0)
    assert (await client.answer()).status == 408


async def test_a_body_that_drips_is_408(serve: Serve) -> None:
    client = await (await serve(limits=Limits(header_timeout_s=0.05))).connect()
    answer = await client.ask(get("/", "Content-Length: 5", method="POST") + b"he")
    assert answer.status == 408
    await client.assert_end()


async def test_a_body_that_never_ends_is_408_though_some_of_it_is_always_there(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rawws.server.connection.LINGER_S", 0.2)
    running = await serve(limits=Limits(header_timeout_s=0.2))
    client = await running.connect()
    await client.send(get("/", "Transfer-Encoding: chunked", method="POST"))

    async def send_for_ever() -> None:
        with contextlib.suppress(OSError):
            while True:
                await client.send(b"1\r\na\r\n")
                await trio.sleep(0.0001)

    async with trio.open_nursery() as sending:
        sending.start_soon(send_for_ever)
        assert (await client.answer()).status == 408
        await client.wait_lost()


async def test_a_later_request_has_its_own_ten_seconds(serve: Serve, mock_clock: MockClock) -> None:
    client = await (await serve()).connect()
    for _ in range(3):
        assert (await client.ask(get())).status == 200
        await wait_all_tasks_blocked()
        mock_clock.jump(9.0)
    await client.send(b"GET / HT")
    await wait_all_tasks_blocked()
    mock_clock.jump(9.0)
    await wait_all_tasks_blocked()
    with pytest.raises(BlockingIOError):  # not yet
        client.stdlib_socket.recv(1)
    mock_clock.jump(1.0)
    assert (await client.answer()).status == 408


async def test_a_connection_idle_too_long_between_requests_is_closed_silently(
    serve: Serve, mock_clock: MockClock
) -> None:
    client = await (await serve()).connect()
    assert (await client.ask(get())).status == 200
    await wait_all_tasks_blocked()
    mock_clock.jump(75.0)
    await client.assert_end()


async def test_an_open_websocket_has_no_deadline_of_http(serve: Serve, mock_clock: MockClock) -> None:
    client = await (await serve(limits=Limits(ping_interval_s=0))).open()
    await wait_all_tasks_blocked()
    mock_clock.jump(100.0)
    await client.send(text("still here"))
    assert await client.frame() == seen_text("still here")


# Lost connections


@pytest.mark.parametrize("sent", [b"", b"GET / HT", get("/", "Content-Length: 9", method="POST") + b"a"])
async def test_a_client_that_leaves_in_the_middle_disturbs_no_other(serve: Serve, sent: bytes) -> None:
    running = await serve()
    for leave in (Client.hang_up, Client.reset, Client.end_stream):
        client = await running.connect()
        await client.send(sent)
        await wait_all_tasks_blocked()
        leave(client)
        await wait_all_tasks_blocked()
    assert (await (await running.connect()).ask(get())).body == b"hi there"


async def test_a_client_that_ends_the_stream_between_requests_gets_the_same(serve: Serve) -> None:
    client = await (await serve()).connect()
    await client.ask(get())
    client.end_stream()
    await client.assert_end()


# The upgrade


async def test_an_upgrade_may_follow_ordinary_requests(serve: Serve) -> None:
    client = await (await serve(hello="welcome")).connect()
    assert (await client.ask(get("/1"))).body == b"hi there"
    assert (await client.ask(get("/2", method="POST"))).status == 405
    await client.open("/3")
    assert await client.frame() == seen_text("welcome")


async def test_an_upgrade_may_be_pipelined_after_ordinary_requests(serve: Serve) -> None:
    client = await (await serve()).connect()
    await client.send(get("/1") + get("/2") + upgrade("/3") + text("Hello"))
    assert [(await client.answer()).status for _ in range(3)] == [200, 200, 101]
    assert await client.frame() == seen_text("Hello")


async def test_the_101_has_the_fields_of_the_rfc_and_no_others(serve: Serve) -> None:
    client = await (await serve()).connect()
    answer = await client.ask(upgrade())
    assert (answer.status, answer.body) == (101, b"")
    assert answer.headers == {
        "upgrade": "websocket",
        "connection": "Upgrade",
        "sec-websocket-accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    }


PIPELINED = (
    text("one") + masked(Opcode.TEXT, b"tw", fin=False) + masked(Opcode.CONTINUATION, b"o") + binary(b"\x03") + close()
)


async def _assert_pipelined_frames_arrive(client: Client) -> None:
    assert (await client.answer()).status == 101
    assert await client.frames(4) == [seen_text("one"), seen_text("two"), (Opcode.BINARY, b"\x03"), seen_close(1000)]
    await client.assert_end()


async def test_frames_in_one_segment_with_the_handshake_are_not_lost(serve: Serve) -> None:
    client = await (await serve()).connect()
    await client.send(upgrade() + PIPELINED)
    await _assert_pipelined_frames_arrive(client)


async def test_frames_after_the_handshake_are_not_lost_wherever_the_stream_is_cut(serve: Serve) -> None:
    running = await serve()
    stream = upgrade() + PIPELINED
    for cut in range(1, len(stream)):
        client = await running.connect()
        await client.send_in_pieces(stream, at=[cut])
        await _assert_pipelined_frames_arrive(client)
        client.hang_up()


async def test_the_handshake_may_come_byte_by_byte(serve: Serve) -> None:
    client = await (await serve()).connect()
    stream = upgrade() + PIPELINED
    await client.send_in_pieces(stream, at=range(1, len(stream)))
    await _assert_pipelined_frames_arrive(client)


async def test_more_frames_than_one_read_brings_may_follow_the_handshake(serve: Serve) -> None:
    client = await (await serve()).connect()
    numbers = [str(number) for number in range(20_000)]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, upgrade() + b"".join(map(text, numbers)))
        assert (await client.answer()).status == 101
        assert await client.frames(len(numbers)) == list(map(seen_text, numbers))
