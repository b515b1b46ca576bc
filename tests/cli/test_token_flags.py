"""The flags about tokens and a backend, and their mistakes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pytest

from rawws.cli.files import RereadFiles
from rawws.cli.token_sources import TokenSources
from rawws.errors import UsageError
from rawws.extras import install_command
from tests.serving.programs import StartProgram


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--auth-cache", "5"], "--auth-cache is for --auth-url"),
        (["--auth-timeout", "5"], "--auth-timeout is for --auth-url"),
        (["--auth-url", "http://a/", "--auth-timeout", "0"], "--auth-timeout 0 would let nobody in"),
        (["--auth-url", "http://a/", "--auth-timeout", "10"], "is not less than --open-timeout 10"),
        (["--auth-url", "ftp://a/"], "begin with http:// or https://"),
        (["--jwt-audience", "x"], "--jwt-audience has no effect without the keys"),
        (["--jwt-algorithm", "none"], "there is no 'none'"),
        (["--jwt-jwks", "http://a/", "--jwt-algorithm", "HS256"], "--jwt-jwks has public keys"),
        (["--jwt-key", "{folder}/none.pem"], "--jwt-key {folder}/none.pem can't be read: No such file"),
        (["--jwt-secret-file", "{folder}/short"], "the secret has 5 bytes, and HS256 needs 32"),
        (
            ["--jwt-secret-file", "{folder}/short", "--jwt-key", "x"],
            "--jwt-key and --jwt-secret-file exclude each other",
        ),
        (["--jwt-secret-file", "{folder}/short", "--jwt-cookie", "a b"], "can't be the name of a cookie"),
        (["--mode", "echo", "--auth-url", "http://a/"], "--auth-url has no effect with --mode echo"),
    ],
)
def test_flags_that_can_not_be_used_are_errors(
    start_program: StartProgram, tmp_path: Path, arguments: list[str], reason: str
) -> None:
    (tmp_path / "short").write_text("short")
    ran = start_program.run("serve", *(each.format(folder=tmp_path) for each in arguments))
    assert ran.returncode == 2
    assert reason.format(folder=tmp_path) in ran.stderr
    assert "short\n" not in ran.stderr


def test_without_pyjwt_a_hint_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    options = argparse.Namespace(jwt_key="key.pem", jwt_secret_file=None, jwt_jwks=None, auth_url=None)
    with pytest.raises(UsageError) as raised:
        TokenSources(options, RereadFiles())
    assert str(raised.value) == f"--jwt-... needs PyJWT, which isn't installed: {install_command('pyjwt')}"
