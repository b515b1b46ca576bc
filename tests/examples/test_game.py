"""The game: its rules, and players who see each other move."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from websockets.sync.client import ClientConnection

from rawws.examples import game
from rawws.examples.game import Player
from tests.examples.running import Run, Visit, check_looks, dial
from tests.serving.machine import PATIENCE_S


@pytest.fixture(autouse=True)
def empty_field() -> Iterator[None]:
    game.players.clear()
    game.dots.clear()
    # Dots that are out of the way, so that a step adds none.
    game.dots.update((x, game.HEIGHT - 1) for x in range(game.DOTS))
    yield
    game.players.clear()
    game.dots.clear()


def enter(number: int, cell: game.Cell, heading: str = "right") -> Player:
    player = Player(number, f"player {number}")
    player.start()
    player.cells, player.heading = [cell], heading
    game.players.append(player)
    return player


def test_a_player_moves_ahead_with_a_trail_of_bounded_length() -> None:
    player = enter(1, (0, 5))
    for _ in range(20):
        game.tick()
    assert player.cells == [(x, 5) for x in range(21 - game.FIRST_LENGTH, 21)]
    assert player.crashes == 0


@pytest.mark.parametrize("cell", [(game.WIDTH - 1, 3), (game.WIDTH - 1, 0)])
def test_a_wall_is_a_crash_and_a_new_start(cell: game.Cell) -> None:
    player = enter(1, cell)
    player.score = 3
    game.tick()
    assert (player.crashes, player.score, len(player.cells)) == (1, 0, 1)


def test_a_trail_is_a_crash_for_the_one_that_meets_it() -> None:
    first, second = enter(1, (10, 10)), enter(2, (12, 8), "down")
    for _ in range(2):
        game.tick()
    assert (first.crashes, second.crashes) == (1, 1)  # both heads reach (12, 10) at once
    first.cells, first.heading = [(20, 10), (21, 10), (22, 10)], "right"
    second.cells, second.heading = [(21, 9)], "down"
    game.tick()
    assert (first.crashes, second.crashes) == (1, 2)


def test_a_dot_is_a_point_and_a_longer_trail(monkeypatch: pytest.MonkeyPatch) -> None:
    player = enter(1, (0, 5))
    game.dots.pop()
    game.dots.add((1, 5))
    game.tick()
    assert player.score == 1
    assert (1, 5) not in game.dots
    monkeypatch.setattr(game, "DOTS", 0)  # a new one might be on the way
    game.dots.clear()
    for _ in range(30):
        game.tick()
    assert len(player.cells) == game.FIRST_LENGTH + game.GROWTH


@pytest.mark.parametrize("heading", ["left", "", "sideways", b"up", "__class__"])
def test_no_player_turns_back_or_elsewhere(heading: object) -> None:
    player = enter(1, (5, 5))
    game.tick()
    player.turn(heading)
    assert player.heading == "right"
    player.turn("up")
    assert player.heading == "up"


def heading_of(watcher: ClientConnection, name: str) -> str:
    while True:
        state = json.loads(watcher.recv(PATIENCE_S))
        for player in state.get("players", ()):
            if player["name"] == name:
                return str(player["heading"])


def test_two_browsers_play_by_keyboard_and_by_touch(run: Run, visit: Visit, axe: str) -> None:
    from playwright.sync_api import expect

    example = run("game", "--port", "0").wait_listening()
    with dial(example.port, "/play?name=watcher") as watcher:
        desk = visit(example.url)
        desk.get_by_label("Your name").fill("Desk")
        desk.keyboard.press("Enter")
        phone = visit(example.url, has_touch=True, viewport={"width": 390, "height": 844})
        expect(phone.locator("#players")).to_contain_text("Desk")
        expect(phone.locator("#players li")).to_have_count(3)
        # A crash right after a turn undoes it, so each is made until it is seen.
        for key, heading in (("ArrowUp", "up"), ("d", "right"), ("s", "down")):
            while heading_of(watcher, "Desk") != heading:
                desk.keyboard.press(key)
        guest = phone.get_by_label("Your name").input_value()
        while heading_of(watcher, guest) != "up":
            phone.get_by_role("button", name="Up").tap()
        check_looks(phone, axe)
        desk.close()
        expect(phone.locator("#players li")).to_have_count(2)
