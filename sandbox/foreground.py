"""`agentplane up`: the stack in the foreground, the engine's processes by their Procfile under honcho.

Everything lives in a temporary folder and ends with this process: on Ctrl-C, SIGTERM and a closed terminal in order,
when it is killed by leashes (`sandbox.processes` for the infrastructure, `Leashed` for the Procfile's processes). What
to paste is printed, and kept in the folder for when the logs have scrolled it away; `env` in the same folder lets
another terminal use every command.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from honcho.manager import SIGNALS, Manager
from honcho.printer import Printer
from honcho.process import Process
from rich.console import Console

from engine.names import route_path
from sandbox.demo.world import image
from sandbox.processes import ServerStartError
from sandbox.stack import Cluster, Ports, Stack, expand, procfile, tool

ENDED_BY_SIGNAL = frozenset(known["rc"] for known in SIGNALS.values())
"""Honcho's codes for having been asked to end."""
FINAL = frozenset({0, 2})
"""Exit codes after which a process is not started again: it was asked to end, or its settings are wrong."""
ENDING_SECONDS = 5.0
"""Between SIGTERM and SIGKILL for a process whose `up` is gone."""


def up(cluster: Cluster) -> int:
    """Start everything, print what to paste, and stay until interrupted.

    Returns 0 when it was asked to end, 1 when something did not start or ended by itself.
    """
    console = Console(highlight=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="agentplane-up-", ignore_cleanup_errors=True) as directory:
        stack = Stack(
            cluster=cluster, directory=Path(directory), ports=Ports.reserve(), overrides={"LOG_FORMAT": "console"}
        )
        try:
            stack.start_infrastructure(lambda name: console.print(f"up: {name}"))
            _tell(console, stack)
            return _honcho(console, stack)
        except KeyboardInterrupt:
            return 0
        except ServerStartError as error:
            console.print("[bold red]could not start[/]:", end=" ")
            console.print(str(error), markup=False)
            return 1
        finally:
            stack.stop()
            stack.ports.give_back()


def _honcho(console: Console, stack: Stack) -> int:
    """Run the Procfile until a signal, or until one of its processes gives up. One that dies is started again."""
    manager = Ending(Printer(Terminal(), time_format=""))  # every line of the engine has its own time
    manager._process_ctor = Leashed
    environment = stack.environment()
    for name, command in procfile().items():
        command = f"exec {expand(command, environment)}"
        manager.add_process(name, command, env=environment, cwd=str(stack.directory))
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    manager.loop()
    if manager.returncode in ENDED_BY_SIGNAL:
        return 0
    console.print("[bold red]a process gave up[/], so everything was ended; its last lines are above")
    return 1


class Terminal:
    """Standard output as honcho's printer wants it. One that was closed takes nothing more, and ends nobody."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stdout.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stdout.flush()

    def isatty(self) -> bool:
        return sys.stdout.isatty()


class Ending(Manager):  # type: ignore[misc]  # honcho has no types
    """A manager that says when everything is to end, so that nothing is started again then."""

    announced = multiprocessing.get_context("fork").Event()

    def terminate(self) -> None:
        self.announced.set()
        super().terminate()


class Leashed(Process):  # type: ignore[misc]  # honcho has no types
    """One line of the Procfile: started again when it dies, as the cluster would, and ended when we are gone."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        threading.Thread(target=self._leash, args=(os.getppid(),), daemon=True).start()
        again = True
        while again:
            super().run(events, ignore_signals)
            again = self._died(self._child.returncode)

    def _send_message(self, data: Any, type: str = "line") -> None:
        if type == "stop" and self._died(data["returncode"]):
            type, data = "line", f"died (code {data['returncode']}): started again, as the cluster would\n".encode()
        super()._send_message(data, type)

    def _died(self, code: int) -> bool:
        """Whether it ended without being asked to."""
        return code not in FINAL and not Ending.announced.is_set()

    def _leash(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        Ending.announced.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self._child.pid, number)
            time.sleep(ENDING_SECONDS)
        os._exit(1)  # without what the others, who are gone, would still have to be told


def _tell(console: Console, stack: Stack) -> None:
    """Print what to paste, and keep it beside the environment that other terminals may load."""
    kept = stack.directory / "paste.txt"
    lines = [f"{title}\n  {text}" for title, text in _paste(stack)]
    kept.write_text("\n".join(lines) + "\n")
    console.print()
    for title, text in _paste(stack):
        console.print(f"[bold]{title}[/]")
        console.print(f"  {text}", markup=False)
    console.print(f"\nAll this again: cat {kept}", markup=False)
    left = f", but what is in the cluster of {stack.kubeconfig}" if stack.cluster is Cluster.CURRENT else ""
    console.print(f"Ctrl-C ends everything and leaves nothing behind{left}.\n", markup=False)


def _paste(stack: Stack) -> tuple[tuple[str, str], ...]:
    """Return titles and what to paste, every line of it complete in itself."""
    project, environment = _project(stack), _environment_file(stack)
    deploy = [
        f"cd {project} && LANGSMITH_API_KEY={stack.api_key} {tool('langgraph')} deploy",
        f"--host-url {stack.control_plane_url} --name hello --image-uri {image('hello', 1)} --no-input",
    ]
    return (
        ("deploy something (its secrets are in .env there)", " ".join(deploy)),
        ("look into the cluster", f"export KUBECONFIG={stack.kubeconfig}; kubectl -n {stack.namespace} get lgps,pods"),
        ("watch what happens", f". {environment}; agentplane events --follow"),
        ("is everything there?", f". {environment}; agentplane doctor"),
        ("control plane", stack.control_plane_url),
        ("Flower", stack.flower_url),
        (
            "Agent Servers (calls need the header X-Api-Key)",
            f"http://{stack.hostname}{route_path('', '<LGP name>')}/docs",
        ),
    )


def _project(stack: Stack) -> Path:
    """Make the folder to deploy from, as `langgraph deploy` wants one; the image brings its own graph."""
    folder = stack.directory / "hello"
    folder.mkdir(exist_ok=True)
    (folder / "agent.py").touch()
    config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": ".env", "image_distro": "wolfi"}
    (folder / "langgraph.json").write_text(json.dumps(config))
    (folder / ".env").write_text("GREETING_SECRET=hello-from-the-sandbox\n")
    return folder


def _environment_file(stack: Stack) -> Path:
    """Write what makes `agentplane`, `langgraph` and `kubectl` in another terminal speak to this stack."""
    settings = {name: value for name, value in stack.environment().items() if name.startswith("AGENTPLANE_")}
    settings |= {
        "KUBECONFIG": str(stack.kubeconfig),
        "LANGSMITH_API_KEY": stack.api_key,
        "LANGGRAPH_HOST_URL": stack.control_plane_url,
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in sorted(settings.items())]
    lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
    file = stack.directory / "env"
    file.touch(mode=0o600)
    file.write_text("\n".join(lines) + "\n")
    return file
