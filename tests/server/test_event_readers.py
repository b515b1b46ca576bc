"""Server-Sent Events in third-party readers: Chromium's EventSource, npm's, and httpx-sse."""

from __future__ import annotations

import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import httpx
import pytest

from tests.browser import need_node_module
from tests.server.test_real_clients import Chromium
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import Program, StartProgram
from tests.sse import as_onmessage_gets

TEXTS = [
    "",
    " begins with a space",
    ": begins with a colon",
    "data: looks like a field",
    "\n",
    "ends in line feeds\n\n",
    "HTTP\r\nand mail\r\n",
    "an old Macintosh's\rlines\r",
    "\r\r\n\n\r",
    "a NUL \0 within",
    "\N{ZERO WIDTH NO-BREAK SPACE}begins with a byte order mark",
    '{"json": "with\\r\\nescapes", "and": "grüß dich 🚀"}',
    # No line ends to the standard, but to Python's str.splitlines().
    "U+2028 \u2028, U+2029 \u2029, U+0085 \x85, U+000B \x0b, U+000C \x0c, U+001C \x1c, U+001D \x1d, U+001E \x1e.",
    "x" * 70_000,
    "the last one",
]
BINARY = b"\x00\r\n\xff"


class Got(NamedTuple):
    """An event, as a reader passes it on."""

    kind: str
    data: str
    last_id: str


Read = Callable[[str, int], list[Got]]

BY_EVENT_SOURCE = """
const read = (EventSource, url, count) => new Promise((resolve) => {
  const got = []
  const source = new EventSource(url)
  const take = (kind) => ({ data, lastEventId }) => {
    got.push([kind, data, lastEventId])
    if (got.length === count) { source.close(); resolve(got) }
  }
  source.onmessage = take("message")
  for (const kind of ["binary", "text"]) source.addEventListener(kind, take(kind))
})
"""


def read_with_chromium(chromium: Chromium, url: str, count: int) -> list[Got]:
    page = chromium.visit(f"http://{httpx.URL(url).netloc.decode()}/healthz")  # any page of the same origin
    read = f"([url, count]) => {{ {BY_EVENT_SOURCE} return read(EventSource, url, count) }}"
    return [Got(*event) for event in chromium.wait_for(lambda: page.evaluate(read, [url, count]))]


def read_with_npms_eventsource(url: str, count: int) -> list[Got]:
    need(shutil.which("node"), "node")
    module = json.dumps(str(need_node_module("eventsource").resolve()))
    script = f"""{BY_EVENT_SOURCE}
      const {{ EventSource }} = require({module})
      read(EventSource, {json.dumps(url)}, {count}).then((got) => console.log(JSON.stringify(got)))"""
    output = subprocess.check_output(["node", "-e", script], timeout=PATIENCE_S)
    return [Got(*event) for event in json.loads(output)]


def read_with_httpx_sse(url: str, count: int) -> list[Got]:
    from httpx_sse import connect_sse

    with httpx.Client(trust_env=False, timeout=PATIENCE_S) as client, connect_sse(client, "GET", url) as source:
        events = source.iter_sse()
        next(events)  # to this library an id alone is an event too; to the standard it is not
        return [Got(event.event, event.data, event.id) for event in itertools.islice(events, count)]


def read_with_httpx_alone(url: str, count: int) -> list[Got]:
    """Read events line by line with httpx, and ignore unknown fields, as many programs do."""
    got: list[Got] = []
    accept = {"Accept": "text/event-stream"}
    with httpx.stream("GET", url, headers=accept, trust_env=False, timeout=PATIENCE_S) as response:
        for line in response.iter_lines():
            name, _, value = line.partition(": ")
            if name == "id":
                at = value
            elif name == "data":
                got.append(Got("message", value, at))
            if len(got) == count:
                break
    return got


READERS = [
    pytest.param(read_with_chromium, marks=pytest.mark.thorough),
    read_with_npms_eventsource,
    read_with_httpx_sse,
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    browser = Chromium()
    yield browser
    browser.end()


@pytest.fixture
def read(request: pytest.FixtureRequest) -> Read:
    """Read events with the reader that is the parameter."""
    if request.param is read_with_chromium:
        return partial(read_with_chromium, request.getfixturevalue("chromium"))
    reader: Read = request.param
    return reader


def publish(program: Program, texts: list[str]) -> list[str]:
    """Publish texts, and then a binary message; return their ids."""
    ids = []
    with httpx.Client(trust_env=False, base_url=f"http://{program.address}") as client:
        for body in [*map(str.encode, texts), BINARY]:
            kind = "application/octet-stream" if body is BINARY else "text/plain"
            ids.append(client.post("/room", content=body, headers={"Content-Type": kind}).json()["id"])
    return ids


@pytest.mark.parametrize("read", READERS, indirect=True)
def test_onmessage_gets_every_text_with_its_line_ends_as_lf(start_program: StartProgram, read: Read) -> None:
    program = start_program("--history", "100")
    ids = publish(program, TEXTS)
    got = read(f"http://{program.address}/room?last=100", len(ids))
    expected = [Got("message", as_onmessage_gets(text), at) for text, at in zip(TEXTS, ids, strict=False)]
    assert got == [*expected, Got("binary", base64.b64encode(BINARY).decode(), ids[-1])]


@pytest.mark.parametrize("read", [*READERS, read_with_httpx_alone], indirect=True)
def test_with_json_onmessage_gets_every_message_exactly(start_program: StartProgram, read: Read) -> None:
    program = start_program("--history", "100")
    ids = publish(program, TEXTS)
    got = read(f"http://{program.address}/room?last=100&json", len(ids))
    assert [(event.kind, event.last_id) for event in got] == [("message", at) for at in ids]
    with httpx.Client(trust_env=False) as client:
        polled = client.get(f"http://{program.address}/room?last=100").json()["messages"]
    assert [json.loads(event.data) for event in got] == polled
    assert [message.get("text") for message in polled] == [*TEXTS, None]
    assert base64.b64decode(polled[-1]["base64"]) == BINARY
