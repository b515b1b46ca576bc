"""View "Break it" where rooms need grants: the server may still try its cases on itself, and nobody else gets in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import rawws
from tests.page.asking import ask
from tests.serving.programs import StartProgram
from tests.serving.wire import upgrade

SECRET = "the-page-s-token"


async def test_cases_are_run_where_rooms_need_grants(start_program: StartProgram, tmp_path: Path) -> None:
    (tmp_path / "access").write_text("anonymous /public read\n")
    recording = tmp_path / "recorded"
    program = start_program(
        "--access", str(tmp_path / "access"), "--page-token", SECRET, "--record", str(recording), "-vv"
    )
    link = await ask(program, f"/?token={SECRET}")
    cookie = link.headers["set-cookie"].partition(";")[0]
    url = f"ws://127.0.0.1:{program.port}/_rawws/trace"
    origin = f"http://127.0.0.1:{program.port}"
    async with rawws.connect(url, headers={"Cookie": cookie}, origin=origin, max_size=None, proxy=None) as trace:

        async def run(**asked: str) -> Any:
            await trace.send(json.dumps({"ask": 7, "for": "case", "name": "unmasked", **asked}))
            answer: Any = {}
            while answer.get("answer") != 7:
                answer = json.loads(await trace.recv())
            return answer

        assert (await run())["verdict"] == "good"
        assert "401" in str(await run(path="/private")), "the grant is for one room"
    client = await program.connect()
    assert (await client.ask(upgrade("/_rawws/break-it"))).status == 401
    recorded = recording.read_bytes()
    assert b"Authorization: (masked" in recorded
    assert b"Authorization: Bearer" not in recorded
    assert not any("> Authorization: Bearer" in line or "< Authorization: Bearer" in line for line in program.lines)
