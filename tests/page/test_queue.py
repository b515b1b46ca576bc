"""Part "A queue, with two workers" of the view "Other ways in"."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.page.panes import Visit, go
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import Program, StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

ROOM = "/room/pay"


def visit_queue(visit: Visit, program: Program, allows: str | None = None) -> Page:
    page = visit(program, at="#/ways", permissions=["clipboard-read", "clipboard-write"], allows=allows)
    page.get_by_role("textbox", name="Room").fill(ROOM)
    return page


def publish(page: Page, count: int) -> None:
    page.get_by_role("spinbutton", name="Publish").fill(str(count))
    page.get_by_role("button", name="Publish jobs").click()
    page.locator("#queue-told", has_text=f"{count} job").wait_for()


def start(page: Page) -> None:
    page.get_by_role("button", name="Start two workers").click()


def worker(page: Page, name: str) -> Locator:
    return page.get_by_role("region", name=f"Worker {name}")


def jobs(worker: Locator) -> Locator:
    return worker.locator(".jobs li")


def press(worker: Locator, verb: str) -> None:
    jobs(worker).first.get_by_role("button", name=re.compile(f"^{verb} ")).click()


def expect_state(page: Page, **figures: int) -> None:
    from playwright.sync_api import expect

    for name, value in figures.items():
        expect(page.locator(f"#queue-state .figure-{name}")).to_have_text(str(value))


def test_two_workers_share_jobs_and_one_is_killed(start_program: StartProgram, tmp_path: Path, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "", "--store", str(tmp_path / "rooms.db"), "--store-sync", "never")
    page = visit_queue(visit, program)
    publish(page, 4)
    start(page)
    one, two = worker(page, "1"), worker(page, "2")
    expect(jobs(one)).to_contain_text(["try 1"])
    expect(jobs(two)).to_contain_text(["try 1"])
    assert {jobs(each).locator("b").inner_text() for each in (one, two)} == {"job 1", "job 2"}
    expect_state(page, waiting=2, leased=2, done=0, redelivered=0, dead=0, workers=2)
    expect(page.locator(".figure-oldest")).to_contain_text("-1, ")

    # The job of the one that is killed goes to the other.
    held = jobs(two).locator("b").inner_text()
    two.get_by_role("button", name="Kill").click()
    expect(two.locator(".messages")).to_contain_text("killed, with ")
    expect_state(page, waiting=3, leased=1, workers=1)
    press(one, "ack")
    expect(jobs(one)).to_contain_text([re.compile(f"{held}.*try 2")])
    expect_state(page, done=1, redelivered=1)

    # A job that is given back for later doesn't hold up the others.
    one.get_by_role("spinbutton", name="Seconds until the next try").fill("1000")
    press(one, "nak")
    expect(one.locator(".messages")).to_contain_text("try 2): given back for 1000 s")
    expect(jobs(one)).to_contain_text(["job 3"])
    press(one, "more")
    expect(one.locator(".messages")).to_contain_text("try 1): still at it")
    expect(page.locator("#queue-dead")).to_be_empty()
    press(one, "term")
    dead = page.locator("#queue-dead")
    expect(dead).to_contain_text(f"{ROOM}.try.dead")
    expect(dead.locator("li")).to_contain_text(["job 3"])
    expect(dead.locator("li")).to_contain_text(["1 try; given up on the page last worker: #"])
    expect_state(page, dead=1)

    # The rest without a button, by the other one, which is there again.
    expect(jobs(one)).to_contain_text(["job 4"])
    one.get_by_role("button", name="Kill").click()
    two.get_by_role("spinbutton", name="ack after").fill("0")
    two.get_by_role("checkbox", name="automatic").check()
    two.get_by_role("button", name="Start again").click()
    expect_state(page, waiting=1, leased=0, done=2, dead=1, workers=1)  # one waits for its next try
    expect(two.locator(".messages")).to_contain_text("try 2): done")

    page.get_by_role("button", name="Stop both workers").click()
    expect(page.get_by_role("button", name="Start two workers")).to_be_visible()
    page.get_by_role("button", name="End the group").click()
    expect(page.locator("#queue-told")).to_have_text(f"The group try of {ROOM} has been ended.")
    expect(page.locator("#queue-state")).to_be_empty()


def test_an_answer_that_comes_too_late_is_told(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "", "--queue-in-memory")
    page = visit_queue(visit, program)
    page.get_by_role("spinbutton", name="Lease of").fill("1")
    page.get_by_role("spinbutton", name="Tries").fill("1000")
    start(page)
    one = worker(page, "1")
    worker(page, "2").get_by_role("button", name="Kill").click()
    publish(page, 1)
    expect(jobs(one)).to_have_count(1)
    with urllib.request.urlopen(
        f"http://{LOOPBACK}:{program.port}{ROOM}?group=try&wait=50&ack=1000", timeout=PATIENCE_S
    ) as response:
        assert int(response.headers["Rawws-Try"]) > 1
    expect(jobs(one)).to_contain_text(["its time is over"])
    press(one, "ack")
    expect(one.locator(".messages")).to_contain_text("This job is no longer leased to you")
    expect(jobs(one)).to_have_count(0)


def test_a_shell_is_the_third_worker(start_program: StartProgram, visit: Visit, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    need(shutil.which("curl"), "curl")
    program = start_program("--hello", "", "--queue-in-memory")
    page = visit_queue(visit, program)
    page.get_by_role("textbox", name="Room").fill("/room/p\u00e4 y")  # whose path is escaped everywhere
    start(page)
    for name in "12":
        worker(page, name).get_by_role("button", name="Kill").click()
    expect_state(page, workers=0)
    publish(page, 1)
    page.locator("#copy-queue-snippet").get_by_role("button", name="Copy").click()
    expect(page.locator("#copy-queue-snippet .copied")).to_have_text("Copied.")
    snippet = page.evaluate("navigator.clipboard.readText()")
    done = subprocess.run(["sh", "-c", snippet], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "job 1\n"  # and nothing that refuses the acknowledgement
    expect_state(page, waiting=0, leased=0, done=1)
    page.get_by_role("button", name="End the group").click()
    expect(page.locator("#queue-told")).to_have_text("The group try of /room/p%C3%A4%20y has been ended.")


def test_a_worker_that_the_server_ends_says_so(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    program = start_program("--hello", "", "--queue-in-memory")
    page = visit_queue(visit, program, allows="Failed to load resource")  # it may ask for the state just then
    start(page)
    expect_state(page, workers=2)
    target = f"http://{LOOPBACK}:{program.port}/_rawws/groups?room={ROOM}&group=try"
    name, _, value = program.page_cookie().partition(": ")
    urllib.request.urlopen(
        urllib.request.Request(target, method="DELETE", headers={name: value}), timeout=PATIENCE_S
    ).close()
    for each in "12":
        reason = "ended by the server: 4410, This group has been ended"
        expect(worker(page, each).locator(".messages")).to_contain_text(reason)
        expect(worker(page, each).locator(".state")).to_have_text("not there")


def test_without_a_store_the_page_says_what_to_start(start_program: StartProgram, visit: Visit) -> None:
    from playwright.sync_api import expect

    page = visit(start_program("--hello", ""))
    go(page, "Other ways in")
    expect(page.locator("#no-queue")).to_have_text(
        "This server keeps no jobs: a group needs a store, or a backplane; start the server with --store PATH, or with "
        "--queue-in-memory if jobs may be lost when it ends"
    )
    expect(page.get_by_role("button", name="Start two workers")).to_be_hidden()
