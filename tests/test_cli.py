"""The command line: what its flags mean, and what it says to a bad one."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field
from functools import partial

import pytest

import rawws
import rawws.cli
import rawws.logs
from rawws.errors import ListenError
from rawws.hub import Mode
from rawws.limits import Limits
from rawws.wire.handshake import Origins
from tests.serving import StartProgram


@dataclass
class Ran:
    """What the command line would have run."""

    host: str = ""
    port: int = -1
    limits: Limits = field(default_factory=Limits)
    origins: Origins = field(default_factory=Origins)
    mode: Mode = Mode.BROADCAST
    hello: str = ""
    compression: bool = False
    fast_lane: bool = False
    tls: ssl.SSLContext | None = None
    log_level: str = ""


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Keeps the server from running, and is filled with what it would have been given."""
    outcome = Ran()

    async def run_program(host: str, port: int, make_server: partial[object]) -> None:
        outcome.host, outcome.port = host, port
        for name, value in make_server.keywords.items():
            assert hasattr(outcome, name)
            setattr(outcome, name, value)

    def configure(level: str) -> None:
        outcome.log_level = level

    monkeypatch.setattr(rawws.cli, "run_program", run_program)
    monkeypatch.setattr(rawws.logs, "configure", configure)
    return outcome


# What the flags mean


@pytest.mark.parametrize("arguments", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_serves_with_the_defaults_when_nothing_is_said(ran: Ran, arguments: list[str]) -> None:
    assert rawws.cli.main(arguments) == 0
    assert (ran.host, ran.port) == ("127.0.0.1", 8080)
    assert ran.limits == Limits()
    assert ran.limits.max_message_bytes == 1 << 20
    assert (ran.limits.ping_interval_s, ran.limits.ping_timeout_s, ran.limits.drain_s) == (20, 20, 5)
    assert ran.mode is Mode.BROADCAST
    assert ran.hello == "Hello! Message From Server!!"
    assert (ran.compression, ran.fast_lane, ran.tls) == (True, True, None)
    assert ran.log_level == "info"
    assert not ran.origins.allow("https://hoppscotch.io", "127.0.0.1:8080")


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_every_flag_reaches_what_it_is_for(ran: Ran, command: list[str]) -> None:
    flags = (
        "--host ::1 --port 9 --hello hi --mode echo --max-size 64k --max-lag 2M "
        "--no-compression --no-fast-lane --ping-interval 1.5 --ping-timeout 0 --drain 0.25 --log-level warning "
        "--allow-origin https://hoppscotch.io --allow-origin http://other.example:81"
    )
    assert rawws.cli.main([*command, *flags.split()]) == 0
    assert (ran.host, ran.port, ran.hello, ran.mode) == ("::1", 9, "hi", Mode.ECHO)
    assert ran.limits == Limits(
        max_message_bytes=64 * 1024,
        max_lag_bytes=2 << 20,
        ping_interval_s=1.5,
        ping_timeout_s=0.0,
        drain_s=0.25,
    )
    assert (ran.compression, ran.fast_lane) == (False, False)
    assert ran.log_level == "warning"
    for origin, allowed in [
        ("https://hoppscotch.io", True),
        ("http://other.example:81", True),
        ("https://evil.example", False),
    ]:
        assert ran.origins.allow(origin, "localhost:8080") is allowed


def test_a_star_allows_every_origin(ran: Ran) -> None:
    assert rawws.cli.main(["--allow-origin", "*"]) == 0
    assert ran.origins.allow("https://evil.example", "localhost")


def test_an_empty_hello_is_none_and_an_empty_host_is_every_interface(ran: Ran) -> None:
    assert rawws.cli.main(["--hello", "", "--host", ""]) == 0
    assert (ran.hello, ran.host) == ("", "")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1000", 1000),
        ("1k", 1 << 10),
        ("64K", 64 << 10),
        ("1M", 1 << 20),
        ("1MB", 1 << 20),
        ("1MiB", 1 << 20),
        ("2 GiB", 2 << 30),
        ("7b", 7),
    ],
)
def test_sizes_take_units_in_powers_of_1024(ran: Ran, text: str, size: int) -> None:
    assert rawws.cli.main(["--max-size", text]) == 0
    assert ran.limits.max_message_bytes == size


@pytest.mark.parametrize(
    ("flags", "level"), [(["-v"], "debug"), (["-vv"], "trace"), (["--log-level", "error"], "error")]
)
def test_the_log_can_be_made_longer_and_shorter(ran: Ran, flags: list[str], level: str) -> None:
    assert rawws.cli.main(flags) == 0
    assert ran.log_level == level


# What it says to a bad one


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "65536"], "argument --port: '65536' is not a port; give a number from 0 to 65535"),
        (["--port", "-1"], "argument --port: '-1' is not a port; give a number from 0 to 65535"),
        (["--port", "http"], "argument --port: 'http' is not a port; give a number from 0 to 65535"),
        (["--port", "٣"], "argument --port: '٣' is not a port; give a number from 0 to 65535"),
        (["--max-size", "big"], "argument --max-size: 'big' is not a size; give bytes, or such as 64k, 1M, 2GiB"),
        (["--max-size", "1.5M"], "argument --max-size: '1.5M' is not a size; give bytes, or such as 64k, 1M, 2GiB"),
        (["--max-lag", "-1"], "argument --max-lag: '-1' is not a size; give bytes, or such as 64k, 1M, 2GiB"),
        (["--max-lag", ""], "argument --max-lag: '' is not a size; give bytes, or such as 64k, 1M, 2GiB"),
        (["--drain", "-1"], "argument --drain: '-1' is not a number of seconds; give 0 or more"),
        (["--drain", "nan"], "argument --drain: 'nan' is not a number of seconds; give 0 or more"),
        (["--ping-interval", "inf"], "argument --ping-interval: 'inf' is not a number of seconds; give 0 or more"),
        (["--ping-timeout", "soon"], "argument --ping-timeout: 'soon' is not a number of seconds; give 0 or more"),
        (["--mode", "chat"], "argument --mode: invalid choice: 'chat'"),
        (["--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["serve", "there"], "unrecognized arguments: there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_value_is_one_sentence_and_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(arguments)
    assert caught.value.code == 2
    assert ran.port == -1
    assert sentence in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("origin", ["hoppscotch.io", "https://", "https://hoppscotch.io/path", "https://a b", ""])
def test_an_origin_that_is_none_is_one_sentence_and_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    assert rawws.cli.main(["--allow-origin", origin]) == 2
    assert ran.port == -1
    assert capsys.readouterr().err == (
        f"rawws: {origin!r} is not an origin; give scheme, host and port alone, such as https://example.org, "
        "or * for any\n"
    )


def test_not_being_able_to_listen_is_one_sentence_and_exit_status_1(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ListenError("can't listen on mars:1: it is too far. Come closer.")

    monkeypatch.setattr(rawws.cli, "run_program", fail)
    assert rawws.cli.main([]) == 1
    assert capsys.readouterr().err == "rawws: can't listen on mars:1: it is too far. Come closer.\n"
    assert ran.port == -1


def test_a_greeting_that_is_not_utf8_is_one_sentence_and_exit_status_2(start_program: StartProgram) -> None:
    ended = start_program.run("--port", "0", "--hello", b"\xff")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert "--hello" in ended.stderr.splitlines()[-1]


# What it says of itself


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["serve", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    flags = {"-v", "-vv", "--host", "--port", "--hello", "--mode", "--allow-origin", "--max-size", "--max-lag"}
    flags |= {"--ping-interval", "--ping-timeout", "--drain", "--log-level", "-h", "--help"}
    assert flags <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))


def test_help_without_a_command_leads_to_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["--help"])
    assert caught.value.code == 0
    assert "serve" in capsys.readouterr().out


def test_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rawws {rawws.__version__}\n"


def test_the_module_is_the_program(start_program: StartProgram) -> None:
    shown = start_program.run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"rawws {rawws.__version__}\n")
