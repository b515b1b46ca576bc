"""A back end that tells another: a payment is answered at once, and an SMS service hears of it and loses nothing.

    python -m rawws.examples.payments server
    python -m rawws.examples.payments sms
    curl -d 'amount=100' localhost:8080/payments

Kill the SMS service, pay some more, and start it again: it says which event it had last, and gets what came since,
as far as the server still holds it. It notes an event when its SMS is out, so none is lost, and none sent twice.
"""

from __future__ import annotations

import argparse
import json
from collections import deque
from functools import partial
from pathlib import Path

import trio

import rawws

HELD = 1000  # events that the server keeps for those who come back


class Payments:
    """The primary server: payments come in over HTTP, and go out as numbered events in a room."""

    def __init__(self) -> None:
        self.events: deque[dict[str, object]] = deque(maxlen=HELD)
        self.count = 0
        self.room = rawws.Hub().room("/payments")

    async def http(self, request: rawws.Request) -> rawws.Response | None:
        if (request.method, request.path) != ("POST", "/payments"):
            return None
        self.count += 1
        event = {"id": self.count, "paid": request.body.decode(errors="replace")}
        self.events.append(event)
        self.room.publish(json.dumps(event))  # waits for nobody
        return rawws.Response(201, json.dumps(event) + "\n", {"Content-Type": "application/json"})

    async def tell(self, ws: rawws.WebSocket) -> None:
        """One listener: what it has missed, then what comes. There is no moment between the two to miss anything."""
        since = int(ws.request.query.removeprefix("since=") or self.count)
        while missed := [event for event in self.events if int(str(event["id"])) > since]:
            for event in missed:
                await ws.send(json.dumps(event))
                since = int(str(event["id"]))
        self.room.join(ws)
        await ws.wait_closed()


async def serve(port: int) -> None:
    payments = Payments()
    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, payments.tell, port, host="127.0.0.1", http=payments.http)
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/payments", flush=True)


async def send_sms(port: int, state: Path) -> None:
    """The SMS service. A file has the number of the last event told; killed in between, it tells that one again."""
    last = int(state.read_text()) if state.exists() else 0
    async for ws in rawws.connect(f"ws://localhost:{port}/payments?since={last}"):
        try:
            async for message in ws:
                event = json.loads(message)
                if event["id"] <= last:
                    continue  # we were cut off, and are told again from where this process began
                print(f"SMS: payment {event['id']}: {event['paid']}", flush=True)
                last = event["id"]
                new = state.with_suffix(".new")
                new.write_text(str(last))
                new.replace(state)  # so that the file is whole whenever we are killed
        except rawws.ConnectionClosed:
            print("cut off from the payments; trying again", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("server", "sms"))
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--state", type=Path, default=Path("sms.state"), help="the SMS service's (default: %(default)s)"
    )
    options = parser.parse_args()
    if options.role == "server":
        trio.run(serve, options.port)
    else:
        trio.run(send_sms, options.port, options.state)


if __name__ == "__main__":
    try:
        main()
    except* KeyboardInterrupt:
        pass
