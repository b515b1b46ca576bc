"""Clients that get the ids of messages."""

from __future__ import annotations

import json

from tests.room_serving import Rooms
from tests.serving.client import Client

IDS = "Sec-WebSocket-Protocol: rawws.id.v1"


async def open_with_ids(node: Rooms, path: str) -> tuple[Client, str]:
    """Open a WebSocket that gets ids; return it and the id of its position."""
    client = await node.open(path, IDS)
    control = json.loads((await client.frame()).payload)
    assert "gap" not in control, control
    return client, control["at"]


async def next_with_id(client: Client) -> tuple[str, bytes]:
    """Return the next message's id and payload."""
    head, _, payload = (await client.frame()).payload.partition(b"\n")
    control = json.loads(head)
    assert "id" in control, control
    return control["id"], payload
