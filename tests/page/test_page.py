"""The page, in a real browser: each panel, as a person uses it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

import rawws.cli
from rawws.inspection.conformance import CASES
from rawws.wire.handshake import GUID
from rawws.wire.masking import apply_mask
from tests.browser import launch, need_chromium, need_node_module
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import Program, StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

HELLO = "Hello! Message From Server!!"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    need_chromium()
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_S * 1000)
    with sync_playwright() as playwright:
        yield launch(playwright)


Visit = Callable[..., "Page"]


@pytest.fixture
def visit(browser: Browser) -> Iterator[Visit]:
    """Shows the page of a program. No test may leave an error in the browser's console."""
    complaints: list[str] = []
    contexts = []

    def visit(server: Program, prepare: Callable[[Page], object] | None = None, **settings: Any) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1440, "height": 1000}, **settings})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_S * 1000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
        )
        if prepare is not None:
            prepare(page)
        page.goto(server.page_link())
        page.locator("#watch[data-state=watching]").wait_for()
        return page

    yield visit
    for context in contexts:
        context.close()
    assert complaints == []


def connect(page: Page, peers: int = 1) -> Locator:
    """Connect peers on the page, and wait until the server knows each of them too."""
    from playwright.sync_api import expect

    for _ in range(peers):
        page.get_by_role("button", name="Connect a peer").click()
    cards = page.locator(".peer[data-state=open]")
    expect(cards).to_have_count(peers)
    expect(cards.locator(".number:visible")).to_have_count(peers)
    return cards


def send(page: Page, text: str, kind: str = "text", sender: str = "") -> None:
    page.get_by_role("radio", name=kind, exact=True).check()
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("combobox", name="From").select_option(sender)
    page.get_by_role("button", name="Send", exact=True).click()


def choose_connection(page: Page, name: str) -> None:
    option = page.locator("#connection option", has_text=name)
    option.wait_for(state="attached")
    page.get_by_role("combobox", name="Connection").select_option(option.get_attribute("value"))


def frame_rows(page: Page) -> Locator:
    return page.locator("#table .rows .row")


def test_a_message_of_one_peer_arrives_at_all_three(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    cards = connect(page, 3)
    send(page, "hello from A", sender="A")
    for index in range(3):
        received = cards.nth(index).locator("li.received")
        expect(received).to_have_count(2)
        expect(received.nth(0)).to_contain_text(HELLO)
        expect(received.nth(1)).to_contain_text("hello from A")
    expect(cards.nth(0).locator("li.sent")).to_contain_text("hello from A")
    # Three greetings; then one frame in, and three out.
    rows = frame_rows(page)
    expect(rows).to_have_count(7)
    expect(page.locator("#table .rows .row.client")).to_have_count(1)
    expect(page.locator("#table .rows .row.client .preview")).to_have_text("'hello from A'")
    names = page.locator("#table .rows .row.server .of").all_inner_texts()
    assert {name.split()[1] for name in names} == {"A", "B", "C"}
    expect(page.locator("#watch")).to_have_text("watching: 3 WebSockets open")


def test_the_newest_connections_are_kept_and_ended_ones_dropped_first(
    start_program: StartProgram, visit: Visit
) -> None:
    page = visit(start_program())
    kept = page.evaluate(
        """async () => {
          const { Trace } = await import("/_rawws/trace.js");
          let socket;
          window.WebSocket = class { constructor() { socket = this; } };
          const trace = new Trace();
          trace.connect();
          const send = (message) => socket.onmessage({ data: JSON.stringify(message) });
          const tell = (...records) => send({ records });
          send({ about: { instance: "x" }, open: [], unlisted: 0 });
          const open = (first, last) => {
            for (let at = first; at <= last; at++) tell({ kind: "open", connection: at, from: "x" });
          };
          const all = () => [...trace.connections.values()].map((each) => each.number);
          const numbers = () => all().filter((each) => each <= 3 || each > 1000);
          open(1, 500);
          tell({ kind: "end", connection: 2, told: "gone" });
          open(501, 501);
          const first = numbers();
          open(502, 1002);
          tell({ kind: "end", connection: 1, told: "gone" });
          return [first, numbers(), trace.connections.size];
        }"""
    )
    assert kept == [[1, 3], [1001, 1002], 500]


def test_the_upgrade_header_by_header(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--subprotocol", "chat.v2"))
    page.get_by_role("textbox", name="URL").fill(page.get_by_role("textbox", name="URL").input_value() + "?name=a")
    page.get_by_label("Subprotocols").fill("chat.v1, chat.v2")
    card = connect(page)
    expect(card.locator(".state")).to_have_text("open: speaks chat.v2")
    request, response = page.locator(".head.client"), page.locator(".head.server")
    first = request.locator("tbody tr").first
    expect(first).to_contain_text("GET /room?name=a HTTP/1.1\\r\\n")
    expect(first.locator(".check.yes")).to_have_count(4)
    expect(first.get_by_role("link", name="RFC 6455 §4.2.1 item 1").first).to_have_attribute(
        "href", "https://www.rfc-editor.org/rfc/rfc6455#section-4.2.1"
    )
    for name in ("Host", "Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version", "Origin"):
        line = request.locator("tr").filter(has=page.locator("b", has_text=re.compile(f"^{name}$")))
        expect(line.locator(".check.yes")).to_have_count(1)
    expect(page.locator(".check.no")).to_have_count(0)
    key = request.locator("tr", has_text="Sec-WebSocket-Key").locator("code").first.inner_text().split()[1]
    key = key.removesuffix("\\r\\n")
    digest = hashlib.sha1(key.encode() + GUID).digest()
    steps = page.locator(".accept li code").all_inner_texts()
    assert steps == [key, key + GUID.decode(), digest.hex(" "), base64.b64encode(digest).decode()]
    expect(response).to_contain_text(f"Sec-WebSocket-Accept: {steps[3]}\\r\\n")
    expect(response).to_contain_text("✓ yes Sec-WebSocket-Accept belongs to the client's key")
    expect(page.locator(".switch")).to_contain_text("101: HTTP ends here")
    page.get_by_label("bytes in hex").check()
    expect(first.locator(".hex")).to_have_text(b"GET /room?name=a HTTP/1.1\r\n".hex(" "))


def test_a_refusal_is_shown_with_its_reason(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    connect(page)
    page.locator("#cases button", has_text="version 12").click()
    expect(page.locator("#case dd").last).to_contain_text("good 426, Sec-WebSocket-Version: 13")
    choose_connection(page, "break-it")
    expect(page.locator(".check.no")).to_have_text("✗ NO Sec-WebSocket-Version is 13 RFC 6455 §4.2.1 item 6")
    expect(page.locator(".head.server")).to_contain_text("HTTP/1.1 426 Upgrade Required")
    expect(page.locator(".switch")).to_have_count(0)


def test_the_page_shows_refused_requests_for_it_and_not_its_own(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program()
    page = visit(program)
    stranger = HTTPConnection(program.address, timeout=PATIENCE_S)
    stranger.request("GET", "/_rawws/main.js")
    assert stranger.getresponse().status == 403
    choose_connection(page, "/_rawws/main.js")
    expect(page.locator(".head.server")).to_contain_text("HTTP/1.1 403 Forbidden")
    expect(page.locator("#connection option", has_text="#")).to_have_count(1)
    expect(page.locator("#connection option", has_text="#1")).to_have_count(1)
    stranger.close()


def test_the_bits_of_a_frame(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page)
    message = json.dumps({"drinks": ["coffee"] * 400})
    send(page, message, "JSON")
    rows = frame_rows(page)
    expect(rows).to_have_count(2)
    row = rows.nth(0)
    # Chromium compresses: few bytes on the wire, many in the message.
    expect(row.locator(".flags")).to_have_text("1 100")
    expect(row.locator(".size")).to_have_text(f"{len(message):,}")
    assert int(row.locator(".wire").inner_text()) < len(message) / 20
    row.click()
    frame = page.locator("#frame")
    expect(frame.locator("h3")).to_contain_text("client → server: TEXT")
    fields = frame.locator(".fields tbody tr")
    assert fields.locator("th").all_inner_texts() == [
        *("FIN", "RSV1", "RSV2", "RSV3", "opcode", "MASK", "length", "masking key")
    ]
    expect(fields.nth(1)).to_contain_text("the message is compressed with permessage-deflate")
    expect(fields.nth(1).get_by_role("link")).to_have_attribute(
        "href", "https://www.rfc-editor.org/rfc/rfc7692#section-6"
    )
    key = row.locator(".mask").inner_text()
    expect(fields.nth(7).locator("code")).to_have_text(bytes.fromhex(key).hex(" "))
    # 16 bits to a row, so that the key is in two.
    length = fields.nth(6).locator("code").inner_text()
    halves = [bytes.fromhex(half).hex(" ") for half in (key[:4], key[4:])]
    expect(frame.locator(".ruler .digits")).to_have_text(["1", "1", "0", "0", "0001", "1", length, *halves])
    masked, clear = map(bytes.fromhex, frame.locator(".dump").inner_text().splitlines()[1].split("  ")[1:3])
    assert apply_mask(masked, bytes.fromhex(key)) == clear
    assert json.loads(frame.locator(".text").inner_text()) == json.loads(message)


def test_closing_with_a_code_and_a_reason(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = visit(program)
    connect(page)
    card = page.locator(".peer")
    card.get_by_label("close code").fill("1001")
    card.get_by_role("button", name="Close").click()
    expect(card.locator(".state")).to_contain_text("code must be either 1000, or between 3000 and 4999")
    card.get_by_label("close code").fill("3001")
    card.get_by_label("close reason").fill("enough")
    card.get_by_role("button", name="Close").click()
    expect(card.locator(".state")).to_have_text("closed with 3001 “enough”")
    rows = frame_rows(page)
    expect(rows.locator(".preview")).to_have_text(["3001 'enough'"] * 2)
    rows.nth(1).click()
    expect(page.locator("#frame .meaning")).to_have_text("3001 (a code of libraries and applications), reason 'enough'")
    expect(page.locator("#upgrade")).to_contain_text("closed by the client with 3001")
    page.locator("#which").select_option("data")
    expect(rows).to_have_count(0)
    card.get_by_role("button", name="Connect again").click()
    expect(page.locator(".peer[data-state=open] .number:visible")).to_have_count(1)
    card.get_by_role("button", name="Close").click()
    card.get_by_role("button", name="Remove").click()
    expect(page.locator("#no-peers")).to_be_visible()


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("JSON", "{not json", "This is not JSON"),
        ("hex", "abc", "This is not hex"),
        ("text", "hello", "No peer is open"),
        ("file", "", "Choose a file first"),
    ],
)
def test_an_invalid_payload_is_not_sent(
    start_program: StartProgram, visit: Visit, kind: str, text: str, message: str
) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    if kind != "text":
        connect(page)
    page.get_by_role("textbox", name="Message").fill(text)
    page.get_by_role("radio", name=kind, exact=True).check()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#send-told")).to_contain_text(message)
    expect(page.locator("#send-told.error")).to_be_visible()


def test_bytes_a_file_and_the_history(start_program: StartProgram, visit: Visit, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    card = connect(page)
    send(page, "de ad 0xbe,ef", "hex")
    expect(card.locator("li.received")).to_contain_text("de ad be ef (4 bytes)")
    (tmp_path / "some.bin").write_bytes(bytes(range(256)) * 40)
    page.get_by_role("radio", name="file", exact=True).check()
    page.locator("#file").set_input_files(tmp_path / "some.bin")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(card.locator("li.received").nth(1)).to_contain_text("(10.2 kB)")
    expect(page.locator("#send-told")).to_have_text("Sent 10.2 kB from 1 peer.")
    page.locator("#history-box summary").click()
    expect(page.locator("#history li")).to_contain_text(["file some.bin (10.2 kB)", "hex de ad 0xbe,ef"])
    page.locator("#history button").click()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("de ad 0xbe,ef")
    page.get_by_role("textbox", name="Message").press("Control+Enter")
    expect(card.locator("li.received")).to_have_count(3)


def test_repeating_until_it_is_stopped(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    card = connect(page)
    page.get_by_role("textbox", name="Message").fill("tick")
    page.get_by_role("spinbutton", name="every").fill("10")
    page.get_by_role("button", name="Repeat").click()
    expect(card.locator("li.received").nth(4)).to_have_text("< tick")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Repeat")).to_have_attribute("aria-pressed", "false")


def test_a_frame_that_no_browser_sends(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    page.locator("#cases button", has_text="a frame that is not masked").click()
    case = page.locator("#case")
    expect(case.locator("h3")).to_have_text("The server is sent a frame that is not masked")
    expect(case.locator("dd").nth(0)).to_contain_text("close with 1002")
    expect(case.locator("dd").nth(1)).to_contain_text("good a close with 1002 (protocol error)")
    expect(case.locator(".story")).to_contain_text("TEXT fin=1 rsv=000 mask=none len=5 'hello'")
    assert "81 05 68 65 6c 6c 6f" in case.locator(".dump").nth(0).inner_text().replace("\n", " ")
    # It is among the frames that crossed the wire, too.
    expect(frame_rows(page).filter(has_text="CLOSE").locator(".preview")).to_contain_text("1002")


def test_cases_can_not_be_run_before_they_are_known(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import WebSocketRoute, expect

    let_go: list[Callable[[], None]] = []

    def hold_the_list_back(route: WebSocketRoute) -> None:
        server = route.connect_to_server()

        def on_message(message: str | bytes) -> None:
            if '"cases":' in str(message):
                let_go.append(lambda: route.send(message))
            else:
                route.send(message)

        server.on_message(on_message)

    page = visit(
        start_program(), prepare=lambda page: page.route_web_socket(re.compile("/_rawws/trace$"), hold_the_list_back)
    )
    run_all = page.get_by_role("button", name="Run all")
    while not let_go:
        page.wait_for_timeout(10)
    expect(run_all).to_be_disabled()
    let_go[0]()
    expect(run_all).to_be_enabled()
    expect(page.locator("#score")).to_have_text(f"{len(CASES)} cases")


def test_every_case_that_no_browser_sends_is_good(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    page.get_by_role("button", name="Run all").click()
    expect(page.locator("#score")).to_have_text(f"{len(CASES)} good")
    expect(page.locator("#cases .verdict.good")).to_have_count(len(CASES))


def test_finding_pausing_clearing(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page, 2)
    rows = frame_rows(page)
    send(page, "apple", sender="A")
    send(page, "pear", sender="B")
    expect(rows).to_have_count(6)
    page.get_by_role("searchbox", name="Find").fill("APPLE")
    expect(rows.locator(".preview")).to_have_text(["'apple'"] * 3)
    page.get_by_role("searchbox", name="Find").fill("")
    page.locator("#which").select_option("client")
    expect(rows).to_have_count(2)
    page.locator("#which").select_option("all")
    choose_connection(page, "peer A")
    page.get_by_label("only of the connection above").check()
    expect(rows).to_have_count(3)
    page.get_by_label("only of the connection above").uncheck()
    page.get_by_role("button", name="Pause").click()
    send(page, "plum", sender="A")
    expect(page.locator("#totals")).to_contain_text("9 frames")
    expect(rows).to_have_count(6)
    page.get_by_role("button", name="Pause").click()
    expect(rows).to_have_count(9)
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#totals")).to_have_text("No frames yet.")
    expect(rows).to_have_count(0)


def test_an_export_can_be_decoded(
    start_program: StartProgram, visit: Visit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = visit(start_program("--hello", ""))
    connect(page)
    send(page, "hello")
    frame_rows(page).nth(1).wait_for()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export JSON").click()
    file = tmp_path / "frames.json"
    download.value.save_as(file)
    assert [record["sender"] for record in json.loads(file.read_text())] == ["client", "server"]
    assert rawws.cli.main(["decode", "--brief", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "TEXT, 5 bytes: 'hello'" in shown
    assert "TEXT fin=1 rsv=000 mask=none len=5 'hello'" in shown


def test_ten_thousand_frames(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    program = start_program("--hello", "")
    page = visit(program)
    with dial(f"ws://{program.address}/room", compression=None, proxy=None) as client:
        for number in range(5000):
            client.send(f"message {number}")
        for _ in range(5000):
            client.recv(PATIENCE_S)
        expect(page.locator("#totals")).to_contain_text("10,000 frames")
        rows = frame_rows(page)
        expect(rows.last.locator(".preview")).to_have_text("'message 4999'")
        assert rows.count() < 100  # only visible rows are drawn
        table = page.locator("#table")
        expect(table).to_have_attribute("aria-rowcount", "10001")
        table.focus()
        table.press("Home")
        expect(page.locator("#table [aria-selected=true] .preview")).to_have_text("'message 0'")
        table.press("ArrowDown")
        expect(table).to_have_attribute("aria-activedescendant", "frame-2")
        page.get_by_role("searchbox", name="Find").fill("message 4321")
        expect(rows).to_have_count(2)


def test_secrets_are_masked(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    program = start_program()
    page = visit(program)
    headers = {"Authorization": "Bearer abc", "Cookie": "session=abc"}
    with dial(f"ws://{program.address}/room", additional_headers=headers, proxy=None):
        expect(page.locator(".head.client")).to_contain_text("Authorization: (masked, 10 bytes)")
        expect(page.locator(".head.client")).to_contain_text("Cookie: (masked, 11 bytes)")


# Access


def test_the_link_leads_to_the_page_and_leaves_the_token_nowhere(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program()
    token = program.page_link().partition("=")[2]
    seen: list[tuple[str, str]] = []

    def note(page: Page) -> None:
        page.on("request", lambda request: seen.append((request.url, request.headers.get("referer", ""))))

    page = visit(program, prepare=note)
    assert page.url == f"http://{program.address}/_rawws/"
    assert page.evaluate("document.cookie + document.referrer") == ""
    assert [url for url, _ in seen if token in url] == [program.page_link()]
    assert {referer for _, referer in seen} == {""}
    # Heads of later, watched connections don't have it either.
    page.reload()
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    connect(page)
    expect(page.locator(".head.client")).to_contain_text("GET /room HTTP/1.1")
    assert "rawws-page" not in page.locator(".head.client").inner_text()


def test_servers_at_other_ports_leave_each_other_their_cookies(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect

    programs = [start_program(), start_program()]
    pages = [watch(context, program) for program in programs]
    assert len({cookie["name"] for cookie in context.cookies()}) == 2
    for page in pages:
        page.reload()
        expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")


def test_a_page_of_another_port_may_not_watch_though_its_cookies_are_the_same(
    start_program: StartProgram, context: BrowserContext
) -> None:
    program, other = start_program(), start_program("--no-page")
    watch(context, program)
    page = context.new_page()
    page.goto(f"http://{other.address}/")
    came = page.evaluate(
        """address => new Promise((resolve) => {
          const socket = new WebSocket(`ws://${address}/_rawws/trace`);
          socket.onopen = () => resolve("open");
          socket.onclose = () => resolve("closed");
        })""",
        program.address,
    )
    assert came == "closed"
    read = page.evaluate(
        """address => fetch(`http://${address}/_rawws/`, { credentials: "include" })
          .then((answer) => answer.text(), () => "kept back")""",
        program.address,
    )
    assert read == "kept back"


@pytest.mark.parametrize("place", ["http://localhost:{port}/", "data:text/html,x"])
def test_a_link_in_a_page_of_another_site_leads_there_too(
    start_program: StartProgram, context: BrowserContext, place: str
) -> None:
    program, other = start_program(), start_program("--no-page")
    page = context.new_page()
    page.goto(place.format(port=other.port))  # to a browser it is another site than 127.0.0.1
    page.evaluate(
        """link => {
          const anchor = document.createElement("a");
          anchor.href = link;
          anchor.textContent = "the link in a terminal";
          document.body.append(anchor);
        }""",
        program.page_link(),
    )
    page.get_by_role("link").click()
    page.locator("#watch[data-state=watching]").wait_for()


# A capture that outlives its server


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A separate window, whose console may complain that no server answers."""
    context = browser.new_context(viewport={"width": 1440, "height": 1000})
    context.set_default_timeout(PATIENCE_S * 1000)
    yield context
    context.close()


def watch(context: BrowserContext, program: Program) -> Page:
    """Show the page of a program in a tab."""
    page = context.new_page()
    page.goto(program.page_link())
    page.locator("#watch[data-state=watching]").wait_for()
    return page


def cuts(page: Page) -> Locator:
    return page.locator("#table .row.cut")


def test_a_killed_server_leaves_its_frames_and_the_next_one_continues_after_a_cut(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect

    program = start_program("--page-token", "fixed", "--hello", "")
    page = context.new_page()
    page.goto(f"http://{program.address}/?token=fixed")
    connect(page)
    send(page, "the last words")
    rows = frame_rows(page)
    expect(rows).to_have_count(2)
    number = page.locator(".peer .number").inner_text()
    program.kill()
    expect(page.locator("#watch")).to_have_text("the server has gone; trying again")
    expect(page.locator(".peer .state")).to_have_text("closed without a close (1006)")
    expect(rows.locator(".preview")).to_have_text(["'the last words'"] * 2)
    again = start_program("--port", str(program.port), "--page-token", "fixed", "--hello", "")
    assert again.port == program.port
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(rows).to_have_count(3)
    expect(cuts(page)).to_contain_text("the server ended, and another one has begun")
    expect(page.locator(".peer .number")).to_have_text(f"r1{number}")
    choose_connection(page, f"r1{number}")
    expect(page.locator("#heads")).to_contain_text(f"r1{number}: lost with the server.")
    # The second server numbers from 1 on too, and its connections are others.
    page.get_by_role("button", name="Connect again").click()
    expect(page.locator(".peer .number")).to_have_text(re.compile(r"^#\d+$"))
    send(page, "anew")
    expect(rows).to_have_count(5)
    names = rows.locator(".of").all_inner_texts()
    assert [name.startswith("r1#") for name in names] == [True, True, False, False]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export JSON").click()
    exported = json.loads(download.value.path().read_text())
    assert len({record["connection"] for record in exported}) == 2


def test_a_server_with_another_token_is_watched_again_when_its_link_is_opened(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = watch(context, program)
    connect(page)
    send(page, "the last words")
    expect(frame_rows(page)).to_have_count(2)
    program.kill()
    again = start_program("--port", str(program.port), "--hello", "")
    expect(page.locator("#watch")).to_have_text("not watching: the server has another token")
    expect(page.locator("#notice")).to_contain_text("open the link with ?token=… that the server logged at its start")
    expect(page.locator("#notice")).to_contain_text("The captured frames stay")
    expect(page.locator("#connection option")).to_contain_text(["/room · open when last seen"])
    expect(frame_rows(page)).to_have_count(2)
    other = watch(context, again)
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(page.locator("#notice")).to_be_hidden()
    expect(page.locator("#connection option")).to_contain_text(["/room · ended"])
    expect(frame_rows(page)).to_have_count(3)
    expect(frame_rows(other)).to_have_count(0)


def test_the_link_of_the_next_server_in_the_same_tab_finds_the_capture(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = watch(context, program)
    connect(page)
    send(page, "the last words")
    expect(frame_rows(page)).to_have_count(2)
    program.kill()
    again = start_program("--port", str(program.port), "--hello", "")
    page.reload()
    assert page.inner_text("body").strip() == (
        "The page needs this server's token: open the link with ?token=… that the server logged at its start."
    )
    page.goto(again.page_link())
    for _ in range(2):  # the second time, no frame is between them, so it stays one cut with the same text
        expect(frame_rows(page)).to_have_count(3)
        expect(cuts(page)).to_contain_text("the server ended, and another one has begun")
        expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
        page.reload()


def test_a_reload_keeps_the_capture_in_its_tab_until_it_is_cleared(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    program = start_program("--hello", "")
    page = watch(context, program)
    with dial(f"ws://{program.address}/room", proxy=None, compression=None) as client:
        client.send("before")
        client.recv()
        connect(page)
        send(page, "from the page")
        rows = frame_rows(page)
        expect(rows).to_have_count(5)
        shown = rows.locator(".preview").all_inner_texts()
        totals = page.locator("#totals").inner_text()
        page.reload()
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(rows).to_have_count(6)
        assert rows.locator(".preview").all_inner_texts() == shown
        assert page.locator("#totals").inner_text() == totals
        expect(cuts(page)).to_contain_text("the page was loaded again: nothing was watched meanwhile")
        # The capture is stored for this server and this tab alone.
        assert page.evaluate("sessionStorage.length + localStorage.length") == 0
        assert page.evaluate("indexedDB.databases()") == []
        expect(frame_rows(watch(context, program))).to_have_count(0)
        # The captured frames can be looked at, and the connection continues.
        rows.first.click()
        expect(page.locator("#frame .text")).to_have_text("before")
        client.send("after")
        expect(rows.last.locator(".preview")).to_have_text("'after'")
        expect(page.locator(".head.client")).to_contain_text("GET /room HTTP/1.1")
        page.get_by_role("button", name="Clear").click()
        expect(rows).to_have_count(0)
        expect(page.locator("#connection option")).to_have_count(1)
        page.reload()
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(page.locator("#totals")).to_have_text("No frames yet.")


def test_a_reload_keeps_the_newest_of_a_large_capture_and_counts_the_rest(
    start_program: StartProgram, visit: Visit
) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    program = start_program("--hello", "", "--mode", "echo")
    page = visit(program)
    with dial(f"ws://{program.address}/room", proxy=None, compression=None) as client:
        for number in range(1000):
            client.send(f"{number}:".ljust(1000, "x"))
            client.recv()
        expect(page.locator("#totals")).to_contain_text("2,000 frames")
        page.reload()
        expect(page.locator("#totals")).to_contain_text("2,000 frames")
        found = re.search(r"the first ([\d,]+) are forgotten", page.locator("#totals").inner_text())
        assert found is not None
        forgotten = int(found[1].replace(",", ""))
        assert 1000 < forgotten < 1800
        expect(page.locator("#table")).to_have_attribute("aria-rowcount", str(2000 - forgotten + 2))
        expect(frame_rows(page).nth(-2).locator(".preview")).to_contain_text("'999:xxx")


@pytest.mark.parametrize(
    "kept",
    [
        *("nonsense", "[]", "1", '{"version": 2}', '{"version": 1}', '{"version": 1, "connections": 1, "frames": 1}'),
        '{"version": 1, "run": "x", "began": "x", "wireBytes": {}, "connections": [], "frames": []}',
        '{"version": 1, "connections": [{"run": 1}, {"checks": 1}, null], "frames": []}',
        '{"version": 1, "connections": [], "frames": [{"of": "1:1", "payload": 5}, {"kind": "cut", "told": 1}, {}]}',
    ],
)
def test_leftovers_of_another_server_of_this_origin_do_no_harm(
    start_program: StartProgram, visit: Visit, kept: str
) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    page.evaluate("kept => addEventListener('pagehide', () => sessionStorage.setItem('rawws-capture', kept))", kept)
    page.reload()
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(page.locator("#totals")).to_have_text("No frames yet.")
    connect(page)
    send(page, "hello")
    expect(frame_rows(page)).to_have_count(2)


# Reports the received messages of each connection that has ended.
TAKES_ANY_WEBSOCKET = """
import contextlib, json, sys
from functools import partial
import rawws, trio

async def handler(ws):
    received = []
    await ws.send("hello from another server")
    with contextlib.suppress(rawws.ConnectionClosed):
        async for message in ws:
            received.append(str(message))
    print(json.dumps({"path": ws.path, "received": received}), flush=True)

trio.run(partial(rawws.serve, handler, int(sys.argv[1]), host="127.0.0.1"))
"""


def test_another_server_on_the_same_port_is_sent_nothing(start_program: StartProgram, context: BrowserContext) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = watch(context, program)
    connect(page)
    send(page, "a secret of the first one")
    expect(frame_rows(page)).to_have_count(2)
    program.kill()
    command = [sys.executable, "-c", TAKES_ANY_WEBSOCKET, str(program.port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert json.loads(other.stdout.readline()) == {"path": "/_rawws/trace", "received": []}
        finally:
            other.kill()
    expect(page.locator("#watch")).to_have_text("the server has gone; trying again")
    expect(frame_rows(page)).to_have_count(2)


def test_a_server_without_the_page_on_the_same_port_refuses_to_be_watched(
    start_program: StartProgram, context: BrowserContext
) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = watch(context, program)
    program.kill()
    other = start_program("--port", str(program.port), "--no-page")
    other.wait_for_line("refused with 404 (no_room_here)")
    expect(page.locator("#watch")).to_have_text("the server has gone; trying again")


def test_connections_that_ended_or_began_while_the_page_was_not_watching(
    start_program: StartProgram, visit: Visit
) -> None:
    from playwright.sync_api import WebSocketRoute, expect
    from websockets.sync.client import connect as dial

    traces: list[WebSocketRoute] = []

    def follow(route: WebSocketRoute) -> None:
        traces.append(route)
        route.connect_to_server()

    program = start_program("--hello", "")
    page = visit(program, prepare=lambda page: page.route_web_socket(re.compile("/_rawws/trace$"), follow))
    with dial(f"ws://{program.address}/first", proxy=None) as first:
        first.send("hello")
        expect(frame_rows(page)).to_have_count(2)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        held = threading.Event()
        page.route("**/_rawws/", lambda route: route.abort() if not held.is_set() else route.continue_())
        traces[0].close()
        expect(page.locator("#watch")).to_have_text("the server has gone; trying again")
    with dial(f"ws://{program.address}/second", proxy=None):
        held.set()
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(cuts(page)).to_contain_text("the connection to the server was lost: nothing was watched meanwhile")
        choose_connection(page, "/first")
        expect(page.locator("#heads")).to_contain_text("ended while the page did not watch")
        choose_connection(page, "/second")
        expect(page.locator("#heads")).to_contain_text("its handshake isn't known")


def test_connections_that_were_open_before_the_page(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    program = start_program("--hello", "")
    with dial(f"ws://{program.address}/a", proxy=None):
        with dial(f"ws://{program.address}/b", proxy=None) as other:
            program.wait_for_line("joined room /b")
            page = visit(program)
            expect(page.locator("#watch")).to_have_text("watching: 2 WebSockets open")
            option = page.locator("#connection option", has_text="· /b · open")
            expect(option).to_have_count(1)
            other.send("hello")
            expect(frame_rows(page)).to_have_count(2)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(page.locator("#connection option", has_text="· /b · ended")).to_have_count(1)


def test_the_page_of_a_tap(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as dial

    behind = start_program("--no-page", "--allow-origin", "*")
    tap = start_program.tap(behind.address, "--page", "0")
    tap.page_link()
    with dial(f"ws://{tap.address}/before", proxy=None):
        tap.wait_for_line("WebSocket begins")
        page = visit(tap)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(page.locator("#connection option", has_text="· /before · open")).to_have_count(1)
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(page.locator("#where")).to_have_text(f"tap at ws://{tap.address}")
    expect(page.get_by_role("textbox", name="URL")).to_have_value(f"ws://{tap.address}/")
    card = connect(page)
    send(page, "through the tap")
    expect(card.locator("li.received")).to_contain_text([HELLO, "through the tap"])
    expect(frame_rows(page)).to_have_count(5)  # with the closes of the other one
    expect(page.locator(".head.client .check.yes").first).to_be_visible()
    page.locator("#cases button", has_text="RSV2").click()
    expect(page.locator("#case dd").nth(1)).to_contain_text("good a close with 1002")


def test_one_room_three_ways(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "", "--history", "10")
    page = visit(program)
    page.get_by_role("textbox", name="Room").fill("/room/x")
    page.get_by_role("button", name="Read it three ways").click()
    program.wait_for_line("joined room /room/x")
    program.wait_for_line("joined room /room/x")
    if not any("&wait=" in line for line in program.lines):
        program.wait_for_line("&wait=")
    page.get_by_label("Publish").fill("by POST")
    rows = page.locator("#ways-rows tr")
    for count in (1, 2):
        page.get_by_role("button", name="POST", exact=True).click()
        expect(page.locator("#post-told")).to_contain_text('202: {"id":')
        expect(rows.locator(".way-messages")).to_have_text([str(count)] * 3)
        expect(rows.locator(".way-last")).to_have_text(["by POST"] * 3)
    socket, events, polling = (rows.nth(index) for index in range(3))
    expect(socket.locator(".way-body")).to_have_text("18 bytes")  # two frames of 2 + 7 bytes
    expect(events.locator(".way-body")).to_have_text(
        f"{2 * len('id: 12345678-1') + 2 * len('data: by POST') + 6} bytes"
    )
    for row in (socket, events, polling):
        expect(row.locator(".way-heads")).not_to_have_text("0 bytes")
    costs = [int(row.locator(".way-cost").inner_text().split()[0]) for row in (socket, events, polling)]
    assert all(cost > 100 for cost in costs), "the heads are paid for as well"
    page.get_by_role("button", name="Stop reading").click()


@pytest.mark.parametrize("name", ["browser", "curl", "Python", "Node"])
def test_each_client_snippet_of_the_page_works(
    start_program: StartProgram, visit: Visit, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = visit(program)
    page.get_by_role("textbox", name="Room").fill("/room/y")
    page.get_by_role("radio", name=name).check()
    snippet = page.locator("#snippet").inner_text()
    page.get_by_role("textbox", name="URL").fill(f"ws://{program.address}/room/y")
    card = connect(page)
    said = card.locator("li.received")
    if name == "browser":
        page.evaluate(f"() => {{ {snippet} }}")
        expect(said).to_contain_text("hello from a browser")
        return
    commands = {"curl": ["sh", "-c"], "Python": [sys.executable, "-c"], "Node": ["node", "-e"]}
    need(shutil.which(commands[name][0]), commands[name][0])
    if name == "Node":
        monkeypatch.setenv("NODE_PATH", str(need_node_module("ws").parent.resolve()))
    with subprocess.Popen([*commands[name], snippet], stdout=subprocess.PIPE, text=True) as client:
        try:
            expect(said).to_contain_text(f"hello from {name}")
            assert client.stdout is not None
            first = client.stdout.readline()
            assert ('{"id":' in first) if name == "curl" else (first == f"hello from {name}\n")
        finally:
            client.kill()


LOOKS = [("light", 1440), ("dark", 1440), ("light", 390), ("dark", 390)]


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_axe_finds_no_serious_fault(start_program: StartProgram, visit: Visit, scheme: str, width: int) -> None:
    axe = (need_node_module("axe-core") / "axe.min.js").read_text("utf-8")
    page = visit(start_program(), color_scheme=scheme, viewport={"width": width, "height": 900})
    assert violations(page, axe) == []
    connect(page, 2)
    send(page, '{"hello": 1}', "JSON")
    page.locator("#history-box summary").click()
    frame_rows(page).nth(2).click()
    page.locator("#frame .ruler").wait_for()
    page.locator("#cases button", has_text="version 12").click()
    page.locator("#case dl").wait_for()
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize(("scheme", "width"), LOOKS)
def test_axe_finds_no_serious_fault_in_a_cut_and_a_notice(
    start_program: StartProgram, browser: Browser, scheme: Literal["light", "dark"], width: int
) -> None:
    axe = (need_node_module("axe-core") / "axe.min.js").read_text("utf-8")
    program = start_program("--hello", "", "--page-token", "fixed")
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900})
    page = context.new_page()
    page.goto(f"http://{program.address}/?token=fixed")
    connect(page)
    send(page, "hello")
    frame_rows(page).nth(1).wait_for()
    for token in ("fixed", "another"):
        program.kill()
        program.wait()
        program = start_program("--port", str(program.port), "--page-token", token)
        if token == "fixed":
            cuts(page).wait_for()
    page.locator("#notice").wait_for()
    page.locator("#table").press("End")  # the keyboard reaches the cut too
    page.locator("#table .row.cut[aria-selected=true]").wait_for()
    assert violations(page, axe) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()


def violations(page: Page, axe: str) -> list[str]:
    """Return the serious and critical violations that axe-core finds."""
    page.evaluate(axe)
    # Passed rules need no details, which take most of the time.
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{violation['impact']} {violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def test_the_page_works_by_keyboard_alone(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    page.get_by_role("textbox", name="URL").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".peer .number:visible")).to_have_count(1)
    page.get_by_role("textbox", name="Message").focus()
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    expect(frame_rows(page)).to_have_count(2)
    page.locator("#table").focus()
    page.keyboard.press("End")
    expect(page.locator("#frame h3")).to_contain_text("server → client: TEXT")
    page.locator("#cases button").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#case h3")).to_have_text("The server is sent a handshake as it should be")
