"""The page about HAProxy and Caddy, with the real ones."""

from __future__ import annotations

import shutil

from tests.manual.howto.walk import Walk
from tests.serving.machine import need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    path = "/usr/sbin:/usr/bin:/usr/local/bin:/usr/local/sbin:/opt/homebrew/bin"
    for program in ("haproxy", "caddy", "openssl"):
        need(shutil.which(program, path=path), program)
    walk.follow("howto/proxies")
