"""The manual's logs and outputs are those of the program."""

from __future__ import annotations

import json
import re
import signal

import pytest
from websockets.sync.client import connect

import rawws.cli
from benchmarks.report import markdown
from rawws.inspection.conformance import BY_NAME
from rawws.net.tls_transport import TLS_BYTES
from tests import flag_table
from tests.manual import DOCUMENTS, MANUAL, ROOT, blocks, commands, page
from tests.serving.programs import StartProgram

# Parts that differ between runs, in the order of their replacement.
VARYING = [
    (r"127\.0\.0\.1:\d+", "ADDRESS"),
    (r"localhost:\d+", "ADDRESS"),
    (r"User-Agent: .*", "User-Agent: ..."),
    (r"[0-9a-f]{40}", "SHA-1"),
    (r"[A-Za-z0-9+/]{22}==", "KEY"),
    (r"[A-Za-z0-9+/]{27}=", "ACCEPT"),
    (r"mask=[0-9a-f]{8}", "mask=KEY"),
]


def normalised(line: str) -> str:
    for pattern, replacement in VARYING:
        line = re.sub(pattern, replacement, line)
    return line


def test_the_annotated_log_is_the_real_log(start_program: StartProgram) -> None:
    program = start_program("-v")
    with connect(f"ws://localhost:{program.port}/room", proxy=None) as client:
        client.recv()
        client.send("hello")
        client.recv()
        client.close(1000, "bye")
    program.wait_for_line("closed by the client")
    program.signal(signal.SIGINT)
    assert program.wait() == 0
    written = [line.split(" ", 2)[2] for line in program.lines if " #1 " in line]
    shown = re.findall(r"^(?:DEBUG|INFO) .*$", page("tutorial/handshake"), re.MULTILINE)
    assert [normalised(line) for line in shown] == [normalised(line) for line in written]


def test_the_lines_of_a_tap_are_those_in_the_readme(start_program: StartProgram) -> None:
    tap = start_program.tap(start_program().address)
    with connect(f"ws://{tap.address}/room", proxy=None) as client:
        client.recv()
        client.send("hello")
        client.recv()
    tap.wait_for_line("ended by both sides")
    written = (normalised("… #" + line.partition(" #")[2].rstrip()) for line in tap.lines)
    shown = re.findall(r"^… #.*$", page("howto/tap"), re.MULTILINE)
    assert len(shown) == 11
    for line in shown:  # in this order, with others between them
        assert normalised(line) in written, line


def test_the_link_shown_is_the_printed_link(start_program: StartProgram) -> None:
    (shown,) = re.findall(r"^INFO .* open http.*$", page("howto/page"), re.MULTILINE)
    program = start_program()
    program.page_link()
    written = program.lines[-1].split(" ", 2)[2]
    token = r"token=[-\w]{32} "
    assert re.sub(token, "token= ", normalised(shown)) == re.sub(token, "token= ", normalised(written))


def test_the_bytes_shown_are_a_close_with_bye() -> None:
    (shown,) = re.findall(r"`((?:[0-9a-f]{2}\s)+\|[0-9a-f|\s]+)`", page("tutorial/handshake"))
    header, key, payload = (bytes.fromhex(part) for part in shown.split("|"))
    assert header == b"\x88\x85"
    assert bytes(byte ^ key[index % 4] for index, byte in enumerate(payload)) == b"\x03\xe8bye"


def test_the_page_of_flags_is_made_from_the_flags() -> None:
    assert flag_table.page() == page("reference/flags"), "python -m tests.flag_table writes it anew"


def test_the_table_shows_the_measured_values() -> None:
    data = json.loads((ROOT / "benchmarks" / "results.json").read_text())
    assert markdown(data) in MANUAL


def test_the_memory_of_tls_shown_is_the_counted_value() -> None:
    shown = f"{TLS_BYTES / 1024:.0f} KiB"
    assert re.search(rf"TLS\s+adds\s+{shown}\.", page("reference/flags"))
    assert re.search(rf"An idle\s+connection\s+takes\s+{shown}\.", MANUAL)


DECODED = [
    (command.removeprefix("rawws "), shown)
    for document in DOCUMENTS
    for session in blocks(document.read_text("utf-8"), "console")
    for command, shown in commands(session.text)
    if command.startswith("rawws decode ")
]


@pytest.mark.parametrize(("command", "shown"), DECODED, ids=[command for command, _ in DECODED])
def test_the_output_of_decode_is_that_in_the_readme(
    command: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rawws.cli.main(command.split()) in (0, 1)
    assert capsys.readouterr().out == shown


def test_every_verdict_shown_is_of_an_existing_case() -> None:
    names = re.findall(r"^good     (\S+) +(.*)$", MANUAL, re.MULTILINE)
    assert len(names) == 6
    for name, text in names:
        assert text.startswith(f"{BY_NAME[name].title}: ")
    assert f"| {len(BY_NAME)} cases |" in MANUAL
