"""Connections that fail: one sentence each, with the server, the side at fault, and advice that can be followed.

The servers are OpenSSL's own, nginx, and sockets that send the bytes of a test.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

import rawws
from rawws import WebSocket
from rawws.errors import UsageError
from rawws.net.listeners import open_listeners
from rawws.net.tls import default_context, explain, explain_client, trusting_context
from rawws.process.program import load_tls
from rawws.tools import tap
from rawws.tools.tap import Target, run_tap
from rawws.tracing import Tracer
from tests.proxies import NGINX_HTTP
from tests.redis_server import free_port
from tests.serving.machine import LOOPBACK, PATIENCE_S, need
from tests.serving.programs import StartProgram, wait_listening_at
from tests.test_tracing import Memory

TRUST = "give it with --ca FILE (in Python: ssl=ssl.create_default_context(cafile=FILE))"
GIVE_CERTIFICATE = "give one with --cert FILE (in Python: load_cert_chain(FILE) of the context that ssl= is)"
NO_VERSION = (
    "{where} and we have no version of TLS in common: ours are 1.2 and 1.3, unless ssl= says otherwise; the server's "
    "TLS has to be updated"
)
UNKNOWN_AUTHORITY = (
    "the certificate of {where} comes from an authority that is not trusted here, or the server leaves out a "
    f"certificate in between; to trust the authority's certificate, {TRUST}"
)
REFUSED_HANDSHAKE = (
    "{where} refused the TLS handshake (handshake_failure): it has no cipher in common with us, or demands a client "
    f"certificate; for the latter, {GIVE_CERTIFICATE}"
)
NO_TLS_PERHAPS = "if it speaks no TLS, use ws:// in place of wss://, otherwise its log may give the reason"
USE_WSS = "use wss:// in place of ws://"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps the environment's proxies and authorities out of the tests."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
            monkeypatch.delenv(name)


class Files:
    """Certificates of all kinds, each with its private key in a PEM file, and without that in another."""

    def __init__(self, folder: Path) -> None:
        openssl = shutil.which("openssl")
        need(openssl, "openssl")
        assert openssl is not None
        self.openssl = openssl
        self.folder = folder
        authority = trustme.CA()
        self.authority = str(folder / "authority.pem")
        authority.cert_pem.write_to_path(self.authority)
        now = datetime.datetime.now(datetime.UTC)
        day = datetime.timedelta(days=1)
        self.good = self._write("good", authority.issue_cert("localhost", LOOPBACK))
        self.expired = self._write(
            "expired", authority.issue_cert("localhost", not_before=now - 3 * day, not_after=now - day)
        )
        self.early = self._write(
            "early", authority.issue_cert("localhost", not_before=now + day, not_after=now + 3 * day)
        )
        self.other_host = self._write("other", authority.issue_cert("example.org"))
        self.self_signed = str(folder / "self-signed.pem")
        self.self_signed_key = str(folder / "self-signed.key")
        command = [
            openssl,
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "9",
        ]
        command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        command += ["-out", self.self_signed, "-keyout", self.self_signed_key]
        subprocess.run(command, check=True, capture_output=True)

    def _write(self, name: str, issued: trustme.LeafCert) -> str:
        path = self.folder / f"{name}.pem"
        issued.private_key_and_cert_chain_pem.write_to_path(str(path))
        issued.cert_chain_pems[0].write_to_path(str(self.folder / f"{name}-alone.pem"))
        return str(path)

    @contextlib.contextmanager
    def serve(self, certificate: str, *flags: str) -> Iterator[int]:
        """Yield the port of ``openssl s_server``, which answers over HTTP, though not with a WebSocket."""
        port = free_port()
        key = self.self_signed_key if certificate == self.self_signed else certificate
        command = [self.openssl, "s_server", "-accept", f"{LOOPBACK}:{port}", "-cert", certificate, "-key", key, "-www"]
        quiet = subprocess.DEVNULL
        with subprocess.Popen([*command, *flags], stdin=subprocess.PIPE, stdout=quiet, stderr=quiet) as server:
            try:
                wait_listening_at(port)
                yield port
            finally:
                server.kill()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("certificates"))


@dataclass
class Failing:
    """A server of OpenSSL's, the authority that the client trusts, and the sentence that is expected."""

    certificate: str  # the name of an attribute of `Files`
    sentence: str
    raises: type[OSError] = rawws.TlsError
    trusts: str = ""
    flags: Sequence[str] = ()
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED


TODAY = datetime.date.today().isoformat()
FAILURES = {
    "self-signed": Failing(
        "self_signed",
        f"the certificate of {{where}} is self-signed, so no authority vouches for it; to trust it, {TRUST}",
        rawws.CertificateError,
    ),
    "unknown authority": Failing("good", UNKNOWN_AUTHORITY, rawws.CertificateError),
    "unknown authority, sent along": Failing(
        "good", UNKNOWN_AUTHORITY, rawws.CertificateError, flags=("-cert_chain", "authority")
    ),
    "expired": Failing(
        "expired",
        f"the certificate of {{where}} has expired, unless the date here, {TODAY}, is wrong; the server needs a "
        "new one",
        rawws.CertificateError,
        trusts="authority",
    ),
    "not valid yet": Failing(
        "early",
        f"the certificate of {{where}} is not valid yet, unless the date here, {TODAY}, is wrong; the server needs "
        "another one",
        rawws.CertificateError,
        trusts="authority",
    ),
    "another host": Failing(
        "other_host",
        "the certificate of {where} is for another host: use a host name that it is for, or give the server a "
        "certificate for this one",
        rawws.CertificateError,
        trusts="authority",
    ),
    "old TLS": Failing("good", NO_VERSION, trusts="authority", flags=("-tls1", "-cipher", "DEFAULT@SECLEVEL=0")),
    "new TLS": Failing("good", NO_VERSION, trusts="authority", flags=("-tls1_3",), newest=ssl.TLSVersion.TLSv1_2),
    "no common cipher": Failing(
        "good", REFUSED_HANDSHAKE, trusts="authority", flags=("-tls1_2", "-cipher", "AES128-SHA256:AES128-SHA")
    ),
    "client certificate, 1.2": Failing(
        "good", REFUSED_HANDSHAKE, trusts="authority", flags=("-Verify", "1"), newest=ssl.TLSVersion.TLSv1_2
    ),
    "client certificate, 1.3": Failing(
        "good",
        f"wss://{{where}}/ demands a client certificate; {GIVE_CERTIFICATE}",
        trusts="authority",
        flags=("-Verify", "1"),
    ),
}


@pytest.mark.parametrize("failing", FAILURES.values(), ids=FAILURES)
async def test_a_failure_of_tls_names_the_server_and_what_to_do(files: Files, failing: Failing) -> None:
    context = trusting_context(getattr(files, failing.trusts)) if failing.trusts else default_context()
    context.maximum_version = failing.newest
    flags = [files.authority if flag == "authority" else flag for flag in failing.flags]
    with files.serve(getattr(files, failing.certificate), *flags) as port, pytest.raises(failing.raises) as raised:
        await rawws.connect(f"wss://localhost:{port}/", ssl=context).open()
    assert str(raised.value) == failing.sentence.format(where=f"localhost:{port}")
    assert raised.value.strerror == str(raised.value)
    assert isinstance(raised.value, ssl.SSLError)
    assert isinstance(raised.value, rawws.RawwsError)
    assert isinstance(raised.value.__cause__, ssl.SSLError)
    is_about_trust = isinstance(raised.value, ssl.SSLCertVerificationError)
    assert is_about_trust is isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)


# Servers on sockets


def reset(connected: socket.socket) -> None:
    connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def answering(answer: bytes, *, resets: bool = False) -> Callable[[trio.SocketStream], Awaitable[None]]:
    async def converse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            await stream.send_all(answer)
            await stream.send_eof()
        if resets:
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return converse


async def start_raw(nursery: trio.Nursery, converse: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await converse(stream)

    (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=LOOPBACK))
    port: int = listener.socket.getsockname()[1]
    return port


async def echo(ws: WebSocket) -> None:
    async for message in ws:
        await ws.send(message)


async def start(nursery: trio.Nursery, certificate: str = "") -> int:
    tls = load_tls(certificate, None) if certificate else None
    server: rawws.Server = await nursery.start(partial(rawws.serve, echo, 0, host=LOOPBACK, ssl=tls))
    return server.port


PLAIN = "{where} speaks plain HTTP, not TLS: use ws:// in place of wss://"


@pytest.mark.parametrize(
    ("answer", "resets", "raises", "sentence"),
    [
        (b"HTTP/1.0 400 Bad Request\r\n\r\n", False, rawws.TlsError, PLAIN),
        (b"H", False, rawws.TlsError, PLAIN),
        (
            b"SSH-2.0-OpenSSH_9.2p1\r\n",
            False,
            rawws.TlsError,
            "{where} does not speak TLS: it sent 'SSH-2.0-OpenSSH_9.2p1\\r\\n'; check host and port",
        ),
        (
            b"\x80\x80\x80\x80\x80\x80\x80\x80",
            False,
            rawws.TlsError,
            "{where} does not speak TLS: its bytes are not a TLS record; check host and port",
        ),
        (b"", False, rawws.NoResponse, f"{{where}} ended the connection in the TLS handshake; {NO_TLS_PERHAPS}"),
        (b"", True, rawws.NoResponse, f"{{where}} reset the connection in the TLS handshake; {NO_TLS_PERHAPS}"),
        (
            b"\x15\x03\x03\x00\x02\x02\x50",
            False,
            rawws.TlsError,
            "{where} failed in the TLS handshake (internal_error); its log may give the reason",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x70",
            False,
            rawws.TlsError,
            "{where} has no certificate for that host (unrecognized_name); check the host in the address",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x78",
            False,
            rawws.TlsError,
            "{where} does not speak HTTP/1.1 over TLS (no_application_protocol), where a WebSocket begins; check host "
            "and port",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x2a",
            False,
            rawws.TlsError,
            f"{{where}} demands a client certificate that it accepts (bad_certificate); {GIVE_CERTIFICATE}",
        ),
        (
            b"\x15\x03\x03\x00\x02\x02\x5a",
            False,
            rawws.TlsError,
            "{where} ended TLS with the alert user_cancelled; its log may give the reason",
        ),
    ],
    ids=[
        "HTTP",
        "one letter",
        "SSH",
        "noise",
        "end",
        "reset",
        "internal",
        "name",
        "ALPN",
        "our certificate",
        "cancelled",
    ],
)
async def test_bytes_in_place_of_a_tls_handshake_are_explained(
    nursery: trio.Nursery, answer: bytes, resets: bool, raises: type[OSError], sentence: str
) -> None:
    port = await start_raw(nursery, answering(answer, resets=resets))
    with pytest.raises(raises) as raised:
        await rawws.connect(f"wss://localhost:{port}/").open()
    assert str(raised.value) == sentence.format(where=f"localhost:{port}")
    assert isinstance(raised.value.__cause__, OSError)
    with pytest.raises(raises) as raised:
        await Target("localhost", port, default_context()).dial()
    assert str(raised.value) == sentence.format(where=f"localhost:{port}")


async def test_tls_on_a_plain_port_of_ours_is_explained(nursery: trio.Nursery) -> None:
    port = await start(nursery)
    with pytest.raises(rawws.TlsError) as raised:
        await rawws.connect(f"wss://localhost:{port}/").open()
    assert str(raised.value) == PLAIN.format(where=f"localhost:{port}")
    async with rawws.connect(f"ws://localhost:{port}/"):  # as it says
        pass


async def test_plain_http_on_a_tls_port_of_ours_is_explained(nursery: trio.Nursery, files: Files) -> None:
    port = await start(nursery, files.good)
    with pytest.raises(rawws.InvalidStatus, match=f"'This port speaks TLS: .*'; {USE_WSS}$"):
        await rawws.connect(f"ws://localhost:{port}/").open()
    trusting = trusting_context(files.authority)
    async with rawws.connect(f"wss://localhost:{port}/", ssl=trusting):  # as it says
        pass
    to_tls = rawws.Response(301, b"", {"Location": f"wss://localhost:{port}/"})
    first: rawws.Server = await nursery.start(
        partial(rawws.serve, echo, 0, host=LOOPBACK, process_request=lambda _: to_tls)
    )
    async with rawws.connect(f"ws://localhost:{first.port}/", ssl=trusting):
        pass


@pytest.mark.parametrize(
    ("answer", "resets", "raises", "sentence"),
    [
        (
            b"",
            False,
            rawws.NoResponse,
            f"the server closed the connection before it answered; if it speaks TLS, {USE_WSS}",
        ),
        (
            b"",
            True,
            rawws.NoResponse,
            "the connection was lost before there was an answer: Connection reset by peer; if it speaks TLS, "
            + USE_WSS,
        ),
        (b"\x15\x03\x01\x00\x02\x02\x46", False, rawws.TlsError, f"the server speaks TLS on this port; {USE_WSS}"),
    ],
    ids=["end", "reset", "alert"],
)
async def test_a_tls_server_that_only_ends_plain_http_is_explained(
    nursery: trio.Nursery, answer: bytes, resets: bool, raises: type[OSError], sentence: str
) -> None:
    port = await start_raw(nursery, answering(answer, resets=resets))
    with pytest.raises(raises) as raised:
        await rawws.connect(f"ws://localhost:{port}/").open()
    assert str(raised.value) == f"ws://localhost:{port}/: {sentence}"


async def test_an_answer_is_found_though_the_request_can_not_be_sent(nursery: trio.Nursery) -> None:
    head = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    async def converse(stream: trio.SocketStream) -> None:
        await stream.send_all(head)
        await stream.receive_some(1)
        await stream.aclose()  # with bytes that were not read, which makes a reset of it

    port = await start_raw(nursery, converse)
    headers = [(f"X-{number}", "x" * 8000) for number in range(1000)]
    with pytest.raises(rawws.InvalidStatus, match="431 Request Header Fields Too Large"):
        await rawws.connect(f"ws://localhost:{port}/", headers=headers).open()


NGINX = (
    NGINX_HTTP
    + """    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate};
        ssl_certificate_key {certificate};
        ssl_client_certificate {authority};
        ssl_verify_client on;
    }}
}}
"""
)


@pytest.fixture
def nginx(files: Files, tmp_path: Path) -> Iterator[int]:
    """The port of an nginx that speaks TLS."""
    found = shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin"]))
    need(found, "nginx")
    assert found is not None
    port = free_port()
    configuration = tmp_path / "nginx.conf"
    configuration.write_text(
        NGINX.format(folder=tmp_path, port=port, certificate=files.good, authority=files.authority)
    )
    command = [found, "-p", str(tmp_path), "-e", str(tmp_path / "error.log"), "-c", str(configuration)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_listening_at(port)
            yield port
        finally:
            server.terminate()


async def test_refusals_of_nginx_for_reasons_of_tls_are_explained(nginx: int, files: Files) -> None:
    with pytest.raises(rawws.InvalidStatus, match=rf"400 Bad Request instead of 101: .*; {USE_WSS}$"):
        await rawws.connect(f"ws://localhost:{nginx}/").open()
    context = trusting_context(files.authority)
    for advice in (
        f"it demands a client certificate: {GIVE_CERTIFICATE}",
        f"it refuses our client certificate: {GIVE_CERTIFICATE}",
    ):
        with pytest.raises(rawws.InvalidStatus, match=re.escape(advice) + "$"):
            await rawws.connect(f"wss://localhost:{nginx}/", ssl=context).open()
        with pytest.raises(rawws.TlsError, match="reasons of TLS; " + re.escape(advice) + "$"):
            await rawws.connect(f"wss://localhost:{nginx}/", ssl=context).probe()
        context.load_cert_chain(files.self_signed, files.self_signed_key)
    context.load_cert_chain(files.good)
    with pytest.raises(
        rawws.InvalidStatus, match=r"404 Not Found|200 OK|403 Forbidden"
    ):  # it is no server of WebSockets
        await rawws.connect(f"wss://localhost:{nginx}/", ssl=context).open()


# No connection at all


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("wss://no-such-host.invalid/", r"can't connect to no-such-host\.invalid:443: .+; check "),
        (
            "ws+unix:///nowhere.sock:/",
            r"can't connect to /nowhere\.sock: No such file or directory; start the server, or ",
        ),
    ],
)
async def test_a_missing_connection_has_its_address_and_advice(url: str, sentence: str) -> None:
    with pytest.raises(OSError, match=sentence) as raised:
        await rawws.connect(url).open()
    assert isinstance(raised.value.__cause__, OSError)


async def test_a_refused_port_has_its_address_and_advice() -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        port = taken.getsockname()[1]
        sentence = (
            f"can't connect to {LOOPBACK}:{port}: Connection refused; no program listens there: start it, or check "
        )
        with pytest.raises(ConnectionRefusedError, match=sentence):
            await rawws.connect(f"wss://{LOOPBACK}:{port}/").open()


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        (
            "wss",
            "the TLS handshake with 127.0.0.1:{port} took longer than 3 s in all (open_timeout); "
            "if the server doesn't speak TLS, use ws:// in place of wss://",
        ),
        ("ws", "waiting for ws://127.0.0.1:{port}/ to answer took longer than 3 s in all (open_timeout)"),
    ],
)
async def test_a_mute_server_is_named(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    scheme: str,
    sentence: str,
) -> None:
    async def hear(stream: trio.SocketStream) -> None:
        async for _ in stream:
            pass

    port = await start_raw(nursery, hear)
    with pytest.raises(rawws.OpenTimeout) as raised:
        await rawws.connect(f"{scheme}://{LOOPBACK}:{port}/", open_timeout=3).open()
    assert str(raised.value) == f"{scheme}://{LOOPBACK}:{port}/: {sentence.format(port=port)}"


# Reconnecting


@pytest.mark.parametrize("says", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46"])
async def test_a_client_gives_up_where_tls_will_fail_again(nursery: trio.Nursery, says: bytes) -> None:
    port = await start_raw(nursery, answering(says))
    with pytest.raises(rawws.TlsError):
        await anext(aiter(rawws.connect(f"wss://localhost:{port}/")))


async def test_a_client_tries_again_where_tls_may_work_later(
    nursery: trio.Nursery,
    autojump_clock: MockClock,  # noqa: ARG001
    files: Files,
) -> None:
    ends = [b"", b"\x15\x03\x03\x00\x02\x02\x50"]  # an end, and an error of the server's own
    server = await start(nursery, files.good)

    async def converse(stream: trio.SocketStream) -> None:
        if ends:
            await answering(ends.pop())(stream)
            return
        async with await trio.open_tcp_stream(LOOPBACK, server) as behind, trio.open_nursery() as passing:
            for source, sink in ((stream, behind), (behind, stream)):

                async def pump(source: trio.SocketStream = source, sink: trio.SocketStream = sink) -> None:
                    async for data in source:
                        await sink.send_all(data)

                passing.start_soon(pump)

    port = await start_raw(nursery, converse)
    async for _ in rawws.connect(f"wss://localhost:{port}/", ssl=trusting_context(files.authority)):
        break
    assert ends == []
    nursery.cancel_scope.cancel()


# The tap


async def test_the_tap_says_why_it_has_no_server(
    nursery: trio.Nursery, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tap, "REFUSAL_S", 0.1)  # the client sends nothing that could be refused
    tracer, memory = Tracer(), Memory()
    tracer.add(memory)
    with files.serve(files.good, "-Verify", "1", "-tls1_3") as port:
        for trusts, sentence in (
            (default_context(), "authority that is not trusted"),
            (None, "demands a client certificate"),
        ):
            target = Target("localhost", port, trusts or trusting_context(files.authority))
            (name,) = await nursery.start(run_tap, await open_listeners(LOOPBACK, 0), target, tracer)
            with trio.fail_after(PATIENCE_S):
                stream = await trio.open_tcp_stream(LOOPBACK, int(name.rpartition(":")[2]))
                with contextlib.suppress(trio.BrokenResourceError):
                    async with stream:
                        while await stream.receive_some():
                            pass
                while memory.kinds()[-1:] != ["end"]:
                    await trio.testing.wait_all_tasks_blocked()
            assert f"localhost:{port}" in memory.taken[-1][1]["told"]
            assert sentence in memory.taken[-1][1]["told"]
            memory.taken.clear()
    tracer.remove(memory)
    nursery.cancel_scope.cancel()


# The commands, and following their advice


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(start_program: StartProgram) -> Run:
    """Runs a command and returns its status and its standard error."""

    def run(*arguments: str) -> tuple[int, str]:
        ran = start_program.run(*arguments)
        return ran.returncode, ran.stderr

    return run


@pytest.fixture
def self_signed(files: Files, start_program: StartProgram) -> int:
    """The port of a program whose certificate is self-signed."""
    return start_program("--tls-cert", files.self_signed, "--tls-key", files.self_signed_key).port


@pytest.mark.parametrize("command", ["connect", "check"])
def test_the_commands_say_the_same_as_the_library_and_their_advice_works(
    files: Files, run: Run, self_signed: int, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    port = self_signed
    more = ["--only", "handshake"] if command == "check" else ["-x", "hello", "-w", "0"]
    arguments = [command, f"wss://localhost:{port}/", *more]
    sentence = FAILURES["self-signed"].sentence.format(where=f"localhost:{port}")
    status, written = run(*arguments)
    assert status > 0
    assert written.endswith(f": {sentence}\n")
    assert written.count("\n") == 1
    assert run(*arguments, "--ca", files.self_signed) == (0, "")
    assert run(*arguments, "-n") == (0, "")
    monkeypatch.setenv("SSL_CERT_FILE", files.self_signed)
    assert run(*arguments) == (0, "")
    monkeypatch.undo()
    plain = [command, f"ws://localhost:{port}/", *more]
    status, sentence = run(*plain)
    assert status > 0
    assert sentence.endswith(f"; {USE_WSS}\n")
    assert sentence.count(f"ws://localhost:{port}/") == 1


def test_a_tap_trusts_the_given_certificate(
    files: Files, run: Run, self_signed: int, start_program: StartProgram
) -> None:
    target = f"wss://localhost:{self_signed}"
    tap = start_program.tap(target, "--ca", files.self_signed)
    assert run("connect", tap.address, "-x", "hello", "-w", "0") == (0, "")
    tap = start_program.tap(target)
    run("connect", tap.address, "-x", "hello", "-w", "0")
    tap.wait_for_line(FAILURES["self-signed"].sentence.format(where=target.removeprefix("wss://")))


@pytest.mark.parametrize("file", ["authority.pem", "good.pem", "good-alone.pem"])
async def test_an_authority_or_the_server_s_own_certificate_can_be_trusted(
    nursery: trio.Nursery, files: Files, file: str
) -> None:
    port = await start(nursery, files.good)
    async with rawws.connect(f"wss://localhost:{port}/", ssl=trusting_context(str(files.folder / file))):
        pass
    with pytest.raises(rawws.CertificateError):
        await rawws.connect(f"wss://localhost:{port}/", ssl=trusting_context(files.self_signed)).open()


def test_a_client_certificate_can_be_given(files: Files, run: Run) -> None:
    with files.serve(files.good, "-Verify", "1", "-verify_return_error", "-CAfile", files.authority) as port:
        arguments = ("connect", f"wss://localhost:{port}/", "--ca", files.authority)
        status, sentence = run(*arguments)
        assert (status, sentence) == (
            1,
            f"rawws: wss://localhost:{port}/ demands a client certificate; {GIVE_CERTIFICATE}\n",
        )
        status, sentence = run(*arguments, "--cert", files.good)
        assert "the server answered 200" in sentence  # it is no server of WebSockets
        own = ("--cert", files.self_signed, "--key", files.self_signed_key)
        status, sentence = run(*arguments, *own)
        assert sentence == (
            f"rawws: wss://localhost:{port}/ demands a client certificate that it accepts (unknown_ca); "
            f"{GIVE_CERTIFICATE}\n"
        )


def test_a_file_without_certificates_is_explained(files: Files, tmp_path: Path) -> None:
    whole = Path(files.self_signed).read_bytes()
    der = ssl.PEM_cert_to_DER_cert(whole.decode())
    contents = {
        "empty": (b"\n", "the file is empty; --ca takes a PEM file"),
        "text": (b"hello\n", "there is no -----BEGIN CERTIFICATE----- in it; --ca takes a PEM file"),
        "key": (
            Path(files.self_signed_key).read_bytes(),
            "it holds a private key, which stays with its server; --ca takes the certificate",
        ),
        "der": (
            der,
            "it is not PEM but may be DER; 'openssl x509 -inform der -in FILE -out cert.pem' makes PEM of that",
        ),
        "cut": (whole[:300], "a certificate in it is damaged; copy it again, from -----BEGIN to END CERTIFICATE-----"),
    }
    for name, (content, why) in contents.items():
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UsageError) as raised:
            trusting_context(str(path))
        assert str(raised.value) == f"no certificate can be trusted by '{path}': {why}"
    for missing, why in (("nowhere.pem", "No such file or directory"), ("", "Is a directory")):
        path = tmp_path / missing
        with pytest.raises(
            UsageError, match=f"the certificates in '{path}' can't be read: {why}; --ca takes a PEM file"
        ):
            trusting_context(str(path))
    subprocess.run(
        [files.openssl, "x509", "-inform", "der", "-in", tmp_path / "der", "-out", tmp_path / "cert.pem"], check=True
    )
    trusting_context(str(tmp_path / "cert.pem"))  # as it says


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["connect", "wss://h", "--ca", "nowhere.pem"],
            "the certificates in 'nowhere.pem' can't be read: No such file",
        ),
        (["check", "wss://h", "--ca", "c.pem", "-n"], "--ca has no effect with --no-check"),
        (["connect", "wss://h", "--key", "k.pem"], "--key has no effect without --cert; give the certificate too"),
        (
            ["connect", "wss://h", "--cert", "nowhere.pem"],
            "the client certificate 'nowhere.pem' or its key 'nowhere.pem'",
        ),
        (["tap", "0", "localhost:1", "--cert", __file__], "the client certificate "),
        (["tap", "0", "localhost:1", "--ca", "c.pem", "-n"], "--ca has no effect with --no-check"),
    ],
)
def test_invalid_flags_are_one_sentence(
    capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert rawws.cli.main(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_a_tap_without_tls_to_its_server_has_no_use_for_certificates(
    capsys: pytest.CaptureFixture[str], files: Files
) -> None:
    assert rawws.cli.main(["tap", "0", "localhost:1", "--ca", files.authority]) == 2
    sentence = "--ca and --cert are for a server that speaks TLS; give it as wss://localhost:1"
    assert capsys.readouterr().err == f"rawws: {sentence}\n"


# Failures without a name, and the failures that a server logs


def test_a_failure_without_a_name_keeps_its_text() -> None:
    error = ssl.SSLError(1, "[SSL] unknown error")
    assert str(explain(error, "h:1")) == "TLS with h:1 failed: [SSL] unknown error"
    error.reason = "DH_KEY_TOO_SMALL"
    assert str(explain(error, "h:1")) == "TLS with h:1 failed: dh key too small"
    untrusted = ssl.SSLCertVerificationError(1, "certificate verify failed")
    untrusted.reason, untrusted.verify_code, untrusted.verify_message = "CERTIFICATE_VERIFY_FAILED", 66, "key too weak."
    assert str(explain(untrusted, "h:1")) == (
        "the certificate of h:1 is not trusted: key too weak; the server needs another one"
    )
    lost = explain(TimeoutError(110, "Connection timed out"), "h:1")
    assert lost.strerror == "the connection to h:1 was lost in the TLS handshake: Connection timed out"


@pytest.mark.parametrize(
    ("reason", "sentence"),
    [
        ("TLSV1_ALERT_UNKNOWN_CA", "the client does not trust our certificate (unknown_ca)"),
        ("SSLV3_ALERT_CERTIFICATE_UNKNOWN", "the client does not trust our certificate (certificate_unknown)"),
        ("TLSV1_ALERT_USER_CANCELLED", "the client sent the alert user_cancelled"),
        ("UNSUPPORTED_PROTOCOL", "the client has no version of TLS in common with us"),
        ("NO_SHARED_CIPHER", "the client has no cipher in common with us"),
        ("BAD_SIGNATURE", "BAD_SIGNATURE"),
    ],
)
def test_a_failure_of_tls_with_a_client_is_explained(reason: str, sentence: str) -> None:
    error = ssl.SSLError(1, f"[SSL: {reason}]")
    error.reason = reason
    assert explain_client(error) == sentence
