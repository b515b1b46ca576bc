"""The memory of an idle peer: the growth of the server's processes when many peers connect and send nothing.

The growth is of the proportional set size in /proc, kernel buffers not included. A few clients come and go
first, so that memory that a server allocates only once is not divided among the peers.
"""

from __future__ import annotations

import resource
from time import sleep

from benchmarks import procinfo
from benchmarks.load import close_clients, open_clients
from benchmarks.servers import Running, Unavailable

REHEARSAL = 50
SPARE_FILES = 200


def allow_open_files() -> int:
    """Raise this process's limit of open files to the maximum, and return it. Servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def bytes_a_peer(server: Running, peers: int, settle_s: float) -> float:
    if (files := allow_open_files()) < peers + SPARE_FILES:
        raise Unavailable(f"needs {peers + SPARE_FILES} open files, may have {files} (ulimit -n)")
    close_clients(open_clients(server.port, min(REHEARSAL, peers)))
    sleep(settle_s)
    before = procinfo.memory_bytes(server.pid)
    clients = open_clients(server.port, peers)
    try:
        sleep(settle_s)
        return (procinfo.memory_bytes(server.pid) - before) / peers
    finally:
        close_clients(clients)
