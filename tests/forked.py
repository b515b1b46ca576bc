"""``python -m rawws`` many times for one start of Python: a process that has imported rawws is forked for each.

An interpreter that imports trio and rawws takes a third of a second of CPU, and the tests start hundreds of programs. A
fork of one that has imported them takes a hundredth, and is still a separate process: with its own arguments,
environment, directory, signals, descriptors and end. The start itself is tested with ``StartProgram.begin``,
which forks nothing.

``python -m tests.forked`` is the process that is forked. It reads requests at its standard input, a Unix socket: JSON
after its length, with the descriptors of the program's standard streams and of a pipe. Into the pipe go the program's
process id, a line, and when it is over its exit status and the microseconds of CPU that it took, another. The process
ends when the socket does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, ClassVar, Self

from rawws.cli.commands import COMMANDS

DESCRIPTORS = 4  # of the standard streams and the pipe
HEAD = b"%08d"  # of a request: its length
END_S = 30  # a killed process needs no tenth of it

# Each module that can be forked, and the module whose ``main()`` it calls. It is imported at its first use.
MAINS = {"rawws": "rawws.cli", "tests.dying_server": "tests.dying_server"}
# A package that a program with this argument needs. From its first use on, all forks have imported it.
EARLY = {"--backplane": "coredis", "--metrics": "prometheus_client", "connect": "prompt_toolkit"}


def python_variables() -> dict[str, str]:
    """Return the variables that an interpreter reads only at its start, and a fork does not."""
    return {name: value for name, value in os.environ.items() if name.startswith("PYTHON")}


class Forked:
    """A program that was forked, with the part of ``subprocess.Popen`` that tests use.

    Its streams are the test's ends of pipes, in bytes, or None where the test has given a descriptor.
    """

    spent_s: ClassVar[float] = 0.0  # by all of them that are over, and their children: the CPU, in seconds

    def __init__(
        self,
        status: IO[str],
        stdin: io.BufferedWriter | None,
        stdout: io.BufferedReader | None,
        stderr: io.BufferedReader | None,
    ) -> None:
        self._status = status
        self.pid = int(status.readline())
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return its exit status, negative for a signal, or None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            status, spent_us = self._status.readline().split()
            self.returncode = int(status)
            Forked.spent_s += int(spent_us) / 1e6
            self._status.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit status. Raises subprocess.TimeoutExpired after that many seconds, if that is given."""
        if self.returncode is None:
            select.select([self._status], [], [], timeout)
        status = self.poll()
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def communicate(self, said: bytes, timeout: float) -> tuple[bytes, bytes]:
        """Write to its input, close that, and return all of its output and errors when it has ended.

        Raises subprocess.TimeoutExpired after that many seconds, when the program has been killed.
        """
        assert self.stdin is not None
        assert self.stdout is not None
        assert self.stderr is not None
        writer = threading.Thread(target=_write_all, args=(self.stdin, said))
        readers = [_Reader(self.stdout), _Reader(self.stderr)]
        for thread in (writer, *readers):
            thread.start()
        try:
            self.wait(timeout)
        finally:
            self.kill()
            for thread in (writer, *readers):
                thread.join()
        return readers[0].read, readers[1].read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self.wait(END_S)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # its end has not been reported yet
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class _Reader(threading.Thread):
    """Reads a stream to its end, and closes it."""

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self.read = b""

    def run(self) -> None:
        with self._stream:
            self.read = self._stream.read()


def _write_all(stream: IO[bytes], data: bytes) -> None:
    """Write to a program that may have ended, and close the stream."""
    with contextlib.suppress(BrokenPipeError), stream:
        stream.write(data)


class Forker:
    """The process that is forked, as seen from the tests. It starts at its first use."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._variables: dict[str, str] = {}
        self._lock = threading.Lock()  # a request is in the socket at a time

    def can_start(self, command: Sequence[str | bytes]) -> bool:
        """Return whether a fork can stand for this command."""
        if list(command[:2]) != [sys.executable, "-m"] or command[2] not in MAINS:
            return False
        return self._process is None or self._variables == python_variables()

    def start(
        self,
        arguments: Sequence[str | bytes],
        *,
        module: str = "rawws",
        stdin: int = subprocess.DEVNULL,
        stdout: int = 1,
        stderr: int = 2,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        constants: Mapping[str, float] | None = None,
        imports: Sequence[str] = (),
        leads_session: bool = False,
    ) -> Forked:
        """Start ``python -m MODULE`` with these arguments.

        Each stream is a descriptor, or as ``subprocess.Popen`` has it, DEVNULL or PIPE. ``constants`` are rawws' own,
        by their full names such as ``rawws.process.signals.LATE_S``: the program has these values for them. ``imports``
        are modules that it has imported before it begins, so that their memory isn't counted as the cost of something.
        """
        assert self._process is None or self._variables == python_variables(), "a fork can't have these variables"
        status, its_status = os.pipe()
        its_in, ours_in = _open_input(stdin)
        its_out, ours_out = _open_output(stdout)
        its_err, ours_err = _open_output(stderr)
        request = {
            "module": module,
            "arguments": [os.fsdecode(each) for each in arguments],
            "directory": str(directory or Path.cwd()),
            "environment": dict(os.environ if environment is None else environment),
            "constants": dict(constants or {}),
            "imports": list(imports),
            "leads_session": leads_session,
        }
        given = [its_in, its_out, its_err, its_status]
        try:
            with self._lock:
                requests = self._open()
                data = json.dumps(request).encode()
                socket.send_fds(requests, [HEAD % len(data)], given)
                requests.sendall(data)
        finally:
            for descriptor in given:
                os.close(descriptor)
        return Forked(os.fdopen(status), ours_in, ours_out, ours_err)

    def run(
        self,
        arguments: Sequence[str | bytes],
        said: bytes = b"",
        *,
        timeout: float,
        directory: Path | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run ``python -m rawws`` to its end, with this input, and return its exit status and output."""
        pipe = subprocess.PIPE
        process = self.start(arguments, stdin=pipe, stdout=pipe, stderr=pipe, directory=directory, constants=constants)
        out, err = process.communicate(said, timeout)
        return subprocess.CompletedProcess(arguments, process.wait(timeout), out, err)

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
            self._process.wait(END_S)


def _open_input(how: int) -> tuple[int, io.BufferedWriter | None]:
    """Return a descriptor for the program's standard input, and our end where it is a pipe."""
    if how == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDONLY), None
    if how != subprocess.PIPE:
        return os.dup(how), None
    theirs, ours = os.pipe()
    return theirs, open(ours, "wb")


def _open_output(how: int) -> tuple[int, io.BufferedReader | None]:
    """Return a descriptor for the program's standard output or error, and our end where it is a pipe."""
    if how != subprocess.PIPE:
        return os.dup(how), None
    ours, theirs = os.pipe()
    return theirs, open(ours, "rb")


def run_program(
    module: str,
    arguments: list[str],
    directory: str,
    environment: Mapping[str, str],
    constants: Mapping[str, float],
    imports: Sequence[str],
    leads_session: bool,
) -> int | None:
    """Run ``python -m MODULE`` in this process, and return its exit status."""
    if leads_session:
        os.setsid()
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    time.tzset()
    sys.argv = [f"{Path(sys.modules[module].__file__ or '').parent}/__main__.py", *arguments]
    sys.orig_argv = [sys.executable, "-m", module, *arguments]
    sys.path[0] = directory
    _reopen_streams()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for imported in imports:
        importlib.import_module(imported)
    for name, value in constants.items():
        owner, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(owner), constant), f"there is no {name}"
        setattr(importlib.import_module(owner), constant, value)
    status: int | None = sys.modules[MAINS[module]].main()
    return status


def _reopen_streams() -> None:
    """Make Python's standard streams anew, as its start does for what the descriptors are now: files or terminals."""
    code, errors = sys.stdout.encoding, sys.stdout.errors
    sys.stdin = open(0, encoding=code, errors=errors, newline="\n", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding=code, errors=errors, newline="\n", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding=code, errors=sys.stderr.errors, newline="\n", closefd=False)  # noqa: SIM115


def _import_for(module: str, arguments: Sequence[str]) -> None:
    """Import what a program would import, in the process that is forked: so that is done once for all of them."""
    before = len(sys.modules)
    importlib.import_module(MAINS[module])
    if module == "rawws":
        for command in COMMANDS:
            importlib.import_module(f"rawws.cli.{command.name}")
    for argument, package in EARLY.items():
        if argument in arguments:
            with contextlib.suppress(ImportError):  # the program will report it
                importlib.import_module(package)
    if len(sys.modules) > before:
        gc.freeze()  # otherwise a fork that collects garbage would copy the shared memory


def serve_forks() -> int | None:
    """Fork for each request; return in the forks, with their program's status, and at the end."""
    _import_for("rawws", ())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the tests and for the programs
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the watchers
    requests = socket.socket(fileno=os.dup(0))
    while True:
        head, descriptors, _, _ = socket.recv_fds(requests, len(HEAD % 0), DESCRIPTORS, socket.MSG_WAITALL)
        if not head:
            return 0
        request = json.loads(requests.recv(int(head), socket.MSG_WAITALL))
        _import_for(request["module"], request["arguments"])
        *streams, status = descriptors
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            if (pid := os.fork()) == 0:
                for number, descriptor in enumerate(streams):
                    os.dup2(descriptor, number)
                for descriptor in descriptors:
                    os.close(descriptor)
                return run_program(**request)
            for descriptor in (0, 1, 2, *streams):
                os.close(descriptor)
            os.write(status, b"%d\n" % pid)
            _, outcome, used = os.wait4(pid, 0)
            spent_us = round((used.ru_utime + used.ru_stime) * 1e6)
            os.write(status, b"%d %d\n" % (os.waitstatus_to_exitcode(outcome), spent_us))
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(serve_forks())
