"""The cost of polling: one live feed to 100 readers, pushed by WebSocket and polled once a second.

    python -m benchmarks.push_vs_poll --seconds 20 --plot push_vs_poll.svg

Counted at the readers: requests, bytes on the wire with the headers of Ethernet, IP and TCP (from TCP_INFO),
and the age of each piece of news when a reader has it. And at the server: CPU. Pushing is rawws in broadcast
mode; ``--push`` names another server. The polled server is a small aiohttp application (peers/polled_news.py), a fast
server of the usual kind, over kept-alive connections and with the readers spread over the second: polling at its best.
The news is published over a WebSocket to the one and by POST to the other.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import procinfo, servers
from benchmarks.memory import allow_open_files
from benchmarks.news import Followed, followed_by_polling, followed_by_push
from benchmarks.plot import INK, OURS, THEIRS
from benchmarks.servers import Running, Unavailable, Wish

PERCENTS = (1, 5, *range(10, 100, 5), 99, 99.9)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.push_vs_poll",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--readers", type=int, default=100)
    parser.add_argument("--rate", type=float, default=2.0, help="pieces of news a second (default 2)")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between a reader's polls (default 1)")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each of the two (default 20)")
    parser.add_argument("--push", default="rawws", choices=sorted(servers.BY_NAME), help="who pushes (rawws)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the picture: .svg or .png")
    return parser.parse_args(argv)


def metered(running: Running, follow: Callable[[], Followed]) -> Followed:
    before = procinfo.cpu_seconds(running.pid)
    result = follow()
    result.server_cpu_s = procinfo.cpu_seconds(running.pid) - before
    return result


def push(options: argparse.Namespace) -> Followed:
    server = servers.BY_NAME[options.push]
    if reason := server.missing():
        raise Unavailable(f"{server.title}: {reason}")
    with servers.started(server, Wish(broadcast=True)) as running:
        return metered(running, lambda: followed_by_push(running.port, options.readers, options.rate, options.seconds))


def poll(options: argparse.Namespace) -> Followed:
    port = servers.free_port()
    command = [sys.executable, "-m", "benchmarks.peers.polled_news", "--port", str(port), "--mode", "echo"]
    with servers.running("polled", command, port, Wish(), handshake=False) as running:
        return metered(
            running,
            lambda: followed_by_polling(running.port, options.readers, options.rate, options.seconds, options.every),
        )


def figures(followed: Followed) -> dict[str, Any]:
    seconds = followed.seconds
    return {
        "seconds": seconds,
        "published": followed.published,
        "delivered": len(followed.ages_ns),
        "requests_per_s": followed.requests / seconds,
        "segments_per_s": followed.segments / seconds,
        "wire_bytes_per_s": followed.wire_bytes / seconds,
        "wire_bytes_per_delivery": followed.wire_bytes / len(followed.ages_ns) if followed.ages_ns else 0.0,
        "server_cpu_share": followed.server_cpu_s / seconds,
        "age_ms": {str(percent): followed.age_ms(percent) for percent in PERCENTS},
    }


LINES: tuple[tuple[str, Callable[[dict[str, Any]], float], str], ...] = (
    ("news delivered", lambda each: each["delivered"], ",.0f"),
    ("requests a second", lambda each: each["requests_per_s"], ",.0f"),
    ("TCP segments a second", lambda each: each["segments_per_s"], ",.0f"),
    ("kB/s on the wire", lambda each: each["wire_bytes_per_s"] / 1e3, ",.1f"),
    ("bytes for each delivery", lambda each: each["wire_bytes_per_delivery"], ",.0f"),
    ("server CPU, % of a core", lambda each: each["server_cpu_share"] * 100, ",.2f"),
    ("age on arrival, p50, ms", lambda each: each["age_ms"]["50"], ",.2f"),
    ("age on arrival, p99, ms", lambda each: each["age_ms"]["99"], ",.2f"),
)


def table(data: dict[str, Any]) -> str:
    lines = [f"{'':28}{'pushed':>12}{'polled':>12}{'polled ÷ pushed':>18}"]
    for title, value, form in LINES:
        pushed, polled = value(data["pushed"]), value(data["polled"])
        ratio = f"{polled / pushed:,.1f}×" if pushed else "–"
        lines.append(f"{title:28}{pushed:>12{form}}{polled:>12{form}}{ratio:>18}")
    return "\n".join(lines)


def draw(data: dict[str, Any], path: Path) -> None:
    """Draw the ages, on a logarithmic scale, and three bars each for the costs. Needs matplotlib."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "text.color": INK, "svg.hashsalt": "rawws", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 4, figsize=(11, 2.9), width_ratios=(2.4, 1, 1, 1))
    ages, *bars = axes
    styles = (("pushed", OURS, "-"), ("polled", THEIRS, "--"))
    for name, color, style in styles:
        curve = data[name]["age_ms"]
        ages.plot(curve.values(), [float(percent) for percent in curve], style, color=color, linewidth=2.4)
        ages.text(curve["50"] * 1.3, 42, name, color=color, fontweight="bold")
    ages.set_xscale("log")
    ages.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    title = "Age of the news on arrival, ms\n(% of deliveries not older)"
    ages.set_title(title, loc="left", fontweight="bold", fontsize=9)
    ages.tick_params(which="both", colors=INK)
    for side, spine in ages.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(INK)
    for axis, index in zip(bars, (1, 3, 5), strict=True):
        title, value, form = LINES[index]
        values = [value(data[name]) for name, _, _ in styles]
        axis.bar([0, 1], values, color=[color for _, color, _ in styles], width=0.62)
        for position, each in enumerate(values):
            axis.text(position, each + max(values) * 0.02, f"{each:{form}}", ha="center", fontsize=8)
        axis.set_title(title, loc="left", fontweight="bold", fontsize=9)
        axis.set_xticks([0, 1], [name for name, _, _ in styles], color=INK)
        axis.set_yticks([])
        axis.set_ylim(0, max(values) * 1.15 or 1)
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    for axis in axes:
        axis.set_facecolor("none")
    figure.tight_layout()
    figure.savefig(path, transparent=True, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    if not hasattr(os, "sched_setaffinity"):
        raise SystemExit("this pins processes and reads /proc: it needs Linux")
    allow_open_files()
    own = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {procinfo.cores()[1]})
    data: dict[str, Any] = {
        "machine": {**procinfo.describe_machine(), "date": datetime.date.today().isoformat()},
        "settings": {
            "readers": options.readers,
            "news_per_s": options.rate,
            "poll_every_s": options.every,
            "push": options.push,
        },
    }
    try:
        for name, follow in (("pushed", push), ("polled", poll)):
            print(f"{name} for {options.seconds:g} s …", file=sys.stderr, flush=True)
            data[name] = figures(follow(options))
    except Unavailable as reason:
        raise SystemExit(f"can't compare: {reason}") from None
    finally:
        os.sched_setaffinity(0, own)
    feed = f"{options.rate:g} pieces of news a second to {options.readers} readers"
    print(f"{feed}; polled every {options.every:g} s")
    print(table(data))
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.plot:
        draw(data, options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
