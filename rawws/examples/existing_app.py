"""An existing web application, with a WebSocket room on the same port.

    python -m pip install starlette
    python -m rawws.examples.existing_app --port 8080
    python -m websockets ws://localhost:8080/room/orders  in one terminal
    curl -d '3 apples' localhost:8080/orders              in another: the order appears in the first

The application knows nothing of WebSockets but the room that it publishes to. rawws answers upgrades at paths that
begin with /room/, and passes every other request on to it. Any ASGI application that runs on trio can take its place,
such as one that uses FastAPI.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import AsyncIterator
from functools import partial

import trio

import rawws
from rawws.examples import run_until_signal
from rawws.extras import install_command

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse, PlainTextResponse, Response
    from starlette.routing import Route
except ImportError:
    sys.exit(f"This example needs Starlette: {install_command('starlette')}")

hub = rawws.Hub()
orders: list[str] = []


async def home(_: Request) -> Response:
    return PlainTextResponse(f"{len(orders)} orders so far\n")


async def order(request: Request) -> Response:
    what = (await request.body()).decode(errors="replace")
    orders.append(what)
    delivery = hub.room("/room/orders").publish(what)
    return JSONResponse({"order": what, "told": delivery.sent + delivery.queued}, status_code=201)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    print("the application has started", flush=True)
    yield
    print("the application has stopped", flush=True)


app = Starlette(routes=[Route("/", home), Route("/orders", order, methods=["POST"])], lifespan=lifespan)


async def serve(port: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, hub, port, host="127.0.0.1", http=rawws.asgi(app)))
        print(f"listening on http://localhost:{server.port}/", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8080)
    run_until_signal(serve, parser.parse_args().port)


if __name__ == "__main__":
    main()
