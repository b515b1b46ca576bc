"""A capture outlives its server and a reload of the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.page.panes import Visit, connect, connection, cuts, details, frame_rows, peer, send, watch
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext


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
    number = peer(page, "A").locator(".number").inner_text()
    program.kill()
    expect(page.locator("#watch")).to_have_text("the server has gone; trying again")
    expect(details(page).locator("dd.state")).to_have_text("lost: it ended without a close (1006)")
    expect(rows.locator(".preview")).to_have_text(["the last words"] * 2)
    again = start_program("--port", str(program.port), "--page-token", "fixed", "--hello", "")
    assert again.port == program.port
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(rows).to_have_count(3)
    expect(cuts(page)).to_contain_text("the server ended, and another one has begun")
    expect(peer(page, "A").locator(".number")).to_have_text(f"r1{number}")
    connection(page, f"r1{number}").click()
    expect(details(page)).to_contain_text("lost with the server.")
    # The second server numbers from 1 on too, and its connections are others.
    page.get_by_role("button", name="Connect again").click()
    expect(peer(page, "A").locator(".number")).to_have_text(re.compile(r"^#\d+$"))
    send(page, "anew")
    expect(rows).to_have_count(5)
    names = rows.locator(".of").all_inner_texts()
    assert [name.startswith("r1#") for name in names] == [True, True, False, False]
    with page.expect_download() as download:
        page.get_by_role("button", name="Export").click()
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
    expect(peer(page, "A")).to_contain_text("open when last seen")
    expect(frame_rows(page)).to_have_count(2)
    other = watch(context, again)
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(page.locator("#notice")).to_be_hidden()
    expect(peer(page, "A")).to_contain_text("ended")
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
        expect(details(page).locator(".text")).to_have_text("before")
        client.send("after")
        expect(rows.last.locator(".preview")).to_have_text("after")
        connection(page, "#1").click()
        expect(page.locator(".head.client")).to_contain_text("GET /room HTTP/1.1")
        page.get_by_role("button", name="Clear").click()
        expect(rows).to_have_count(0)
        expect(page.locator(".connection")).to_have_count(1)
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
        expect(frame_rows(page).nth(-2).locator(".preview")).to_contain_text("999:xxx")


LEFT_CONNECTION: dict[str, Any] = {
    **{"run": "r1", "number": 1, "from": "", "path": "", "agent": "", "opened": 1, "ended": "ended", "cause": None},
    **{"request": None, "response": None, "accept": None, "refused": None, "switched": False, "frames": 0},
    "checks": {"client": [], "server": []},
}
LEFTOVERS = [
    *("nonsense", "[]", "1", '{"version": 1}', '{"version": 2}', '{"version": 2, "connections": 1, "frames": 1}'),
    '{"version": 2, "run": "x", "began": "x", "wireBytes": {}, "connections": [], "frames": []}',
    '{"version": 2, "connections": [{"run": "r1"}, {"checks": 1}, null], "frames": []}',
    '{"version": 2, "connections": [], "frames": [{"of": "r1:1", "number": 1, "payload": 5}, {"kind": "cut"}, {}]}',
    json.dumps({"version": 2, "frames": [], "connections": [LEFT_CONNECTION | {"request": {"lines": []}}]}),
    json.dumps({"version": 2, "frames": [], "connections": [LEFT_CONNECTION | {"label": "#1", "__proto__": None}]}),
]


def test_leftovers_of_another_server_of_this_origin_do_no_harm(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    for kept in LEFTOVERS:
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
