"""Django Channels: the chat of its tutorial, parts 1 to 3."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection

from tests.applications.running import copy_of, dial, need_packages, run_python, stop
from tests.browser import browsing
from tests.redis_server import RedisServer, redis_server
from tests.serving.machine import PATIENCE_S
from tests.serving.programs import Program, StartProgram

if TYPE_CHECKING:
    from playwright.sync_api import Browser

APPLICATION = ("--app", "mysite.asgi:application")
LOBBY = "/ws/chat/lobby/"
CONSUMERS = [
    pytest.param("consumers_sync", marks=pytest.mark.thorough, id="part 2"),
    pytest.param("consumers", id="part 3"),
]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The folder of the tutorial's project."""
    need_packages("django", "channels")
    return copy_of("channels_chat", tmp_path)


def use(project: Path, consumers: str) -> None:
    """Have the project use the consumers of another part of the tutorial."""
    if consumers != "consumers":
        shutil.copy(project / "chat" / f"{consumers}.py", project / "chat" / "consumers.py")


def say(websocket: ClientConnection, words: str) -> None:
    websocket.send(json.dumps({"message": words}))


def heard(websocket: ClientConnection) -> str:
    message: str = json.loads(websocket.recv(PATIENCE_S))["message"]
    return message


@pytest.mark.parametrize("consumers", CONSUMERS)
def test_everybody_in_a_room_hears_what_one_says(consumers: str, project: Path, start_program: StartProgram) -> None:
    use(project, consumers)
    program = start_program(*APPLICATION, directory=project)
    with httpx.Client(base_url=f"http://localhost:{program.port}", trust_env=False) as client:
        assert 'id="room-name-input"' in client.get("/chat/").text
        page = client.get("/chat/lobby/").text
        assert '<script id="room-name" type="application/json">"lobby"</script>' in page
    with dial(program, LOBBY) as alice, dial(program, LOBBY) as bob, dial(program, "/ws/chat/attic/") as carol:
        say(bob, "hello")
        assert [heard(alice), heard(bob)] == ["hello", "hello"]
        alice.close()
        say(bob, "is anybody here?")
        assert heard(bob) == "is anybody here?"
        say(carol, "in another room")
        assert heard(carol) == "in another room"
        assert stop(program) == []


@pytest.mark.thorough
def test_the_first_consumer_of_part_2_echoes(project: Path, start_program: StartProgram) -> None:
    use(project, "consumers_echo")
    program = start_program(*APPLICATION, directory=project)
    with dial(program, LOBBY) as alice, dial(program, LOBBY) as bob:
        say(alice, "hello")
        say(bob, "good evening")
        assert [heard(alice), heard(bob)] == ["hello", "good evening"]


def test_channels_refuses_pages_of_other_sites_and_paths_without_a_consumer(
    project: Path, start_program: StartProgram
) -> None:
    program = start_program(*APPLICATION, "--allow-origin", "https://other.example", directory=project)
    for origin in (None, "https://other.example"):
        with pytest.raises(InvalidStatus) as caught:
            dial(program, LOBBY, origin=origin)
        assert caught.value.response.status_code == 403
    program.wait_for_line("refused with 403 (application_refused)")
    with pytest.raises(InvalidStatus):
        dial(program, "/ws/elsewhere/")
    program.wait_for_line("No route found for path 'ws/elsewhere/'")


async def test_two_programs_share_a_room_through_redis(
    project: Path, start_program: StartProgram, tmp_path: Path
) -> None:
    need_packages("channels_redis")
    async with redis_server(tmp_path) as redis:
        use_redis(project, redis)
        first, second = (start_program(*APPLICATION, directory=project) for _ in range(2))
        talk_across(first, second)


def use_redis(project: Path, redis: RedisServer) -> None:
    layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [("127.0.0.1", redis.port)]}}
    with (project / "mysite" / "settings.py").open("a") as settings:
        settings.write(f'CHANNEL_LAYERS = {{"default": {layer!r}}}\n')


def talk_across(first: Program, second: Program) -> None:
    with dial(first, LOBBY) as alice, dial(second, LOBBY) as bob:
        for speaker in (alice, bob):
            say(speaker, "hello")
            assert [heard(alice), heard(bob)] == ["hello", "hello"]
        assert [stop(program) for program in (first, second)] == [[], []]


# In a browser


@pytest.fixture
def browser() -> Iterator[Browser]:
    yield from browsing()


@pytest.mark.thorough
@pytest.mark.parametrize("consumers", ["consumers_sync", "consumers"])
def test_two_tabs_of_chromium_chat(
    consumers: str, project: Path, start_program: StartProgram, browser: Browser
) -> None:
    from playwright.sync_api import expect

    use(project, consumers)
    run_python(project, "manage.py", "migrate", "-v0")
    program = start_program(*APPLICATION, directory=project)
    tabs = [browser.new_page(), browser.new_page()]
    errors: list[str] = []
    for tab in tabs:
        tab.on("console", lambda said: errors.append(f"{said.location['url']}: {said.text}"))
        tab.set_default_timeout(PATIENCE_S * 1000)
        with tab.expect_websocket() as opened:
            tab.goto(f"http://localhost:{program.port}/chat/")
            tab.get_by_label("Room").fill("lobby")
            tab.keyboard.press("Enter")
        assert opened.value.url == f"ws://localhost:{program.port}{LOBBY}"
        tab.wait_for_url("**/chat/lobby/")
        tab.wait_for_function("chatSocket.readyState === WebSocket.OPEN")
    for tab, words in zip(tabs, ("<b>hello</b>", "good evening"), strict=True):
        tab.get_by_label("Message").fill(words)
        tab.keyboard.press("Enter")
        expect(tabs[0].get_by_label("Log")).to_have_value(re.compile(f"{words}\n$"))
    for tab in tabs:
        expect(tab.get_by_label("Log")).to_have_value("<b>hello</b>\ngood evening\n")
    assert [error for error in errors if "/favicon.ico" not in error] == []
    assert stop(program) == []
