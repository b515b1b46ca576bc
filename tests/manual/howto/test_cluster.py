"""The page about several nodes, with a real Redis."""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec

from rawws.broadcast.stream_entries import Author, fields_of
from rawws.wire.frames import Opcode
from tests.manual import page
from tests.manual.howto.walk import Walk
from tests.serving.machine import need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(shutil.which("redis-server"), "redis-server")
    need(find_spec("coredis"), "coredis")
    walk.follow("howto/cluster", sh=lambda _: None)


def test_the_table_has_every_field() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", page("howto/cluster"), re.MULTILINE)) == set(
        fields_of(Opcode.TEXT, b"", Author("node", 1, 1), "key")[::2]
    )
