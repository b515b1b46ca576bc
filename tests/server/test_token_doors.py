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
from rawws.wire.frames import Opcode
from rawws.wire.messages import Request
from tests.http_backend import Backend, answer
from tests.serving.client import Answer, Client
from tests.serving.machine import LOOPBACK
from tests.serving.programs import Program, StartProgram
from tests.serving.wire import get, text, upgrade

pytestmark = pytest.mark.usefixtures("bounded")

SECRET = "0123456789abcdef0123456789abcdef"
ROOM = "/room/a"
EVENTS = "Accept: text/event-stream"


def token(user: str, **claims: object) -> str:
    rooms = {"read": ["/room/*"], "write": [ROOM] if user == "writer" else []}
    until = time.time() - (60 if user == "late" else -600)
    if user == "stranger":
        rooms = {"read": ["/room/b"], "write": ["/room/b"]}
    return jwt.encode({"sub": user, "exp": until, "rawws": rooms, **claims}, SECRET, "HS256")


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


async def codes(program: Program, *lines: str) -> dict[str, int]:
    """Return the outcome of each door for a client with these header lines: a status, or the code of a close."""
    found: dict[str, int] = {}
    writer = await program.connect()
    answered = await writer.ask(upgrade(ROOM, *lines))
    found["ws read"] = found["ws write"] = answered.status
    if answered.status == 101:
        await writer.send(text("mine"))
        frame = await writer.frame()
        if frame.opcode is Opcode.CLOSE:
            found["ws write"] = int.from_bytes(frame.payload[:2], "big")
        else:
            assert frame.payload == b"mine"
    for name, request in (
        ("events", get(ROOM, EVENTS, *lines)),
        ("poll", get(f"{ROOM}?last=1", *lines)),
        ("peers", get(f"{ROOM}?peers", *lines)),
        ("post", post(*lines)),
    ):
        client = await program.connect()
        await client.send(request)
        found[name] = (await client.answer(body=name != "events")).status
    return found


DOORS = ("ws read", "ws write", "events", "poll", "peers", "post")
TABLE = {
    "writer": (101, 101, 200, 200, 200, 202),
    "reader": (101, 1008, 200, 200, 200, 403),
    "stranger": (403,) * 6,
    "late": (401,) * 6,
    "nobody": (401,) * 6,
}


async def test_each_door_for_each_user_with_a_token(start_program: StartProgram, secret_file: str) -> None:
    program = start_program("--jwt-secret-file", secret_file, "--hello", "")
    for user, expected in TABLE.items():
        lines = [] if user == "nobody" else [f"Authorization: Bearer {token(user)}"]
        assert await codes(program, *lines) == dict(zip(DOORS, expected, strict=True)), user


async def test_each_door_for_each_user_with_a_backend(start_program: StartProgram, nursery: trio.Nursery) -> None:
    rights = {
        "writer": ["Rawws-Allow: read=/room/*, write=/room/a"],
        "reader": ["Rawws-Allow: read=/room/*"],
        "stranger": ["Rawws-Allow: read=/room/b, write=/room/b"],
        "late": ["Rawws-Allow: read=/room/*, write=/room/*", "Rawws-Expires: 1700000000"],
    }

    async def decide(stream: trio.SocketStream, head: bytes) -> None:
        found = re.search(rb"Cookie: user=(\w+)", head)
        user = found[1].decode() if found else "nobody"
        known = answer(200, f"Rawws-User: {user}", *rights.get(user, []))
        await stream.send_all(known if user in rights else answer(401, "WWW-Authenticate: Form", body=b"Log in.\n"))

    backend = await Backend(decide).start(nursery)
    program = start_program("--auth-url", backend.url, "--hello", "")
    for user, expected in TABLE.items():
        asked = len(backend.asked)
        assert await codes(program, f"Cookie: user={user}") == dict(zip(DOORS, expected, strict=True)), user
        assert len(backend.asked) == asked + 5  # one question for each connection
    actions = [backend.fields(at)["Rawws-Action"] for at in range(5)]
    assert actions == ["read write", "read", "read", "read", "write"]
    fields = backend.fields()
    assert (fields["Rawws-Room"], fields["X-Original-URI"], fields["X-Forwarded-For"]) == (ROOM, ROOM, "127.0.0.1")
    refused = await ask(program, get(ROOM, EVENTS))
    assert (refused.status, refused.headers["www-authenticate"], refused.body) == (401, "Form", b"Log in.\n")
    backend.kill()


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


async def test_without_a_decision_nobody_gets_in_and_others_are_served(
    start_program: StartProgram, nursery: trio.Nursery
) -> None:
    backend = await Backend(answer(200, "Rawws-User: alice")).start(nursery)
    program = start_program("--auth-url", backend.url, "--auth-timeout", "0.3", "--hello", "")
    early = await (await program.connect()).open(ROOM)
    replies: dict[str, Any] = {
        "no whole answer came within 0.3 s": [hang, drip],
        "it answered with 500": [flood],
        "over our limit of 16384 bytes": [flood_head],
        "it answered with 302": [answer(302, "Location: /elsewhere")],
        "is not HTTP: it begins with 'garbage": [b"garbage\r\n\r\n"],
        "Rawws-Expires is 'soon'": [answer(200, "Rawws-Expires: soon")],
    }
    for reason, kinds in replies.items():
        for reply in kinds:
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
    backend.kill()
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
    backend.kill()


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
    assert await refused(token("writer", **right, exp=str(time.time() + 60))) == (
        "its exp or nbf is not a number of Unix seconds."
    )
    assert await refused(token("writer", **{**right, "aud": "shop"})) == "it is for another audience."
    assert await refused(token("writer", aud="rooms")) == "it lacks the claim 'iss'."
    assert await refused(token("writer", **right, x="y" * 100_000)) == "it is longer than 8192 bytes."
    path = jwt.encode({"exp": time.time() + 60}, "another secret that is long enough", "HS256", {"kid": secret_file})
    assert await refused(path) == "its signature doesn't fit the key of this server."


async def test_a_public_key_opens_nothing_as_a_secret(start_program: StartProgram, tmp_path: Path) -> None:
    from tests.access.test_jwt_tokens import forge, public_pem, rsa_key, sign

    pem = public_pem(rsa_key())
    (tmp_path / "key.pem").write_bytes(pem)
    program = start_program("--jwt-key", str(tmp_path / "key.pem"))
    claims = {"sub": "eve", "exp": time.time() + 60, "rawws": {"write": ["*"]}}
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
    assert (await ask(program, post(f"Authorization: Bearer {token('late')}"))).status == 401
    assert not backend.asked
    assert (await ask(program, get(f"{ROOM}?last=1", "Authorization: Bearer opaque"))).status == 200
    assert backend.fields()["Authorization"] == "Bearer opaque"
    backend.kill()


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
        offers = [f"chat.v1, rawws.token.{given}", f"rawws.token.{given}", f"chat.v1, rawws.token.{given} x"]
        requests += [
            *(upgrade(ROOM, f"Sec-WebSocket-Protocol: {offer}") for offer in offers),
            upgrade(ROOM, f"Sec-WebSocket-Protocol: rawws.token.{given}, rawws.token.{given}"),
            *(build(f"{ROOM}?x=1&access_token={given}&y=2") for build in (upgrade, get)),
            *(build(f"{ROOM}?access_token={given}", f"Authorization: Bearer {token('x')}") for build in (upgrade, get)),
            get(ROOM, EVENTS, f"Authorization: Bearer {given}"),
            get(ROOM, EVENTS, f"Cookie: session={given}", f"Referer: http://localhost{ROOM}?access_token={given}"),
            post(target=f"{ROOM}?access_token={given}"),
            get(f"/elsewhere?access_token={given}"),
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
    assert len(requests) == 45
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
