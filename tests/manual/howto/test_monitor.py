"""The page about watching a server, with a real Prometheus."""

from __future__ import annotations

import re
import shutil
import time
import urllib.parse
from importlib.util import find_spec

import httpx

from rawws.errors import Cause
from tests.manual import page
from tests.manual.howto.walk import Walk
from tests.serving.machine import PATIENCE_S, need
from tests.serving.programs import wait_listening_at


def test_the_page_works_step_by_step(walk: Walk) -> None:
    need(shutil.which("prometheus"), "prometheus")
    need(find_spec("prometheus_client"), "prometheus-client")
    walk.follow("howto/monitor")
    text = page("howto/monitor")
    queries = re.findall(r"^\| [^|]+ \| `(.*)` \|$", text, re.MULTILINE)
    (link,) = re.findall(r"\]\((http://localhost:9090/graph\S+)\)$", text, re.MULTILINE)
    queries += re.findall(r"g\d\.expr=([^&]+)", urllib.parse.unquote(link))
    queries += re.findall(r"expr: (.*)", text)
    assert len(queries) == 9 + 4 + 8
    with httpx.Client(trust_env=False, base_url=f"http://localhost:{walk.port('9090')}") as prometheus:
        wait_listening_at(int(walk.port("9090")))
        deadline = time.monotonic() + PATIENCE_S
        while prometheus.get("/-/ready").status_code == 503:  # it listens before it answers queries
            assert time.monotonic() < deadline
            time.sleep(0.05)
        configured = prometheus.get("/api/v1/status/config").json()["data"]["yaml"]
        assert f"- 127.0.0.1:{walk.port('8080')}\n" in configured
        for query in queries:
            answer = prometheus.get("/api/v1/query", params={"query": query}).json()
            assert answer["status"] == "success", (query, answer)
    with httpx.Client(trust_env=False) as client:
        served = client.get(f"http://localhost:{walk.port('8080')}/metrics").text
    # These have values only with a backplane, or with the limit.
    conditional = {"rawws_backplane_up", "rawws_store_up", "rawws_store_used_bytes"}
    assert {name for query in queries for name in re.findall(r"rawws_\w+", query)} - conditional <= set(
        re.findall(r"^(rawws_\w+)", served, re.MULTILINE)
    ) | {"rawws_closes_total", "rawws_handshakes_total"}
    causes = {cause.value for cause in Cause}
    for named in re.findall(r'cause=~"([^"]+)"', text):
        assert set(named.split("|")) <= causes
