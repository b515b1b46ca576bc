"""An existing application with a room next to it."""

from __future__ import annotations

import importlib.util

from tests.examples.running import Run, Visit, ask, check_looks, dial
from tests.serving.machine import PATIENCE_S, need


def test_an_existing_app_publishes_into_a_room_next_to_it(run: Run, visit: Visit, axe: str) -> None:
    need(importlib.util.find_spec("starlette"), "Starlette")
    from playwright.sync_api import expect

    example = run("existing_app", "--port", "0").wait_listening()
    assert example.lines[0] == "the application has started"
    with dial(example.port, "/room/orders") as ws:
        answer = ask(example.port, "/orders", "3 apples")
        assert (answer.status_code, answer.json()) == (201, {"order": "3 apples", "told": 1})
        assert ws.recv(PATIENCE_S) == "3 apples"
    page = visit(example.url)
    expect(page.locator("#list li")).to_have_text(["3 apples"])
    page.get_by_role("textbox", name="Your order").fill("<i>tea</i>")
    page.keyboard.press("Enter")
    expect(page.locator("#answer")).to_have_text("“<i>tea</i>” was ordered, and shown in 1 browser.")
    ask(example.port, "/orders", "honey")
    assert ask(example.port, "/orders", "salt", {"Origin": "https://other.example"}).status_code == 403
    expect(page.locator("#list li")).to_have_text(["honey", "<i>tea</i>", "3 apples"])
    assert ask(example.port, "/orders").json() == {"orders": ["3 apples", "<i>tea</i>", "honey"]}
    check_looks(page, axe)
