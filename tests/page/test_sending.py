"""Pane "Send": what is sent, again and again, from templates and from what was saved."""

from __future__ import annotations

import re
from pathlib import Path

from tests.page.panes import Visit, connect, details, frame_rows, peer, received, send
from tests.serving.programs import StartProgram


def test_an_invalid_payload_is_not_sent(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    notice = page.locator("#send-told")
    send(page, "hello")
    expect(notice).to_contain_text("No peer is open")
    connect(page)
    for kind, text, message in (
        ("JSON", "{not json", "This is not JSON"),
        ("hex", "abc", "This is not hex"),
        ("file", "", "Choose a file first"),
    ):
        page.get_by_role("radio", name="text", exact=True).check()
        page.get_by_role("textbox", name="Message").fill(text)
        page.get_by_role("radio", name=kind, exact=True).check()
        page.get_by_role("button", name="Send", exact=True).click()
        expect(notice).to_contain_text(message)
        expect(page.locator("#send-told.error")).to_be_visible()
    expect(frame_rows(page)).to_have_count(0)


def test_bytes_a_file_and_the_history(start_program: StartProgram, visit: Visit, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page)
    peer(page, "A").click()
    send(page, "de ad 0xbe,ef", "hex")
    expect(received(page)).to_contain_text(["de ad be ef (4 bytes)"])
    (tmp_path / "some.bin").write_bytes(bytes(range(256)) * 40)
    page.get_by_role("radio", name="file", exact=True).check()
    page.locator("#file").set_input_files(tmp_path / "some.bin")
    page.get_by_role("button", name="Send", exact=True).click()
    expect(received(page).nth(1)).to_contain_text("(10.2 kB)")
    expect(page.locator("#send-told")).to_have_text("Sent 10.2 kB from 1 peer.")
    expect(page.locator("#history li")).to_contain_text(["file some.bin (10.2 kB)", "hex de ad 0xbe,ef"])
    page.locator("#history button").click()
    expect(page.get_by_role("textbox", name="Message")).to_have_value("de ad 0xbe,ef")
    page.get_by_role("textbox", name="Message").press("Control+Enter")
    expect(received(page)).to_have_count(3)
    # Compressed or fragmented bytes are shown as those of the message.
    frame_rows(page).nth(2).click()
    expect(details(page).locator("h4", has_text="Payload")).to_be_visible()


def test_templates_repeated_until_they_are_stopped(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page)
    peer(page, "A").click()
    page.get_by_role("textbox", name="Message").fill("tick {{n}} {{ n }} {{time}} {{unix}} {{uuid}} {{other}}")
    page.get_by_role("spinbutton", name="every").fill("10")
    page.get_by_role("button", name="Repeat").click()
    expect(received(page).nth(4)).to_have_text(
        re.compile(r"^< tick 5 5 \d{4}-\d\d-\d\dT[\d:.]+Z \d{10} [-0-9a-f]{36} \{\{other\}\}$")
    )
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("button", name="Repeat")).to_have_attribute("aria-pressed", "false")


def test_a_saved_message_stays_in_the_browser(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program())
    saved, message = page.locator("#saved"), page.get_by_role("textbox", name="Message")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#send-told")).to_contain_text("There is nothing to save")
    page.get_by_role("radio", name="JSON", exact=True).check()
    message.fill('{"n": {{n}}}')
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#send-told")).to_have_text("Saved in this browser.")
    page.reload()
    saved.get_by_role("button", name='{"n": {{n}}}', exact=True).click()
    expect(message).to_have_value('{"n": {{n}}}')
    expect(page.get_by_role("radio", name="JSON", exact=True)).to_be_checked()
    connect(page)
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.locator("#table .row.client .preview")).to_have_text('{"n": 1}')
    saved.get_by_role("button", name="Remove").click()
    expect(saved).to_contain_text("“Save” keeps a message here")
    assert page.evaluate("localStorage.length") == 0
