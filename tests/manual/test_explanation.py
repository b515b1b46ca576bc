"""The explanations: their program prints what is shown, and their figures are the measured and configured ones."""

from __future__ import annotations

import re

import pytest

from rawws.broadcast.idempotency import KEPT_S, MAX_KEYS
from rawws.broadcast.stream_entries import LEAST_BYTES, LEAST_ENTRIES, LEAST_EXPIRY_S
from rawws.limits import KIB, MAX_LAG_BYTES, MIB, Limits
from tests.manual import ROOT, block, page

SECURITY = page("explanation/security")


def test_both_lanes_print_what_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = page("explanation/fast-lane")
    code = block(text, "python", "fast_lane")
    exec(code, {})
    assert text.partition(code)[2].startswith(f"```\n\n```text\n{capsys.readouterr().out}```")


def test_the_price_of_polling_is_the_measured_one() -> None:
    measured = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| ([\d.,]+) \| ([\d.,]+) \|$", page("explanation/comparison"), re.MULTILINE)
    assert len(rows) == 4
    for name, pushed, polled in rows:
        assert re.search(rf"^{re.escape(name)} +{pushed} +{polled} ", measured, re.MULTILINE), name


def test_the_limits_shown_are_the_defaults() -> None:
    limits = Limits()
    assert f"| a message | {limits.max_message_bytes // MIB} MiB (`--max-size`)" in SECURITY
    assert (
        f"| a request's head | {limits.max_header_bytes // KIB} KiB and {limits.max_headers} fields, of which "
        f"{limits.max_target_bytes // KIB} KiB are for the target |"
    ) in SECURITY
    assert f"| the time for a request's head | {limits.header_timeout_s:g} s in all" in SECURITY
    assert f"| a slow reader | {MAX_LAG_BYTES // MIB} MiB behind (`--max-lag`)" in SECURITY
    assert (
        f"| a dead peer | a ping after {limits.ping_interval_s:g} s, and {limits.ping_timeout_s:g} s for any byte"
    ) in SECURITY


def test_the_promises_have_the_numbers_of_the_program() -> None:
    promises = " ".join(page("explanation/promises").split())
    assert KEPT_S == LEAST_EXPIRY_S == 600
    assert f"within ten minutes, as long as the server runs, and for the last {MAX_KEYS:,} keys" in promises
    assert f"the history, {LEAST_ENTRIES:,} messages at least" in promises
    assert f"take {LEAST_BYTES // MIB} MiB of Redis's memory" in promises
    assert "an hour (`--history-age`) or ten minutes at least" in promises
