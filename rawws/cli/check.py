"""``rawws check``: tests any WebSocket server with input that it must accept, and input that it must refuse."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

import trio

from rawws import logs
from rawws.cli.arguments import complete_url, header, seconds
from rawws.cli.flags import Flag, FlagTable, Value
from rawws.cli.streams import complain, need_output, writing_output
from rawws.cli.tls_flags import TLS_FLAGS, TLS_GROUP, client_tls
from rawws.errors import OpenTimeout, UsageError
from rawws.inspection.conformance import BY_NAME, CASES, Case, Verdict
from rawws.tools.checker import Checker, Result, Stopped
from rawws.wire.handshake_errors import ProxyError
from rawws.wire.trace import printable

_FOUND_FAULT = 1
_NOT_CHECKED = 3  # 2 is argparse's, for a bad command line


FLAGS = FlagTable(
    {
        "cases": (
            Flag(
                "--only",
                Value(metavar="CASE"),
                "run this case only, by its name in `--list`; may be repeated",
                repeats=True,
            ),
            Flag("--list", None, "list the cases, with the RFC's requirements", own_default=False),
            Flag(
                "--timeout",
                Value(seconds, "SECONDS", "{:g}".format),
                "seconds for an answer to arrive",
                own_default=3.0,
            ),
        ),
        "the handshake": (
            Flag(
                "--header",
                Value(header, "'NAME: VALUE'"),
                "also send this header, such as a cookie; may be repeated",
                short="-H",
                repeats=True,
            ),
            Flag("--origin", Value(), "send this Origin", short="-o"),
        ),
        TLS_GROUP: TLS_FLAGS,
        "output": (
            Flag("--json", None, "print the results as JSON, with all bytes in hex", own_default=False),
            Flag("--verbose", None, "show what was sent and received", short="-v", own_default=False),
        ),
    }
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Tests a WebSocket server with handshakes and frames that it must accept, and broken ones that it must refuse, "
        "each on its own connection. Prints the answer, the RFC's requirement and the verdict: good; lax (allowed, but "
        "not as recommended); BAD; unclear (the case could not be run). The exit status is 1 if a case is BAD, and 3 "
        "if the server can't be reached, or stops answering before the last case."
    )
    parser.add_argument("url", nargs="?", metavar="URL", help="ws://… or wss://…; without a scheme it is ws://")
    FLAGS.add_to(parser)


def run(options: argparse.Namespace) -> int:
    """Run the cases. The status is 1 when the server violated the RFC, and 3 when not every case could be tried."""
    need_output()
    if options.list:
        with writing_output():
            for case in CASES:
                print(f"{case.name:<18} {case.title} ({case.section})\n{'':<18}   asked for: {case.rule}")
        return 0
    if options.url is None:
        raise UsageError("say which server to check: rawws check ws://localhost:8080/")
    options.url = complete_url(options.url)
    cases = _choose(options.only)
    logs.configure("error")
    results: list[Result] = []
    try:
        stopped: Stopped | None = trio.run(_check, options, cases, results)
    except (OSError, OpenTimeout, ProxyError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        complain(f"{options.url}: {reason}")
        return _NOT_CHECKED
    counts = Counter(result.outcome.verdict for result in results)
    with writing_output():
        if options.json:
            print(json.dumps([_as_json(result) for result in results], indent=1))
        else:
            print(", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict]))
    if stopped is not None:
        complain(f"{options.url}: {stopped}; start it again, and look at --only {stopped.during.name} -v")
        return _NOT_CHECKED
    return _FOUND_FAULT if counts[Verdict.BAD] else 0


def _choose(names: list[str] | None) -> list[Case]:
    if not names:
        return list(CASES)
    for name in names:
        if name not in BY_NAME:
            raise UsageError(f"there is no case {name!r}; rawws check --list names them")
    return [BY_NAME[name] for name in names]


async def _check(options: argparse.Namespace, cases: list[Case], results: list[Result]) -> Stopped | None:
    checker = Checker(
        options.url,
        ssl=client_tls(options),
        headers=options.header or (),
        origin=options.origin,
        patience_s=options.timeout or 3.0,
    )

    def tell(result: Result) -> None:
        results.append(result)
        if not options.json:
            with writing_output():
                _print(result, verbose=options.verbose)

    return await checker.run(cases, tell)


def _print(result: Result, *, verbose: bool) -> None:
    case, outcome = result.case, result.outcome
    print(f"{outcome.verdict.value:<8} {case.name:<18} {case.title}: {printable(outcome.got)}")
    if outcome.verdict is not Verdict.GOOD or verbose:
        print(f"{'':<8} {'':<18} {case.section}: {case.rule}")
    if verbose:
        for line in result.story():
            print(f"{'':<8} {printable(line)}")


def _as_json(result: Result) -> dict[str, Any]:
    case = result.case
    return {
        "case": case.name,
        "title": case.title,
        "section": case.section,
        "rule": case.rule,
        "verdict": result.outcome.verdict.value.lower(),
        "got": result.outcome.got,
        "sent": result.sent.hex(),
        "received": result.answer.raw.hex(),
        "ended": result.answer.ended,
    }
