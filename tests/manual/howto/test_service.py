"""The page about services: its units are checked by systemd, and its sockets are those of systemd."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.manual.howto.walk import Walk, blocks_of
from tests.serving.machine import PATIENCE_S, need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(shutil.which("systemd-socket-activate"), "systemd")
    walk.follow("howto/service", sh=lambda _: None)


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    need(shutil.which("systemd-analyze"), "systemd")
    units = [tmp_path / block.file_name for block in blocks_of("howto/service") if block.language == "ini"]
    for unit, block in zip(units, (b for b in blocks_of("howto/service") if b.language == "ini"), strict=True):
        # systemd wants the program and the file to be there.
        unit.write_text(block.text.replace("/opt/rawws/bin/rawws", sys.executable))
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    complaints = [line for line in verified.stderr.splitlines() if "rawws." in line]
    assert (verified.returncode, complaints) == (0, []), verified.stderr
