"""``python -m rawws`` many times for one start of Python: a process that has imported rawws is forked for each.

An interpreter that imports trio and rawws takes a third of a second of CPU, and the tests start hundreds of programs. A
fork of one that has imported them takes a hundredth, and is still a separate process: with its own arguments,
environment, directory, signals, descriptors and end. The start itself is tested with ``StartProgram.begin``,
which forks nothing.

``python -m tests.forked`` is the process that is forked. It reads requests at its standard input, a Unix socket: a line
of JSON each, with the descriptors of the program's standard streams and of a pipe. Into the pipe go the program's
process id, a line, and when it is over its exit status, another. It ends when the socket does.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

DESCRIPTORS = 4  # of the standard streams and the pipe
MAX_REQUEST_BYTES = 1 << 20


def python_variables() -> dict[str, str]:
    """Return the variables that an interpreter reads only at its start, and a fork does not."""
    return {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}


class Forked:
    """A program that was forked, with the part of ``subprocess.Popen`` that tests use."""

    def __init__(self, status: IO[str], stdout: IO[str] | None, stderr: IO[str]) -> None:
        self._status = status
        self.pid = int(status.readline())
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            self.returncode = int(self._status.readline())
            self._status.close()
        return self.returncode

    def wait(self, timeout: float) -> int:
        """Return its exit status. Raises subprocess.TimeoutExpired after that many seconds."""
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forker:
    """The process that is forked, as seen from the tests. It starts at its first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._variables: dict[str, str] = {}

    def can_start(self, command: Sequence[str | bytes]) -> bool:
        """Return whether a fork can stand for this command."""
        if list(command[:3]) != [sys.executable, "-m", "rawws"]:
            return False
        return self._process is None or self._variables == python_variables()

    def start(
        self, arguments: Sequence[str | bytes], directory: Path | None = None, *, is_captured: bool = False
    ) -> Forked:
        """Start ``python -m rawws`` with these arguments; its standard output is the tests' own unless captured."""
        status, its_status = os.pipe()
        err, its_err = os.pipe()
        out, its_out = os.pipe() if is_captured else (None, os.dup(1))
        nothing = os.open(os.devnull, os.O_RDONLY)
        request = {
            "arguments": [os.fsdecode(each) for each in arguments],
            "directory": str(directory or Path.cwd()),
            "environment": dict(os.environ),
        }
        given = [nothing, its_out, its_err, its_status]
        try:
            socket.send_fds(self._open(), [json.dumps(request).encode() + b"\n"], given)
        finally:
            for descriptor in given:
                os.close(descriptor)
        return Forked(os.fdopen(status), None if out is None else os.fdopen(out), os.fdopen(err))

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._variables = python_variables()
            self._socket, its = socket.socketpair()
            with its:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "tests.forked"],
                    stdin=its.fileno(),
                    cwd=Path(__file__).resolve().parent.parent,
                )
        return self._socket

    def close(self) -> None:
        """End the process. Its forks keep running."""
        if self._socket is not None and self._process is not None:
            self._socket.close()
            self._process.wait(30)


def run_program(arguments: list[str], directory: str, environment: Mapping[str, str]) -> int:
    """Run ``python -m rawws`` in this process, and return its exit status."""
    from rawws.cli import main

    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [sys.modules["rawws"].__path__[0] + "/__main__.py", *arguments]
    sys.orig_argv = [sys.executable, "-m", "rawws", *arguments]
    sys.path[0] = directory
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    return main()


def serve_forks() -> int:
    """Fork for each request; return in the forks, with their program's status, and at the end."""
    import rawws.cli  # noqa: F401  # every fork needs it

    gc.freeze()  # otherwise a fork that collects garbage would copy the shared memory
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the tests and for the programs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the watchers
    requests = socket.socket(fileno=os.dup(0))
    while True:
        data, descriptors, _, _ = socket.recv_fds(requests, MAX_REQUEST_BYTES, DESCRIPTORS)
        if not data:
            return 0
        while not data.endswith(b"\n"):
            data += requests.recv(MAX_REQUEST_BYTES)
        *streams, status = descriptors
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) == 0:
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                for descriptor in descriptors:
                    os.close(descriptor)
                return run_program(**json.loads(data))
            for descriptor in (0, 1, 2, *streams):
                os.close(descriptor)
            os.write(status, b"%d\n" % pid)
            _, outcome = os.waitpid(pid, 0)
            os.write(status, b"%d\n" % os.waitstatus_to_exitcode(outcome))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(serve_forks())
