"""Tokens and a backend at the doors of the program: who gets in where, and what happens if there is no decision."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jwt
import pytest
import trio

import rawws
from rawws.wire.messages import Request
from tests import access_table
from tests.access_sites import PLAIN, SURROUNDINGS, site
from tests.access_table import DENIED, POSTER, READER, TABLE, WAYS, WRITER, try_all
from tests.http_backend import Backend, answer
from tests.serving.client import Answer, Client
from tests.serving.machine import FOR_THIS_RUN_S, LOOPBACK
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get, text, upgrade

pytestmark = pytest.mark.usefixtures("bounded")

SECRET = "0123456789abcdef0123456789abcdef"
ROOM = "/room/a"
EVENTS = "Accept: text/event-stream"


def token(user: str, **claims: object) -> str:
    rooms = {"read": ["/room/*"], "write": [ROOM]}
    return jwt.encode({"sub": user, "exp": time.time() + FOR_THIS_RUN_S, "rawws": rooms, **claims}, SECRET, "HS256")


@pytest.fixture
def secret_file(tmp_path: Path) -> str:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    return str(file)


async def ask(program: Program, request: bytes) -> Answer:
    """Return the answer to a request on a connection of its own."""
    client = await program.connect()
    return await client.ask(request)


def post(*lines: str, target: str = ROOM) -> bytes:
    return get(target, "Content-Length: 2", *lines, method="POST") + b"hi"


# Every way in, for each user


# The default run has them together in the tests of the access file.
WHERE = [PLAIN, *(pytest.param(each, marks=pytest.mark.thorough) for each in SURROUNDINGS if each != PLAIN)]


@pytest.mark.parametrize("where", WHERE)
async def test_every_way_in_for_each_user_with_a_token(
    start_program: StartProgram, secret_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    rooms = {
        WRITER: {"read": ["/room/*"], "write": ["/room/x"]},
        READER: {"read": ["/room/*"]},
        POSTER: {"write": ["*"]},
        DENIED: {"read": ["/room/y"], "write": ["/room/y"]},
    }
    tokens = {user: token(user, rawws=rights) for user, rights in rooms.items()}
    table = {tokens.get(str(user), user): expected for user, expected in TABLE.items()}
    late = token(WRITER, rawws=rooms[WRITER], exp=time.time() - 60)
    monkeypatch.setattr(access_table, "WRITER", tokens[WRITER])  # it helps with every way
    async with site(where, start_program, tmp_path, "--jwt-secret-file", secret_file) as entered:
        await try_all(entered, {**table, late: (401,) * len(WAYS)})


@pytest.mark.parametrize("where", WHERE)
async def test_every_way_in_for_each_user_with_a_backend(
    start_program: StartProgram, tmp_path: Path, nursery: trio.Nursery, where: str
) -> None:
    rights = {
        WRITER: ["Rawws-Allow: read=/room/*, write=/room/x"],
        READER: ["Rawws-Allow: read=/room/*"],
        POSTER: ["Rawws-Allow: write=/*"],
        DENIED: ["Rawws-Allow: read=/room/y, write=/room/y"],
        "late": ["Rawws-Allow: read=*, write=*", "Rawws-Expires: 1700000000"],
    }

    async def decide(stream: trio.SocketStream, head: bytes) -> None:
        found = re.search(rb"Bearer ([\w-]+)", head)
        user = found[1].decode() if found else ""
        await stream.send_all(answer(200, f"Rawws-User: {user}", *rights[user]) if user in rights else answer(401))

    backend = await Backend(decide).start(nursery)
    async with site(where, start_program, tmp_path, "--auth-url", backend.url) as entered:
        await try_all(entered, {**TABLE, "late": (401,) * len(WAYS)})
    await backend.kill()


async def test_the_backend_is_asked_once_for_each_connection(
    start_program: StartProgram, nursery: trio.Nursery
) -> None:
    backend = await Backend(answer(200, "Rawws-User: alice")).start(nursery)
    program = start_program("--auth-url", backend.url, "--hello", "", "--history", "10")
    client = await (await program.connect()).open(f"{ROOM}?last=0", "Cookie: a=1", "Origin: http://localhost")
    await client.send(text("one") + text("two"))
    await client.frames(2)
    await ask(program, post())
    first, second = backend.fields(0), backend.fields(1)
    assert len(backend.asked) == 2
    assert {**first, "Host": ""} == {
        "Host": "",
        "Cookie": "a=1",
        "Origin": "http://localhost",
        "X-Original-URI": f"{ROOM}?last=0",
        "X-Forwarded-For": LOOPBACK,
        "Accept-Encoding": "identity",
        "Rawws-Room": ROOM,
        "Rawws-Action": "read write",
    }
    assert second["Rawws-Action"] == "write"
    await backend.kill()


async def test_a_refusal_of_the_backend_is_passed_on(start_program: StartProgram, nursery: trio.Nursery) -> None:
    reply = answer(401, "WWW-Authenticate: Form", "Content-Type: text/html", "Set-Cookie: a=1", body=b"<h1>Log in")
    backend = await Backend(reply).start(nursery)
    program = start_program("--auth-url", backend.url)
    for request in (upgrade(ROOM), get(ROOM, EVENTS), post()):
        refused = await ask(program, request)
        assert (refused.status, refused.headers["www-authenticate"], refused.body) == (401, "Form", b"<h1>Log in")
        assert refused.headers["content-type"] == "text/html"
        assert "set-cookie" not in refused.headers
    await backend.kill()


async def test_a_page_of_another_site_gets_nowhere_with_cookies(
    start_program: StartProgram, nursery: trio.Nursery
) -> None:
    backend = await Backend(answer(200, "Rawws-User: alice")).start(nursery)
    program = start_program("--auth-url", backend.url)
    lines = ("Cookie: session=alice", "Origin: https://evil.example")
    for request in (upgrade(ROOM, *lines), post(*lines)):
        assert (await ask(program, request)).status == 403
    assert not backend.asked
    read = await ask(program, get(f"{ROOM}?last=1", *lines))  # the browser doesn't show this answer to the page
    assert not [name for name in read.headers if name.startswith("access-control")]
    await backend.kill()


# A backend that does not decide


async def hang(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
    await trio.sleep_forever()


async def drip(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
    for byte in answer(200, "Rawws-User: alice") * 100:
        await stream.send_all(bytes([byte]))
        await trio.sleep(0.05)


async def flood(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
    await stream.send_all(b"HTTP/1.1 500 No\r\nContent-Length: 10000000\r\n\r\n" + b"x" * 10_000_000)


async def flood_head(stream: trio.SocketStream, head: bytes) -> None:  # noqa: ARG001
    await stream.send_all(b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 1_000_000 + b"\r\n")


NO_DECISIONS: dict[str, tuple[str, list[Any]]] = {  # by the reason: the time for an answer, and what comes instead
    "no whole answer came within 1 s": ("1", [hang, drip]),
    "it answered with 500": ("9", [flood]),
    "over our limit of 16384 bytes": ("9", [flood_head]),
    "it answered with 302": ("9", [answer(302, "Location: /elsewhere")]),
    "is not HTTP: it begins with 'garbage": ("9", [b"garbage\r\n\r\n"]),
    "Rawws-Expires is 'soon'": ("9", [answer(200, "Rawws-Expires: soon")]),
}


@pytest.mark.parametrize("timeout_s", ["1", "9"])
async def test_without_a_decision_nobody_gets_in_and_others_are_served(
    start_program: StartProgram, nursery: trio.Nursery, timeout_s: str
) -> None:
    backend = await Backend(answer(200, "Rawws-User: alice")).start(nursery)
    program = start_program("--auth-url", backend.url, "--auth-timeout", timeout_s, "--hello", "")
    early = await (await program.connect()).open(ROOM)
    replies = [(why, reply) for why, (each_s, kinds) in NO_DECISIONS.items() if each_s == timeout_s for reply in kinds]
    for reason, reply in replies:
        backend.reply = reply
        refused = []
        for request in (upgrade(ROOM), post(), get(ROOM, EVENTS)):
            client = await program.connect()
            await client.send(request)
            refused.append(client)
        await early.send(text("still here"))  # meanwhile, others are served
        assert (await early.frame()).payload == b"still here"
        for client in refused:
            answered = await client.answer()
            assert (answered.status, answered.headers["retry-after"]) == (503, "1"), reason
            assert reason in answered.body.decode(), reason  # a client on this machine gets the reason
    await backend.kill()
    answered = await ask(program, upgrade(ROOM))
    assert answered.status == 503
    assert "can't connect to" in answered.body.decode()
    await early.send(text("and still"))
    assert (await early.frame()).payload == b"and still"
    early.hang_up()


async def test_a_client_of_another_machine_is_not_told_about_the_backend(
    start_program: StartProgram, nursery: trio.Nursery
) -> None:
    backend = await Backend(answer(500)).start(nursery)
    program = start_program("--auth-url", backend.url)
    answered = await ask(program, get(ROOM, EVENTS, "X-Forwarded-For: 192.0.2.1"))
    assert answered.body == b"There is no decision at present whether this request is allowed; try again soon.\n"
    await backend.kill()


# Tokens


async def test_a_token_may_come_in_any_place(start_program: StartProgram, secret_file: str) -> None:
    program = start_program("--jwt-secret-file", secret_file, "--jwt-cookie", "session", "--subprotocol", "chat.v1")
    right, other = token("writer"), token("reader")
    for target, *lines in (
        (ROOM, f"Authorization: Bearer {right}"),
        (ROOM, f"Cookie: session={right}"),
        (f"{ROOM}?access_token={right}",),
        (f"{ROOM}?access_token={right}", f"Authorization: Bearer {right}", f"Cookie: session={right}"),
    ):
        answered = await ask(program, upgrade(target, *lines))
        assert answered.status == 101
        assert "sec-websocket-protocol" not in answered.headers
    for offer, chosen in (("chat.v1, {}", "chat.v1"), ("{}, chat.v1", "chat.v1"), ("{}", None), ("x, {}", None)):
        names = offer.format(f"rawws.token.{right}")
        answered = await ask(program, upgrade(ROOM, f"Sec-WebSocket-Protocol: {names}"))
        assert answered.status == 101
        assert answered.headers.get("sec-websocket-protocol") == chosen
    for lines in ([f"Authorization: Bearer {other}"], [f"Cookie: session={other}"]):
        answered = await ask(program, upgrade(f"{ROOM}?access_token={right}", *lines))
        assert (answered.status, answered.body[:37]) == (400, b"This request carries two different to")


async def test_a_program_is_not_offered_a_token_as_a_subprotocol(nursery: trio.Nursery) -> None:
    offered: list[str] = []

    def select(request: Request, names: Sequence[str]) -> str:  # noqa: ARG001
        offered.extend(names)
        return names[0]

    server = await nursery.start(partial(rawws.serve, rawws.Hub(), 0, host=LOOPBACK, select_subprotocol=select))
    client = await Client.unconnected().connect(server.port)
    answered = await client.ask(upgrade("/", "Sec-WebSocket-Protocol: rawws.token.eyJ.e30.c2ln, chat.v1"))
    assert answered.headers["sec-websocket-protocol"] == "chat.v1"
    assert offered == ["chat.v1"]
    client.hang_up()
    server.stop()


async def test_forged_tokens_are_refused(start_program: StartProgram, secret_file: str) -> None:
    program = start_program(
        "--jwt-secret-file", secret_file, "--jwt-audience", "rooms", "--jwt-issuer", "login", "--max-head", "200k"
    )

    async def refused(given: str) -> str:
        answered = await ask(program, post(f"Authorization: Bearer {given}"))
        assert answered.status == 401
        assert answered.headers["www-authenticate"] == 'Bearer realm="rooms", error="invalid_token"'
        return answered.body.decode().partition("used: ")[2].strip()

    right = {"aud": "rooms", "iss": "login"}
    good = token("writer", **right)
    assert (await ask(program, post(f"Authorization: Bearer {good}"))).status == 202
    head, claims, signature = good.split(".")
    unsigned = jwt.encode(jwt.decode(good, options={"verify_signature": False}), "", "none")
    assert await refused(unsigned) == "it isn't signed with the algorithm of this server."
    assert await refused(f"{head}.{claims}.") == "its signature doesn't fit the key of this server."
    assert await refused(f"{head}.{claims}.{signature[::-1]}")
    assert await refused(token("writer", **right, exp=str(time.time() + FOR_THIS_RUN_S))) == (
        "its exp or nbf is not a number of Unix seconds."
    )
    assert await refused(token("writer", **{**right, "aud": "shop"})) == "it is for another audience."
    assert await refused(token("writer", aud="rooms")) == "it lacks the claim 'iss'."
    assert await refused(token("writer", **right, x="y" * 100_000)) == "it is longer than 8192 bytes."
    path = jwt.encode(
        {"exp": time.time() + FOR_THIS_RUN_S}, "another secret that is long enough", "HS256", {"kid": secret_file}
    )
    assert await refused(path) == "its signature doesn't fit the key of this server."


async def test_a_public_key_opens_nothing_as_a_secret(start_program: StartProgram, tmp_path: Path) -> None:
    from tests.access.test_jwt_tokens import forge, public_pem, rsa_key, sign

    pem = public_pem(rsa_key())
    (tmp_path / "key.pem").write_bytes(pem)
    program = start_program("--jwt-key", str(tmp_path / "key.pem"))
    claims = {"sub": "eve", "exp": time.time() + FOR_THIS_RUN_S, "rawws": {"write": ["*"]}}
    assert (await ask(program, post(f"Authorization: Bearer {sign(claims, rsa_key(), 'RS256')}"))).status == 202
    forged = forge({"alg": "HS256"}, claims, pem)
    answered = await ask(program, post(f"Authorization: Bearer {forged}"))
    assert (answered.status, answered.headers["www-authenticate"][-15:]) == (401, '"invalid_token"')


async def test_a_token_and_a_backend_go_together(
    start_program: StartProgram, secret_file: str, nursery: trio.Nursery
) -> None:
    backend = await Backend(answer(200, "Rawws-Allow: read=/room/a")).start(nursery)
    program = start_program("--jwt-secret-file", secret_file, "--auth-url", backend.url)
    assert (await ask(program, post(f"Authorization: Bearer {token('writer')}"))).status == 202
    assert (await ask(program, post(f"Authorization: Bearer {token('late', exp=1)}"))).status == 401
    assert not backend.asked
    assert (await ask(program, get(f"{ROOM}?last=1", "Authorization: Bearer opaque"))).status == 200
    assert backend.fields()["Authorization"] == "Bearer opaque"
    await backend.kill()


# Masking


async def open_feed(program: Program) -> Client:
    """Return the connection of the program's page."""
    client = await program.connect()
    request = upgrade("/_rawws/trace", program.page_cookie())
    answered = await client.ask(request.replace(b"Host: localhost", b"Host: " + program.address.encode()))
    assert answered.status == 101
    return client


async def keep_feed(feed: Client, found: list[bytes]) -> None:
    while data := await feed.take_some():
        found.append(data)


async def test_a_token_is_in_nothing_that_the_program_writes(
    start_program: StartProgram, secret_file: str, tmp_path: Path, nursery: trio.Nursery
) -> None:
    record = tmp_path / "recording"
    program = start_program(
        *("--jwt-secret-file", secret_file, "--jwt-cookie", "session", "--record", str(record), "-vv", "--metrics"),
        *("--subprotocol", "chat.v1"),
    )
    written: list[bytes] = []
    right, wrong = token("writer"), token("reader", aud="other")
    before = await (await program.connect()).open(f"{ROOM}?access_token={right}", "Referer: /?access_token=" + right)
    feed = await open_feed(program)
    written.append(await feed.take_some())
    nursery.start_soon(keep_feed, feed, written)
    await feed.send(text('{"ask": 1, "for": "handshake", "connection": 1}'))
    requests = []
    for given in (right, wrong, right[:-3]):
        offers = [f"chat.v1, rawws.token.{given}", f"rawws.token.{given}", f"chat.v1, rawws.token.x;{given}"]
        requests += [
            *(upgrade(ROOM, f"Sec-WebSocket-Protocol: {offer}") for offer in offers),
            upgrade(ROOM, f"Sec-WebSocket-Protocol: rawws.token.{given}, rawws.token.{given}"),
            *(build(f"{ROOM}?x=1&access_token={given}&y=2") for build in (upgrade, get)),
            *(build(f"{ROOM}?access_token={given}", f"Authorization: Bearer {token('x')}") for build in (upgrade, get)),
            get(ROOM, EVENTS, f"Authorization: Bearer {given}"),
            get(ROOM, EVENTS, f"Cookie: session={given}", f"Referer: http://localhost{ROOM}?access_token={given}"),
            post(target=f"{ROOM}?access_token={given}"),
            get(f"/elsewhere?access_token={given}"),
            get(f"{ROOM}?access%5Ftoken={given}", EVENTS, f"Referer: http://localhost/#access_token={given}"),
            upgrade(ROOM, f"Origin: http://localhost/?access_token={given}"),
            upgrade(f"{ROOM}?next=%2F%3Faccess_token%3D{given}"),
            get(f"{ROOM}?access_token={given}&last=x"),
            get(f"{ROOM}?access_token={given}", version="1.0"),
            get(f"{ROOM}?access_token={given}", "bad header: 1"),
        ]
    for request in requests:
        client = await program.connect()
        await client.send(request)
        written.append(await client.take_some())
        client.hang_up()
    before.hang_up()
    for line in ("/metrics", "/"):
        answered = await ask(program, get(line))
        written.append(answered.body)
    nursery.cancel_scope.cancel()
    program.kill()
    program.wait()
    written += ["\n".join(program.lines).encode(), record.read_bytes()]
    assert len(requests) == 54
    seen = b"".join(written)
    for part in (b'"answer":1,"records":[{"kind":"head"', b'"kind":"refused"', b"rawws.token.(masked)", b"# TYPE"):
        assert part in seen
    assert b"(masked)" in written[-1]
    for data in written:
        for given in (right, wrong):
            assert given.encode() not in data
            assert given.rpartition(".")[2].encode() not in data
            assert given.split(".")[1].encode() not in data
    assert json.loads(written[-1].splitlines()[0])
