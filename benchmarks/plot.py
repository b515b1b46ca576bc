"""The picture: a panel a case, a bar a server, the machine's limit as a line. Drawn from the JSON."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.cases import CASES
from benchmarks.report import Row, figure
from benchmarks.servers import BY_NAME, LIMIT

# Transparent, in tones that stand out about equally well from white and from a dark page's near-black.
INK = "#7b8087"
OURS = "#1f8f5f"
THEIRS = "#8a94a3"
LIMIT_LINE = "#c9752b"
COLUMNS = 3


def draw(data: dict[str, Any], path: Path) -> None:
    """Write the picture; its format follows the file's suffix. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    rows = [Row.from_json(each) for each in data["results"]]
    shown = [case for case in CASES if any(row.case == case.name and row.rounds for row in rows)]
    if not shown:
        raise SystemExit("nothing was measured: no picture")
    columns = min(COLUMNS, len(shown))
    lines = -(-len(shown) // columns)
    plt.rcParams.update({"font.size": 9, "text.color": INK, "svg.hashsalt": "rawws", "svg.fonttype": "none"})
    figure_, axes = plt.subplots(lines, columns, figsize=(4.6 * columns, 2.35 * lines + 0.4), squeeze=False)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    for axis, case in zip(axes.flat, shown, strict=False):
        panel(axis, [row for row in rows if row.case == case.name and row.rounds], case.more_is_better)
        better = "" if case.more_is_better else ", less is better"
        axis.set_title(f"{case.title}\n{case.unit}{better}", color=INK, fontsize=9, fontweight="bold", loc="left")
    machine = data["machine"]
    figure_.text(
        0.01, 0.002,
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, {machine['date']}. "
        f"Dashed: what bare sockets reach on this machine.  * the load was the bottleneck",
        fontsize=8,
    )  # fmt: skip
    figure_.tight_layout(rect=(0, 0.12 / lines, 1, 1))
    figure_.savefig(path, transparent=True, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure_)


def panel(axis: Any, rows: list[Row], more_is_better: bool) -> None:
    limit = next((row.value for row in rows if row.server == LIMIT), None)
    bars = sorted((row for row in rows if row.server != LIMIT), key=lambda row: row.value, reverse=not more_is_better)
    values = [max(row.value, 0.0) for row in bars]
    widest = max([*values, limit or 0.0]) or 1.0
    if not more_is_better:
        # A server that is a hundred times worse would make all others look alike; its bar runs off the panel.
        widest = min(widest, 5 * (statistics.median(values) or 1.0))
    axis.barh(
        range(len(bars)),
        [min(value, widest) for value in values],
        color=[OURS if row.server == "rawws" else THEIRS for row in bars],
        height=0.72,
    )
    for position, row in enumerate(bars):
        mark = " *" if row.load_was_the_bottleneck else ""
        bold = "bold" if row.server == "rawws" else "normal"
        axis.text(
            min(values[position], widest) + widest * 0.015,
            position,
            figure(row.value) + mark + (" →" if values[position] > widest else ""),
            va="center",
            fontweight=bold,
            fontsize=8,
        )
    if limit is not None and limit <= widest:
        axis.axvline(limit, color=LIMIT_LINE, linestyle="--", linewidth=1.2, zorder=0)
    axis.set_yticks(range(len(bars)), [BY_NAME[row.server].title for row in bars], color=INK, fontsize=8)
    axis.set_xlim(0, widest * 1.2)
    axis.set_xticks([])
    axis.tick_params(length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_facecolor("none")
