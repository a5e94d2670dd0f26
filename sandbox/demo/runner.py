"""Runs the demo: starts a stack, runs the steps in order with live progress, and prints a summary as a line of JSON."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console

from sandbox.demo.scenario import STEPS, Step
from sandbox.demo.world import StepFailed, World
from sandbox.processes import ServerStartError
from sandbox.stack import Cluster, Stack, running


def demo(cluster: Cluster, *, keep: bool = False, console: Console | None = None) -> int:
    """Run the demo on `cluster`; return 0 when every step passed, else 1.

    The folder with all state and logs is deleted at the end, unless a step failed or `keep` is set.
    """
    console = console or Console(highlight=False)
    directory = Path(tempfile.mkdtemp(prefix="agentplane-demo-"))
    summary: dict[str, Any] = {"ok": False, "cluster": cluster.value, "seconds": {}}
    began = time.monotonic()
    try:
        with running(cluster, directory, _Starting(console)) as stack:
            summary["seconds"]["start"] = _since(began)
            console.print(f"   control plane {stack.control_plane_url} · Flower {stack.flower_url}", soft_wrap=True)
            console.print(f"   kubectl --kubeconfig {stack.kubeconfig}", soft_wrap=True)
            _run_steps(stack, console, summary)
    except ServerStartError as error:
        console.print(f"[bold red]✗ start[/]: {error}", soft_wrap=True)
    summary["seconds"]["total"] = _since(began)
    if summary["ok"] and not keep:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        logs = directory / "logs"
        console.print(f"   state of the stack: {directory}; one log file per process: {logs}", soft_wrap=True)
    print(json.dumps(summary), flush=True)
    return 0 if summary["ok"] else 1


def _run_steps(stack: Stack, console: Console, summary: dict[str, Any]) -> None:
    """Run the steps until one fails; write the results into `summary`."""
    world = World(stack)
    try:
        for number, step in enumerate(STEPS, 1):
            if not _run_step(number, step, world, console, summary):
                return
        summary["ok"] = True
    finally:
        summary["events"] = world.events.head()
        summary["streams"] = len(world.events.streams())
        summary["objects"] = world.objects
        summary["probes"] = world.probes
        summary["prober_failures"] = len(world.probe_failures)
        summary["restarts"] = stack.restarts
        world.close()


def _run_step(number: int, step: Step, world: World, console: Console, summary: dict[str, Any]) -> bool:
    console.print(f"[bold]{number}. {step.title}[/] …", soft_wrap=True)
    began = time.monotonic()
    try:
        step.run(world, lambda text: console.print(_indented(text), markup=False, soft_wrap=True))
    except (StepFailed, httpx.HTTPError, OSError, ValueError, KeyError, IndexError) as failure:
        problem = str(failure) if isinstance(failure, StepFailed) else f"{type(failure).__name__}: {failure}"
        console.print(f"   [bold red]✗ {step.name}[/] after {_since(began)} s", soft_wrap=True)
        console.print(_indented(problem), markup=False, soft_wrap=True)
        summary |= {"failed": step.name, "problem": problem.splitlines()[0]}
        return False
    finally:
        summary["seconds"][step.name] = _since(began)
    console.print(f"   [green]✓[/] {_since(began)} s")
    return True


class _Starting:
    """Prints a line for each process that is ready."""

    def __init__(self, console: Console) -> None:
        self._console = console
        console.print("[bold]0. start the whole system on this machine, on free ports[/] …")

    def __call__(self, name: str) -> None:
        self._console.print(f"   up: {name}", markup=False)


def _indented(text: str) -> str:
    return "\n".join(f"   {line}" for line in text.splitlines())


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)
