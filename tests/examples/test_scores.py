"""Live scores: both ways of reading get every message, also after a time without a connection."""

from __future__ import annotations

from tests.examples.running import Run, Visit, check_looks

# The last id of both sides is the same; then each has read all that there is.
EQUAL = "() => new Set([...document.querySelectorAll('dd.id')].map((each) => each.textContent)).size === 1"


def test_websocket_and_events_have_the_same_scores(run: Run, visit: Visit, axe: str) -> None:
    from playwright.sync_api import expect

    page = visit(run("scores", "--port", "0", "--minutes-per-second", "20").wait_listening().url)
    sides = {name: page.get_by_role("region", name=name) for name in ("WebSocket", "Server-sent events")}
    for side in sides.values():
        expect(side.locator("tbody tr")).to_have_count(4)
    for name, other in (("WebSocket", "Server-sent events"), ("Server-sent events", "WebSocket")):
        sides[name].get_by_role("button", name="Disconnect").click()
        expect(sides[name].locator(".state")).to_have_text("disconnected")
        before = int(sides[other].locator(".count").inner_text())
        page.wait_for_function(
            "([element, count]) => Number(element.textContent) > count",
            arg=[sides[other].locator(".count").element_handle(), before + 5],
        )
        sides[name].get_by_role("button", name="Connect").click()
        expect(sides[name].locator(".state")).to_have_text("connected")
        page.wait_for_function(EQUAL)
    # The page counts by the numbers of the messages: one that came twice would count as -1.
    for side in sides.values():
        expect(side.locator(".missed")).to_have_text("0")
    check_looks(page, axe)
