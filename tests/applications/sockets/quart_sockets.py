"""The WebSockets of Quart's documentation: its guide to them, and its tutorial of a chat."""

import asyncio

from quart import Quart, abort, request, websocket

app = Quart(__name__)
left = []


class Broker:
    def __init__(self):
        self.connections = set()

    async def publish(self, message):
        for connection in self.connections:
            await connection.put(message)

    async def subscribe(self):
        connection = asyncio.Queue()
        self.connections.add(connection)
        try:
            while True:
                yield await connection.get()
        finally:
            self.connections.remove(connection)


broker = Broker()


async def _receive():
    while True:
        await broker.publish(await websocket.receive())


@app.websocket("/chat")
async def chat():
    task = asyncio.ensure_future(_receive())
    try:
        async for message in broker.subscribe():
            await websocket.send(message)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@app.websocket("/echo")
async def echo():
    while True:
        await websocket.send(await websocket.receive())


@app.websocket("/json")
async def json():
    while True:
        await websocket.send_json({"got": await websocket.receive_json()})


@app.websocket("/accepts")
async def accepts():
    await websocket.accept(headers={"X-Kind": "accepts"}, subprotocol=websocket.requested_subprotocols[0])
    await websocket.send(f"{websocket.path} {websocket.args['q']} {websocket.cookies['session']}")
    await websocket.close(4000, "that is all")


@app.websocket("/asks")
async def asks():
    authorization = websocket.authorization
    if authorization is None or authorization.password != "secret":
        return "The password is wrong.", 403
    await websocket.accept()
    await websocket.send("welcome")
    return None


@app.websocket("/aborts")
async def aborts():
    abort(401)


@app.websocket("/both-ways")
async def both_ways():
    async def sending():
        for number in range(3):
            await websocket.send(str(number))

    async def receiving():
        while True:
            await websocket.send(f"got {await websocket.receive()}")

    await asyncio.gather(asyncio.create_task(sending()), asyncio.create_task(receiving()))


@app.websocket("/notices")
async def notices():
    try:
        while True:
            await websocket.receive()
    except asyncio.CancelledError:
        left.append("left")
        raise


@app.get("/left")
async def who_has_left():
    return left


@app.post("/say")
async def say():
    await broker.publish((await request.get_data()).decode())
    return {"told": len(broker.connections)}
