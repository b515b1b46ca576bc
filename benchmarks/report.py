"""Medians, the table, and the JSON. Measures nothing."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from benchmarks import servers
from benchmarks.cases import BY_NAME as CASES
from benchmarks.cases import Case, Measurement
from benchmarks.servers import LIMIT, SERVERS

# Above this a core counts as busy: the clock ticks of /proc and the start of a run hide a few per cent.
BUSY = 0.93
# The share of a core, taken by other processes, above which a row gets a remark. Both cores' interrupts count in it.
OTHERS = 0.15


@dataclass
class Row:
    """All rounds of one server in one case."""

    case: str
    server: str
    rounds: list[Measurement] = field(default_factory=list)
    unavailable: str = ""

    @property
    def value(self) -> float:
        return statistics.median(each.value for each in self.rounds)

    @property
    def server_cpu(self) -> float:
        return statistics.median(each.server_cpu for each in self.rounds)

    @property
    def load_cpu(self) -> float:
        return statistics.median(each.load_cpu for each in self.rounds)

    @property
    def load_was_the_bottleneck(self) -> bool:
        return bool(self.rounds) and self.load_cpu >= BUSY > self.server_cpu

    @property
    def disturbed(self) -> bool:
        """Return whether other processes took a notable share of the two cores, so that the figure is too low."""
        return (self.extra("others") or 0.0) > OTHERS

    def extra(self, name: str) -> float | None:
        found = [each.extra[name] for each in self.rounds if name in each.extra]
        return statistics.median(found) if found else None

    def as_json(self) -> dict[str, Any]:
        result: dict[str, Any] = {"case": self.case, "server": self.server}
        if not self.rounds:
            return {**result, "unavailable": self.unavailable}
        return {
            **result,
            "median": self.value,
            "unit": CASES[self.case].unit,
            "load_was_the_bottleneck": self.load_was_the_bottleneck,
            "rounds": [vars(each) for each in self.rounds],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        rounds = [Measurement(**each) for each in data.get("rounds", ())]
        return cls(data["case"], data["server"], rounds, data.get("unavailable", ""))


def figure(value: float) -> str:
    """Return the value with three significant digits: 10.2 M, 164 k, 4,648, 1.25."""
    if abs(value) >= 9_995_000:
        return f"{value / 1e6:.1f} M"
    if abs(value) >= 999_500:
        return f"{value / 1e6:.2f} M"
    if abs(value) >= 9_995:
        return f"{value / 1e3:.0f} k" if abs(value) >= 99_950 else f"{value / 1e3:.1f} k"
    return f"{value:,.0f}" if abs(value) >= 100 or not value else f"{value:.2f}"


def ratio(ours: float, theirs: float) -> str:
    if theirs <= 0 or ours <= 0:
        return "–"
    return f"{ours / theirs:.1f}×" if ours >= theirs * 9.95 else f"{ours / theirs:.2f}×"


def remarks(row: Row) -> str:
    notes = []
    ages = {name: age for name in ("p50", "p99", "p99.9") if (age := row.extra(name)) is not None}
    if ages:
        notes.append(", ".join(f"{name} {age:.2f}" for name, age in ages.items()) + " ms")
    if (arrived := row.extra("arrived")) is not None:
        notes.append(f"only {arrived:.1%} had arrived by the end")
    if closed := row.extra("closed"):
        notes.append(f"{closed:.0f} closed by the server")
    if stalls := row.extra("stalls"):
        notes.append(f"silent {stalls:.0f} times")
    if (requests_s := row.extra("requests_s")) is not None:
        notes.append(f"{figure(requests_s)} requests/s")
    if (cpu_us := row.extra("cpu_us")) is not None:
        notes.append(f"{figure(cpu_us)} µs of CPU a message")
    if row.disturbed:
        notes.append("others used these cores too")
    if row.load_was_the_bottleneck:
        notes.append("* the load was the bottleneck")
    return "; ".join(notes)


def table(rows: list[Row], case: Case) -> list[str]:
    """Return the lines of one case: a row a server, the best first, the limit last."""
    mine = {row.server: row for row in rows if row.case == case.name}
    if not mine:
        return []
    measured = [row for row in mine.values() if row.rounds]
    measured.sort(key=lambda row: (row.server == LIMIT, -row.value if case.more_is_better else row.value))
    ours = mine["rawws"].value if "rawws" in mine and mine["rawws"].rounds else 0.0
    limit = mine[LIMIT].value if LIMIT in mine and mine[LIMIT].rounds else 0.0
    direction = "more is better" if case.more_is_better else "less is better"
    lines = [
        f"{case.title}: {case.unit}, {direction}",
        f"  {'':26} {'figure':>9} {'rawws ÷ it':>11} {'of limit':>9} {'server':>7} {'load':>6}",
    ]
    for row in measured:
        share = limit / row.value if not case.more_is_better and row.value > 0 else row.value / limit if limit else 0.0
        cells = f"{figure(row.value):>9} {ratio(ours, row.value) if row.server != 'rawws' else '':>11} "
        cells += f"{f'{share:.0%}' if limit and row.server != LIMIT else '':>9} "
        cells += f"{f'{row.server_cpu:.0%}':>7} {f'{row.load_cpu:.0%}':>6}" if row.load_cpu else f"{'':>14}"
        lines.append(f"  {servers.BY_NAME[row.server].title:26} {cells}  {remarks(row)}".rstrip())
    for row in mine.values():
        if not row.rounds:
            lines.append(f"  {servers.BY_NAME[row.server].title:26} {'–':>9}  {row.unavailable.splitlines()[-1]}")
    return lines


def markdown(data: dict[str, Any]) -> str:
    """Return the tables for the README: one for WebSocket servers, and one for those that run an application."""
    rows = [Row.from_json(each) for each in data["results"]]
    kinds = [[row for row in rows if (CASES[row.case].wish.http is not None) == is_http] for is_http in (False, True)]
    return "\n\n".join(markdown_table(kind) for kind in kinds if any(row.rounds for row in kind))


def markdown_table(rows: list[Row]) -> str:
    """Return a table with a row a case, a column a server, and how rawws stands to the best other."""
    columns = [server for server in SERVERS if any(row.server == server.name and row.rounds for row in rows)]
    titles = [server.title for server in columns]
    lines = [
        f"| | {' | '.join(titles)} | rawws ÷ the best other |",
        "|---" + "|---:" * (len(titles) + 1) + "|",
    ]
    for case in CASES.values():
        mine = {row.server: row for row in rows if row.case == case.name and row.rounds}
        if not mine:
            continue
        cells = []
        for server in columns:
            row = mine.get(server.name)
            text = "–" if row is None else figure(row.value) + (" *" if row.load_was_the_bottleneck else "")
            cells.append(f"**{text}**" if server.name == "rawws" else text)
        others = [row.value for row in mine.values() if row.server not in ("rawws", LIMIT)]
        standing = "–"
        if "rawws" in mine and others:
            # A ratio above 1 is good for us: it is inverted where less is better.
            ours, best = mine["rawws"].value, max(others) if case.more_is_better else min(others)
            standing = ratio(ours, best) if case.more_is_better else ratio(best, ours)
        lines.append(f"| {case.title}: {case.unit} | {' | '.join(cells)} | {standing} |")
    return "\n".join(lines)


def document(rows: list[Row], machine: dict[str, object], skipped: dict[str, str], settings: Any) -> dict[str, Any]:
    versions: dict[str, str] = {}
    for server in SERVERS:
        if any(row.server == server.name and row.rounds for row in rows):
            versions.update(server.versions())
    return {
        "machine": machine,
        "versions": versions,
        "settings": settings,
        "left_out": skipped,
        "results": [row.as_json() for row in rows],
    }


def summary(data: dict[str, Any]) -> str:
    """Return one line about the machine and the versions of the measurement."""
    machine = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}, "
        f"{machine['date']}; {versions}"
    )
