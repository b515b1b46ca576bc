"""The bench: panes that are resized, folded, themed and narrow; axe; the keyboard alone."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.browser import need_node_module
from tests.page.conftest import REFUSED
from tests.page.panes import NAVIGATION, Visit, connect, details, dial, filter_by, frame_rows, go, send
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

NARROW = {"width": 390, "height": 844}


# One below the other, so that one look at the page is enough.
SHOW_ALL_PANES = """() => {
  document.getElementById("bench").style.display = "block";
  for (const pane of document.querySelectorAll(".pane")) pane.style.display = "flex";
}"""


def violations(page: Page, within: str = "html") -> list[str]:
    """Return the serious and critical violations that axe-core finds."""
    # Passed rules need no details, which take most of the time.
    found = page.evaluate("within => axe.run(within, {resultTypes: ['violations']})", within)
    return [
        f"{violation['impact']} {violation['id']}: {node['html'][:200]} {node['failureSummary']}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


def fill_panes(page: Page) -> None:
    """Put something into each pane: open, refused and chosen connections, frames, what was sent and saved."""
    go(page, "Connections")
    connect(page, 2)
    dial(page, "/_rawws/nothing")
    page.locator(".connection[data-state=refused]").wait_for()
    go(page, "Send")
    send(page, '{"hello": 1}', "JSON")
    page.get_by_role("button", name="Save", exact=True).click()
    go(page, "Connections")
    page.locator("#list").press("Home")
    page.locator("#list").press("Space")
    page.get_by_role("button", name="show all", exact=True).wait_for()
    page.get_by_role("button", name="show all", exact=True).click()


def fill_queue(page: Page) -> None:
    """Have a worker with a job and one without, and a dead job."""
    page.get_by_role("button", name="Start two workers").click()
    page.get_by_role("button", name="Publish jobs").click()
    page.locator(".jobs li").nth(1).wait_for()
    page.get_by_role("button", name="Kill").last.click()
    page.get_by_role("button", name="term").first.click()
    page.locator("#queue-dead li").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{"width": 1440, "height": 900}, NARROW], ids=["wide", "narrow"])
def test_axe_finds_no_serious_fault_in_any_pane(
    start_program: StartProgram, visit: Visit, scheme: str, size: dict[str, int]
) -> None:
    axe = (need_node_module("axe-core") / "axe.min.js").read_text("utf-8")
    page = visit(start_program("--queue-in-memory"), color_scheme=scheme, viewport=size, allows=REFUSED)
    page.evaluate(axe)
    fill_panes(page)
    go(page, "Frames")
    frame_rows(page).filter(has_text="hello").first.click()
    details(page).locator(".ruler").wait_for()
    go(page, "Other ways in")
    page.get_by_role("button", name="Read it three ways").click()
    page.get_by_text("All three read").wait_for()
    fill_queue(page)
    go(page, "Break it")
    page.locator("#cases button", has_text="version 12").click()
    page.locator("#case dl").wait_for()
    page.evaluate(SHOW_ALL_PANES)
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    # Then what the panes show at other times: an upgrade, and what hides all frames.
    page.evaluate("location.hash = '#/connections/1'")
    details(page).locator(".accept").wait_for()
    filter_by(page, "nothing-has-this")
    page.get_by_role("button", name="Show all frames").wait_for()
    assert violations(page, "#details, #frames") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]


def test_axe_finds_no_serious_fault_in_a_cut_and_a_notice(start_program: StartProgram, browser: Any) -> None:
    axe = (need_node_module("axe-core") / "axe.min.js").read_text("utf-8")
    program = start_program("--hello", "", "--page-token", "fixed")
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    page.goto(f"http://{program.address}/?token=fixed")
    page.evaluate(axe)
    connect(page)
    send(page, "hello")
    frame_rows(page).nth(1).wait_for()
    for token in ("fixed", "another"):
        program.kill()
        program.wait()
        program = start_program("--port", str(program.port), "--page-token", token)
        if token == "fixed":
            page.locator("#table .row.cut").wait_for()
    page.locator("#notice").wait_for()
    page.locator("#table").press("End")  # the keyboard reaches the cut too
    page.locator("#table .row.cut[aria-selected=true]").wait_for()
    for scheme, size in (("light", NARROW), ("dark", {"width": 1440, "height": 900})):
        page.get_by_role("combobox", name="Theme").select_option(scheme)
        page.set_viewport_size(size)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    context.close()


def test_sending_shows_its_effect_without_scrolling(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page, 3)
    send(page, "hello")
    rows = frame_rows(page)
    expect(rows).to_have_count(12)
    for part in (rows.last, page.locator("#send-told"), page.get_by_role("button", name="Send", exact=True)):
        expect(part).to_be_in_viewport(ratio=1)
    assert page.evaluate("[innerHeight, document.documentElement.scrollHeight]") == [900, 900]
    # The payload's column is the widest.
    widths = rows.last.locator("span").evaluate_all("cells => cells.map((each) => each.getBoundingClientRect().width)")
    assert max(widths) == widths[-1] > 2 * sorted(widths)[-2]


def test_one_pane_at_a_time_where_there_is_no_room(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", "", "--queue-in-memory"), viewport=NARROW, is_mobile=True, has_touch=True)
    panes = page.locator(".pane")
    go(page, "Connections")
    connect(page, 2)
    for name in NAVIGATION:
        go(page, name)
        expect(panes.locator("visible=true").filter(has=page.locator("h2"))).to_have_count(1)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        assert page.evaluate("document.documentElement.scrollHeight") < 3 * 844
    go(page, "Send")
    send(page, "hello")
    go(page, "Frames")
    frame_rows(page).first.tap()
    expect(details(page).get_by_role("heading", name="Frame 1")).to_be_visible()
    expect(page.locator("#frames")).to_be_hidden()
    page.go_back()
    expect(page.locator("#frames")).to_be_visible()
    expect(details(page)).to_be_hidden()


def width_of(pane: Locator) -> float:
    box = pane.bounding_box()
    assert box is not None
    return box["width"]


def test_panes_are_resized_and_folded(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    pane, edge = page.locator("#connections"), page.get_by_role("separator", name="Size of Connections")
    before = width_of(pane)
    edge.focus()
    edge.press("ArrowRight")
    assert width_of(pane) == before + 16
    expect(edge).to_have_attribute("aria-valuenow", str(round(before + 16)))
    edge.hover()
    page.mouse.down()
    page.mouse.move(400, 300)
    page.mouse.up()
    dragged = width_of(pane)
    assert 370 < dragged < 400
    page.get_by_role("button", name="Fold Details").click()
    expect(page.locator("#details-inside")).to_be_hidden()
    assert width_of(details(page)) < 40
    bottom = page.get_by_role("separator", name="Size of Send")
    bottom.focus()
    bottom.press("Enter")
    expect(page.locator("#send-inside")).to_be_hidden()
    page.reload()
    page.locator("#watch[data-state=watching]").wait_for()
    assert width_of(pane) == dragged
    expect(page.locator("#details-inside")).to_be_hidden()
    page.get_by_role("button", name="Unfold Details").click()
    expect(page.locator("#details-inside")).to_be_visible()
    go(page, "Send")  # which unfolds it
    expect(page.get_by_role("textbox", name="Message")).to_be_focused()


def test_the_theme_is_the_systems_until_one_is_chosen(start_program: StartProgram, visit: Visit) -> None:
    page = visit(start_program(), color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("combobox", name="Theme").select_option("light")
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    assert page.evaluate(ground) == light
    page.get_by_role("combobox", name="Theme").select_option("system")
    assert page.evaluate(ground) == dark
    assert page.evaluate("localStorage.length") == 0


def test_the_page_works_by_keyboard_alone(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    stops: list[str] = []

    def tab_to(target: Locator) -> None:
        end = time.monotonic() + PATIENCE_S
        while not target.evaluate("element => element === document.activeElement"):
            page.keyboard.press("Tab")
            stops.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
            assert time.monotonic() < end, stops

    tab_to(page.get_by_role("textbox", name="URL"))
    page.keyboard.press("Enter")
    expect(page.locator(".connection .number")).to_have_count(1)
    tab_to(page.locator("#list"))
    page.keyboard.press("ArrowDown")
    expect(details(page).get_by_role("heading", name="Connection #1")).to_be_visible()
    tab_to(page.get_by_role("textbox", name="Message"))
    page.keyboard.type("hello")
    page.keyboard.press("Control+Enter")
    expect(frame_rows(page)).to_have_count(2)
    page.get_by_role("link", name="Frames").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#table")).to_be_focused()
    page.keyboard.press("End")
    expect(details(page).locator(".of-frame")).to_contain_text("server → client: TEXT")
    page.get_by_role("link", name="Break it").focus()
    page.keyboard.press("Enter")
    tab_to(page.locator("#cases button").first)
    page.keyboard.press("Enter")
    expect(page.locator("#case h3")).to_have_text("The server is sent a handshake as it should be")
    assert len(stops) < 60
