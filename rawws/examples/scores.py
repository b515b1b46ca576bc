"""Live scores, pushed by WebSocket and by server-sent events, side by side.

    python -m rawws.examples.scores --port 8080
    open http://localhost:8080/
    curl -N -H 'Accept: text/event-stream' 'localhost:8080/scores?last=1'

Both ways read one room, so both get the same messages with the same ids, and a reader that was away asks for the rest
by the id of its last message. Each message has all scores, so a reader that has just come needs only the last one.
"""

from __future__ import annotations

import json
import random
from dataclasses import asdict, dataclass
from functools import partial

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

FIXTURES = (("Harbour", "Riverside"), ("Northgate", "Old Mill"), ("Castle Hill", "Meadow"), ("Station", "Lakeside"))

# Readers can't write: the scores are published by this program alone.
hub = rawws.Hub(rooms_at="/scores", history=500, read_only=True)


@dataclass
class Match:
    """A match, and the number of its goals."""

    home: str
    away: str
    home_goals: int = 0
    away_goals: int = 0


class League:
    """Matches that are played at the same time, a minute in each step."""

    def __init__(self) -> None:
        self.matches: list[Match] = []
        self.minute = 90  # a round is over, so that the first step begins another one
        self.number = 0  # of messages, so that a reader can tell whether it has missed one

    def step(self) -> str:
        """Play a minute, and return what happened in a few words; they are empty for a minute without news."""
        if self.minute == 90:
            self.matches = [Match(home, away) for home, away in FIXTURES]
            self.minute = 0
            return "Kick-off"
        self.minute += 1
        if self.minute == 90:
            return "Full time"
        if random.random() > 0.2:
            return ""
        match = random.choice(self.matches)
        if random.random() < 0.55:
            match.home_goals += 1
            return f"Goal for {match.home}"
        match.away_goals += 1
        return f"Goal for {match.away}"

    def message(self, news: str) -> str:
        """Return all scores and the news as JSON."""
        self.number += 1
        matches = [asdict(match) for match in self.matches]
        return json.dumps({"number": self.number, "minute": self.minute, "news": news, "matches": matches})


async def play(minutes_per_second: float) -> None:
    league = League()
    room = hub.room("/scores")
    while True:
        room.publish(league.message(league.step()))
        await trio.sleep(1 / minutes_per_second)


async def serve(host: str, port: int, minutes_per_second: float) -> None:
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, hub, port, host=host, process_request=page("scores"))
        server = await nursery.start(partial(start, http=rawws.rooms(hub)))
        print(f"listening on http://localhost:{server.port}/", flush=True)
        nursery.start_soon(play, minutes_per_second)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--minutes-per-second", type=float, default=2.0, help="how fast the matches are played")
    options = parser.parse_args()
    run_until_signal(serve, options.host, options.port, options.minutes_per_second)


if __name__ == "__main__":
    main()
