"""The command line of every peer server. Measures nothing."""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass

HOST = "127.0.0.1"

# Above the largest message of any case, 1 MiB, so that no library's own limit decides a row.
MAX_MESSAGE_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Options:
    port: int
    broadcast: bool
    compression: bool
    tls_cert: str | None
    tls_key: str | None
    relay: bool  # for limit.py alone, whose messages are otherwise copies of the first

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the server's TLS context, or None when the case is plain."""
        if self.tls_cert is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls_cert, self.tls_key)
        return context


def parse() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mode", choices=("echo", "broadcast"), required=True)
    parser.add_argument("--compression", action="store_true")
    parser.add_argument("--tls-cert")
    parser.add_argument("--tls-key")
    parser.add_argument("--relay", action="store_true")
    args = parser.parse_args()
    broadcast = args.mode == "broadcast"
    return Options(args.port, broadcast, args.compression, args.tls_cert, args.tls_key, args.relay)
