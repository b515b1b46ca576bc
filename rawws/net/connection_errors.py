"""Errors of a connection: the exceptions that TLS adds to the system's, and a sentence for the log."""

from __future__ import annotations

import errno
import ssl

# accept() fails with these when the process or the machine has run out of something, not because of this connection.
EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class TlsFlood(ssl.SSLError):
    """A peer keeps TLS busy as no honest one does; the message says how."""

    def __init__(self, sentence: str) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, sentence)
        self.reason = sentence


class NotTls(ssl.SSLError):
    """A peer does not speak TLS; ``first_bytes`` are its first bytes, at least one."""

    def __init__(self, first_bytes: bytes) -> None:
        self.reason = "the peer does not speak TLS"
        super().__init__(ssl.SSL_ERROR_SSL, self.reason)
        self.first_bytes = first_bytes


def describe_loss(error: OSError) -> str:
    """Return why a connection is lost, and that this machine is the reason where it is.

    A connection whose send() fails with ENOBUFS is not tried again. Its socket stays writable, so trying again would be
    a busy loop. The error is rare, because on Linux a TCP socket waits instead.
    """
    why = error.strerror or str(error)
    if isinstance(error, ssl.SSLError) and not isinstance(error, TlsFlood):
        why = f"TLS failed ({getattr(error, 'reason', None) or why})"  # without the line of Python's C source
    return f"{why}: this machine had no memory for it" if error.errno in EXHAUSTED else why
