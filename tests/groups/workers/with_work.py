"""A worker with `rawws.work`. Usage: with_work.py NAME PORT MAX LOG."""

from __future__ import annotations

import os
import sys

import trio

import rawws
from rawws.client import reconnect

reconnect.MAX_BACKOFF_S = reconnect.FIRST_BACKOFF_S = 0.1  # the server is back soon


async def main(name: str, port: str, most: str, log: str) -> None:
    ack_s = int(os.environ.get("ACK", "20"))
    jobs = rawws.work(f"ws://127.0.0.1:{port}/jobs", group="g", max_jobs=int(most), ack=ack_s, tries=50)
    with open(log, "a", buffering=1) as file:
        async for job in jobs:
            async with job:
                file.write(f"{name} get {job.id} {job.tried}\n")
                await trio.sleep(0.002)
                file.write(f"{name} end {job.id} {job.tried}\n")


_, NAME, PORT, MAX, LOG = sys.argv
trio.run(main, NAME, PORT, MAX, LOG)
