"""SIGHUP as a request to read files anew, and as the loss of the terminal."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jwt
import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.process.test_workers import workers_of
from tests.redis_server import redis_server
from tests.room_serving import post
from tests.serving.machine import FOR_THIS_RUN_S, PATIENCE_S
from tests.serving.programs import StartProgram


class InTerminal:
    """A server in a terminal of its own, which can hang up."""

    def __init__(self, folder: Path, *before: str) -> None:
        (folder / "rules").write_text("anonymous /x read")
        self._log = folder / "log"
        self._terminal, slave = pty.openpty()
        # The shell leads a session without a terminal, so the first that it opens becomes its own.
        begin = ["sh", "-c", f'exec "$0" "$@" <{os.ttyname(slave)} >/dev/null 2>{self._log}']
        server = [sys.executable, "-m", "rawws", "--port", "0", "--no-page", "--access", str(folder / "rules")]
        self.process = subprocess.Popen([*begin, *before, *server], start_new_session=True)
        os.close(slave)
        self.wait_for("listening on")

    def wait_for(self, part: str) -> None:
        end = time.monotonic() + PATIENCE_S
        while not self._log.exists() or part not in self._log.read_text():
            assert time.monotonic() < end, part
            time.sleep(0.02)

    def hang_up(self) -> None:
        if self._terminal >= 0:
            os.close(self._terminal)
            self._terminal = -1


@contextmanager
def in_terminal(folder: Path, *before: str) -> Iterator[InTerminal]:
    server = InTerminal(folder, *before)
    try:
        yield server
    finally:
        server.hang_up()
        server.process.kill()
        server.process.wait(PATIENCE_S)


@pytest.mark.skipif(signal.getsignal(signal.SIGHUP) == signal.SIG_IGN, reason="SIGHUP is ignored here")
def test_a_terminal_that_is_gone_ends_the_server_and_another_hangup_does_not(tmp_path: Path) -> None:
    with in_terminal(tmp_path) as server:
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("is read anew")
        server.hang_up()
        assert server.process.wait(PATIENCE_S) == 0
        server.wait_for("SIGHUP, and the terminal is gone: accepting no more")


def test_a_server_under_nohup_outlives_its_terminal(tmp_path: Path) -> None:
    with in_terminal(tmp_path, "nohup") as server:
        server.hang_up()
        server.wait_for("is read anew")  # nohup rules out that this is the end
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE_S) == 0


HANDS_OUT = {"read": ["/room/*"], "write": ["/room/*"]}


def signed(secret: str) -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + FOR_THIS_RUN_S, "rawws": HANDS_OUT}, secret, "HS256")


def signed_by(key: ec.EllipticCurvePrivateKey) -> str:
    return jwt.encode({"sub": "alice", "exp": time.time() + FOR_THIS_RUN_S, "rawws": HANDS_OUT}, key, "ES256")


def public_pem(key: ec.EllipticCurvePrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


SECRETS = ["1" * 64, "2" * 64]
PAIRS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize(
    ("flag", "contents", "tokens", "broken", "fault"),
    [
        ("--publish-token-file", ["a-1", "a-2"], ["a-1", "a-2"], "b-1 b-2", "the file holds several words"),
        ("--jwt-secret-file", SECRETS, list(map(signed, SECRETS)), "short", "the secret has 5 bytes"),
        ("--jwt-key", list(map(public_pem, PAIRS)), list(map(signed_by, PAIRS)), "no key", "it holds no public key"),
    ],
)
async def test_a_secret_is_reread_and_a_broken_one_leaves_the_one_from_before(
    start_program: StartProgram,
    tmp_path: Path,
    flag: str,
    contents: list[str],
    tokens: list[str],
    broken: str,
    fault: str,
) -> None:
    path = tmp_path / "secret"
    path.write_text(contents[0])
    program = start_program(flag, str(path))

    async def statuses() -> list[int]:
        client = await program.connect()
        return [(await client.ask(post("/room/x", b"hi", f"Authorization: Bearer {token}"))).status for token in tokens]

    assert await statuses() == [202, 401]
    path.write_text(broken)
    program.signal(signal.SIGHUP)
    assert f"{flag} {path}: {fault}" in program.wait_for_line("earlier content stays in force")
    assert await statuses() == [202, 401]
    path.write_text(contents[1])
    program.signal(signal.SIGHUP)
    program.wait_for_line(f"{flag} {path} is read anew, for requests from now on")
    assert await statuses() == [401, 202]
    assert not any(secret in line for line in program.lines for secret in (*contents, broken))


@pytest.mark.usefixtures("bounded")
async def test_workers_read_their_rules_anew(start_program: StartProgram, tmp_path: Path) -> None:
    (tmp_path / "rules").write_text("anonymous /x read")
    async with redis_server(tmp_path) as redis:
        flags = ("--workers", "1", "--backplane", redis.url, "--access", str(tmp_path / "rules"))
        program = start_program(*flags)
        program.wait_for_line("1 workers listen")
        for _ in range(2):
            program.signal(signal.SIGHUP)
            assert "rules: 1" in program.wait_for_line("is read anew")
        program.signal(signal.SIGTERM)
        assert program.wait() == 0


SLOW_START = """
import pathlib, time
async def app(scope, receive, send): ...
while pathlib.Path("hold").exists():
    pathlib.Path("held").touch()
    time.sleep(0.01)
"""


@pytest.mark.thorough
@pytest.mark.usefixtures("bounded")
async def test_a_worker_that_was_starting_meanwhile_reads_them_anew(
    start_program: StartProgram, tmp_path: Path
) -> None:
    (tmp_path / "rules").write_text("anonymous /x read")
    (tmp_path / "app.py").write_text(SLOW_START)
    async with redis_server(tmp_path) as redis:
        flags = ("--workers", "1", "--backplane", redis.url, "--access", "rules", "--app", "app:app", "--no-page")
        program = start_program(*flags, directory=tmp_path)
        program.wait_for_line("1 workers listen")
        (tmp_path / "hold").touch()
        os.kill(workers_of(program)[0], signal.SIGKILL)
        while not (tmp_path / "held").exists():  # it has read the rules by now, and its application is imported
            await trio.sleep(0.01)
        (tmp_path / "rules").write_text("anonymous /x deny\nanonymous /y read")
        program.signal(signal.SIGHUP)
        await trio.sleep(0.05)  # less would only have the signal pass on to a worker that is ready, as usual
        (tmp_path / "hold").unlink()
        line = await trio.to_thread.run_sync(program.wait_for_line, "is read anew")
        assert "rules: 2" in line
        program.signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(program.wait) == 0
