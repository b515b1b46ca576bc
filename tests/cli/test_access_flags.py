"""The files that the flags about access name: what can't be read is one sentence, and repeats no secret."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest

from rawws.access.grant import Action, Grant
from rawws.cli.access import MAX_FILE_BYTES, AccessRules, combine, make_rules, read_publish_token
from rawws.errors import UsageError
from tests.access.helpers import request_for


def given(**options: str) -> Namespace:
    return Namespace(**{"access": None, "publish_token": None, "publish_token_file": None, **options})


def test_a_token_is_the_only_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("  secret-1\n")
    assert read_publish_token(given(publish_token_file=str(path))) == "secret-1"
    assert read_publish_token(given(publish_token="secret-2")) == "secret-2"
    assert read_publish_token(given()) is None


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is empty"),
        (b"secret-1 secret-2", "holds several words"),
        (b"secret-1\xff", "is not a text in UTF-8"),
        (b"secret-1" * 1000, "has over 4096 bytes"),
        (None, "can't be read: No such file"),
    ],
)
def test_an_unusable_token_file_is_one_sentence_without_the_token(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=problem) as caught:
        read_publish_token(given(publish_token_file=str(path)))
    assert str(caught.value).startswith(f"--publish-token-file {path}")
    assert "secret-1" not in str(caught.value)


def test_two_tokens_exclude_each_other() -> None:
    with pytest.raises(UsageError, match="are two tokens; remove one"):
        read_publish_token(given(publish_token="x", publish_token_file="y"))


def test_a_wrong_line_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_text("anonymous /x")
    with pytest.raises(UsageError, match=f"^--access {path}, line 1: the rights are"):
        make_rules(given(access=str(path)))


def test_the_size_of_a_file_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "access"
    path.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    with pytest.raises(UsageError, match="has over 4194304 bytes"):
        AccessRules(str(path))


async def test_a_pipe_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "access"  # as a shell's <(command) is one
    path.write_text("anonymous /x read")
    rules = AccessRules(str(path))
    path.unlink()
    os.mkfifo(path)
    waits = os.open(path, os.O_RDWR)  # with a writer, or to open it would wait
    rules.reload()
    assert f"--access {path} is a pipe, which can be read only once; give a file" in caplog.text
    grant = await rules.grant(request_for(), "/x", Action.READ)
    assert isinstance(grant, Grant)
    assert grant.allowed("/x") == Action.READ, "the rules from before stay in force"
    os.close(waits)


async def test_without_sources_nobody_is_asked(tmp_path: Path) -> None:
    assert combine(make_rules(given())) is None
    path = tmp_path / "access"
    path.write_text("")
    sources = combine(make_rules(given(access=str(path))))
    assert sources is not None
    answer = await sources.grant(request_for(), "/x", Action.READ)
    assert getattr(answer, "status", None) == 401, "an empty file lets nobody in"
