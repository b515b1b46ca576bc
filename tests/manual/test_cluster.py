"""The manual's commands for several nodes, run as they are."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rawws.broadcast.stream_entries import Author, fields_of
from rawws.wire.frames import Opcode
from tests.manual import page
from tests.redis_server import redis_server
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import StartProgram

SECTION = page("howto/cluster")
COMMANDS, GRANT, FROM_REDIS = re.findall(r"```console\n(.*?)```", SECTION, re.DOTALL)


@pytest.mark.usefixtures("bounded")
async def test_two_nodes_run_with_four_commands(start_program: StartProgram, tmp_path: Path) -> None:
    need(shutil.which("curl"), "curl")
    redis, first, second, publish, published, ask, answer = COMMANDS.splitlines()
    assert redis == "$ redis-server --save '' &"
    async with redis_server(tmp_path) as server:
        addresses = {}
        for line in (first, second):
            flags = line.removeprefix("$ rawws ").removesuffix(" &").replace("redis://localhost", server.url)
            port = re.findall(r"--port (\d+)", flags)[0]
            addresses[port] = start_program(*shlex.split(flags.replace(f"--port {port} ", ""))).address

        def curl(line: str) -> object:
            for port, address in addresses.items():
                line = line.replace(f"localhost:{port}", address)
            return json.loads(subprocess.check_output([*shlex.split(line)[1:], "-s"], timeout=PATIENCE_S))

        (shown_id,) = set(re.findall(r'"id":"([^"]+)"', published))
        answered = curl(publish)
        assert isinstance(answered, dict)
        assert answered == json.loads(published.replace(shown_id, answered["id"]))
        assert curl(ask) == json.loads(answer.replace(shown_id, answered["id"]))

        command = shlex.split(FROM_REDIS)[1:]
        subprocess.run([command[0], "-p", str(server.port), *command[1:]], check=True, stdout=subprocess.DEVNULL)
        polled = curl(ask)
        assert isinstance(polled, dict)
        assert [message["text"] for message in polled["messages"]] == ["from any program"]


def test_the_table_has_every_field() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", SECTION, re.MULTILINE)) == set(
        fields_of(Opcode.TEXT, b"", Author("node", 1, 1), "key")[::2]
    )
