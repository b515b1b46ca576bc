"""A worker with Python's websockets. Usage: with_websockets.py NAME PORT MAX LOG."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import TextIO

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol


def work(name: str, port: str, most: str, log: str) -> None:
    uri = f"ws://127.0.0.1:{port}/jobs?group=g&ack={os.environ.get('ACK', '60')}&tries=50&max={most}"
    with open(log, "a", buffering=1) as file:
        file.write(f"{name} open\n")
        with connect(uri, subprotocols=[Subprotocol("rawws.id.v1")]) as ws:
            do_all(ws, name, file)


def do_all(ws: ClientConnection, name: str, file: TextIO) -> None:
    for message in ws:
        head = json.loads(str(message).partition("\n")[0])
        if "id" not in head:
            continue
        file.write(f"{name} get {head['id']} {head['try']}\n")
        time.sleep(0.002)
        file.write(f"{name} end {head['id']} {head['try']}\n")
        ws.send(json.dumps({"ack": head["id"]}))


while True:
    try:
        work(*sys.argv[1:])
    except (OSError, WebSocketException):
        time.sleep(0.05)
