"""The README: its programs and commands work as they stand, and its figures are the measured ones."""

from __future__ import annotations

import json
import logging
import re
import shlex
import shutil
import subprocess

import pytest
import trio

import rawws
from benchmarks import servers
from benchmarks.cases import CASES
from benchmarks.report import Row, figure, ratio
from benchmarks.servers import LIMIT
from tests.browser import launch, need_chromium
from tests.manual import ROOT, block, blocks, page
from tests.manual.programs import Program
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram
from tests.serving.server import Serve
from tests.serving.wire import upgrade

README = (ROOT / "README.md").read_text("utf-8")


def test_both_set_up_commands_are_at_the_top() -> None:
    run, test = (each.text for each in blocks(README)[:2])
    assert run == "pip install . && python -m rawws\n"
    assert test == "pip install '.[test]' && pytest\n"
    assert README.index("](.readme/page.png)") > README.index(test)


def test_the_server_greets_curl(start_program: StartProgram) -> None:
    need(shutil.which("curl"), "curl")
    command, shown = block(README, "console", "curl").removeprefix("$ ").split("\n", 1)
    arguments = shlex.split(command.replace("localhost:8080", start_program().address))
    assert subprocess.check_output([*arguments, "-s"], text=True, timeout=PATIENCE_S) == shown.rstrip("\n")


@pytest.mark.usefixtures("bounded")
async def test_the_server_and_the_client_talk(nursery: trio.Nursery, capsys: pytest.CaptureFixture[str]) -> None:
    address = await Program(block(README, "python", "rawws.serve")).serve(nursery)
    async with rawws.connect(f"ws://{address}/room", proxy=None) as other:
        await Program(block(README, "python", "rawws.connect"), int(address.rpartition(":")[2])).run()
        said = capsys.readouterr().out
        assert re.fullmatch(r"\d+: hello\n", said)
        assert await other.recv() == said.rstrip()


async def test_the_refusal_of_another_site_is_the_one_shown(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "rawws")
    (shown,) = re.findall(r"^WARNING (\S+) (#1 .*)$", README, re.MULTILINE)
    client = await (await serve()).connect()
    assert (await client.ask(upgrade("/room", "Origin: https://hoppscotch.io"))).status == 403
    assert [(record.name, record.getMessage()) for record in caplog.records] == [shown]


def test_the_handshake_is_an_excerpt_of_the_whole_one() -> None:
    lines = iter(page("tutorial/handshake").splitlines())
    excerpt = block(README, "text", "258EAFA5").splitlines()
    assert len(excerpt) == 16
    for line in excerpt:
        assert line == "…" or line in lines, line  # in this order


@pytest.mark.thorough
def test_the_lines_for_a_browsers_console_are_pasted_at_once(start_program: StartProgram) -> None:
    need_chromium()
    from playwright.sync_api import Page, sync_playwright

    address = start_program().address
    script = block(README, "js", "new WebSocket").replace("localhost:8080", address)

    def wait(tab: Page, logged: list[str], count: int) -> None:
        for _ in range(int(PATIENCE_S * 100)):
            if len(logged) >= count:
                break
            tab.wait_for_timeout(10)

    def paste(tab: Page) -> list[str]:
        """Return the lines of the tab's console; later lines are added to the list."""
        logged: list[str] = []
        tab.on("console", lambda message: logged.append(message.text))
        tab.on("pageerror", lambda error: logged.append(str(error)))
        tab.goto(f"http://{address}/")
        console = tab.context.new_cdp_session(tab)
        # DevTools evaluates a paste in this mode: as one script, whose declarations can be repeated.
        result = console.send("Runtime.evaluate", {"expression": script, "replMode": True, "userGesture": True})
        assert "exceptionDetails" not in result, result
        wait(tab, logged, 2)
        return logged

    greeting, hello = "Hello! Message From Server!!", "hello from a browser"
    with sync_playwright() as playwright:
        browser = launch(playwright)
        tab = browser.new_page()
        logged = paste(tab)
        assert logged == [greeting, hello]
        assert paste(browser.new_page()) == [greeting, hello]
        wait(tab, logged, 3)
        tab.evaluate("() => ws.send('and again')")
        wait(tab, logged, 4)
        assert logged == [greeting, hello, hello, "and again"]


def standings() -> dict[str, str]:
    """Return a row of the README's table for each benchmark that rawws was measured in, by its title."""
    data = json.loads((ROOT / "benchmarks" / "results.json").read_text("utf-8"))
    rows = [row for row in map(Row.from_json, data["results"]) if row.rounds and row.server != LIMIT]
    found = {}
    for case in CASES:
        ours = next((row for row in rows if row.case == case.name and row.server == "rawws"), None)
        others = sorted((row for row in rows if row.case == case.name and row.server != "rawws"), key=lambda r: r.value)
        if ours is None or not others:
            continue
        best = others[-1 if case.more_is_better else 0]
        stands = ratio(ours.value, best.value) if case.more_is_better else ratio(best.value, ours.value)
        title = f"{case.title}: {case.unit}"
        other = servers.BY_NAME[best.server].title.partition(" (")[0]
        found[title] = f"| {title} | {figure(ours.value)} | {figure(best.value)}, {other} | {stands} |"
    return found


def test_the_figures_are_the_measured_ones() -> None:
    """The rows are ahead, or behind, as the sentence before the table says."""
    rows = re.findall(r"^\| (.*?: .*?) \| .*?× \|$", README, re.MULTILINE)
    measured = standings()
    shown = [measured[title] for title in rows]
    assert "\n".join(shown) in README, "\n".join(shown)
    leads = [float(row.split(" | ")[-1].rstrip("× |").replace(",", "")) > 1 for row in shown]
    assert leads == [True, True, True, False, False, False]


def test_every_document_of_the_project_is_named() -> None:
    for name in ("benchmarks/README.md", "tests/README.md", "rawws/README.md", "rawws/docs/README.md"):
        assert f"]({name})" in README
    for name in (".github/CONTRIBUTING.md", ".github/SECURITY.md", "rawws/LICENSE", "rawws/docs/changelog.md"):
        assert f"]({name})" in README
