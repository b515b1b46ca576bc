"""Follows a page of the manual step by step, as a reader does who pastes each block.

* A block whose first line is a comment with a file's name, such as ``# app.py``, is written to that file. Another block
  of Python is run as a program.
* The commands of a ``console`` block are run by one bash, and their output is compared with the output shown. A block
  after the comment ``<!-- keeps running -->`` is a terminal of its own: its last command stays, and its output is
  checked at the end of the page. Output that a command hasn't written may be that of a program in the background.
* Each line of a ``text`` block must have been written by one of the programs, in this order.
* Blocks of other languages are given to the page's own test, and so are those after ``<!-- has its own test -->``.

``…`` in the output shown is any text, and on a line of its own any number of lines. Ports, ids, tokens and times differ
from run to run: ports are replaced by free ones, the others are learned from the output.
"""

from __future__ import annotations

import os
import queue
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tests.manual import page
from tests.redis_server import free_port
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Lines, wait_listening_at

KEEPS_RUNNING, OWN_TEST = "<!-- keeps running -->", "<!-- has its own test -->"
_BLOCK = re.compile(r"^(<!-- [\w ]+ -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"(?:#|//|<!--|;) ([\w./-]+\.\w+)(?: -->)?\n")
_PORT = re.compile(r"\b(3000|6379|8000|808\d|844\d|9090)\b")
# Ids of messages, of this process or of Redis, and the parts of a log line that differ.
_ID = re.compile(r"[0-9a-f]{8}-(?=\d)|\b\d{13}-\d+")
_VARYING = re.compile(r"(?<=token=)[\w-]+|\b\d+\.\d+(?= ms)|(?<=#)\d+(?= )")
_RAWWS = re.compile(r"\A(rawws|python -m rawws)(?! (?:connect|post|tap|check|decode|docs)\b)( serve)?(?=\s|\Z)")
_DONE = "the command has ended with status"


class Block(NamedTuple):
    language: str
    text: str
    note: str = ""  # the comment before it

    @property
    def file_name(self) -> str:
        """The file that the block is to be saved as, or an empty string."""
        match = _FILE_NAME.match(self.text)
        return match[1] if match else ""


def blocks_of(topic: str) -> list[Block]:
    return [Block(language, text, note.strip()) for note, language, text in _BLOCK.findall(page(topic))]


class Command(NamedTuple):
    """A command of a console block, and the lines that are shown below it."""

    line: str
    shown: list[str]


def commands_of(block: Block) -> list[Command]:
    commands: list[Command] = []
    continues = False
    for line in block.text.splitlines():
        if continues:
            commands[-1] = commands[-1]._replace(line=f"{commands[-1].line}\n{line}")
        elif line.startswith("$ "):
            commands.append(Command(line.removeprefix("$ "), []))
        else:
            commands[-1].shown.append(line)
            continue
        continues = commands[-1].line.endswith("\\")
    return commands


class Shown:
    """Output as a page shows it, compared with real output. It remembers which id stands for which."""

    def __init__(self) -> None:
        self.ids: dict[str, str] = {}

    def matches(self, shown: str, written: str) -> bool:
        parts, unknown, last = [], list[str](), 0
        for match in re.finditer(rf"{_ID.pattern}|{_VARYING.pattern}|…", shown):
            parts.append(re.escape(shown[last : match.start()]))
            last = match.end()
            if match[0] == "…":
                parts.append(".*")
            elif _VARYING.match(shown, match.start()):
                parts.append(rf"(?:{_VARYING.pattern})")
            elif match[0] in self.ids:
                parts.append(re.escape(self.ids[match[0]]))
            else:
                parts.append(rf"({_ID.pattern})")
                unknown.append(match[0])
        found = re.fullmatch("".join(parts) + re.escape(shown[last:]), written.rstrip())
        if found:
            self.ids.update(zip(unknown, found.groups(), strict=True))
        return found is not None

    def compare(self, shown: list[str], written: list[str]) -> str:
        """Return the first line shown that is not in the output where it has to be; empty if all are."""
        at, skips = 0, False
        for line in shown:
            if line == "…":
                skips = True
                continue
            while at < len(written) and skips and not self.matches(line, written[at]):
                at += 1
            if at == len(written) or not self.matches(line, written[at]):
                return line
            at, skips = at + 1, False
        return "" if skips or at == len(written) else f"(no more output, but there is {written[at]!r})"


@dataclass
class Terminal:
    """A command that keeps running, or runs in the background, and what it writes."""

    command: Command
    output: Path

    def lines(self, ports: Mapping[str, str]) -> list[str]:
        text = self.output.read_text("utf-8", errors="replace") if self.output.exists() else ""
        for shown, real in ports.items():
            text = re.sub(rf"\b{real}\b", shown, text)
        return text.splitlines()


class Walk:
    """One page, followed in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "reader"
        self.folder.mkdir()
        self._logs = folder
        self.ports: dict[str, str] = {}
        self._listening: set[str] = set()
        self.before: dict[str, Callable[[], None]] = {}  # the first command that begins so
        self.shown = Shown()
        self.terminals: list[Terminal] = []
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"}
        environment |= {"PYTHONUNBUFFERED": "1", "NO_PROXY": "*", "no_proxy": "*"}
        environment.pop("PYTEST_ADDOPTS", None)  # of this run; a reader's has none
        # On a terminal, curl shows no progress where it prints the answer.
        (folder / ".curlrc").write_text("silent\nshow-error\n")
        environment["CURL_HOME"] = str(folder)
        self._options: dict[str, Any] = {"cwd": self.folder, "env": environment, "start_new_session": True}
        self._programs: list[subprocess.Popen[bytes]] = []  # in terminals of their own
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._bash = subprocess.Popen(["bash", "--norc"], text=True, **pipes, **self._options)
        assert self._bash.stdout is not None
        self._lines = Lines(self._bash.stdout)
        self._tell_bash("set -m")  # each job has a process group of its own, as in a terminal

    # Preparation of what the page shows

    def port(self, shown: str) -> str:
        """Return the free port that stands for a port of the page."""
        return self.ports.setdefault(shown, str(free_port()))

    def real(self, text: str) -> str:
        """Return a text of the page with the ports and ids of this run."""
        text = re.sub(r"redis://localhost(?![:\w])", "redis://localhost:6379", text)
        text = _PORT.sub(lambda match: self.port(match[1]), text)
        return _ID.sub(lambda match: self.shown.ids.get(match[0], match[0]), text)

    def _real_command(self, line: str) -> str:
        if (match := _RAWWS.match(line)) and "--port" not in line:
            line = f"{match[0]} --port 8080{line[match.end() :]}"
        line = re.sub(r"\bredis-server\b", "redis-server --port 6379", line)
        line = re.sub(r"\bredis-cli\b", "redis-cli -p 6379", line)
        line = re.sub(r"^python (?=[\w-]+\.py)", "python -W error ", line)
        return self.real(line)

    # The steps

    def follow(self, topic: str, **others: Callable[[str], None]) -> None:
        """Follow a page. ``others`` are called with blocks of other languages, which have no file name."""
        for block in blocks_of(topic):
            if block.note == OWN_TEST:
                continue
            if block.file_name:
                file = self.folder / block.file_name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(self.real(block.text))
            elif block.language == "console":
                self._follow_console(block)
            elif block.language == "text":
                self._find_in_logs(block.text.splitlines())
            elif block.language == "python" and block.language not in others:
                self._run_python(block.text)
            else:
                others[block.language](self.real(block.text))
        for terminal in self.terminals:
            self._wait_for(terminal, terminal.command.shown)

    def _follow_console(self, block: Block) -> None:
        *commands, last = commands_of(block)
        for command in commands:
            self._start(command) if command.line.endswith(" &") else self._run(command)
        if block.note == KEEPS_RUNNING or last.line.endswith(" &"):
            self._start(last)
        else:
            self._run(last)

    def _run_python(self, text: str) -> None:
        terminal = self._add_terminal(Command("python", []))
        written = self._tell_bash(f"python -W error -c {shlex.quote(self.real(text))} </dev/null && echo done")
        terminal.output.write_text("\n".join(written), "utf-8")
        assert written[-1:] == ["done"], "\n".join([text, *written])

    def run_crontab(self, text: str) -> None:
        """Run the command of each line of a crontab, which must print nothing, or cron would send a mail."""
        for line in text.splitlines():
            command = line.split(maxsplit=5)[5]
            assert self._tell_bash(f"{{ {command}\n}} </dev/null && echo done") == ["done"]

    def _add_terminal(self, command: Command) -> Terminal:
        self.terminals.append(Terminal(command, self._logs / f"{len(self.terminals)}.log"))
        return self.terminals[-1]

    def _start(self, command: Command) -> None:
        """Start a command in the background, as bash's next job, or in a terminal of its own."""
        terminal = self._add_terminal(command)
        line = self._real_command(command.line.removesuffix(" &"))
        if command.line.endswith(" &"):
            self._tell_bash(f"{{ {line}\n}} </dev/null >{shlex.quote(str(terminal.output))} 2>&1 &")
        else:
            with terminal.output.open("wb") as output:
                options: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
                self._programs.append(subprocess.Popen(["bash", "-c", line], **self._options, **options))
        texts = [re.sub(r"--allow-origin \S+", "", line)]
        for text in texts:  # with the files that it names, and those that they name
            names = set(re.findall(r"[\w./-]+\.\w+", text))
            texts += [each for name in names if (each := self._text_of(name)) and each not in texts]
        ports = [port for port in self.ports.values() if any(re.search(rf"\b{port}\b", text) for text in texts)]
        is_server = not all(port in self._listening for port in ports)
        for port in ports:
            wait_listening_at(int(port))
            self._listening.add(port)
        if command.shown and not is_server:  # a client has begun when it writes
            self._wait_for(terminal, [command.shown[0], "…"])

    def _text_of(self, name: str) -> str:
        file = self.folder / name
        return file.read_text(errors="replace") if file.is_file() and file.is_relative_to(self.folder) else ""

    def _run(self, command: Command) -> None:
        for begin in [begin for begin in self.before if command.line.startswith(begin)]:
            self.before.pop(begin)()
        written = self._tell_bash(f"{{ {self._real_command(command.line)}\n}} </dev/null")
        for shown, real in self.ports.items():
            written = [re.sub(rf"\b{real}\b", shown, line) for line in written]
        # The last lines may be those of programs in the background.
        for own in range(len(command.shown), -1, -1):
            if not self.shown.compare(command.shown[:own], written):
                self._find_in_logs(command.shown[own:])
                return
        missing = self.shown.compare(command.shown, written)
        raise AssertionError("\n".join([f"$ {command.line}", *written, f"-- not as shown: {missing}"]))

    def _tell_bash(self, line: str) -> list[str]:
        """Have bash run a command, and return its output when it has ended, or runs in the background."""
        assert self._bash.stdin is not None
        self._bash.stdin.write(f"{line}\nprintf '\\n{_DONE} %s\\n' $?\n")
        self._bash.stdin.flush()
        written: list[str] = []
        while True:
            try:
                read = self._lines.next()
            except queue.Empty:
                raise AssertionError(f"{line} has not ended within {PATIENCE_S:g} s: {written}") from None
            assert read is not None, f"bash has ended: {written}"
            if read.startswith(_DONE):
                break
            written.append(read)
        if written and not written[-1]:
            written.pop()  # it belongs to the marker
        # Without the lines of bash about its jobs.
        return [each for each in written if not re.match(r"\[\d+\][+-]? |bash: line \d+: +\d+ [A-Z]", each)]

    def _wait_for(self, terminal: Terminal, shown: list[str]) -> None:
        """Wait until a program has written what is shown."""
        end = time.monotonic() + PATIENCE_S
        while missing := self.shown.compare([*shown, "…"], terminal.lines(self.ports)):
            if time.monotonic() > end:
                written = terminal.lines(self.ports)
                raise AssertionError("\n".join([f"$ {terminal.command.line}", *written, f"-- not as shown: {missing}"]))
            time.sleep(0.01)

    def _find_in_logs(self, shown: list[str]) -> None:
        """Wait until one of the programs has written these lines, possibly with others in between."""
        wanted = [part for line in shown for part in ("…", line)]
        end = time.monotonic() + PATIENCE_S
        while shown and all(self.shown.compare([*wanted, "…"], each.lines(self.ports)) for each in self.terminals):
            if time.monotonic() > end:
                written = "\n".join(line for each in self.terminals for line in each.lines(self.ports))
                raise AssertionError(f"{written}\n-- no program has written\n" + "\n".join(shown))
            time.sleep(0.01)

    def end(self) -> None:
        """End all programs that still run."""
        groups = [program.pid for program in self._programs]
        with suppress(AssertionError, BrokenPipeError):
            groups += [int(line) for line in self._tell_bash("jobs -p") if line.isdecimal()]
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        for program in self._programs:
            program.wait(PATIENCE_S)
        assert self._bash.stdin is not None
        self._bash.stdin.close()
        self._bash.kill()
        self._bash.wait(PATIENCE_S)
        self._lines.close()
