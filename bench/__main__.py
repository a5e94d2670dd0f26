"""`python -m bench [NAME …]`: measure, and show tables, or JSON with `--json`.

The exit code is 0 when every budget was held, 1 when one was missed, 2 for an unknown name. What cannot be measured
here says why.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import orjson
from rich.console import Console

from bench import convergence, latency, log, poll, rollout
from bench.report import Report, load_average, machine
from bench.world import NotHere, Options
from engine import telemetry

BENCHES: dict[str, Callable[[Options], Report]] = {
    "rollout": rollout.measure,
    "poll": poll.measure,
    "latency": latency.measure,
    "convergence": convergence.measure,
    "log": log.measure,
}


WIDTH = 120
"""Columns of what is written to a file or a pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="The budgets, measured.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--deployments", type=int, help="how many (default: each measurement's own number)")
    parser.add_argument(
        "--cluster",
        choices=("auto", "embedded", "envtest"),
        default="auto",
        help="Kubernetes: the sandbox's, or a real API server (auto: the real one where it is installed)",
    )
    parser.add_argument("--json", action="store_true", help="JSON on stdout, nothing else")
    options = parser.parse_args(arguments)
    if options.deployments is not None and options.deployments < 1:
        parser.error(f"--deployments {options.deployments}: at least 1")
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}; there are {', '.join(BENCHES)}")
    telemetry.configure_logging("console", "error")
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH)
    progress = Console(file=sys.stderr)
    reports = []
    for name in options.names or BENCHES:
        progress.print(f"[dim]{name} …[/]")
        asked = Options(
            deployments=options.deployments,
            cluster=options.cluster,
            say=lambda text: progress.print(f"[dim]  {text}[/]"),
        )
        reports.append(measured(name, asked))
        if not options.json:
            reports[-1].show(console)
    if options.json:
        shown = {"machine": machine(), "reports": [report.json() for report in reports]}
        sys.stdout.write(orjson.dumps(shown, option=orjson.OPT_INDENT_2).decode() + "\n")
    return 0 if all(report.held for report in reports) else 1


def measured(name: str, options: Options) -> Report:
    """Run one measurement, with the load of the machine beside it."""
    before = load_average()
    try:
        report = BENCHES[name](options)
    except NotHere as missing:
        return Report(name=name, title="", skipped=str(missing))
    report.load = (before, load_average())
    return report


if __name__ == "__main__":
    sys.exit(main())
