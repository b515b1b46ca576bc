"""Light trails, a game for many players, which the server decides.

    python -m rawws.examples.game --port 8080
    open http://localhost:8080/ in several browsers; with --host 0.0.0.0, also on phones in your network

Players send nothing but their turns. The server moves everybody ten times a second, finds the crashes, and publishes
the whole state, so a browser only draws it. The room's policy is ``skip``: a player whose line is slow for a moment
goes on with the newest state, and doesn't watch the past.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import parse_qs

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

WIDTH, HEIGHT, TICKS_PER_S, DOTS = 48, 30, 10, 8
FIRST_LENGTH, GROWTH = 10, 4  # of a trail, in cells
TURNS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
Cell = tuple[int, int]
FIELD = {(x, y) for x in range(WIDTH) for y in range(HEIGHT)}


@dataclass(eq=False)
class Player:
    """A player. The last cell of the trail is its head."""

    id: int
    name: str
    crashes: int = -1
    score: int = 0
    heading: str = "right"
    cells: list[Cell] = field(default_factory=list)

    def start(self) -> None:
        self.cells = [(random.randrange(WIDTH // 2), random.randrange(HEIGHT))]
        self.crashes, self.score, self.heading = self.crashes + 1, 0, "right"

    def ahead(self, heading: str) -> Cell:
        return self.cells[-1][0] + TURNS[heading][0], self.cells[-1][1] + TURNS[heading][1]

    def turn(self, heading: object) -> None:
        """Turn before the next step, but not back into the trail."""
        if isinstance(heading, str) and heading in TURNS and self.ahead(heading) not in self.cells[-2:]:
            self.heading = heading


players: list[Player] = []
dots: set[Cell] = set()


def tick() -> None:
    """Move everybody by a cell. Crashes are found when all have moved, so nobody has an advantage."""
    dots.update(random.sample(sorted(FIELD - dots), DOTS - len(dots)))
    for player in players:
        player.cells.append(player.ahead(player.heading))
        player.score += player.cells[-1] in dots
        del player.cells[: -FIRST_LENGTH - GROWTH * player.score]
    dots.difference_update([player.cells[-1] for player in players])
    taken = [cell for player in players for cell in player.cells]
    for player in [each for each in players if taken.count(each.cells[-1]) > 1 or each.cells[-1] not in FIELD]:
        player.start()


async def play(room: rawws.Room, ws: rawws.WebSocket) -> None:
    """Handle one player's connection."""
    players.append(player := Player(ws.id, parse_qs(ws.request.query).get("name", ["Nameless"])[0][:20]))
    player.start()
    try:
        with room.join(ws):
            await ws.send(json.dumps({"you": player.id, "width": WIDTH, "height": HEIGHT}))
            async for message in ws:
                player.turn(message)
    finally:
        players.remove(player)


async def serve(host: str, port: int) -> None:
    room = rawws.Hub(slow="skip").room("/play")
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, partial(play, room), port, host=host, http=page("game"), max_size=100)
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/", flush=True)
        while True:
            await trio.sleep(1 / TICKS_PER_S)
            tick()
            room.publish(json.dumps({"dots": list(dots), "players": [vars(player) for player in players]}))


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    run_until_signal(serve, options.host, options.port)
