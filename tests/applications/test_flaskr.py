"""Flask: the blog of its tutorial, which a factory makes, in threads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.applications.running import copy_of, need_packages, run_python, stop
from tests.browser import browsing
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser

USER = {"username": "zoë", "password": "open sesame"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of the tutorial's project, with an empty database."""
    need_packages("flask")
    folder = copy_of("flaskr", tmp_path)
    assert run_python(folder, "-m", "flask", "--app", "flaskr", "init-db") == "The database is ready.\n"
    return folder


def test_a_user_registers_logs_in_and_writes(project: Path, start_program: StartProgram) -> None:
    program = start_program("--app", "flaskr:create_app()", directory=project)
    assert any("threads, at most 40 at a time (WSGI)" in line for line in program.lines)
    site = f"http://localhost:{program.port}"
    with (
        httpx.Client(base_url=site, trust_env=False, follow_redirects=True) as client,
        httpx.Client(base_url=site, trust_env=False) as stranger,
    ):
        assert client.get("/hello").text == "Hello, World!"
        assert client.get("/static/style.css").headers["content-type"].startswith("text/css")
        register_and_log_in(client)
        assert "Edit" not in stranger.get("/").text
        write_and_change(client)
        assert stranger.get("/create").headers["location"] == "/auth/login"
        assert stranger.post("/1/delete").headers["location"] == "/auth/login"
        gone = client.post("/1/delete")
        assert (gone.url.path, "Tomatoes" in gone.text) == ("/", False)
        assert client.get("/1/update").status_code == 404
        assert 'id="user"' not in client.get("/auth/logout").text
        assert client.get("/create").url.path == "/auth/login"
    assert stop(program) == []


def register_and_log_in(client: httpx.Client) -> None:
    assert "A password is required." in client.post("/auth/register", data={**USER, "password": ""}).text
    assert client.post("/auth/register", data=USER).url.path == "/auth/login"
    assert "The name zoë is taken." in client.post("/auth/register", data=USER).text
    assert "The password is wrong." in client.post("/auth/login", data={**USER, "password": "x"}).text
    welcome = client.post("/auth/login", data=USER)
    assert (welcome.url.path, '<span id="user">zoë</span>' in welcome.text) == ("/", True)


def write_and_change(client: httpx.Client) -> None:
    assert "A title is required." in client.post("/create", data={"title": "", "body": "x"}).text
    written = client.post("/create", data={"title": "Tomatoes", "body": "They are <ripe>."})
    assert (written.url.path, "They are &lt;ripe&gt;." in written.text) == ("/", True)
    long = "word " * 50_000  # more than one piece on its way in, and out
    changed = client.post("/1/update", data={"title": "Tomatoes, again", "body": long})
    assert "Tomatoes, again" in changed.text
    assert long in changed.text


def test_a_factory_without_its_parentheses_is_told_so(project: Path, start_program: StartProgram) -> None:
    ran = start_program.run("serve", "--port", "0", "--app", "flaskr:create_app", directory=project)
    assert ran.returncode == 2
    assert ran.stderr.endswith("if it makes the application, give 'flaskr:create_app()'\n")


# In a browser


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from browsing()


@pytest.mark.thorough
def test_a_user_writes_a_post_in_chromium(project: Path, start_program: StartProgram, browser: Browser) -> None:
    from playwright.sync_api import expect

    program = start_program("--app", "flaskr:create_app()", directory=project)
    page = browser.new_page()
    page.set_default_timeout(PATIENCE_S * 1000)
    page.goto(f"http://localhost:{program.port}/")
    for link, button in (("Register", "Register"), ("Log in", "Log in")):
        page.get_by_role("link", name=link).click()
        page.get_by_label("Username").fill(USER["username"])
        page.get_by_label("Password").fill(USER["password"])
        page.get_by_role("button", name=button).click()
    expect(page.locator("#user")).to_have_text(USER["username"])
    page.get_by_role("link", name="New").click()
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".flash")).to_have_text("A title is required.")
    page.get_by_label("Title").fill("Tomatoes")
    page.get_by_label("Body").fill("They are <ripe>.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("article p")).to_have_text("They are <ripe>.")
    page.get_by_role("link", name="Edit").click()
    page.get_by_label("Body").fill("They were.")
    page.get_by_role("button", name="Save").click()
    expect(page.locator("article p")).to_have_text("They were.")
    page.get_by_role("link", name="Edit").click()
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("article")).to_have_count(0)
    page.get_by_role("link", name="Log out").click()
    expect(page.locator("#user")).to_have_count(0)
    assert stop(program) == []
