"""Editing together: all replicas converge, whatever the order of the changes, and newcomers get the whole document."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.examples.running import FOLDER, Run, Visit, check_looks
from tests.serving.machine import PATIENCE_S, need

if TYPE_CHECKING:
    from playwright.sync_api import Page

PROPERTIES = Path(__file__).with_name("replica_properties.mjs")
RUNS = 300

TEXT = "shared.replica.text()"
# Until a page shows what its replica has, in the textarea and on the canvas.
PAINTED = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


def test_replicas_converge_whatever_the_order(tmp_path: Path) -> None:
    need(node := shutil.which("node"), "node")
    assert node is not None
    module = tmp_path / "replica.mjs"  # Node.js takes a module by this suffix
    module.write_bytes((FOLDER / "static" / "editing" / "replica.js").read_bytes())
    subprocess.run([node, PROPERTIES, module, str(RUNS)], check=True, timeout=PATIENCE_S)


def write(page: Page, text: str, at: str) -> None:
    page.get_by_role("textbox", name="Text").click()
    page.keyboard.press(f"Control+{at}")
    page.keyboard.insert_text(text)


def draw(page: Page, *points: tuple[int, int]) -> None:
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + points[0][0], box["y"] + points[0][1])
    page.mouse.down()
    for x, y in points[1:]:
        page.mouse.move(box["x"] + x, box["y"] + y)
    page.mouse.up()


def go(page: Page, *, online: bool) -> None:
    from playwright.sync_api import expect

    page.get_by_role("checkbox", name="Online").set_checked(online)
    expect(page.locator("#state")).to_have_text("connected" if online else "disconnected")


def wait_for(page: Page, text: str, lines: int) -> None:
    page.wait_for_function(
        f"([text, lines]) => {TEXT} === text && shared.replica.lines.size === lines", arg=[text, lines]
    )


def look(page: Page) -> list[str]:
    """Return what a page shows: the text, and the drawing as a picture."""
    page.evaluate(PAINTED)
    shown: list[str] = page.evaluate("[globalThis.text.value, globalThis.canvas.toDataURL()]")  # elements, by their ids
    return shown


def test_two_browsers_edit_at_once_and_a_third_comes_late(run: Run, visit: Visit, axe: str) -> None:
    from playwright.sync_api import expect

    example = run("editing", "--port", "0").wait_listening()
    ada, grace = visit(example.url, may_lose_server=True), visit(example.url, may_lose_server=True)
    ada.get_by_label("Your name").fill("Ada")
    write(ada, "tea\nbread 😀\n", at="End")
    wait_for(grace, "tea\nbread 😀\n", 0)
    expect(grace.locator("#mirror .cursor")).to_have_text("Ada")
    # Both change the same places without hearing of each other.
    go(grace, online=False)
    write(grace, "honey\n", at="End")
    write(grace, "Shopping: ", at="Home")
    draw(grace, (50, 50), (90, 80))
    expect(grace.locator("#waiting")).to_contain_text("changes wait to be sent")
    write(ada, "apples\n", at="End")
    write(ada, "To buy: ", at="Home")
    draw(ada, (60, 90), (90, 40))
    assert ada.evaluate(TEXT) == "To buy: tea\nbread 😀\napples\n"
    assert grace.evaluate(TEXT) == "Shopping: tea\nbread 😀\nhoney\n"
    lines = sum(page.evaluate("shared.replica.lines.size") for page in (ada, grace))
    go(grace, online=True)
    ada.wait_for_function(f"lines => shared.replica.lines.size === lines && {TEXT}.includes('honey')", arg=lines)
    text = ada.evaluate(TEXT)
    assert sorted(text.splitlines()[1:]) == ["apples", "bread 😀", "honey"]
    assert text.splitlines()[0] in ("To buy: Shopping: tea", "Shopping: To buy: tea")
    look(ada)
    before_cursor = ada.evaluate("globalThis.text.value.slice(0, globalThis.text.selectionEnd)")
    assert before_cursor.endswith("To buy: ")  # it stays where Ada has put it
    late = visit(example.url)
    for page in (grace, late):
        wait_for(page, text, lines)
        assert look(page) == look(ada)
    check_looks(late, axe)
    late.close()
    # The server loses everything. The browsers have the document, and go on with it.
    example.kill()
    write(grace, "ink\n", at="End")
    run("editing", "--port", str(example.port)).wait_listening()
    wait_for(ada, f"{text}ink\n", lines)
    wait_for(visit(example.url), f"{text}ink\n", lines)


def test_a_newcomer_gets_a_document_that_is_longer_than_the_history(run: Run, visit: Visit) -> None:
    example = run("editing", "--port", "0").wait_listening()
    writer = visit(example.url)
    # Each letter follows the one before, so that none can be shown without the first.
    writer.evaluate("""() => {
      let after = ""
      for (let number = 0; number < 2300; number++) {
        const change = shared.replica.type(after, String(number % 10))
        after = change.id
        shared.send(change)
      }
    }""")
    reader = visit(example.url)
    wait_for(reader, "0123456789" * 230, 0)
    # The newcomer draws by keyboard, and takes it back.
    reader.locator("#canvas").focus()
    for key in ("Space", "ArrowRight", "ArrowDown", "Space"):
        reader.keyboard.press(key)
    # A slow hand's line comes in pieces, each of which begins where the one before ends.
    joined = "shared.replica.drawing().reduce((all, {points}) => [...all, ...points.slice(all.length && 2)], [])"
    writer.wait_for_function(f"() => {joined}.length === 6")
    assert writer.evaluate(joined) == [400, 300, 410, 300, 410, 310]
    reader.get_by_role("button", name="Undo").click()
    wait_for(writer, "0123456789" * 230, 0)
