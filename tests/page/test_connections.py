"""Pane "Connections": all that are open, and those of the page itself with what becomes of them."""

from __future__ import annotations

import re
import threading
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from tests.page.conftest import REFUSED
from tests.page.panes import (
    HELLO,
    Visit,
    connect,
    connection,
    cuts,
    details,
    dial,
    frame_rows,
    peer,
    received,
    send,
    watch,
)
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page


def test_a_message_of_one_peer_arrives_at_all_three(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    connect(page, 3)
    send(page, "hello from A", sender="A")
    # Three greetings; then one frame in, and three out.
    rows = frame_rows(page)
    expect(rows).to_have_count(7)
    expect(page.locator("#table .rows .row.client")).to_have_count(1)
    expect(page.locator("#table .rows .row.client .preview")).to_have_text("hello from A")
    names = page.locator("#table .rows .row.server .of").all_inner_texts()
    assert {name.split()[1] for name in names} == {"A", "B", "C"}
    expect(page.locator("#watch")).to_have_text("watching: 3 WebSockets open")
    for name in "ABC":
        peer(page, name).click()
        expect(received(page)).to_contain_text([HELLO, "hello from A"])
        expect(details(page).locator("li.sent")).to_have_count(1 if name == "A" else 0)


def test_the_newest_connections_are_kept_and_ended_ones_dropped_first(
    start_program: StartProgram, visit: Visit
) -> None:
    page = visit(start_program())
    kept = page.evaluate(
        """async () => {
          const { Store } = await import("/_rawws/state/store.js");
          const store = new Store();
          store.takeOpen([], 0);
          const tell = (...records) => store.take(records);
          const open = (first, last) => {
            for (let at = first; at <= last; at++) tell({ kind: "open", connection: at, from: "x", at });
          };
          const all = () => [...store.connections.values()].map((each) => each.number);
          const numbers = () => all().filter((each) => each <= 3 || each > 1000);
          open(1, 500);
          tell({ kind: "end", connection: 2, told: "gone" });
          open(501, 501);
          const first = numbers();
          open(502, 1002);
          tell({ kind: "end", connection: 1, told: "gone" });
          return [first, numbers(), store.connections.size];
        }"""
    )
    assert kept == [[1, 3], [1001, 1002], 500]


def test_the_page_shows_refused_requests_for_it_and_not_its_own(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program()
    page = visit(program)
    stranger = HTTPConnection(program.address, timeout=PATIENCE_S)
    stranger.request("GET", "/_rawws/main.js")
    assert stranger.getresponse().status == 403
    connection(page, "/_rawws/main.js").click()
    expect(page.locator(".head.server")).to_contain_text("HTTP/1.1 403 Forbidden")
    expect(page.locator(".connection")).to_have_count(1)
    expect(page.locator(".connection")).to_contain_text("#1")
    stranger.close()


def test_closing_with_a_code_and_a_reason(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page)
    peer(page, "A").click()
    box = details(page)
    state = box.locator("dd.state")
    box.get_by_label("close code").fill("1001")
    box.get_by_role("button", name="Close").click()
    expect(state).to_contain_text("code must be either 1000, or between 3000 and 4999")
    box.get_by_label("close code").fill("3001")
    box.get_by_label("close reason").fill("enough")
    box.get_by_role("button", name="Close").click()
    expect(state).to_have_text("closed with 3001 “enough”")
    expect(box).to_contain_text("closed by the client with 3001")
    rows = frame_rows(page)
    expect(rows.locator(".preview")).to_have_text(["3001 enough"] * 2)
    rows.nth(1).click()
    expect(box.locator(".meaning")).to_have_text("3001 (a code of libraries and applications), reason 'enough'")
    peer(page, "A").click()
    box.get_by_role("button", name="Connect again").click()
    expect(page.locator(".connection[data-state=open] .badge")).to_have_text("A")
    expect(page.locator(".connection .badge")).to_have_count(1)  # the connection before is its own no more
    peer(page, "A").click()
    box.get_by_role("button", name="Close").click()
    box.get_by_role("button", name="Remove").click()
    expect(page.locator(".connection .badge")).to_have_count(0)


def test_a_path_as_url_means_this_server(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program()
    page = visit(program)
    dial(page, "/kitchen?name=Ada&token=abc")
    row = peer(page, "A")
    expect(row).to_contain_text("/kitchen?name=Ada&token=(masked)")
    expect(row.locator(".number")).to_have_text("#1")  # it is recognized though the server masks its token
    row.click()
    expect(details(page)).to_contain_text(f"ws://{program.address}/kitchen?name=Ada&token=(masked)")
    assert "abc" not in page.locator("main").inner_text()
    dial(page, f"http://{program.address}/other")
    expect(peer(page, "B").locator(".number")).to_have_text("#2")
    dial(page, "ftp://nowhere")
    expect(page.locator("#dial-error")).to_contain_text("“ftp://nowhere” is not a WebSocket's URL")


def test_a_connection_that_never_opened_says_why(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    elsewhere = start_program("--no-page")
    page = visit(start_program("--subprotocol", "chat.v2", "--max-peers", "1"), allows=REFUSED)
    connect(page)
    state, again = details(page).locator("dd.state"), details(page).get_by_role("button", name="Connect again")

    def expect_why(name: str, text: str, *, may_help: bool) -> None:
        peer(page, name).click()
        expect(state).to_contain_text(text)
        expect(again).to_be_visible(visible=may_help)

    dial(page, "/_rawws/nothing")
    expect(peer(page, "B")).to_contain_text("refused 404")
    expect_why("B", "refused with 404 (", may_help=False)
    dial(page, "/room")
    expect_why("C", "refused with 503 (", may_help=True)
    page.get_by_role("textbox", name="Subprotocols").fill("chat.v9")
    dial(page, "/empty")
    expect(peer(page, "D")).to_contain_text("not opened")
    expect_why("D", "no common subprotocol: the server speaks none of chat.v9", may_help=False)
    page.get_by_role("textbox", name="Subprotocols").fill("not a, token@")
    dial(page, "/empty")
    expect_why("E", "'token@' is invalid", may_help=False)
    page.get_by_role("textbox", name="Subprotocols").fill("")
    dial(page, f"ws://{elsewhere.address}/room")
    expect_why("F", f"{elsewhere.address} did not answer, or refused", may_help=True)


def test_a_peer_that_is_to_reconnect_is_dialled_again(start_program: StartProgram, context: BrowserContext) -> None:
    from playwright.sync_api import expect

    program = start_program("--page-token", "fixed", "--hello", "")
    page = context.new_page()
    page.goto(f"http://{program.address}/?token=fixed")
    page.get_by_role("checkbox", name="reconnect when lost").check()
    connect(page)
    program.kill()
    expect(details(page).locator("dd.state")).to_contain_text("it is dialled again in a moment")
    start_program("--port", str(program.port), "--page-token", "fixed", "--hello", "")
    expect(page.locator(".connection[data-state=open] .badge")).to_have_text("A")
    expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")


def test_frames_of_the_chosen_connections_alone(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page, 3)
    send(page, "hello", sender="A")
    rows = frame_rows(page)
    expect(rows).to_have_count(4)
    peer(page, "A").click(modifiers=["Control"])
    expect(rows).to_have_count(2)
    expect(peer(page, "A")).to_have_attribute("aria-selected", "true")
    page.locator("#list").press("ArrowUp")  # from A to B, which is newer
    page.locator("#list").press("Space")
    expect(rows).to_have_count(3)
    expect(page.locator("#chosen")).to_contain_text("Frames of #1, #2")
    page.get_by_role("button", name="show all").click()
    expect(rows).to_have_count(4)
    peer(page, "C").click()
    page.get_by_role("button", name="List its frames only").click()
    expect(rows).to_have_count(1)


def test_connections_that_were_open_before_the_page(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as open_websocket

    program = start_program("--hello", "")
    with open_websocket(f"ws://{program.address}/a", proxy=None, user_agent_header="tester/7 (x)"):
        with open_websocket(f"ws://{program.address}/b", proxy=None) as other:
            program.wait_for_line("joined room /b")
            page = visit(program, at="#/connections/1")
            expect(page.locator("#watch")).to_have_text("watching: 2 WebSockets open")
            expect(details(page).get_by_role("heading", name="Connection #1")).to_be_visible()  # as the link says
            expect(connection(page, "/b")).to_contain_text("open")
            expect(connection(page, "/a")).to_contain_text(re.compile(r"tester 7 · 127\.0\.0\.1:\d+"))
            # Its handshake is known too, though nothing watched it.
            connection(page, "/a").click()
            expect(page.locator(".head.client")).to_contain_text("GET /a HTTP/1.1")
            expect(page.locator(".accept li")).to_have_count(4)
            expect(page.locator(".check.no")).to_have_count(0)
            other.send("hello")
            expect(frame_rows(page)).to_have_count(2)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(connection(page, "/b")).to_contain_text("ended")
        page.get_by_role("combobox", name="Connections to list").select_option("open")
        expect(page.locator(".connection")).to_have_count(1)


def test_connections_that_ended_or_began_while_the_page_was_not_watching(
    start_program: StartProgram, visit: Visit
) -> None:
    from playwright.sync_api import WebSocketRoute, expect
    from websockets.sync.client import connect as open_websocket

    feeds: list[WebSocketRoute] = []

    def follow(route: WebSocketRoute) -> None:
        feeds.append(route)
        route.connect_to_server()

    program = start_program("--hello", "")
    page: Page = visit(program, prepare=lambda page: page.route_web_socket(re.compile("/_rawws/trace$"), follow))
    with open_websocket(f"ws://{program.address}/first", proxy=None) as first:
        first.send("hello")
        expect(frame_rows(page)).to_have_count(2)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        held = threading.Event()
        page.route("**/_rawws/", lambda route: route.abort() if not held.is_set() else route.continue_())
        feeds[0].close()
        expect(page.locator("#watch")).to_have_text("the server has gone; trying again")
    with open_websocket(f"ws://{program.address}/second", proxy=None):
        held.set()
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(cuts(page)).to_contain_text("the connection to the server was lost: nothing was watched meanwhile")
        connection(page, "/first").click()
        expect(details(page)).to_contain_text("ended while the page did not watch")
        connection(page, "/second").click()
        expect(page.locator(".head.client")).to_contain_text("GET /second HTTP/1.1")


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
