"""The page about limits."""

from __future__ import annotations

import re
from importlib.util import find_spec

from benchmarks import cases
from rawws.net.tls_transport import TLS_BYTES
from tests.manual import page
from tests.manual.howto.walk import Walk
from tests.serving.machine import need


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(find_spec("prometheus_client"), "prometheus-client")
    walk.follow("howto/capacity", sh=lambda _: None)


def test_the_memory_of_tls_is_the_counted_one() -> None:
    assert f"| TLS, for each connection | {TLS_BYTES / 1024:.0f} KiB more |" in page("howto/capacity")


def test_the_cases_exist() -> None:
    (named,) = re.findall(r"--cases (\S+)", page("howto/capacity"))
    assert set(named.split(",")) <= set(cases.BY_NAME)
