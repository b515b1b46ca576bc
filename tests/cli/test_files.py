"""The files that flags name: what can't be used is one sentence, repeats no secret, and changes nothing."""

from __future__ import annotations

import argparse
import logging
import os
from pathlib import Path

import pytest

from rawws.cli.access import AccessRules
from rawws.cli.files import MAX_SECRET_BYTES, RereadFiles, TokenFile
from rawws.cli.serve_flags import FLAGS
from rawws.errors import UsageError
from tests.access.helpers import bearer, request_for

FLAG = "--publish-token-file"


def is_asked_for(file: TokenFile, token: str) -> bool:
    return file.token.is_in(request_for("/", bearer(token)))


@pytest.mark.parametrize("content", ["secret-1", "  secret-1\r\n", "\ufeffsecret-1\n"])
def test_a_token_is_all_that_is_in_its_file(tmp_path: Path, content: str) -> None:
    path = tmp_path / "token"
    path.write_text(content, "utf-8")
    file = TokenFile(FLAG, str(path))
    assert (is_asked_for(file, "secret-1"), is_asked_for(file, "secret-2")) == (True, False)


UNUSABLE = [
    (b"", "the file is empty, and it is for a token alone"),
    (b"secret-1 secret-2", "the file holds several words, and it is for a token alone"),
    (b"secret-1\xff", "the file is not a text in UTF-8"),
    ("secret-1€".encode(), "the token is not printable ASCII"),
    (b"secret-1" * MAX_SECRET_BYTES, "has over 4096 bytes"),
    (None, "can't be read: No such file"),
]


@pytest.mark.parametrize(("content", "problem"), UNUSABLE)
def test_an_unusable_file_is_one_sentence_without_the_token(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=problem) as caught:
        TokenFile(FLAG, str(path))
    assert str(caught.value).startswith(f"{FLAG} {path}")
    assert "secret-1" not in str(caught.value)


@pytest.mark.parametrize(("content", "problem"), UNUSABLE)
async def test_an_unusable_file_leaves_the_content_from_before_in_force(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes | None, problem: str
) -> None:
    path = tmp_path / "token"
    path.write_text("secret-0")
    file = TokenFile(FLAG, str(path))
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    await file.reload()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith(f"#0 ! {FLAG} {path}")
    assert problem in record.getMessage()
    assert record.getMessage().endswith("; the file's earlier content stays in force")
    assert "secret-1" not in caplog.text
    assert is_asked_for(file, "secret-0")
    path.write_text("secret-1")
    await file.reload()
    assert (is_asked_for(file, "secret-0"), is_asked_for(file, "secret-1")) == (False, True)


async def test_a_pipe_is_read_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"  # as a shell's <(command) is one
    path.write_text("secret-1")
    file = TokenFile(FLAG, str(path))
    path.unlink()
    os.mkfifo(path)
    waits = os.open(path, os.O_RDWR)  # with a writer, or to open it would wait
    await file.reload()
    assert f"{FLAG} {path} is a pipe, which can be read only once; give a file" in caplog.text
    assert is_asked_for(file, "secret-1")
    os.close(waits)


async def test_a_path_that_leads_nowhere_is_one_sentence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "token"
    path.write_text("secret-1")
    file = TokenFile(FLAG, str(path))
    for target in ("n" * 300, path.name):  # pathlib raises for the first, as for a directory that can't be searched
        path.unlink()
        path.symlink_to(target)
        caplog.clear()
        await file.reload()
        (record,) = caplog.records
        assert f"{FLAG} {path} can't be read: " in record.getMessage()
        assert is_asked_for(file, "secret-1")


async def test_each_file_is_reread_whatever_is_wrong_with_another(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rawws")
    paths = [tmp_path / name for name in "abc"]
    files = RereadFiles()
    assert not files
    for path in paths:
        path.write_text(f"old-{path.name}")
    tokens = [files.token(FLAG, str(path)) for path in paths]
    for path in paths:
        path.write_text(f"new-{path.name}")
    paths[1].unlink()
    await files.reload()
    asked = [f"{age}-{name}" for name, age in zip("abc", ["new", "old", "new"], strict=True)]
    assert all(token.is_in(request_for("/", bearer(each))) for token, each in zip(tokens, asked, strict=True))
    assert [record.levelname for record in caplog.records] == ["INFO", "ERROR", "INFO"]


def test_an_error_of_the_rules_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rules"
    path.write_text("\nanonymous /x")
    with pytest.raises(UsageError, match=f"^--access {path}: line 2: the rights are"):
        AccessRules(str(path))


def test_the_flags_whose_files_are_reread_are_marked() -> None:
    marked = {flag.name for flag in FLAGS if flag.is_reread}
    assert {"--access", "--publish-token-file", "--jwt-key", "--jwt-secret-file"} <= marked
    assert all(flag.value is not None and flag.value.metavar == "FILE" for flag in FLAGS if flag.is_reread)
    defaults = argparse.Namespace(**{flag.option: FLAGS.default_of(flag) for flag in FLAGS})
    assert not FLAGS.given(defaults, lambda flag: flag.is_reread)
