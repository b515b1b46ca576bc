"""An existing web application, with a WebSocket room on the same port.

    python -m pip install starlette
    python -m rawws.examples.existing_app --port 8080
    open http://localhost:8080/
    curl -d '3 apples' localhost:8080/orders              the order appears in the page

The application knows nothing of WebSockets but the room that it publishes to. rawws answers upgrades at paths that
begin with /room/, and passes every other request on to it. Any ASGI application that runs on trio can take its place,
such as one that uses FastAPI.
"""

from __future__ import annotations

import contextlib
import sys
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import trio

import rawws
from rawws.examples.common import arguments, run_until_signal
from rawws.extras import install_command

try:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import FileResponse, JSONResponse, Response
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles
except ImportError:
    sys.exit(f"This example needs Starlette: {install_command('starlette')}")

STATIC = Path(__file__).with_name("static")

KEPT = 100  # orders, in the application, and in the room for pages that are opened later

hub = rawws.Hub(history=KEPT)
orders: deque[str] = deque(maxlen=KEPT)


async def home(_: Request) -> Response:
    return FileResponse(STATIC / "shop" / "index.html")


async def list_orders(_: Request) -> Response:
    return JSONResponse({"orders": list(orders)})


async def order(request: Request) -> Response:
    origin = request.headers.get("Origin")
    if origin is not None and urlsplit(origin).netloc != request.headers["Host"]:
        return JSONResponse({"error": "Pages of other sites can't order here."}, status_code=403)
    what = (await request.body()).decode(errors="replace")
    orders.append(what)
    delivery = hub.room("/room/orders").publish(what)
    return JSONResponse({"order": what, "told": delivery.sent + delivery.queued}, status_code=201)


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    print("the application has started", flush=True)
    yield
    print("the application has stopped", flush=True)


app = Starlette(
    routes=[
        Route("/", home),
        Route("/orders", list_orders),
        Route("/orders", order, methods=["POST"]),
        Mount("/static", StaticFiles(directory=STATIC)),
    ],
    lifespan=lifespan,
)


async def serve(host: str, port: int) -> None:
    async with trio.open_nursery() as nursery:
        server = await nursery.start(partial(rawws.serve, hub, port, host=host, http=rawws.asgi(app)))
        print(f"listening on http://localhost:{server.port}/", flush=True)


def main() -> None:
    options = arguments(__doc__).parse_args()
    run_until_signal(serve, options.host, options.port)


if __name__ == "__main__":
    main()
