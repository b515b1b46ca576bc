"""A back end that notifies another: a payment is answered at once, and an SMS service gets every payment.

    python -m rawws.examples.payments server
    python -m rawws.examples.payments sms --state sms.state
    open http://localhost:8080/, or: curl -d 'amount=100' localhost:8080/payments

Kill the SMS service, pay some more, and start it again: it sends the id of its last message, and gets the messages
after it, as far as the room's history has them. It records a message after its SMS, so it loses none. Killed between
the two, it sends that SMS again. A client that retries a payment with its Idempotency-Key doesn't pay twice, as long
as the server runs. With ``--store FILE`` payments survive a kill of the server, too: see ``sms_workers``.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import trio

import rawws
from rawws.examples.common import arguments, page, run_until_signal

KEPT = 1000  # payments that the room keeps for a week, for readers that reconnect


async def serve(host: str, port: int, *, store: Path | None = None) -> None:
    """The primary server: payments come in over HTTP, and go out as messages of a room that clients may only read."""
    hub = rawws.Hub(history=KEPT, history_age_s=7 * 24 * 3600, read_only=True, rooms_at="/payments", store=store)
    receipts = rawws.Hub(history=KEPT, exclude_sender=True)  # the SMS service says here which payments it is done with
    files = page("payments")
    one_at_a_time = trio.Lock()
    paid: dict[str, str] = {}  # the last payments that had an Idempotency-Key: the key, and the payment's id

    async def http(request: rawws.Request) -> rawws.Response | None:
        if (request.method, request.path) != ("POST", "/payments"):
            return await files(request)
        if request.is_cross_origin:  # a browser lets the pages of any site send a POST to this machine
            return rawws.Response(403, "Pages of other sites can't pay here.\n")
        async with one_at_a_time:
            return await pay(request)

    async def pay(request: rawws.Request) -> rawws.Response:
        key = request.headers.get("Idempotency-Key", "")
        if key in paid:
            return rawws.Response(200, paid[key] + "\n")
        payment = json.dumps({"paid": request.body.decode(errors="replace")})
        # It never waits for a reader, but until the payment is stored.
        room = hub.room("/payments")
        payment_id = await trio.to_thread.run_sync(lambda: room.publish(payment, wait=True)) or ""
        if key:
            paid[key] = payment_id
        if len(paid) > KEPT:
            del paid[next(iter(paid))]
        return rawws.Response(201, payment_id + "\n")

    async with trio.open_nursery() as nursery:
        start = partial(rawws.serve, hub, port, host=host, http=http, routes={"/receipts": receipts})
        server = await nursery.start(start)
        print(f"listening on http://localhost:{server.port}/payments", flush=True)


async def send_sms(port: int, state: Path) -> None:
    """The SMS service. A file has the id of the last payment whose SMS was sent."""
    last_id = state.read_text() if state.exists() else ""
    # A service without a position takes all payments that there are.
    uri = f"ws://localhost:{port}/payments" + ("" if last_id else f"?last={KEPT}")
    async for ws in rawws.connect(uri, resume=last_id or True):
        if ws.gap is not None:
            print(f"payments are missing after {ws.gap.since}: ask the books", flush=True)
        try:
            async with rawws.connect(f"ws://localhost:{port}/receipts") as receipts:
                async for message in ws:
                    print(f"SMS: {json.loads(message)['paid']!r}", flush=True)  # quoted: it may contain escape codes
                    new = state.with_suffix(".new")
                    new.write_text(ws.last_id)
                    new.replace(state)  # the file is whole even if we are killed
                    await receipts.send(ws.last_id)
        except (rawws.RawwsError, OSError):
            print("cut off from the payments; trying again", flush=True)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("role", choices=("server", "sms"))
    parser.add_argument("--store", type=Path, metavar="FILE", help="the file in which the server keeps its payments")
    parser.add_argument("--state", type=Path, metavar="FILE", help="the file with the SMS service's position")
    options = parser.parse_args()
    if options.role == "server":
        run_until_signal(partial(serve, store=options.store), options.host, options.port)
    elif options.state is None:
        parser.error("the SMS service needs --state FILE, such as --state sms.state, to resume after a kill")
    else:
        run_until_signal(send_sms, options.port, options.state)


if __name__ == "__main__":
    main()
