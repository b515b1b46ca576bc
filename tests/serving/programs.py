"""``python -m rawws`` as a process: its port, its log, its signals and its end."""

from __future__ import annotations

import io
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, NoReturn

import pytest

from tests.forked import Forked, Forker
from tests.serving.client import Client
from tests.serving.machine import LOOPBACK, PATIENCE_S


class Lines:
    """The lines that a process writes. A thread reads them as they come, so that no pipe ever fills up."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._arriving: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self._stream:
            self._arriving.put(line.rstrip("\n"))
        self._arriving.put(None)

    def next(self) -> str | None:
        """Return the next line, or None at the end. Raises queue.Empty if there is none in time."""
        return self._arriving.get(timeout=PATIENCE_S)

    def rest(self) -> str:
        """Return all that hasn't been read, up to the end."""
        return "".join(f"{line}\n" for line in iter(self.next, None))

    def close(self) -> None:
        """Close the stream, whose other end must be closed."""
        self._reader.join(PATIENCE_S)
        self._stream.close()


def wait_listening_at(port: int) -> None:
    """Wait until a program accepts connections on a port."""
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            socket.create_connection((LOOPBACK, port), timeout=PATIENCE_S).close()
        except OSError:
            assert time.monotonic() < end, f"nothing listens at port {port} within {PATIENCE_S:g} s"
            time.sleep(0.01)
        else:
            return


class Program:
    """``python -m rawws`` on its own port, and its log. The methods block, within a time limit."""

    def __init__(self, process: subprocess.Popen[str] | Forked) -> None:
        stream = process.stderr
        assert stream is not None
        self.process = process
        self.lines: list[str] = []  # of the log, as far as the test has waited for them
        self.port = 0
        self._page_link = ""
        self._clients: list[Client] = []
        self._log = Lines(io.TextIOWrapper(stream) if isinstance(stream, io.BufferedReader) else stream)

    def wait_listening(self) -> Program:
        listening = self.wait_for_line("listening on http")
        self.port = int(listening.split("://")[1].split()[0].rpartition(":")[2])
        return self

    def wait_for_line(self, part: str) -> str:
        """Return the next line of the log that contains this text."""
        while True:
            try:
                line = self._log.next()
            except queue.Empty:
                self._fail(f"did not write {part!r} within {PATIENCE_S:g} s")
            if line is None:
                self._fail(f"ended without writing {part!r}")
            self.lines.append(line)
            if part in line:
                return line

    def page_link(self) -> str:
        """Return the link to its page. The program logs it, with the token, right after it listens."""
        if not self._page_link:
            read = [line for line in self.lines if "?token=" in line]
            line = read[0] if read else self.wait_for_line("?token=")
            self._page_link = line.split(" open ")[1].split()[0]
        return self._page_link

    def page_cookie(self) -> str:
        """Return the header field that opens its page, under the address of the link."""
        address, _, token = self.page_link().partition("?token=")
        return f"Cookie: rawws-page-{address.rpartition(':')[2].partition('/')[0]}={token}"

    def _fail(self, what: str) -> NoReturn:
        pytest.fail("\n".join([f"the program {what}; it wrote:", *self.lines]))

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a power cut does, and wait until its port is free."""
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Return the exit status; ``lines`` then holds the whole log."""
        status = self.process.wait(timeout_s)
        while (line := self._log.next()) is not None:
            self.lines.append(line)
        return status

    def end(self) -> None:
        """End it if it still runs. Harmless twice."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self._log.close()
        for client in self._clients:
            client.stdlib_socket.close()

    @property
    def address(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    async def connect(self) -> Client:
        client = Client(socket.socket())
        self._clients.append(client)
        return await client.connect(self.port)


class StartProgram:
    """Starts programs: ``program = start_program("--drain", "1")``."""

    def __init__(self, forker: Forker) -> None:
        self._forker = forker
        self.command = [sys.executable, "-m", "rawws"]
        self.started: list[Program] = []

    def __call__(
        self,
        *arguments: str,
        max_files: int | None = None,
        directory: Path | None = None,
        constants: Mapping[str, float] | None = None,
        imports: Sequence[str] = (),
    ) -> Program:
        """Return the program once it listens. ``max_files`` is its hard limit on open descriptors.

        ``constants`` are those of rawws that are other ones in this program, and ``imports`` modules that it has
        imported before it begins: see ``Forker.start``.
        """
        command = [*self.command, "--port", "0", *arguments]
        if max_files is not None:
            command = ["sh", "-c", f'ulimit -n {max_files} && exec "$@"', "sh", *command]
        return self._start(command, directory, constants, imports)

    def tap(self, target: str, *arguments: str) -> Program:
        """Return a tap in front of the target once it listens."""
        return self._start([*self.command, "tap", "0", target, *arguments])

    def _start(
        self,
        command: Sequence[str],
        directory: Path | None = None,
        constants: Mapping[str, float] | None = None,
        imports: Sequence[str] = (),
    ) -> Program:
        if self._forker.can_start(command) or constants or imports:
            forked = self.fork(*command[3:], directory=directory, constants=constants, imports=imports)
            return forked.wait_listening()
        return self._begin(command, directory).wait_listening()

    def fork(
        self,
        *arguments: str,
        directory: Path | None = None,
        constants: Mapping[str, float] | None = None,
        imports: Sequence[str] = (),
    ) -> Program:
        """Return the program before it listens."""
        pipe = subprocess.PIPE
        return self._watch(
            self._forker.start(arguments, stderr=pipe, directory=directory, constants=constants, imports=imports)
        )

    def begin(self, *arguments: str, directory: Path | None = None) -> Program:
        """Return the program before its Python has begun. It leads a process group of its own, as in a terminal."""
        return self._begin([*self.command, *arguments], directory, own_group=True)

    def _begin(self, command: Sequence[str], directory: Path | None = None, *, own_group: bool = False) -> Program:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=directory,
            process_group=0 if own_group else None,
        )
        return self._watch(process)

    def _watch(self, process: subprocess.Popen[str] | Forked) -> Program:
        program = Program(process)
        self.started.append(program)
        return program

    def run(self, *arguments: str | bytes, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run a program that ends by itself, and return its exit status and output."""
        command = [*self.command, *arguments]
        if self._forker.can_start(command):
            ran = self._forker.run(arguments, timeout=PATIENCE_S, directory=directory)
            return subprocess.CompletedProcess(command, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
        return subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=directory,
        )
