"""TLS: a client's trust settings, its handshake, and failures, each explained in one sentence.

OpenSSL's own messages name neither the server nor a remedy. A sentence here has both. It is the same in the library, in
``rawws connect``, ``rawws check`` and ``rawws tap``. The original exception is the ``__cause__``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import ssl
import stat
import time
from pathlib import Path

from rawws.errors import NoResponse, RawwsError, UsageError
from rawws.net.connection_errors import NotTls
from rawws.net.tls_transport import TlsTransport
from rawws.wire.first_bytes import is_http_answer
from rawws.wire.trace import escape

# The most bytes that are shown of a server that doesn't answer with TLS.
_SHOWN_BYTES = 40
# The most bytes that are read of a file without a usable certificate, to find out what is wrong with it.
_EXPLAINED_BYTES = 1 << 20

# The alerts of RFC 8446 §6 in OpenSSL's names, which have the version that introduced each.
_ALERT = re.compile(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?([A-Z_]+)")
# Python has no name for some of them, only OpenSSL's text.
_TEXT = re.compile(r"\[[^]]*\] (.+) \(_ssl\.c:[0-9]+\)")
_ABOUT_OUR_CERTIFICATE = frozenset(
    {
        *("BAD_CERTIFICATE", "UNSUPPORTED_CERTIFICATE", "CERTIFICATE_REVOKED", "CERTIFICATE_EXPIRED"),
        *("CERTIFICATE_UNKNOWN", "UNKNOWN_CA", "ACCESS_DENIED"),
    }
)
_NO_COMMON_VERSION = frozenset(
    {"UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION", "NO_PROTOCOLS_AVAILABLE", "UNKNOWN_PROTOCOL", "VERSION_TOO_LOW"}
)
_NO_RECORD = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE", "BAD_RECORD_TYPE"})

_TRUST = "give it with --ca FILE (in Python: ssl=ssl.create_default_context(cafile=FILE))"
GIVE_CERTIFICATE = "give one with --cert FILE (in Python: load_cert_chain(FILE) of the context that ssl= is)"

_UNKNOWN_AUTHORITY = (
    "comes from an authority that is not trusted here, or the server leaves out a certificate in between; to trust the "
    f"authority's certificate, {_TRUST}"
)
_OTHER_HOST = "is for another host: use a host name that it is for, or give the server a certificate for this one"
# The keys are X509_V_ERR_… of OpenSSL's x509_vfy.h.
_CERTIFICATE_FAULTS = {
    2: _UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT
    9: "is not valid yet, unless the date here, TODAY, is wrong; the server needs another one",
    10: "has expired, unless the date here, TODAY, is wrong; the server needs a new one",
    18: f"is self-signed, so no authority vouches for it; to trust it, {_TRUST}",
    19: _UNKNOWN_AUTHORITY,  # SELF_SIGNED_CERT_IN_CHAIN
    20: _UNKNOWN_AUTHORITY,  # UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    21: _UNKNOWN_AUTHORITY,  # UNABLE_TO_VERIFY_LEAF_SIGNATURE
    62: _OTHER_HOST,
    64: _OTHER_HOST,  # IP_ADDRESS_MISMATCH
}


class TlsError(RawwsError, ssl.SSLError):
    """TLS with a server failed; the message has the server's address, the side at fault, and advice.

    ``reason`` is OpenSSL's name for the error, and ``may_pass`` says whether another try may succeed.
    """

    def __init__(self, sentence: str, reason: str = "", *, may_pass: bool = False) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, sentence)
        self.reason = reason
        self.may_pass = may_pass


class CertificateError(TlsError, ssl.SSLCertVerificationError):
    """A server's certificate isn't trusted; ``verify_code`` and ``verify_message`` are OpenSSL's."""

    def __init__(self, sentence: str, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(sentence, error.reason)
        self.verify_code = error.verify_code
        self.verify_message = error.verify_message


async def start_tls(connected: socket.socket, context: ssl.SSLContext, host: str, where: str) -> TlsTransport:
    """Complete a TLS handshake with a server whose certificate has to be for ``host``; return the connection.

    Errors call the server ``where``. This takes the socket over, and closes it if the handshake fails or is cancelled.
    Raises `TlsError`, `NoResponse` and other OSErrors.
    """
    transport = TlsTransport(connected, context, server_hostname=host)
    try:
        await transport.do_handshake()
    except OSError as error:
        transport.close()
        raise explain(error, where) from error
    except BaseException:
        transport.close()
        raise
    return transport


# Settings


def default_context() -> ssl.SSLContext:
    """Return settings that trust this machine's authorities, or those in the file that SSL_CERT_FILE names."""
    return _with_http_1(ssl.create_default_context())


def insecure_context() -> ssl.SSLContext:
    """Return settings that accept any certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return _with_http_1(context)


def trusting_context(ca_file: str) -> ssl.SSLContext:
    """Return settings that trust the certificates in a PEM file, in place of this machine's authorities.

    A certificate in it may be an authority's or a server's own. Raises `UsageError` for a file without a usable one.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except ssl.SSLError as error:
        raise UsageError(f"no certificate can be trusted by {ca_file!r}: {_find_fault(ca_file)}") from error
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UsageError(f"the certificates in {ca_file!r} can't be read: {why}; --ca takes a PEM file") from error
    if not context.cert_store_stats()["x509"]:  # such as a certificate revocation list alone
        raise UsageError(f"no certificate can be trusted by {ca_file!r}: {_find_fault(ca_file)}")
    # A server's own certificate can be trusted without its authority, as in curl, and in Python from 3.13 on. Python
    # 3.13 also checks the form of certificates strictly, and certificates of home-made authorities often fail that.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return _with_http_1(context)


def load_certificate(context: ssl.SSLContext, name: str, certificate: str, key: str | None) -> None:
    """Load a certificate chain and its private key, both PEM. Errors call it ``name``. Raises `UsageError`.

    Without a ``key``, the private key is in the certificate's file.
    """
    key = key or certificate
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        why = f": {error.reason}" if error.reason else ""
        advice = "give a PEM certificate and the key that belongs to it"
        raise UsageError(f"{name} {certificate!r} and its key {key!r} can't be used{why}; {advice}") from error
    except OSError as error:
        raise UsageError(f"{name} {certificate!r} or its key {key!r} can't be read: {error.strerror}") from error


def _with_http_1(context: ssl.SSLContext) -> ssl.SSLContext:
    context.set_alpn_protocols(["http/1.1"])  # RFC 7301
    return context


def _find_fault(ca_file: str) -> str:
    """Return the reason why a readable file has no usable certificate in it, and advice."""
    data = b""
    with contextlib.suppress(OSError):
        if stat.S_ISREG(os.stat(ca_file).st_mode):  # a pipe can't be read a second time
            with Path(ca_file).open("rb") as file:
                data = file.read(_EXPLAINED_BYTES)
            if not data.strip():
                return "the file is empty; --ca takes a PEM file"
    if b"-----BEGIN CERTIFICATE-----" in data or b"-----BEGIN TRUSTED CERTIFICATE-----" in data:
        return "a certificate in it is damaged; copy it again, from -----BEGIN to END CERTIFICATE-----"
    if b"PRIVATE KEY-----" in data:
        return "it holds a private key, which stays with its server; --ca takes the certificate"
    if data[:1] == b"\x30":  # X.690 §8.9: a SEQUENCE, which a certificate is
        return "it is not PEM but may be DER; 'openssl x509 -inform der -in FILE -out cert.pem' makes PEM of that"
    return "there is no -----BEGIN CERTIFICATE----- in it; --ca takes a PEM file"


# Failures


def explain(error: OSError, where: str) -> OSError:
    """Return the exception to raise, from the original, for a failure of TLS with the server ``where``."""
    match error:
        case NotTls():
            return TlsError(_explain_other(error.first_bytes, where), error.reason)
        case ssl.SSLCertVerificationError():
            return CertificateError(_explain_certificate(error, where), error)
        case ssl.SSLEOFError() | ConnectionError() | OSError(errno=errno.ENOTCONN):
            ended = "reset" if isinstance(error, ConnectionResetError) else "ended"
            return NoResponse(
                f"{where} {ended} the connection in the TLS handshake; if it speaks no TLS, use ws:// in place of "
                "wss://, otherwise its log may give the reason"
            )
        case ssl.SSLError():
            reason = _name(error)
            alert = _ALERT.fullmatch(reason)
            if alert is None:
                return TlsError(_explain_failure(error, where), reason)
            may_pass = alert[1] == "INTERNAL_ERROR"
            return TlsError(_explain_alert(alert[1], where), reason, may_pass=may_pass)
    return OSError(error.errno, f"the connection to {where} was lost in the TLS handshake: {error.strerror or error}")


def _name(error: ssl.SSLError) -> str:
    """Return OpenSSL's name for an error; empty if it has none."""
    reason = getattr(error, "reason", None) or ""
    if not reason and (text := _TEXT.fullmatch(str(error))):
        reason = text[1].upper().replace(" ", "_")
    return reason


def _explain_other(first_bytes: bytes, where: str) -> str:
    if is_http_answer(first_bytes):
        return f"{where} speaks plain HTTP, not TLS: use ws:// in place of wss://"
    return f"{where} does not speak TLS: it sent '{escape(first_bytes[:_SHOWN_BYTES])}'; check host and port"


def _explain_certificate(error: ssl.SSLCertVerificationError, where: str) -> str:
    fault = _CERTIFICATE_FAULTS.get(error.verify_code)
    if fault is None:
        fault = f"is not trusted: {error.verify_message.rstrip('.')}; the server needs another one"
    return f"the certificate of {where} {fault.replace('TODAY', time.strftime('%Y-%m-%d'))}"


def _explain_alert(alert: str, where: str) -> str:
    """Return the meaning of a server's alert (RFC 8446 §6.2)."""
    name = alert.lower()
    match alert:
        case "PROTOCOL_VERSION":
            return _explain_versions(where)
        case "HANDSHAKE_FAILURE" | "INSUFFICIENT_SECURITY":
            return (
                f"{where} refused the TLS handshake ({name}): it has no cipher in common with us, or demands a client "
                f"certificate; for the latter, {GIVE_CERTIFICATE}"
            )
        case "CERTIFICATE_REQUIRED":
            return f"{where} demands a client certificate; {GIVE_CERTIFICATE}"
        case "UNRECOGNIZED_NAME":
            return f"{where} has no certificate for that host ({name}); check the host in the address"
        case "NO_APPLICATION_PROTOCOL":
            return f"{where} does not speak HTTP/1.1 over TLS ({name}), where a WebSocket begins; check host and port"
        case "INTERNAL_ERROR":
            return f"{where} failed in the TLS handshake ({name}); its log may give the reason"
    if alert in _ABOUT_OUR_CERTIFICATE:
        return f"{where} demands a client certificate that it accepts ({name}); {GIVE_CERTIFICATE}"
    return f"{where} ended TLS with the alert {name}; its log may give the reason"


def _explain_failure(error: ssl.SSLError, where: str) -> str:
    """Return a sentence for a handshake that our own OpenSSL ended."""
    reason = _name(error)
    if reason in _NO_COMMON_VERSION:
        return _explain_versions(where)
    if reason in _NO_RECORD:
        return f"{where} does not speak TLS: its bytes are not a TLS record; check host and port"
    words = reason.lower().replace("_", " ") if reason.isupper() else reason or str(error)
    return f"TLS with {where} failed: {words}"


def _explain_versions(where: str) -> str:
    return (
        f"{where} and we have no version of TLS in common: ours are 1.2 and 1.3, unless ssl= says otherwise; the "
        "server's TLS has to be updated"
    )


def explain_client(error: ssl.SSLError) -> str:
    """Return the reason why TLS with a client failed, for a server's log."""
    reason = _name(error) or str(error)
    alert = _ALERT.fullmatch(reason)
    if alert is not None:
        name = alert[1].lower()
        if alert[1] in _ABOUT_OUR_CERTIFICATE:
            return f"the client does not trust our certificate ({name})"
        return f"the client sent the alert {name}"
    if reason in _NO_COMMON_VERSION:
        return "the client has no version of TLS in common with us"
    if reason == "NO_SHARED_CIPHER":
        return "the client has no cipher in common with us"
    return reason
