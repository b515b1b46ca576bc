"""The command line: the meaning of its flags, and its errors."""

from __future__ import annotations

import enum
import inspect
import re
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

import rawws
import rawws.cli
import rawws.cli.serve
import rawws.logs
from rawws.cli.commands import Parsers
from rawws.cli.serve_flags import FLAGS
from rawws.errors import ListenError
from rawws.hub.hub import Hub
from rawws.options import ServerOptions
from rawws.server.administration import AdminApp, ReservedApp
from rawws.server.apps import apps_of
from rawws.server.plain_apps import HelloApp
from rawws.server.room_app import RoomApp
from rawws.wire.origins import Origins
from tests.serving.machine import LOOPBACK
from tests.serving.programs import StartProgram

ECHO = ("--mode", "echo")


@dataclass
class Ran:
    """The calls that the command line would have made."""

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
    """Keep the server from running, and record the arguments that it would have been given."""
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


# The flags


@pytest.mark.parametrize("arguments", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_the_server_has_the_defaults_without_flags(ran: Ran, arguments: list[str]) -> None:
    assert rawws.cli.main([*arguments, "--no-page"]) == 0
    assert (ran.host, ran.port) == ("127.0.0.1", 8080)
    assert ran.hub.pop("hello") == "Hello! Message From Server!!"
    apps = [type(app) for app in apps_of(ran.serve.pop("http"))]
    assert apps == [AdminApp, ReservedApp, RoomApp, HelloApp]
    assert not ran.serve.pop("tracer").is_watched
    assert not ran.allows("https://hoppscotch.io")
    del ran.serve["origins"], ran.serve["listeners"], ran.serve["task_status"]
    for function, given in ((Hub, ran.hub), (rawws.serve, ran.serve)):
        parameters = inspect.signature(function).parameters
        defaults = {name: parameters[name].default for name in given}
        assert given == {name: each.value if isinstance(each, enum.Enum) else each for name, each in defaults.items()}
    assert ran.log_level == "info"


@pytest.mark.parametrize("command", [[], ["serve"]], ids=["rawws", "rawws serve"])
def test_every_flag_sets_its_setting(ran: Ran, command: list[str]) -> None:
    flags = (
        "--host ::1 --port 9 --hello hi --max-size 64k --max-lag 2M "
        "--no-compression --no-fast-lane --ping-interval 1.5 --ping-timeout 0 --drain 0.25 --log-level warning "
        "--allow-origin https://hoppscotch.io --allow-origin http://other.example:81 "
        "--subprotocol chat.v2 --subprotocol chat.v1 "
        "--slow latest --latest-key symbol --history 100 --history-bytes 64k --history-age 60 "
        "--read-only --rate 2.5 --max-rooms 1000 --max-peers 50 --allow-host chat.example "
        "--max-memory 1G --max-connections 9 --max-connections-per-ip 3 --trusted-proxy 10.0.0.0/8 "
        "--max-head 4k --max-headers 20 --max-target 1k --open-timeout 2 --keep-alive 5 --close-timeout 1 "
        "--rooms /live/ --store rooms.db --store-sync interval --store-interval 0.5 "
        "--store-bytes 1G --store-rooms 50000"
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
        "store": "rooms.db",
        "store_sync": "interval",
        "store_interval_s": 0.5,
        "store_bytes": 1 << 30,
        "store_rooms": 50_000,
        "queue_bytes": 64 << 20,
        "queue_in_memory": False,
        "push": None,
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


def test_an_empty_hello_and_an_empty_host_are_passed_on(ran: Ran) -> None:
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
def test_flags_set_the_log_level(ran: Ran, flags: list[str], level: str) -> None:
    assert rawws.cli.main(flags) == 0
    assert ran.log_level == level


# Errors


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "65536"], "--port: '65536' is not a port; give a number from 0 to 65535"),
        (["--port", "-1"], "--port: '-1' is not a port; give a number from 0 to 65535"),
        (["--port", "http"], "--port: 'http' is not a port; give a number from 0 to 65535"),
        (["--port", "٣"], "--port: '٣' is not a port; give a number from 0 to 65535"),
        (["--max-size", "big"], "--max-size: 'big' is not a size; give bytes, as in 65536, 64k or 2GiB"),
        (["--max-size", "1.5M"], "--max-size: '1.5M' is not a size; give bytes, as in 65536, 64k or 2GiB"),
        (["--max-lag", "-1"], "--max-lag: '-1' is not a size; give bytes, as in 65536, 64k or 2GiB"),
        (["--max-lag", ""], "--max-lag: '' is not a size; give bytes, as in 65536, 64k or 2GiB"),
        (["--history", "-1"], "--history: '-1' is not a count; give a whole number such as 100"),
        (["--rooms", "room"], "--rooms: 'room' is not the beginning of a path; give one such as /room/"),
        (["--drain", "-1"], "--drain: '-1' is not a number of seconds; give 0 or more"),
        (["--drain", "nan"], "--drain: 'nan' is not a number of seconds; give 0 or more"),
        (["--ping-interval", "inf"], "--ping-interval: 'inf' is not a number of seconds; give 0 or more"),
        (["--ping-timeout", "soon"], "--ping-timeout: 'soon' is not a number of seconds; give 0 or more"),
        (["--rate", "-1"], "--rate: '-1' is not a number of messages a second; give 0 or more"),
        (["--rate", "1e-300"], "--rate: '1e-300' is less than can be kept to; give 0, or 0.001 or more"),
        (["--ping-interval", "1e-9"], "--ping-interval: '1e-9' is less than can be kept to; give 0, or 0.001"),
        *(
            ([flag, "0"], f"{flag}: '0' would let nothing through; give more, or leave it out for the default")
            for flag in (
                *("--max-size", "--max-lag", "--max-memory", "--max-head", "--max-target", "--max-headers"),
                *("--max-connections", "--max-connections-per-ip", "--max-rooms", "--max-peers"),
            )
        ),
        (["--mode", "chat"], "--mode: there is no 'chat'; give broadcast or echo"),
        (["--log-level", "loud"], "--log-level: there is no 'loud'; give trace, debug, info, warning or error"),
        (["--publish-token", ""], "--publish-token: the token is empty; give one such as"),
        (["--publish-token", "secret "], "the token is not printable ASCII without spaces; give one such as"),
        (["--publish-token", "žluť"], "the token is not printable ASCII without spaces; give one such as"),
        (["--unknown"], "rawws serve has no flag --unknown"),
        (["serve", "there"], "rawws serve takes flags only, and 'there' is none"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_value_is_reported_in_one_sentence_with_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert rawws.cli.main(arguments) == 2
    assert ran.port == -1
    message, see = capsys.readouterr().err.splitlines()
    assert message.startswith("rawws: ")
    assert sentence in message
    assert see == "rawws: rawws serve --help lists the arguments"


@pytest.mark.parametrize("origin", ["hoppscotch.io", "https://", "https://hoppscotch.io/path", "https://a b"])
def test_an_invalid_origin_is_reported_in_one_sentence_with_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], origin: str
) -> None:
    assert rawws.cli.main(["--allow-origin", origin]) == 2
    assert ran.port == -1
    assert capsys.readouterr().err.splitlines() == [
        f"rawws: --allow-origin: {origin!r} is not an origin; give scheme, host and port alone, as a browser sends "
        "them, such as https://example.org, or * for any",
        "rawws: rawws serve --help lists the arguments",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--root-path", "/api"], "--root-path is for an application; give --app too, or leave it out"),
        (
            ["--app-loop", "asyncio", "--app-threads", "3"],
            "--app-loop, --app-threads are for an application; give --app too, or leave it out",
        ),
        (["--latest-key", "a"], "--latest-key is for --slow latest; give that too, or leave out the key"),
        (
            ["--slow", "latest"],
            "--slow latest requires --latest-key, the JSON member that says what a message is about",
        ),
        (
            [*ECHO, "--publish-token", "x", "--read-only", "--history", "1", "--exclude-sender"],
            "--history, --exclude-sender, --read-only, --publish-token have no effect with --mode echo, which has no "
            "rooms; remove one of them",
        ),
        (
            [*ECHO, "--rate", "1", "--slow", "skip"],
            "--slow, --rate have no effect with --mode echo, which has no rooms; remove one of them",
        ),
    ],
    ids=["a root path alone", "a loop alone", "a key alone", "no key", "echo", "echo again"],
)
def test_flags_that_exclude_each_other_are_reported_in_one_sentence_with_exit_status_2(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert rawws.cli.main(arguments) == 2
    assert ran.port == -1
    assert capsys.readouterr().err == f"rawws: {sentence}\n"


APPLICATIONS = """
async def of_asgi(scope, receive, send): ...
def of_wsgi(environ, start_response): return []
def of_any(*arguments): return []
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["of_asgi", "--app-threads", "3"], "--app-threads has no effect on an application for ASGI; leave it out"),
        (["of_wsgi", "--app-loop", "trio"], "--app-loop has no effect on an application for WSGI; leave it out"),
        (
            ["of_asgi", "--app-interface", "wsgi"],
            "'applications:of_asgi' is called with 2 arguments (environ, start_response), which "
            "of_asgi(scope, receive, send) doesn't take; an ASGI application is given as rawws.asgi(app), or with "
            "--app-interface asgi",
        ),
        (
            ["of_wsgi", "--app-interface", "asgi"],
            "'applications:of_wsgi' is called with 3 arguments (scope, receive, send), which "
            "of_wsgi(environ, start_response) doesn't take; a WSGI application is given as rawws.wsgi(app), or with "
            "--app-interface wsgi",
        ),
    ],
)
def test_an_application_of_the_other_interface_is_reported_in_one_sentence(
    arguments: list[str], sentence: str, tmp_path: Path, start_program: StartProgram
) -> None:
    (tmp_path / "applications.py").write_text(APPLICATIONS, "utf-8")
    ran = start_program.run("--app", f"applications:{arguments[0]}", *arguments[1:], directory=tmp_path)
    assert (ran.returncode, ran.stderr) == (2, f"rawws: {sentence}\n")


@pytest.mark.parametrize(
    ("interface", "where", "others"),
    [("asgi", "asyncio", "the application's"), ("wsgi", "threads, at most 7", "refused")],
)
def test_the_interface_of_an_application_may_be_given(
    interface: str, where: str, others: str, tmp_path: Path, start_program: StartProgram
) -> None:
    (tmp_path / "applications.py").write_text(APPLICATIONS, "utf-8")
    threads = ["--app-threads", "7"] if interface == "wsgi" else []
    arguments = ["--app", "applications:of_any", "--app-interface", interface, *threads]
    program = start_program(*arguments, directory=tmp_path)
    assert any(f"the application runs on {where}" in line for line in program.lines)
    assert any(f"(rooms are below /room/, other WebSockets are {others})" in line for line in program.lines)


def test_echo_mode_accepts_flags_that_concern_any_connection(ran: Ran) -> None:
    assert rawws.cli.main([*ECHO, "--max-connections", "5", "--hello", "hi"]) == 0
    assert ran.hub["mode"] == "echo"


def test_a_failure_to_listen_is_reported_in_one_sentence_with_exit_status_1(
    ran: Ran, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object, **__: object) -> None:
        raise ListenError("can't listen on mars:1: it is too far. Come closer.")

    monkeypatch.setattr(rawws.cli.serve, "run_program", fail)
    assert rawws.cli.main([]) == 1
    assert capsys.readouterr().err == "rawws: can't listen on mars:1: it is too far. Come closer.\n"
    assert ran.port == -1


def test_a_greeting_that_is_not_utf8_is_reported_in_one_sentence_with_exit_status_2(
    start_program: StartProgram,
) -> None:
    ended = start_program.run("--port", "0", "--hello", b"\xff")
    assert ended.returncode == 2
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("rawws: --hello: ")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sevre"], "there is no command 'sevre'; did you mean serve?"),
        (["conect", "ws://localhost"], "there is no command 'conect'; did you mean connect?"),
        (["8080"], "there is no command '8080'; did you mean rawws serve --port 8080?"),
        ([":8080"], "there is no command ':8080'; did you mean rawws serve --port 8080?"),
        (["ws://localhost/x"], "there is no command 'ws://localhost/x'; did you mean rawws connect ws://localhost/x?"),
        (["localhost:80/x"], "there is no command 'localhost:80/x'; did you mean rawws connect localhost:80/x?"),
        (["[::1]:80"], "there is no command '[::1]:80'; did you mean rawws connect [::1]:80?"),
        (["main:app"], "there is no command 'main:app'; did you mean rawws serve --app main:app?"),
        (["help"], "there is no command 'help'; did you mean rawws --help, or rawws docs?"),
        ([__file__], f"there is no command {__file__!r}; did you mean rawws decode {__file__}?"),
        ([""], "there is no command ''; give one of serve, connect, post, tap, decode, check, store, docs"),
        (
            ["--port", "0", "sevre"],
            "rawws serve takes flags only, and 'sevre' is none; a command comes first, as in rawws serve",
        ),
        (["--trusted-proxi", "10.0.0.0/8"], "rawws serve has no flag --trusted-proxi; did you mean --trusted-proxy?"),
        (["--max", "3"], "--max is short for --max-rooms, --max-peers, --max-size, --max-lag, --max-memory, "
                         "--max-connections, --max-connections-per-ip, --max-head, --max-target, --max-headers "
                         "or --max-lifetime; write out which"),
        (["-port", "80"], "rawws serve has no flag -port; did you mean --port?"),
        (["-z"], "rawws serve has no flag -z"),
        (["--port"], "--port needs a value, as in --port PORT"),
        (["--port", "--host", "x"], "--port needs a value, as in --port PORT"),
        (["--hello", "--yo"], "--hello needs a value; one that begins with a dash is given as --hello=--yo"),
        (
            ["--hello", "-hi"],
            "--hello needs a value, as in --hello TEXT; one that begins with a dash is given as --hello=-hi",
        ),
        (["--read-only=yes"], "--read-only takes no value, and 'yes' is given; leave that out"),
        (["-v", "--log-level", "debug"], "--log-level and -v exclude each other; give one of them"),
        (["--slow", "wiat"], "--slow: there is no 'wiat'; give close, skip, latest or wait; did you mean wait?"),
        (["--allow-host", "a b"], "--allow-host: 'a b' is no host's name; give one such as chat.example, without a "
                                  "scheme or a port"),
        (["--trusted-proxy", "x"], "--trusted-proxy: 'x' in trusted_proxies is neither an address nor a network; "
                                   "give such as 127.0.0.1 or 10.0.0.0/8"),
        (["connect"], "URL is missing, as in rawws connect URL"),
        (["connect", "--hedaer", "a: b", "ws://x"], "rawws connect has no flag --hedaer; did you mean --header?"),
        (["connect", "--port", "80", "ws://x"], "rawws connect has no flag --port, and rawws serve has it"),
        (["connect", "ws://x", "ws://y"], "rawws connect doesn't take the argument 'ws://y'"),
        (["connect", "-w", "soon", ":1"], "-w/--wait: 'soon' is not a number of seconds; give 0 or more, or -1 to wait "
                                          "until the server closes"),
        (["connect", "-H"], "-H/--header needs a value, as in --header 'NAME: VALUE'"),
        (["tap", "1"], "TARGET is missing, as in rawws tap LISTEN TARGET"),
        (["tap"], "LISTEN and TARGET are missing, as in rawws tap LISTEN TARGET"),
        (["decode", "--from", "me"], "--from: there is no 'me'; give client or server"),
        (["decode", "--breif"], "rawws decode has no flag --breif; did you mean --brief?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistyped_command_line_is_answered_with_one_sentence_and_a_pointer_to_help(
    ran: Ran, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    assert rawws.cli.main(arguments) == 2
    assert ran.port == -1
    message, see = capsys.readouterr().err.splitlines()
    assert message == f"rawws: {sentence}"
    command = see.removeprefix("rawws: ").removesuffix(" lists the arguments").split()
    assert command[0] == "rawws"
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(command[1:])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: ")


NUMBERS = ("port", "history", "history-bytes", "max-size", "max-headers", "workers")


@pytest.mark.parametrize("flag", NUMBERS)
def test_a_number_of_thousands_of_digits_is_reported_in_one_short_sentence(
    ran: Ran, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    assert rawws.cli.main([f"--{flag}", "9" * 5000]) == 2
    assert ran.port == -1
    message = capsys.readouterr().err.splitlines()[0]
    assert message.startswith(f"rawws: --{flag}: '999")
    assert len(message) < 400


def test_a_flag_without_its_value_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    for command, parser in Parsers().items():
        for action in parser._actions:
            if action.option_strings and action.nargs is None:
                assert rawws.cli.main([command, action.option_strings[0]]) == 2
                message = capsys.readouterr().err.splitlines()[0]
                flags = "/".join(action.option_strings)
                assert message.startswith(f"rawws: {flags} needs a value, as in {action.option_strings[-1]} "), message


# Help and version


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["serve", "--help"])
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    flags = {"-v", "-vv", "--host", "--port", "--hello", "--mode", "--allow-origin", "--max-size", "--max-lag"}
    flags |= {"--ping-interval", "--ping-timeout", "--drain", "--log-level", "-h", "--help"}
    assert flags <= set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", shown))


def test_help_shows_each_default_as_a_user_would_write_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        rawws.cli.main(["serve", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    defaults = {
        "max-size BYTES": "1M",
        "max-head BYTES": "16k",
        "drain SECONDS": "5",
        "slow {close,skip,latest,wait}": "close",
        "max-rooms N": "no limit",
        "port PORT": "8080",
    }
    for flag, default in defaults.items():
        assert re.search(rf"--{flag} (?:(?! --).)*\(default: {default}\)", shown), flag
    assert "`" not in shown


def test_help_without_a_command_mentions_serve(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["--help"])
    assert caught.value.code == 0
    assert "serve" in capsys.readouterr().out


def test_version_prints_the_version_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        rawws.cli.main(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"rawws {rawws.__version__}\n"


def test_python_m_rawws_is_the_program(start_program: StartProgram) -> None:
    shown = start_program.run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"rawws {rawws.__version__}\n")


def test_exclude_sender_reaches_the_hub(ran: Ran) -> None:
    assert rawws.cli.main(["--exclude-sender"]) == 0
    assert ran.hub["exclude_sender"] is True


# The table of flags


def test_each_flag_sets_an_existing_keyword() -> None:
    for flag in FLAGS:
        if flag.goes_to:
            function, _, keyword = flag.goes_to.partition(".")
            assert keyword in inspect.signature(FLAGS.functions[function]).parameters, flag.name


def test_every_limit_in_the_metrics_is_that_of_its_flag() -> None:
    """The flag that the metrics report for a limit sets the keyword of that limit."""
    options = ServerOptions(rate=1, max_connections=1, max_connections_per_ip=1, max_memory=1)
    limits = options.limits_by_flag() | Hub(max_rooms=1, max_peers=1).limits_by_flag()
    goes_to = {flag.name: flag.goes_to for flag in FLAGS}
    assert len(limits) == 20
    for name in limits:
        keyword = name.removeprefix("--").replace("-", "_")
        assert goes_to[name] == f"serve.{keyword}" or goes_to[name].startswith(f"hub.{keyword}")
