"""The command line: what its flags mean, and what it says to a bad one."""

from __future__ import annotations

import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

import rawws
import rawws.cli
import rawws.cli.serve
import rawws.logs
from rawws.errors import ListenError
from rawws.hub import Hub
from rawws.room_app import RoomApp
from rawws.wire.handshake import Origins
from tests.serving import LOOPBACK, StartProgram

ECHO = ("--mode", "echo")


@dataclass
class Ran:
    """What the command line would have run."""

    host: str = ""
    port: int = -1
    hub: dict[str, Any] = field(default_factory=dict)
    serve: dict[str, Any] = field(default_factory=dict)
    log_level: str = ""

    def allows(self, origin: str) -> bool:
        origins = self.serve["origins"]
        assert isinstance(origins, Origins)
        return origins.allow(origin, "localhost:8080")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> Ran:
    """Keeps the server from running, and is filled with what it would have been given."""
    outcome = Ran()

    async def run_program(host: str, port: int, start: Callable[..., Awaitable[None]], *_: object) -> None:
        outcome.host, outcome.port = host, port
        with socket.create_server((LOOPBACK, 0)) as listener:
            await start([listener], trio.TASK_STATUS_IGNORED)

    async def serve(handler: Hub, **arguments: object) -> None:
        assert isinstance(handler, Hub)
        outcome.serve = arguments

    def make_hub(**arguments: object) -> Hub:
        outcome.hub = arguments
        return Hub()

    def configure(level: str, _worker: int | None) -> None:
        outcome.log_level = level

    monkeypatch.setattr(rawws.cli.serve, "run_program", run_program)
    monkeypatch.setattr(rawws.cli.serve, "serve", serve)
    monkeypatch.setattr(rawws.cli.serve, "Hub", make_hub)
    monkeypatch.setattr(rawws.logs, "configure", configure)
    return outcome


# What the flags mean


@pytest.mark.parametrize("arguments", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_serves_with_the_defaults_when_nothing_is_said(ran: Ran, arguments: list[str]) -> None:
    assert rawws.cli.main([*arguments, "--no-page"]) == 0
    assert (ran.host, ran.port) == ("127.0.0.1", 8080)
    assert ran.hub == {
        "mode": "broadcast",
        "hello": "Hello! Message From Server!!",
        "max_lag_bytes": 16 << 20,
        "slow": "close",
        "key": "",
        "history": 0,
        "history_bytes": 1 << 20,
        "history_age_s": 3600,
        "exclude_sender": False,
        "read_only": False,
        "max_rooms": None,
        "max_peers": None,
        "rooms_at": None,
    }
    assert isinstance(ran.serve.pop("http"), RoomApp)
    assert ran.serve.pop("routes") is None
    assert not ran.serve.pop("tracer").is_watched
    assert not ran.allows("https://hoppscotch.io")
    del ran.serve["origins"], ran.serve["listeners"], ran.serve["task_status"]
    assert ran.serve == {
        "hosts": [],
        "subprotocols": [],
        "max_size": 1 << 20,
        "rate": 0,
        "max_memory": None,
        "max_connections": None,
        "max_connections_per_ip": None,
        "trusted_proxies": [],
        "max_head": 16 << 10,
        "max_headers": 100,
        "max_target": 8 << 10,
        "open_timeout": 10,
        "keep_alive": 75,
        "close_timeout": 10,
        "ping_interval": 20,
        "ping_timeout": 20,
        "drain": 5,
        "compression": "deflate",
        "fast_lane": True,
        "ssl": None,
    }
    assert ran.log_level == "info"


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_every_flag_reaches_what_it_is_for(ran: Ran, command: list[str]) -> None:
    flags = (
        "--host ::1 --port 9 --hello hi --max-size 64k --max-lag 2M "
        "--no-compression --no-fast-lane --ping-interval 1.5 --ping-timeout 0 --drain 0.25 --log-level warning "
        "--allow-origin https://hoppscotch.io --allow-origin http://other.example:81 "
        "--subprotocol chat.v2 --subprotocol chat.v1 "
        "--slow latest --latest-key symbol --history 100 --history-bytes 64k --history-age 60 "
        "--read-only --rate 2.5 --max-rooms 1000 --max-peers 50 --allow-host chat.example "
        "--max-memory 1G --max-connections 9 --max-connections-per-ip 3 --trusted-proxy 10.0.0.0/8 "
        "--max-head 4k --max-headers 20 --max-target 1k --open-timeout 2 --keep-alive 5 --close-timeout 1 "
        "--rooms /live/"
    )
    assert rawws.cli.main([*command, *flags.split()]) == 0
    assert (ran.host, ran.port) == ("::1", 9)
    assert ran.hub == {
        "mode": "broadcast",
        "hello": "hi",
        "max_lag_bytes": 2 << 20,
        "slow": "latest",
        "key": "symbol",
        "history": 100,
        "history_bytes": 64 << 10,
        "history_age_s": 60,
        "exclude_sender": False,
        "read_only": True,
        "max_rooms": 1000,
        "max_peers": 50,
        "rooms_at": "/live/",
    }
    expected = {
        "subprotocols": ["chat.v2", "chat.v1"],
        "hosts": ["chat.example"],
        "max_memory": 1 << 30,
        "max_connections": 9,
        "max_connections_per_ip": 3,
        "trusted_proxies": ["10.0.0.0/8"],
        "max_head": 4096,
        "max_headers": 20,
        "max_target": 1024,
        "open_timeout": 2,
        "keep_alive": 5,
        "close_timeout": 1,
        "max_size": 64 * 1024,
        "ping_interval": 1.5,
        "ping_timeout": 0.0,
        "drain": 0.25,
        "compression": None,
        "fast_lane": False,
    }
    assert {name: ran.serve[name] for name in expected} == expected
    assert ran.log_level == "warning"
    for origin, allowed in [
        ("https://hoppscotch.io", True),
        ("http://other.example:81", True),
        ("https://evil.example", False),
    ]:
        assert ran.allows(origin) is allowed


def test_a_star_allows_every_origin(ran: Ran) -> None:
    assert rawws.cli.main(["--allow-origin", "*"]) == 0
    assert ran.allows("https://evil.example")


def test_an_empty_hello_is_none_and_an_empty_host_is_every_interface(ran: Ran) -> None:
    assert rawws.cli.main(["--hello", "", "--host", ""]) == 0
    assert (ran.hub["hello"], ran.host) == ("", "")


@pytest.mark.parametrize(
    ("text", "size"),
    [
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
    assert ran.serve["max_size"] == size


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
        (["--history", "-1"], "argument --history: '-1' is not a number; give one such as 100"),
        (["--rooms", "room"], "argument --rooms: 'room' is not the beginning of a path; give one such as /room/"),
        (["--drain", "-1"], "argument --drain: '-1' is not a number of seconds; give 0 or more"),
        (["--drain", "nan"], "argument --drain: 'nan' is not a number of seconds; give 0 or more"),
        (["--ping-interval", "inf"], "argument --ping-interval: 'inf' is not a number of seconds; give 0 or more"),
        (["--ping-timeout", "soon"], "argument --ping-timeout: 'soon' is not a number of seconds; give 0 or more"),
        (["--rate", "-1"], "argument --rate: '-1' is not a number of messages a second; give 0 or more"),
        (["--rate", "1e-300"], "argument --rate: '1e-300' is less than can be kept to; give 0, or 0.001 or more"),
        (["--ping-interval", "1e-9"], "argument --ping-interval: '1e-9' is less than can be kept to; give 0, or 0.001"),
        *(
            ([flag, "0"], f"argument {flag}: '0' would let nothing through; give more, or leave it out for the default")
            for flag in (
                *("--max-size", "--max-lag", "--max-memory", "--max-head", "--max-target", "--max-headers"),
                *("--max-connections", "--max-connections-per-ip", "--max-rooms", "--max-peers"),
            )
        ),
        (["--mode", "chat"], "argument --mode: invalid choice: 'chat'"),
        (["--log-level", "loud"], "argument --log-level: invalid choice: 'loud'"),
        (["--publish-token", ""], "argument --publish-token: the publish token is empty; give one such as"),
        (["--publish-token", "secret "], "the publish token is not printable ASCII without spaces; give one such as"),
        (["--publish-token", "žluť"], "the publish token is not printable ASCII without spaces; give one such as"),
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


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--latest-key", "a"], "--latest-key is for --slow latest; give that too, or leave out the key"),
        (
            ["--slow", "latest"],
            "--slow latest needs --latest-key, the JSON member that names what a message is about",
        ),
        (
            [*ECHO, "--publish-token", "x", "--read-only", "--history", "1", "--exclude-sender"],
            "--mode echo has no rooms, which --history, --exclude-sender, --read-only, --publish-token would be for; "
            "leave out one or the other",
        ),
        (
            [*ECHO, "--rate", "1", "--slow", "skip"],
            "--mode echo has no rooms, which --slow, --rate would be for; leave out one or the other",
        ),
    ],
    ids=["a key alone", "no key", "echo", "echo again"],
)
def test_flags_that_dont_go_together_are_one_sentence_and_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert rawws.cli.main(arguments) == 2
    assert ran.port == -1
    assert capsys.readouterr().err == f"rawws: {sentence}\n"


def test_echo_goes_with_what_has_to_do_with_any_connection(ran: Ran) -> None:
    assert rawws.cli.main([*ECHO, "--max-connections", "5", "--hello", "hi"]) == 0
    assert ran.hub["mode"] == "echo"


def test_not_being_able_to_listen_is_one_sentence_and_exit_status_1(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ListenError("can't listen on mars:1: it is too far. Come closer.")

    monkeypatch.setattr(rawws.cli.serve, "run_program", fail)
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


def test_what_a_peer_sends_may_go_to_all_others_only(ran: Ran) -> None:
    assert rawws.cli.main(["--exclude-sender"]) == 0
    assert ran.hub["exclude_sender"] is True
