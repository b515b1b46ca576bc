"""A worker with `rawws.work`. Usage: with_work.py NAME PORT MAX LOG."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

import trio

import rawws
from rawws import logs
from rawws.client import reconnect

reconnect.MAX_BACKOFF_S = reconnect.FIRST_BACKOFF_S = 0.1  # the server is back soon


class Openings(logging.Handler):
    """Appends a line before each connection but the first. `rawws.work` makes them, and says so in its own log."""

    def __init__(self, name: str, file: TextIO) -> None:
        super().__init__()
        self._name, self._file = name, file

    def emit(self, record: logging.LogRecord) -> None:
        if "connecting again" in record.getMessage():
            self._file.write(f"{self._name} open\n")


async def main(name: str, port: str, most: str, log: str) -> None:
    with open(log, "a", buffering=1) as file:
        logs.http.setLevel(logging.INFO)
        logs.http.addHandler(Openings(name, file))
        file.write(f"{name} open\n")
        ack_s = int(os.environ.get("ACK", "60"))
        jobs = rawws.work(f"ws://127.0.0.1:{port}/jobs", group="g", max_jobs=int(most), ack=ack_s, tries=50)
        async for job in jobs:
            async with job:
                file.write(f"{name} get {job.id} {job.tried}\n")
                await trio.sleep(0.002)
                file.write(f"{name} end {job.id} {job.tried}\n")


_, NAME, PORT, MAX, LOG = sys.argv
trio.run(main, NAME, PORT, MAX, LOG)
