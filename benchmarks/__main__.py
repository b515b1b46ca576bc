"""Run the benchmark: every case against every server, in turns, on two cores.

    python -m benchmarks                                  everything, about half an hour
    python -m benchmarks --only rawws,ws --cases echo     two servers, one case
    python -m benchmarks --json b.json --plot b.svg       keep the figures and draw them
    python -m benchmarks --from b.json --plot b.svg       draw them again
    python -m benchmarks soak --minutes 10                a test of endurance; see benchmarks.soak
    python -m benchmarks hostile                          the cost of hostile clients, and the waits of others
    python -m benchmarks expiry                           the waits of others while 10,000 grants end

The server runs on the first core, the load on the last. In a round every server has its turn, freshly
started; a figure is the median of the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from benchmarks import cases, certificate, procinfo, report, servers
from benchmarks.cases import Case, Settings
from benchmarks.load import LoadError
from benchmarks.memory import allow_open_files
from benchmarks.report import Row
from benchmarks.servers import Certificate, Running, Server, Unavailable, Wish

SMOKE = Settings(seconds=0.1, most_peers=30)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    known = ", ".join(server.name for server in servers.SERVERS)
    parser.add_argument("--only", metavar="A,B", type=chosen(servers.BY_NAME), help=f"these servers: {known}")
    parser.add_argument(
        "--cases", metavar="A,B", type=chosen(cases.BY_NAME), help=f"these cases: {', '.join(cases.BY_NAME)}"
    )
    parser.add_argument("--rounds", type=int, default=3, help="turns for each server in each case (default 3)")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured in each turn, after a warm-up (default 2)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of all rounds")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the picture: .svg or .png, needs matplotlib")
    parser.add_argument("--from", type=Path, metavar="FILE", dest="source", help="print and draw an earlier --json")
    parser.add_argument("--markdown", action="store_true", help="print one table, as the README has it")
    parser.add_argument("--smoke", action="store_true", help="a moment and few peers: does it work? No figure counts")
    return parser.parse_args(argv)


def chosen(known: dict[str, Any]) -> Any:
    def names(text: str) -> list[Any]:
        wanted = [name.strip() for name in text.split(",") if name.strip()]
        for name in wanted:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is not one of: {', '.join(known)}")
        # The order is our own, not that of the command line.
        return [known[name] for name in known if name in wanted]

    return names


Start = Callable[[Server, Wish, Certificate | None], AbstractContextManager[Running]]


def keep_running(kept: contextlib.ExitStack) -> Start:
    """Return a function that starts a server, or reuses one with the same settings until it is released."""
    alive: dict[tuple[Server, Wish], Running] = {}

    def start(server: Server, wish: Wish, pem: Certificate | None) -> AbstractContextManager[Running]:
        if (server, wish) not in alive:
            alive[server, wish] = kept.enter_context(servers.started(server, wish, pem))
        return contextlib.nullcontext(alive[server, wish])

    return start


def measure_all(
    wanted: list[Case], present: list[Server], rounds: int, settings: Settings, pem: Certificate | None, start: Start
) -> list[Row]:
    """Run every turn and return a row for each case and server; after Ctrl-C, the rows so far."""
    pairs = [(case, server) for case in wanted for server in present if server.takes(case.wish)]
    rows = {(case.name, server.name): Row(case.name, server.name) for case, server in pairs}
    turns = [(case, number, server) for case in wanted for number in range(rounds) for server in present]
    turns = [turn for turn in turns if (turn[0].name, turn[2].name) in rows]
    with contextlib.suppress(KeyboardInterrupt):
        for done, (case, number, server) in enumerate(turns, 1):
            row = rows[case.name, server.name]
            if row.unavailable:
                continue
            progress(f"[{done:3}/{len(turns)}] {case.name}, round {number + 1}, {server.title}: ", end="")
            try:
                if case.wish.tls and pem is None:
                    raise Unavailable("no certificate could be made")
                with start(server, case.wish, pem) as running:
                    measurement = case.measure(running, settings)
            except (Unavailable, LoadError, OSError) as problem:
                # One failure is final for the row, so that no median leaves failures out.
                row.unavailable = str(problem) or repr(problem)
                row.rounds.clear()
                progress(row.unavailable)
                continue
            row.rounds.append(measurement)
            progress(
                f"{report.figure(measurement.value)} {case.unit} "
                f"(server {measurement.server_cpu:.0%}, load {measurement.load_cpu:.0%} of a core)"
            )
        return list(rows.values())
    progress("\ninterrupted")
    return [row for row in rows.values() if row.rounds or row.unavailable]


def progress(text: str, end: str = "\n") -> None:
    print(text, end=end, file=sys.stderr, flush=True)


def print_report(data: dict[str, Any]) -> None:
    rows = [Row.from_json(each) for each in data["results"]]
    for case in cases.CASES:
        if lines := report.table(rows, case):
            print("\n".join(lines), end="\n\n")
    for name, reason in data["left_out"].items():
        print(f"left out: {servers.BY_NAME[name].title}: {reason}")
    print("server, load: what each used of its core. * the load was at its core's end and the server was not.")
    print(report.summary(data))


def main(argv: Sequence[str] | None = None) -> int:
    given = sys.argv[1:] if argv is None else argv
    if given[:1] == ["soak"]:
        from benchmarks.soak.__main__ import main as soak  # this imports rawws, which the load otherwise avoids

        return soak(given[1:])
    if given[:1] == ["hostile"]:
        from benchmarks.hostile import main as hostile

        return hostile(given[1:])
    if given[:1] == ["expiry"]:
        from benchmarks.expiry import main as expiry

        return expiry(given[1:])
    options = arguments(given)
    if options.source:
        data = json.loads(options.source.read_text())
    else:
        if not hasattr(os, "sched_setaffinity"):
            raise SystemExit("the benchmark pins processes and reads /proc: it needs Linux")
        settings = SMOKE if options.smoke else Settings(options.seconds)
        rounds = 1 if options.smoke else options.rounds
        wanted = options.cases or list(cases.CASES)
        asked = options.only or list(servers.SERVERS)
        left_out = {server.name: reason for server in asked if (reason := server.missing())}
        present = [server for server in asked if server.name not in left_out]
        for name, reason in left_out.items():
            progress(f"left out: {servers.BY_NAME[name].title}: {reason}")
        if not present:
            raise SystemExit("no server to measure")
        allow_open_files()
        own = os.sched_getaffinity(0)
        core, load_core = procinfo.cores()
        if core == load_core:
            progress("only one core: the load and the server disturb each other")
        machine = {**procinfo.describe_machine(), "date": datetime.date.today().isoformat()}
        os.sched_setaffinity(0, {load_core})
        try:
            with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as kept:
                pem = None
                with contextlib.suppress(Unavailable):
                    pem = certificate.make(Path(folder))
                start = keep_running(kept) if options.smoke else servers.started
                rows = measure_all(wanted, present, rounds, settings, pem, start)
        finally:
            os.sched_setaffinity(0, own)
        run = {
            "rounds": rounds,
            "seconds": settings.seconds,
            "warmup_s": settings.warmup_s,
            "smoke": options.smoke,
        }
        data = report.document(rows, machine, left_out, run)
    if options.markdown:
        print(report.markdown(data))
    else:
        print_report(data)
    if options.json:
        options.json.write_text(json.dumps(data, indent=1) + "\n")
    if options.plot:
        from benchmarks import plot

        plot.draw(data, options.plot)
    ours = [each.get("unavailable", "") for each in data["results"] if each["server"] == "rawws"]
    return 1 if any(reason and not reason.startswith(servers.NOT_YET) for reason in ours) else 0


if __name__ == "__main__":
    sys.exit(main())
