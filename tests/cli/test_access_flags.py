"""The files that the flags about access name: what can't be read is one sentence, and repeats no secret."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest
import trio

from rawws.access.access_file import LINES_AT_ONCE, MAX_LINES
from rawws.access.grant import Action, Grant
from rawws.cli.access import MAX_FILE_BYTES, AccessRules, combine, read_publish_token, read_rules
from rawws.cli.files import RereadFiles
from rawws.errors import UsageError
from tests.access.helpers import bearer, request_for


def given(**options: str) -> Namespace:
    return Namespace(**{"access": None, "publish_token": None, "publish_token_file": None, **options})


async def test_the_publish_token_comes_from_a_flag_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("secret-1")
    files = RereadFiles()
    assert read_publish_token(given(), files) is None
    by_flag = read_publish_token(given(publish_token="secret-2"), files)
    assert not files
    by_file = read_publish_token(given(publish_token_file=str(path)), files)
    path.write_text("secret-3")
    await files.reload()
    for token, secret in ((by_flag, "secret-2"), (by_file, "secret-3")):
        assert token is not None
        assert token.is_in(request_for("/", bearer(secret)))


def test_two_tokens_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="are two tokens; remove one"):
        read_publish_token(given(publish_token="x", publish_token_file="y"), RereadFiles())


def test_a_wrong_line_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("anonymous /x")
    with pytest.raises(UsageError, match=f"^--access {path}: line 1: the rights are"):
        read_rules(given(access=str(path)), RereadFiles())


def test_the_size_of_a_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="has over 4194304 bytes"):
        AccessRules(str(path))


async def test_others_run_while_many_rules_are_read_anew_and_then_all_hold_at_once(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("anonymous /before read")
    rules = AccessRules(str(path))
    path.write_text("\n".join(f"anonymous /room/{number} read" for number in range(MAX_LINES)))
    rooms = ("/before", "/room/0", f"/room/{MAX_LINES - 1}")
    seen: list[list[bool]] = []

    async def look() -> None:
        while True:
            grant = await rules.grant(request_for(), "/x", Action.READ)
            assert isinstance(grant, Grant)
            seen.append([grant.allowed(room) == Action.READ for room in rooms])
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look)
        await rules.reload()
        while seen[-1][0]:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    before, after = [True, False, False], [False, True, True]
    assert seen.count(before) > MAX_LINES // LINES_AT_ONCE // 2
    assert seen == [before] * seen.count(before) + [after] * seen.count(after)


async def test_without_sources_nobody_is_asked(tmp_path: Path) -> None:
    assert combine(read_rules(given(), RereadFiles())) is None
    path = tmp_path / "access"
    path.write_text("")
    sources = combine(read_rules(given(access=str(path)), RereadFiles()))
    assert sources is not None
    answer = await sources.grant(request_for(), "/x", Action.READ)
    assert getattr(answer, "status", None) == 401, "an empty file lets nobody in"
