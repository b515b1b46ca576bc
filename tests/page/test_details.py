"""Pane "Details": a connection's upgrade, header by header, and a frame, bit by bit."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from rawws.wire.handshake import GUID
from rawws.wire.masking import apply_mask
from tests.page.panes import Visit, connect, connection, details, frame_rows, peer, send
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_the_upgrade_header_by_header(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--subprotocol", "chat.v2"))
    page.get_by_role("textbox", name="URL").fill("/room?name=a")
    page.get_by_role("textbox", name="Subprotocols").fill("chat.v1, chat.v2")
    connect(page)
    expect(details(page).locator("dd.state")).to_have_text("open: speaks chat.v2")
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
    expect(page.locator(".accept p").first).to_contain_text("proves that the server speaks WebSocket")
    expect(page.locator(".accept p").last).to_contain_text("proves nothing else")
    expect(response).to_contain_text(f"Sec-WebSocket-Accept: {steps[3]}\\r\\n")
    expect(response).to_contain_text("✓ yes Sec-WebSocket-Accept belongs to the client's key")
    expect(page.locator(".switch")).to_contain_text("101: HTTP ends here")
    page.get_by_label("bytes in hex").check()
    expect(first.locator(".hex")).to_have_text(b"GET /room?name=a HTTP/1.1\r\n".hex(" "))


def test_a_refusal_is_shown_with_its_reason(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program(), at="#/break/version-12")
    expect(page.locator("#case dd").last).to_contain_text("good 426, Sec-WebSocket-Version: 13")
    page.get_by_role("link", name="Connections").click()
    connection(page, "break-it").click()
    expect(details(page).locator("dd.state")).to_contain_text("refused with 426 (")
    expect(page.locator(".check.no")).to_have_text("✗ NO Sec-WebSocket-Version is 13 RFC 6455 §4.2.1 item 6")
    expect(page.locator(".head.server")).to_contain_text("HTTP/1.1 426 Upgrade Required")
    expect(page.locator(".switch")).to_have_count(0)


def test_secrets_are_masked(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as open_websocket

    program = start_program()
    page = visit(program)
    headers = {"Authorization": "Bearer abc", "Cookie": "session=abc"}
    with open_websocket(f"ws://{program.address}/room?token=abc", additional_headers=headers, proxy=None):
        expect(page.locator(".head.client")).to_contain_text("Authorization: (masked, 10 bytes)")
        expect(page.locator(".head.client")).to_contain_text("Cookie: (masked, 11 bytes)")
        expect(page.locator(".connection .target")).to_have_text("/room?token=(masked)")
        assert "abc" not in page.locator("body").inner_text()


def test_the_bits_of_a_frame(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""), viewport={"width": 1800, "height": 900})
    connect(page)
    message = json.dumps({"drinks": ["coffee"] * 40, "to": {"name": "Ada"}})
    send(page, message, "JSON")
    rows = frame_rows(page)
    expect(rows).to_have_count(2)
    row = rows.nth(0)
    # Chromium compresses: few bytes on the wire, many in the message.
    expect(row.locator(".fin")).to_have_text("1")
    expect(row.locator(".rsv")).to_have_text("100")
    expect(row.locator(".size")).to_have_text(f"{len(message):,}")
    assert int(row.locator(".wire").inner_text()) < len(message) / 3
    row.click()
    frame = details(page)
    expect(frame.locator(".of-frame")).to_contain_text("client → server: TEXT")
    fields = frame.locator(".fields tbody tr")
    expect(fields.locator("th")).to_have_text(
        ["FIN", "RSV1", "RSV2", "RSV3", "opcode", "MASK", "length", "masking key"]
    )
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
    # Each field has a colour of its own, in either theme.
    for scheme in ("light", "dark"):
        page.get_by_role("combobox", name="Theme").select_option(scheme)
        colours = fields.locator("th").evaluate_all("all => all.map((each) => getComputedStyle(each).backgroundColor)")
        assert len(set(colours)) == 8
    # JSON can be folded.
    tree = frame.locator(".json")
    expect(tree).to_contain_text('"name": "Ada"')
    expect(tree.locator("summary", has_text="drinks").last).to_contain_text("40 items")
    expect(tree.get_by_text("39:")).to_be_hidden()
    tree.locator("summary", has_text="drinks").last.click()
    expect(tree.get_by_text("39:")).to_be_visible()


def copied(page: Page, form: str) -> str:
    """Copy the shown frame's message in a form, and return what is on the clipboard."""
    from playwright.sync_api import expect

    page.get_by_role("combobox", name="Copy as").select_option(form)
    page.locator(".copy-as").get_by_role("button", name="Copy").click()
    expect(page.locator(".copy-as .copied")).to_have_text("Copied.")
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def test_a_frame_is_copied_in_each_form(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "")
    page = visit(program, permissions=["clipboard-read", "clipboard-write"])
    connect(page)
    text = '@it\'s "quoted"\nÄ'
    send(page, text)
    frame_rows(page).nth(0).click()
    assert copied(page, "text") == text
    assert bytes.fromhex(copied(page, "hex")).decode() == text
    assert base64.b64decode(copied(page, "base64")).decode() == text
    # The command and the program send it once more: to the peer, and the program's frames are seen on both sides.
    shown = page.locator("#table .rows .row .preview").get_by_text('@it\'s "quoted"\\nÄ', exact=True)
    expect(shown).to_have_count(2)
    need(shutil.which("curl"), "curl")
    subprocess.run(["sh", "-c", copied(page, "curl")], check=True, capture_output=True, timeout=PATIENCE_S)
    expect(shown).to_have_count(3)
    subprocess.run([sys.executable, "-c", copied(page, "Python")], check=True, capture_output=True, timeout=PATIENCE_S)
    expect(shown).to_have_count(6)
    # A terminal may obey a control character that is pasted.
    send(page, "a\x03\nb")
    odd = page.locator("#table .rows .row .preview").get_by_text("a\\u0003\\nb", exact=True)
    expect(odd).to_have_count(2)
    odd.first.click()
    command = copied(page, "curl")
    assert "\x03" not in command
    subprocess.run(["sh", "-c", command], check=True, capture_output=True, timeout=PATIENCE_S)
    expect(odd).to_have_count(3)
    peer(page, "A").click()
    page.get_by_role("button", name="Close").click()
    frame_rows(page).filter(has_text="CLOSE").first.click()
    expect(page.get_by_role("combobox", name="Copy as").locator("option")).to_have_text(["hex", "base64"])
