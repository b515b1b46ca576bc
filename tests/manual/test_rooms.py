"""The lines of the README for a browser's console."""

from __future__ import annotations

import re

from tests.browser import launch, need_chromium
from tests.manual import ROOT
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

TRY_IT = (ROOT / "README.md").read_text("utf-8").partition("\n## Try it\n")[2].partition("\n## ")[0]


def test_the_lines_for_a_browsers_console_are_pasted_at_once(start_program: StartProgram) -> None:
    need_chromium()
    from playwright.sync_api import Page, sync_playwright

    (script,) = re.findall(r"```js\n(.*?)```", TRY_IT, re.DOTALL)
    address = start_program().address

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
        tab.evaluate(f"() => {{ {script.replace('localhost:8080', address)} }}")
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
        assert logged == [greeting, hello, hello]
