"""`python -m bench [NAME …]`: runs benchmarks and prints tables, or JSON with `--json`.

The exit code is 0 when all budgets were met, 1 when one was missed, 2 for an unknown name. A benchmark that cannot run
on this machine is reported as skipped, with the reason.
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
"""Columns of the output when standard output is a file or a pipe."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the budgets.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(BENCHES)} (default: all)")
    parser.add_argument("--deployments", type=int, help="number of deployments (default: depends on the benchmark)")
    parser.add_argument(
        "--cluster",
        choices=("auto", "embedded", "envtest"),
        default="auto",
        help="Kubernetes: embedded is the sandbox's API server, envtest a real one (auto: envtest if installed)",
    )
    parser.add_argument("--json", action="store_true", help="print only JSON on standard output")
    options = parser.parse_args(arguments)
    if options.deployments is not None and options.deployments < 1:
        parser.error(f"--deployments {options.deployments}: must be at least 1")
    if unknown := set(options.names) - set(BENCHES):
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(BENCHES)}")
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
    """Run one benchmark; return its report, with the load of the machine before and after."""
    before = load_average()
    try:
        report = BENCHES[name](options)
    except NotHere as missing:
        return Report(name=name, title="", skipped=str(missing))
    report.load = (before, load_average())
    return report


if __name__ == "__main__":
    sys.exit(main())
