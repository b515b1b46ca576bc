"""View "Break it": cases that the server tries on itself."""

from __future__ import annotations

import re
from collections.abc import Callable

from rawws.inspection.conformance import CASES
from tests.page.panes import Visit, connection, frame_rows, go
from tests.serving.programs import StartProgram


def test_a_frame_that_no_browser_sends(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program(), at="#/break")
    page.locator("#cases button", has_text="a frame that is not masked").click()
    case = page.locator("#case")
    expect(case.locator("h3")).to_have_text("The server is sent a frame that is not masked")
    expect(case.locator("dd").nth(0)).to_contain_text("close with 1002")
    expect(case.locator("dd").nth(1)).to_contain_text("good a close with 1002 (protocol error)")
    expect(case.locator(".story")).to_contain_text("TEXT fin=1 rsv=000 mask=none len=5 'hello'")
    assert "81 05 68 65 6c 6c 6f" in case.locator(".dump").nth(0).inner_text().replace("\n", " ")
    # The result is beside the case, and both are in view.
    expect(page.locator("#cases button", has_text="a frame that is not masked")).to_be_in_viewport()
    expect(case.locator("h3")).to_be_in_viewport()
    expect(page.locator("#score")).to_have_text(f"1 good, {len(CASES) - 1} not run")
    # It is among the frames that crossed the wire, too.
    assert page.evaluate("location.hash") == "#/break/unmasked"
    go(page, "Frames")
    expect(frame_rows(page).filter(has_text="CLOSE").locator(".preview")).to_contain_text("1002")
    go(page, "Connections")
    expect(connection(page, "/_rawws/break-it")).to_be_visible()


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
        start_program(),
        prepare=lambda page: page.route_web_socket(re.compile("/_rawws/trace$"), hold_the_list_back),
        at="#/break",
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

    page = visit(start_program(), at="#/break")
    page.get_by_role("button", name="Run all").click()
    expect(page.locator("#score")).to_have_text(f"{len(CASES)} good")
    expect(page.locator("#cases .verdict.good")).to_have_count(len(CASES))
    groups = page.locator("#cases section")
    expect(groups.locator("h3")).to_contain_text(["The handshake", "Legal frames", "Broken frames", "Closing"])
    counts = groups.locator(".score").all_inner_texts()
    assert sum(int(count.removesuffix(" good")) for count in counts) == len(CASES)
    # All of them are one Tab stop, in which the arrow keys move.
    expect(page.locator("#cases button[tabindex='0']")).to_have_count(1)
    page.locator("#cases button").first.focus()
    page.keyboard.press("End")
    expect(page.locator("#cases button").last).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.locator("#cases button").nth(-2)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator("#case")).to_be_focused()
    page.keyboard.press("Shift+Tab")
    expect(page.locator("#cases button").nth(-2)).to_be_focused()
