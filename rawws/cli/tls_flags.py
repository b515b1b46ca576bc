"""The flags of a client's TLS, which several commands have."""

from __future__ import annotations

import argparse
import ssl

from rawws.cli.flags import Flag, Value
from rawws.errors import UsageError
from rawws.net.tls import default_context, insecure_context, load_certificate, trusting_context

_FILE = Value(metavar="FILE")

TLS_GROUP = "TLS, for wss://"
TLS_FLAGS = (
    Flag("--no-check", None, "don't check the server's TLS certificate", short="-n", own_default=False),
    Flag(
        "--ca",
        _FILE,
        "trust the certificates in this PEM file, in place of this machine's authorities; they are those of an "
        "authority, or a server's own",
    ),
    Flag("--cert", _FILE, "client certificate (PEM) for a server that asks for one"),
    Flag("--key", _FILE, "private key of the client certificate, if it is in another file"),
)


def client_tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """Return the TLS settings that the flags ask for; None for the default ones.

    Raises `UsageError` for flags that contradict one another, and for files that can't be used.
    """
    if options.no_check and options.ca is not None:
        raise UsageError("--ca has no effect with --no-check, which accepts any certificate; leave one of them out")
    if options.key is not None and options.cert is None:
        raise UsageError("--key has no effect without --cert; give the certificate too")
    if options.ca is not None:
        context = trusting_context(options.ca)
    elif options.no_check:
        context = insecure_context()
    elif options.cert is not None:
        context = default_context()
    else:
        return None
    if options.cert is not None:
        load_certificate(context, "the client certificate", options.cert, options.key)
    return context
