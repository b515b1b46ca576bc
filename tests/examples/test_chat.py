"""The chat: names, presence, and a history for those who come later."""

from __future__ import annotations

import json
import re

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from tests.examples.running import Run, Visit, check_looks, dial
from tests.serving.machine import PATIENCE_S


def receive(ws: ClientConnection) -> dict[str, object]:
    message: dict[str, object] = json.loads(ws.recv(PATIENCE_S))
    return message


def test_the_server_says_who_speaks_and_who_is_there(run: Run) -> None:
    port = run("chat", "--port", "0").wait_listening().port
    with dial(port, "/room/lounge?name=alice") as alice, dial(port, "/room/other?name=carol") as carol:
        assert receive(alice) == {"name": "alice", "people": ["alice"], "event": "joined"}
        with dial(port, "/room/lounge?name=bob") as bob:
            bob.send('{"name": "alice"}')
            assert receive(alice) == {"name": "bob", "people": ["alice", "bob"], "event": "joined"}
            assert receive(alice) == {"name": "bob", "people": ["alice", "bob"], "text": '{"name": "alice"}'}
        assert receive(alice) == {"name": "bob", "people": ["alice"], "event": "left"}
        assert receive(carol)["people"] == ["carol"]
    with pytest.raises(InvalidStatus, match="401"), dial(port, "/room/lounge"):
        pass


def test_two_browsers_talk_and_a_third_gets_what_was_said(run: Run, visit: Visit, axe: str) -> None:
    from playwright.sync_api import expect

    example = run("chat", "--port", "0").wait_listening()
    alice = visit(example.url)
    alice.get_by_label("Your name").fill("Alice")
    alice.keyboard.press("Enter")
    bob = visit(f"{example.url}?room=lounge&name=Bob")
    for page in (alice, bob):
        expect(page.get_by_role("listitem").filter(has_text=re.compile("^Bob joined$"))).to_be_visible()
    bob.get_by_role("textbox", name="Message").fill("<b>hello</b>")
    bob.keyboard.press("Enter")
    expect(alice.locator(".message", has_text="<b>hello</b>")).to_be_visible()
    late = visit(f"{example.url}?room=lounge&name=Carol")
    expect(late.locator(".message", has_text="<b>hello</b>")).to_be_visible()
    expect(alice.locator("#people li")).to_have_text(["Alice (you)", "Bob", "Carol"])
    bob.close()
    expect(alice.locator("#people li")).to_have_text(["Alice (you)", "Carol"])
    check_looks(alice, axe)
