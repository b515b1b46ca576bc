"""View "Other ways in", and the page of a tap, which promises nothing about another server's rooms."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.browser import need_node_module
from tests.page.panes import HELLO, Visit, connect, connection, dial, frame_rows, go, peer, received, send
from tests.serving.machine import need
from tests.serving.programs import StartProgram


def test_one_room_three_ways(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", HELLO, "--history", "10")
    page = visit(program, at="#/ways")
    page.get_by_role("textbox", name="Room").fill("/room/x")
    page.get_by_role("textbox", name="Publish").fill("before they read")
    page.get_by_role("button", name="POST", exact=True).click()
    expect(page.locator("#ways-told")).to_contain_text('202: {"id":')
    page.get_by_role("button", name="Read it three ways").click()
    expect(page.locator("#ways-told")).to_contain_text("All three read")
    rows = page.locator("#ways-rows tr")
    page.get_by_role("textbox", name="Publish").fill("by POST")
    for count in (1, 2):
        page.get_by_role("button", name="POST", exact=True).click()
        expect(page.locator("#ways-told")).to_contain_text('202: {"id":')
        # The same messages with the same ids: a greeting, and what was there before, are not among them.
        expect(rows.locator(".way-messages")).to_have_text([str(count)] * 3)
        expect(rows.locator(".way-last")).to_have_text(["by POST"] * 3)
        assert len(set(rows.locator(".way-id").all_inner_texts())) == 1
    socket, events, polling = (rows.nth(index) for index in range(3))
    message_id = socket.locator(".way-id").inner_text()
    line = len('{"id":"') + len(message_id) + len('"}\n')
    expect(socket.locator(".way-body")).to_have_text(f"{2 * (2 + line + 7)} bytes")
    expect(socket.locator(".way-besides")).to_contain_text("a greeting, ")
    expect(events.locator(".way-body")).to_have_text(
        f"{2 * (len('id: ') + len(message_id) + len('data: by POST') + 3)} bytes"
    )
    for row in (socket, events, polling):
        expect(row.locator(".way-heads")).not_to_have_text("0 bytes")
    costs = [int(row.locator(".way-cost").inner_text().split()[0]) for row in (socket, events, polling)]
    assert all(cost > 100 for cost in costs), "the heads are paid for as well"
    page.get_by_role("button", name="Stop reading").click()
    expect(page.get_by_role("button", name="Read it three ways")).to_be_visible()


def test_each_client_snippet_of_the_page_works(
    start_program: StartProgram, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = visit(program, permissions=["clipboard-read", "clipboard-write"])
    dial(page, "/room/y")
    peer(page, "A").click()
    page.get_by_role("link", name="Other ways in").click()
    page.get_by_role("textbox", name="Room").fill("/room/y")
    monkeypatch.setenv("NODE_PATH", str(need_node_module("ws").parent.resolve()))
    commands = {"curl": ["sh", "-c"], "Python": [sys.executable, "-c"], "Node": ["node", "-e"]}
    for name in ("browser", "curl", "Python", "Node"):
        page.get_by_role("radio", name=name).check()
        page.locator("#copy-snippet").get_by_role("button", name="Copy").click()
        expect(page.locator("#copy-snippet .copied")).to_have_text("Copied.")
        snippet = page.evaluate("navigator.clipboard.readText()")
        assert snippet == page.locator("#snippet").inner_text()
        said = received(page).get_by_text(f"hello from {'a browser' if name == 'browser' else name}")
        if name == "browser":
            page.evaluate(f"() => {{ {snippet} }}")
            expect(said).to_have_count(1)
            continue
        need(shutil.which(commands[name][0]), commands[name][0])
        with subprocess.Popen([*commands[name], snippet], stdout=subprocess.PIPE, text=True) as client:
            try:
                expect(said).to_have_count(1)
                assert client.stdout is not None
                first = client.stdout.readline()
                assert ('{"id":' in first) if name == "curl" else (first == f"hello from {name}\n")
            finally:
                client.kill()


def test_the_page_of_a_tap(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as open_websocket

    behind = start_program("--no-page", "--allow-origin", "*")
    tap = start_program.tap(behind.address, "--page", "0")
    tap.page_link()
    with open_websocket(f"ws://{tap.address}/before", proxy=None, user_agent_header="tester/7"):
        tap.wait_for_line("WebSocket begins")
        page = visit(tap)
        expect(page.locator("#watch")).to_have_text("watching: 1 WebSocket open")
        expect(connection(page, "/before")).to_contain_text("tester 7")
        connection(page, "/before").click()
        expect(page.locator(".head.client")).to_contain_text("GET /before HTTP/1.1")
        # It is another server, of whose rooms nothing is known.
        shown = page.locator("main").inner_text()
        assert "room" not in shown.lower()
        go(page, "Other ways in")
        expect(page.locator("#no-ways")).to_contain_text("A tap shows another server's WebSockets")
        expect(page.get_by_role("button", name="Read it three ways")).to_be_hidden()
        go(page, "Connections")
    expect(page.locator("#watch")).to_have_text("watching: 0 WebSockets open")
    expect(page.locator("#where")).to_have_text(f"tap at ws://{tap.address}")
    expect(page.get_by_role("textbox", name="URL")).to_have_value("/")
    connect(page)
    peer(page, "A").click()
    send(page, "through the tap")
    expect(received(page)).to_contain_text([HELLO, "through the tap"])
    expect(frame_rows(page)).to_have_count(5)  # with the closes of the other one
    expect(page.locator(".head.client .check.yes").first).to_be_visible()
    go(page, "Break it")
    page.locator("#cases button", has_text="RSV2").click()
    expect(page.locator("#case dd").nth(1)).to_contain_text("good a close with 1002")
