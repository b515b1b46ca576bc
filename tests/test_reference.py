"""The manual's reference: whatever the program refuses, reports or logs has an entry there."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from functools import cache
from urllib.request import Request, urlopen

import pytest
from websockets.sync.client import connect
from websockets.typing import Subprotocol

import rawws
from rawws import logs
from rawws.cli.docs import read_manual
from rawws.cli.manual import Section
from rawws.errors import CLOSE_CODE_NAMES, Cause, RawwsError
from rawws.wire.message_view import INVALID_DEFLATE, TEXT_NOT_UTF8
from rawws.wire.trace import FAULT, IN, OUT, STATE, TIMER
from rawws.wire.wsproto_reader import _RULES
from tests import metrics_page
from tests.manual import page
from tests.program_texts import ANY, log_lines, matches, refusals, words_of
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram
from tests.serving.wire import get

# Log lines whose text is made elsewhere: the entry about it, by the function that logs it.
MADE_ELSEWHERE = {
    "cli/tap.py _log": "Listening",
    "hooks.py log_failure": "Hook failed",
    "hub/hub.py refuse_settings": "Hook failed",
    "net/accept.py accept_connections": "Out of descriptors",
    "process/program.py _serve": "Link to the page",
    "process/workers.py stop": "Workers",
    "relay/ends.py log_end": "Connection ended",
    "relay/slow_peers.py _warn": "Slow reader",
    "server/asgi_lifespan.py log_fault": "Lifespan failed",
    "tools/tap.py _show": "Check failed",
    "tools/tap.py _show_head": "Check failed",
}


@cache
def sections(topic: str) -> dict[str, Section]:
    """Return the sections of a page by their names."""
    (found,) = [page for page in read_manual().pages if page.topic == topic]
    return {name: section for section in found.sections() if section.level > 1 for name in section.names}


def flat(text: str) -> str:
    return " ".join(text.split())


# Refusals


def test_every_refusal_has_an_entry_with_its_status_and_sentences() -> None:
    by_code = defaultdict(list)
    for each in refusals():
        by_code[each.code].append(each)
    codes = re.findall(r"^### `(.*)`$", page("reference/refusals"), re.MULTILINE)
    assert sorted(codes) == sorted(by_code)
    for code, found in by_code.items():
        text = sections("reference/refusals")[code].text
        assert {str(each.status) for each in found} == set(re.findall(r"^\*\*(\d{3})\*\*", text, re.MULTILINE)), code
        templates = [sentence for each in found for sentence in each.sentences]
        quoted = re.findall(r"^> (.*)$", text, re.MULTILINE)
        assert bool(quoted) == bool(templates), code
        for sentence in quoted:
            assert any(matches(template, sentence) for template in templates), (code, sentence, templates)


# Close codes, causes and faults


@pytest.mark.parametrize("code", CLOSE_CODE_NAMES)
def test_a_close_code_has_an_entry(code: int) -> None:
    assert sections("reference/close-codes")[str(code)].heading == f"{code} ({CLOSE_CODE_NAMES[code]})"


@pytest.mark.parametrize("cause", Cause, ids=lambda cause: cause.value)
def test_a_cause_has_an_entry(cause: Cause) -> None:
    found = sections("reference/close-codes")
    assert found[cause.value] is found[f"Cause.{cause.name}"]


def test_a_fault_has_an_entry() -> None:
    codes = {rule.code for rule in _RULES} | {INVALID_DEFLATE.code, TEXT_NOT_UTF8.code}
    listed = re.findall(r"^\* `(\w+)` \(10", page("reference/close-codes"), re.MULTILINE)
    assert codes | {"message_too_big", "protocol_error"} == set(listed)


# The log


def test_every_log_line_has_an_entry() -> None:
    text, lines = flat(page("reference/log")), log_lines()
    assert len(lines) > 80
    for line in lines:
        words = [words_of(each.replace("%s", ANY).replace("%r", ANY).replace("#%d ! ", "")) for each in line.texts]
        if words := [each for each in words if len(each) > 3]:
            assert any(each in text for each in words), (str(line.place), words)
        else:
            assert MADE_ELSEWHERE.get(line.place.name) in sections("reference/log"), line.place


def test_the_entries_of_the_log_name_the_level_and_the_logger_of_their_lines() -> None:
    text = page("reference/log")
    lines = re.findall(r"^(INFO|WARNING|ERROR) (\S+) +(.*)$", text, re.MULTILINE)
    loggers = {each.name for each in (logs.server, logs.http, logs.handshake, logs.frames, logs.hub)}
    assert len(lines) > 80
    assert {logger for _, logger, _ in lines} == loggers
    assert loggers == set(re.findall(r"^\* `(rawws\.\w+)`: ", text, re.MULTILINE))
    assert {IN, OUT, STATE, FAULT, TIMER} == set(re.findall(r"^\* `(.)`: ", text, re.MULTILINE))
    levels = {"INFO", "WARNING", "ERROR"}
    assert {level for level, _, _ in lines} == levels
    assert levels < set(logging.getLevelNamesMapping())


# Metrics


def test_the_page_of_metrics_is_made_from_the_table() -> None:
    assert metrics_page.page() == page("reference/metrics"), "python -m tests.metrics_page writes it anew"


async def test_the_page_of_metrics_has_what_a_server_answers(start_program: StartProgram) -> None:
    program = start_program("--metrics", "--history", "1")
    client = await program.connect()
    answered = (await client.ask(get("/metrics"))).body.decode()
    entries = sections("reference/metrics")
    for name, kind in re.findall(r"^# TYPE (\S+) (\w+)$", answered, re.MULTILINE):
        names = [f"{name}_count", f"{name}_sum"] if kind == "summary" else [name]
        description = re.findall(rf"^# HELP {name} (.*)$", answered, re.MULTILINE)
        for each in names:
            assert flat(entries[each].text.partition("\n\n")[2]).startswith(kind.capitalize())
            assert description[0] in flat(entries[each].text)
    samples = re.findall(r"^(rawws_\w+)(?:\{(\w+)=)?", answered, re.MULTILINE)
    assert len(set(samples)) >= 15
    for name, label in samples:
        assert not label or f", by `{label}`" in entries[name].text, name


# Exceptions


def exceptions(root: type[RawwsError] = RawwsError) -> list[type[RawwsError]]:
    return [root, *(each for below in root.__subclasses__() for each in exceptions(below))]


def test_a_public_exception_has_an_entry_and_its_place_in_the_tree() -> None:
    text = page("reference/errors")
    public = [each for each in exceptions() if getattr(rawws, each.__name__, None) is each]
    assert len(public) == 23
    for each in public:
        assert f"rawws.{each.__name__}" in sections("reference/errors")
        assert re.search(rf"^[│ ]*[├└]── {each.__name__}$", text, re.MULTILINE) or each is RawwsError


def test_each_command_has_its_exit_statuses() -> None:
    from rawws.cli.commands import COMMANDS

    assert {f"rawws {command.name}" for command in COMMANDS} <= set(sections("reference/errors"))


# The HTTP interface


def test_the_http_interface_answers_as_shown(start_program: StartProgram) -> None:
    program = start_program("--history", "10")
    room = f"http://{program.address}/room/x"
    shown = page("reference/http")
    answers = [
        _ask(room, b"hello", "text/plain"),
        _ask(room, b"ab", "application/octet-stream"),
        _ask(f"{room}?last=10"),
        _ask(f"{room}?peers"),
    ]
    published, _, polled, peers = (re.sub(r"[0-9a-f]{8}-", "88a4d1d1-", answer) for answer in answers)
    assert f"application/json\n\n{published}```" in shown
    assert f"```json\n{polled}```" in shown
    assert re.sub(r"\d+", "2", peers).strip() in shown
    with urlopen(Request(f"{room}?last=2", headers={"Accept": "text/event-stream"}), timeout=PATIENCE_S) as stream:
        events = b"".join(iter(stream.readline, b"data: YWI=\n")).decode() + "data: YWI=\n"
    assert f"\n\n{re.sub(r'[0-9a-f]{8}-', '88a4d1d1-', events)}```" in shown
    with connect(f"ws://{program.address}/room/x?last=2", subprotocols=[Subprotocol("rawws.id.v1")], proxy=None) as ws:
        lines = "\n".join(str(ws.recv(PATIENCE_S)) for _ in range(3))
    assert f"```text\n{re.sub(r'[0-9a-f]{8}-', '88a4d1d1-', lines)}\n```" in shown


def _ask(url: str, body: bytes | None = None, content_type: str = "") -> str:
    fields = {"Content-Type": content_type} if content_type else {}
    with urlopen(Request(url, body, fields), timeout=PATIENCE_S) as answer:
        return str(answer.read().decode())
