"""The part of OpenSSL's own interface that a hostile peer needs and Python's ``ssl`` lacks.

It is the library that Python itself is linked with, called through ctypes: nothing has to be compiled.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import weakref
from ctypes.util import find_library
from pathlib import Path
from typing import Any

from tests.serving.machine import need

TLS_1_3 = 0x0304

# Of <openssl/ssl.h> and <openssl/bio.h>.
SET_MIN_PROTO_VERSION = 123
SET_MAX_SEND_FRAGMENT = 52
BIO_PENDING = 10
KEY_UPDATE_NOT_REQUESTED = 0
KEY_UPDATE_REQUESTED = 1
FILE_PEM = 1

_MAKE_TICKET = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _Library:
    """The functions of both libraries, by name; each returns a pointer or a C int."""

    POINTERS = (
        *("TLS_method", "SSL_CTX_new", "SSL_new", "BIO_s_mem", "BIO_new", "SSL_get_session"),
        *("SSL_free", "SSL_CTX_free"),
    )

    def __init__(self, libraries: list[ctypes.CDLL]) -> None:
        self._libraries = libraries

    def __getattr__(self, name: str) -> Any:
        for library in self._libraries:
            if hasattr(library, name):
                function = getattr(library, name)
                function.restype = ctypes.c_void_p if name in self.POINTERS else ctypes.c_int
                setattr(self, name, function)
                return function
        raise AttributeError(name)


@functools.cache
def _load() -> _Library | None:
    names = [getattr(_ssl, "__file__", None), find_library("ssl"), find_library("crypto")]
    libraries = []
    for name in filter(None, names):
        try:
            libraries.append(ctypes.CDLL(name))
        except OSError:
            continue
    library = _Library(libraries)
    return library if hasattr(library, "SSL_key_update") and hasattr(library, "BIO_s_mem") else None


class RawTls:
    """One side of a TLS 1.3 connection, bytes in and bytes out: a server if there is a certificate."""

    def __init__(
        self,
        certificate: tuple[Path, Path] | None = None,
        *,
        ticket_bytes: int = 0,
        max_fragment: int | None = None,
    ) -> None:
        """``ticket_bytes`` are put into each ticket of a server's; ``max_fragment`` is the most that a record holds."""
        library = _load()
        need(library, "an OpenSSL that ctypes can call")
        assert library is not None
        self._library = library
        context = ctypes.c_void_p(library.SSL_CTX_new(ctypes.c_void_p(library.TLS_method())))
        library.SSL_CTX_ctrl(context, SET_MIN_PROTO_VERSION, ctypes.c_long(TLS_1_3), None)
        if certificate is not None:
            chain, key = (str(path).encode() for path in certificate)
            assert library.SSL_CTX_use_certificate_chain_file(context, chain) == 1
            assert library.SSL_CTX_use_PrivateKey_file(context, key, FILE_PEM) == 1
        if ticket_bytes:
            padding = bytes(ticket_bytes)

            def make_ticket(tls: int, _: int) -> int:
                session = ctypes.c_void_p(library.SSL_get_session(ctypes.c_void_p(tls)))
                made: int = library.SSL_SESSION_set1_ticket_appdata(session, padding, ctypes.c_size_t(ticket_bytes))
                return made

            self._make_ticket = _MAKE_TICKET(make_ticket)  # kept for as long as OpenSSL may call it
            library.SSL_CTX_set_session_ticket_cb(context, self._make_ticket, None, None)
        self._tls = ctypes.c_void_p(library.SSL_new(context))
        if max_fragment is not None:
            library.SSL_ctrl(self._tls, SET_MAX_SEND_FRAGMENT, ctypes.c_long(max_fragment), None)
        self._incoming, self._outgoing = (
            ctypes.c_void_p(library.BIO_new(ctypes.c_void_p(library.BIO_s_mem()))) for _ in range(2)
        )
        library.SSL_set_bio(self._tls, self._incoming, self._outgoing)
        (library.SSL_set_connect_state if certificate is None else library.SSL_set_accept_state)(self._tls)
        weakref.finalize(self, _free, library, self._tls, context)

    def receive(self, data: bytes) -> None:
        """Take bytes that the peer has sent."""
        assert self._library.BIO_write(self._incoming, data, len(data)) == len(data)

    def to_send(self) -> bytes:
        """Return the bytes to be sent to the peer."""
        size = self._library.BIO_ctrl(self._outgoing, BIO_PENDING, ctypes.c_long(0), None)
        buffer = ctypes.create_string_buffer(max(size, 1))
        assert size == 0 or self._library.BIO_read(self._outgoing, buffer, size) == size
        return buffer.raw[:size]

    def do_handshake(self) -> bool:
        """Continue the handshake as far as possible, and return whether it is complete."""
        done: int = self._library.SSL_do_handshake(self._tls)
        return done == 1

    def write(self, data: bytes) -> None:
        assert self._library.SSL_write(self._tls, data, len(data)) == len(data)

    def read(self) -> bytes:
        """Return the data of one record, or nothing if none has come."""
        buffer = ctypes.create_string_buffer(1 << 14)
        size = self._library.SSL_read(self._tls, buffer, len(buffer))
        return buffer.raw[: max(0, size)]

    def update_key(self, *, request: bool = False) -> None:
        """Update our key (RFC 8446 §4.6.3), and optionally request that the peer updates its own."""
        kind = KEY_UPDATE_REQUESTED if request else KEY_UPDATE_NOT_REQUESTED
        assert self._library.SSL_key_update(self._tls, kind) == 1
        assert self._library.SSL_do_handshake(self._tls) == 1


def _free(library: _Library, tls: ctypes.c_void_p, context: ctypes.c_void_p) -> None:
    library.SSL_free(tls)
    library.SSL_CTX_free(context)
