"""Hypercorn on trio, with the application that all have."""

from __future__ import annotations

import argparse
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from benchmarks.peers import application
from benchmarks.peers.options import HOST

parser = argparse.ArgumentParser()
parser.add_argument("--port", type=int, required=True)
config = Config()
config.bind = [f"{HOST}:{parser.parse_args().port}"]
# The default is to close a connection after 1,000 requests, which would measure new connections.
config.keep_alive_max_requests = 10**9

# Hypercorn's type of an application knows fewer kinds of messages than Starlette's does.
app: Any = application.app
trio.run(serve, app, config)
