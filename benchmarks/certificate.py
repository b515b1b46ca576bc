"""A self-signed certificate for the TLS case, made for one run and thrown away. Measures nothing."""

from __future__ import annotations

import subprocess
from pathlib import Path

from benchmarks.servers import HOST, Certificate, Unavailable


def make(folder: Path) -> Certificate:
    """Write a certificate with a P-256 key into the folder, by trustme or else by the openssl command."""
    cert, key = folder / "cert.pem", folder / "key.pem"
    try:
        import trustme
    except ImportError:
        command = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
        ]
        command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", f"/CN={HOST}"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=30)
        except (OSError, subprocess.SubprocessError) as problem:
            raise Unavailable(f"neither trustme nor openssl can make a certificate: {problem}") from None
        return Certificate(str(cert), str(key))
    issued = trustme.CA().issue_cert(HOST)
    cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    key.write_bytes(issued.private_key_pem.bytes())
    return Certificate(str(cert), str(key))
