"""Pane "Frames": the table, its filters, its address, and recordings that are opened in it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import rawws.cli
from rawws.inspection import records
from rawws.limits import MIB
from rawws.wire.deflate import Deflater
from rawws.wire.frames import RSV1, Frame, Opcode, encode_frame, parse_header
from rawws.wire.masking import apply_mask
from rawws.wire.role import Role
from tests.page.panes import Visit, connect, cuts, details, filter_by, frame_rows, peer, send
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Page


def test_finding_pausing_clearing(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    empty = page.locator("#no-frames")
    expect(empty).to_contain_text("Connect two peers to the same path")
    connect(page, 2)
    rows = frame_rows(page)
    send(page, "apple", sender="A")
    send(page, "pear", sender="B")
    expect(rows).to_have_count(6)
    filter_by(page, "APPLE")
    expect(rows.locator(".preview")).to_have_text(["apple"] * 3)
    filter_by(page, "-apple from:client")
    expect(rows.locator(".preview")).to_have_text(["pear"])
    expect(page.locator("#totals")).to_contain_text("6 frames; ")
    expect(page.locator("#totals")).to_contain_text("1 shown")
    filter_by(page, "opcode:ping from:client")
    expect(empty).to_contain_text("None of the 6 frames is shown:")
    expect(empty.locator("li")).to_have_text(["opcode is PING: hides 6 frames", "sent by the client: hides 4 frames"])
    page.get_by_role("button", name="Show all frames").click()
    expect(rows).to_have_count(6)
    filter_by(page, "/[/")
    expect(page.locator("#filter-error")).to_contain_text("Nothing is filtered: Invalid regular expression")
    expect(rows).to_have_count(6)
    filter_by(page, "")
    page.get_by_role("combobox", name="Add a filter").select_option("-from:server")
    expect(page.get_by_role("searchbox", name="Filter")).to_have_value("-from:server")
    expect(rows).to_have_count(2)
    filter_by(page, "")
    page.get_by_role("button", name="Pause").click()
    send(page, "plum", sender="A")
    expect(page.locator("#totals")).to_contain_text("9 frames")
    expect(rows).to_have_count(6)
    page.get_by_role("button", name="Pause").click()
    expect(rows).to_have_count(9)
    page.get_by_role("combobox", name="Times").select_option("absolute")
    expect(rows.first.locator(".time")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d\.\d{3}$"))
    page.get_by_role("combobox", name="Times").select_option("step")
    expect(rows.nth(1).locator(".time")).to_have_text(re.compile(r"^\+0\.\d{3}$"))
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#totals")).to_have_text("No frames yet.")
    expect(rows).to_have_count(0)


FILTERED = """async () => {
  const { readFilter } = await import("/_rawws/state/filters.js");
  const { Connection, Frame, Run } = await import("/_rawws/state/model.js");
  const run = new Run(1);
  const connection = (number, path, peerName) => Object.assign(new Connection(run, number), { path, peerName });
  const [a, b] = [connection(1, "/chat?x=y", "A"), connection(2, "/chat/2", "")];
  const { toHex, utf8 } = await import("/_rawws/text.js");
  const hex = (text) => toHex(utf8(text), "");
  const frame = (number, of, sender, header, payload) => new Frame({ at: 1, sender, header, payload }, of, number);
  const frames = [
    frame(1, a, "client", "818537fa213d", hex("Hello")),
    frame(2, a, "server", "8105", hex("Hello")),
    frame(3, b, "client", "828337fa213d", "000102"),
    frame(4, b, "server", "8900", ""),
    frame(5, b, "server", "010c", hex("order 17 now")),
    frame(6, b, "client", "888237fa213d", "03e8"),
  ];
  return (line) => {
    const terms = readFilter(line);
    return frames.filter((each) => terms.every(({ test }) => test(each))).map((each) => each.number);
  };
}"""


def test_each_filter_passes_the_frames_that_fit(start_program: StartProgram, visit: Visit) -> None:
    page = visit(start_program())
    test = page.evaluate_handle(FILTERED)

    def passed(line: str) -> Any:
        return page.evaluate(
            "([test, line]) => { try { return test(line); } catch (e) { return e.message; } }", [test, line]
        )

    for line, expected in {
        "": [1, 2, 3, 4, 5, 6],
        "hello": [1, 2],
        "-hello": [3, 4, 5, 6],
        '"order 17"': [5],
        "order 17": [5],
        r"/order \d+ now/": [5],
        "/HELLO/i": [1, 2],
        "-/HELLO/": [1, 2, 3, 4, 5, 6],
        "/(l+)+$/": [],
        "opcode:text": [1, 2, 5],
        "-op:text": [3, 4, 6],
        "from:client": [1, 3, 6],
        "from:client -opcode:close": [1, 3],
        "room:/chat": [1, 2],
        "room:/chat*": [1, 2, 3, 4, 5, 6],
        "-path:/chat": [3, 4, 5, 6],
        "path:/*h*t": [1, 2],
        "path:*/chat*chat": [],
        "#2": [3, 4, 5, 6],
        "conn:1": [1, 2],
        "conn:a": [1, 2],
        "size:>4": [1, 2, 5],
        "size:2..3": [3, 6],
        "size:0": [4],
        "-size:0 is:control": [6],
        "is:fragment": [5],
        "is:masked": [1, 3, 6],
        "ping": [4],
        "00 01": [3],
        "http://nowhere": [],
        "/chat": [],
    }.items():
        assert passed(line) == expected, line
    assert passed("/(/").startswith("Invalid regular expression")
    assert passed("/(?=l)/").startswith("a filter can't have (?=l")
    assert passed("size:big").startswith("a size is ")
    assert passed("from:me").startswith("a frame is from:client or from:server")
    assert passed("is:odd").startswith("a frame is:data, ")


def test_an_export_can_be_decoded_and_opened_again(
    start_program: StartProgram, visit: Visit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    connect(page)
    send(page, "hello")
    rows = frame_rows(page)
    rows.nth(1).wait_for()
    file = tmp_path / "frames.json"
    for line, kinds in (
        ("", ["open", "head", "checks", "head", "checks", "switch", "frame", "frame"]),
        ("is:data conn:A", ["frame", "frame"]),  # with a filter it may be a part of all there was
    ):
        filter_by(page, line)
        expect(page.locator("#totals")).to_have_text(re.compile("shown" if line else "messages$"))
        with page.expect_download() as download:
            page.get_by_role("button", name="Export").click()
        download.value.save_as(file)
        exported = json.loads(file.read_text())
        assert [record["kind"] for record in exported] == kinds
        assert rawws.cli.main(["decode", "--brief", str(file)]) == 0
        assert "TEXT fin=1 rsv=000 mask=none len=5 'hello'" in capsys.readouterr().out
        filter_by(page, "")
        page.get_by_label("Open a recording").set_input_files(file)
        expect(cuts(page).last).to_contain_text("frames.json: 2 frames of 1 connection")
    expect(rows.locator(".of")).to_have_text(["#1 A", "#1 A", "f1#1", "f1#1", "f2#1", "f2#1"])
    expect(rows.nth(3).locator(".preview")).to_have_text("hello")  # it was compressed
    # The connection in it has its upgrade, as far as the file has it.
    page.locator(".connection", has_text="f1#1").click()
    expect(page.locator(".head.client")).to_contain_text("GET /room HTTP/1.1")
    expect(details(page)).to_contain_text("the recording ends here")
    assert page.evaluate("location.hash") == "#/connections/f1.1"
    page.get_by_label("Open a recording").set_input_files(Path(__file__))
    expect(page.locator("#totals")).to_contain_text("test_frames.py is not a recording")


def test_a_recording_of_a_server_can_be_opened(start_program: StartProgram, visit: Visit, tmp_path: Path) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as open_websocket

    record = tmp_path / "record.jsonl"
    recorded = start_program("--no-page", "--hello", "", "--record", str(record))
    for name in ("first", "second"):
        with open_websocket(f"ws://{recorded.address}/{name}", proxy=None, compression=None) as client:
            client.send(name)
            client.recv(PATIENCE_S)
    recorded.kill()
    page = visit(start_program())
    record.write_text(record.read_text() + '{"at": 1, "connec')  # cut, as by a full disk
    page.get_by_label("Open a recording").set_input_files(record)
    expect(cuts(page)).to_contain_text("record.jsonl: 8 frames of 2 connections")
    expect(cuts(page)).to_contain_text("1 line couldn't be read")
    expect(frame_rows(page).nth(1).locator(".preview")).to_have_text("first")
    expect(frame_rows(page).nth(1).locator(".time")).to_have_text("0.000")
    expect(page.locator(".connection")).to_have_count(2)
    filter_by(page, "room:/second opcode:text")
    expect(frame_rows(page).locator(".preview")).to_have_text(["second", "second"])
    frame_rows(page).nth(1).click()
    expect(details(page).locator(".fields tr")).to_have_count(9)  # the server explains it as one of its own


def test_compressed_and_fragmented_messages_of_a_recording_are_shown(
    start_program: StartProgram, visit: Visit, tmp_path: Path
) -> None:
    from playwright.sync_api import expect

    deflater = Deflater(15)
    texts = [b"hello " * 10, b"hello again, hello", b"hello " * 2000]
    first, second, third = (deflater.deflate(text) for text in texts)
    lost = deflater.deflate(b"hello")
    said = [
        encode_frame(Opcode.TEXT, first, rsv=RSV1, mask_key=b"abcd"),
        encode_frame(Opcode.TEXT, second[:3], fin=False, rsv=RSV1),  # it refers to the one before
        encode_frame(Opcode.PING, b""),
        encode_frame(Opcode.CONTINUATION, second[3:]),
        encode_frame(Opcode.BINARY, third, rsv=RSV1),
        encode_frame(Opcode.TEXT, b"in two", fin=False),
        encode_frame(Opcode.CONTINUATION, b" parts"),
        encode_frame(Opcode.TEXT, b"\xff" + lost[1:], rsv=RSV1),
        encode_frame(Opcode.TEXT, b"<b>" + b"x" * 100_000 + b"end"),
    ]
    lines = []
    for number, raw in enumerate(said):
        header = parse_header(raw)
        assert header is not None
        payload = apply_mask(raw[6:], b"abcd") if header.mask_key else raw[len(header.raw) :]
        record = records.frame_record(Role.CLIENT, Frame(header, payload, b""))
        lines.append(records.to_line(record, at=1.0 + number, connection=1))
    (tmp_path / "r.jsonl").write_text("".join(lines))
    page = visit(start_program())
    page.get_by_label("Open a recording").set_input_files(tmp_path / "r.jsonl")
    shown = frame_rows(page).locator(".preview")
    expect(shown).to_have_count(len(said))
    assert shown.nth(0).inner_text() == texts[0].decode().rstrip()
    assert shown.nth(3).inner_text() == texts[1].decode()
    assert shown.nth(4).inner_text().startswith(b"hello hello".hex(" "))
    assert frame_rows(page).nth(5).locator(".size").inner_text() == "12,000"
    assert shown.nth(6).inner_text() == "in two parts"
    assert shown.nth(7).inner_text().startswith("ff ")
    # The middle of a long payload is left out.
    shown.nth(8).click()
    expect(details(page)).to_contain_text("91.8 kB left out")
    expect(details(page).locator(".fields")).to_contain_text("100,006 bytes of payload")
    assert details(page).locator(".text").inner_text().startswith("<b>xxx")


def test_text_chosen_by_a_peer_keeps_the_page_neither_busy_nor_full(start_program: StartProgram, visit: Visit) -> None:
    page = visit(start_program())
    find = """
        async (path) => {
          const { readFilter } = await import("/_rawws/state/filters.js");
          const began = performance.now();
          const found = readFilter("path:*a*ab")[0].test({ of: { room: path } });
          return [found, performance.now() - began < 2000];
        }"""
    assert page.evaluate(find, "/" + "a" * 4000) == [False, True]

    # The longest payload that a recording has.
    is_hex = """async (size) => (await import("/_rawws/state/records.js")).isHex("00".repeat(size))"""
    assert page.evaluate(is_hex, 16 * MIB)

    # Deflate makes a thousandth of it, and all connections of a recording share what is inflated.
    message = Deflater(15).deflate(bytes(40_000_000)).hex()
    inflate = """
        async (payload) => {
          const { inflateAll } = await import("/_rawws/state/inflate.js");
          const header = { isControl: false, opcode: "BINARY", rsv: "100", fin: true };
          const frames = ["f1:1", "f1:2"].map((id) => [{ sender: "client", payload }, header, { id }]);
          await inflateAll(frames);
          return frames.map(([record]) => record.message_size ?? null);
        }"""
    assert page.evaluate(inflate, message) == [40_000_000, None]


def test_a_frame_has_an_address(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page: Page = visit(start_program("--hello", ""), at="#/frames/2")
    expect(details(page)).to_contain_text("Frame 2 isn't in this capture")
    connect(page)
    send(page, "hello")
    rows = frame_rows(page)
    rows.nth(1).click()
    assert page.evaluate("location.hash") == "#/frames/2"
    page.reload()
    expect(details(page).get_by_role("heading", name="Frame 2")).to_be_visible()
    expect(details(page).locator(".text")).to_have_text("hello")
    page.evaluate("location.hash = '#/connections/1'")
    expect(details(page).get_by_role("heading", name="Connection #1")).to_be_visible()
    page.go_back()
    expect(details(page).get_by_role("heading", name="Frame 2")).to_be_visible()
    assert peer(page, "A").count() == 0  # that page has gone


def test_ten_thousand_frames(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect
    from websockets.sync.client import connect as open_websocket

    program = start_program("--hello", "")
    page = visit(program)
    with open_websocket(f"ws://{program.address}/room", compression=None, proxy=None) as client:
        for number in range(5000):
            client.send(f"message {number}")
        for _ in range(5000):
            client.recv(PATIENCE_S)
        expect(page.locator("#totals")).to_contain_text("10,000 frames")
        rows = frame_rows(page)
        expect(rows.last.locator(".preview")).to_have_text("message 4999")
        assert rows.count() < 100  # only visible rows are drawn
        table = page.locator("#table")
        expect(table).to_have_attribute("aria-rowcount", "10001")
        table.focus()
        table.press("Home")
        expect(page.locator("#table [aria-selected=true] .preview")).to_have_text("message 0")
        table.press("ArrowDown")
        expect(table).to_have_attribute("aria-activedescendant", "frame-2")
        # The newest row stays in view until the reader scrolls away from it, however little.
        table.press("End")
        client.send("one more")
        expect(rows.last.locator(".preview")).to_have_text("one more")
        expect(rows.last).to_be_in_viewport()
        scrolled = "table.scrollHeight - table.scrollTop - table.clientHeight"
        page.evaluate("() => { const table = document.getElementById('table'); table.scrollTop -= 10; }")
        client.send("the last")
        expect(table).to_have_attribute("aria-rowcount", "10005")
        assert page.evaluate(f"() => {{ const table = document.getElementById('table'); return {scrolled}; }}") > 50
        filter_by(page, '"message 4321"')
        expect(rows).to_have_count(2)
