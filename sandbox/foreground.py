"""`agentplane up`: runs the stack in the foreground; honcho runs the engine's processes from the Procfile.

All state is in a temporary folder, and all processes end with this one. Ctrl-C, SIGTERM and a closed terminal end them
in order. When this process is killed, leashes end them: `sandbox.processes` for the infrastructure, `Leashed` for the
Procfile's processes. `up` prints commands to paste into another terminal. It also writes them to `paste.txt` in the
folder, because the logs soon scroll them away. Sourcing `env` in the same folder lets another terminal use every
command.
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

from engine.agent_path import agent_path
from sandbox.demo.world import image
from sandbox.processes import ServerStartError
from sandbox.stack import Cluster, Ports, Stack, expand, procfile, tool

ENDED_BY_SIGNAL = frozenset(known["rc"] for known in SIGNALS.values())
"""Return codes of honcho's manager after a signal ended it."""
FINAL = frozenset({0, 2})
"""Exit codes after which a process is not restarted: 0, a requested end; 2, invalid settings."""
ENDING_SECONDS = 5.0
"""Time between SIGTERM and SIGKILL for the processes of an `up` that was killed."""


def up(cluster: Cluster) -> int:
    """Start the stack on `cluster`, print the commands to paste, and run until interrupted.

    Returns 0 after a signal, 1 when a process did not start or gave up.
    """
    console = Console(highlight=False, soft_wrap=True)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    with tempfile.TemporaryDirectory(prefix="agentplane-up-", ignore_cleanup_errors=True) as directory:
        stack = Stack(
            cluster=cluster, directory=Path(directory), ports=Ports.reserve(), overrides={"LOG_FORMAT": "console"}
        )
        try:
            console.print("starting the infrastructure on free ports …")
            stack.start_infrastructure(lambda name: console.print(f"up: {name}"))
            _print_instructions(console, stack)
            return _run_procfile(console, stack)
        except KeyboardInterrupt:
            return 0
        except ServerStartError as error:
            console.print("[bold red]could not start[/]:", end=" ")
            console.print(str(error), markup=False)
            return 1
        finally:
            stack.stop()
            stack.ports.give_back()


def _run_procfile(console: Console, stack: Stack) -> int:
    """Run the Procfile until a signal, or until a process exits with a code of FINAL. Other exits are restarted."""
    manager = Ending(Printer(Terminal(), time_format=""))  # the engine's log lines have timestamps of their own
    manager._process_ctor = Leashed
    environment = stack.environment()
    for name, command in procfile().items():
        command = f"exec {expand(command, environment)}"
        manager.add_process(name, command, env=environment, cwd=str(stack.directory))
    signal.signal(signal.SIGHUP, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    manager.loop()
    if manager.returncode in ENDED_BY_SIGNAL:
        return 0
    console.print(
        "[bold red]a process gave up[/], so the whole stack was stopped; the reason is in its log lines above"
    )
    return 1


class Terminal:
    """Standard output for honcho's printer. Writing to a closed terminal does nothing, instead of raising."""

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
    """A honcho manager that announces the end of the stack, so that `Leashed` restarts nothing any more."""

    announced = multiprocessing.get_context("fork").Event()

    def terminate(self) -> None:
        self.announced.set()
        super().terminate()


class Leashed(Process):  # type: ignore[misc]  # honcho has no types
    """One process of the Procfile: restarted when it dies, as in a cluster, and ended when `up` no longer exists."""

    def run(self, events: Any = None, ignore_signals: bool = False) -> None:
        threading.Thread(target=self._leash, args=(os.getppid(),), daemon=True).start()
        again = True
        while again:
            super().run(events, ignore_signals)
            again = self._died(self._child.returncode)

    def _send_message(self, data: Any, type: str = "line") -> None:
        if type == "stop" and self._died(data["returncode"]):
            type, data = "line", f"died (code {data['returncode']}): started again, as in a cluster\n".encode()
        super()._send_message(data, type)

    def _died(self, code: int) -> bool:
        """Whether this exit code means a crash, and the stack is not ending."""
        return code not in FINAL and not Ending.announced.is_set()

    def _leash(self, parent: int) -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        Ending.announced.set()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError, AttributeError):
                os.killpg(self._child.pid, number)
            time.sleep(ENDING_SECONDS)
        os._exit(1)  # skips honcho's messages to the manager, which no longer exists


def _print_instructions(console: Console, stack: Stack) -> None:
    """Print the commands to paste, and write them to `paste.txt` in the stack's folder."""
    kept = stack.directory / "paste.txt"
    lines = [f"{title}\n  {text}" for title, text in _paste(stack)]
    kept.write_text("\n".join(lines) + "\n")
    console.print()
    for title, text in _paste(stack):
        console.print(f"[bold]{title}[/]")
        console.print(f"  {text}", markup=False)
    console.print(f"\nto read this again: cat {kept}", markup=False)
    left = f", except the objects in the cluster of {stack.kubeconfig}" if stack.cluster is Cluster.CURRENT else ""
    console.print(f"Ctrl-C ends everything and leaves nothing behind{left}.\n", markup=False)


def _paste(stack: Stack) -> tuple[tuple[str, str], ...]:
    """Return pairs of a title and a text to paste; each text works without the others."""
    project, environment = _project(stack), _environment_file(stack)
    deploy = [
        f"cd {project} && LANGSMITH_API_KEY={stack.api_key} {tool('langgraph')} deploy",
        f"--host-url {stack.control_plane_url} --name hello --image-uri {image('hello', 1)} --no-input",
    ]
    return (
        (f"deploy an application (its secrets are in {project / '.env'})", " ".join(deploy)),
        (
            "list LGPs and pods",
            f"export KUBECONFIG={stack.kubeconfig}; kubectl -n {stack.namespace} get lgps,pods",
        ),
        ("follow the events", f". {environment}; agentplane events --follow"),
        ("check the installation", f". {environment}; agentplane doctor"),
        ("control plane", stack.control_plane_url),
        ("Flower", stack.flower_url),
        (
            "API docs of an Agent Server (this page needs no key; runs need the header X-Api-Key)",
            f"http://{stack.hostname}{agent_path('', '<LGP name>')}/docs",
        ),
    )


def _project(stack: Stack) -> Path:
    """Create and return a project folder, which `langgraph deploy` requires; the graph itself is in the image."""
    folder = stack.directory / "hello"
    folder.mkdir(exist_ok=True)
    (folder / "agent.py").touch()
    config = {"graphs": {"agent": "./agent.py:graph"}, "dependencies": ["."], "env": ".env", "image_distro": "wolfi"}
    (folder / "langgraph.json").write_text(json.dumps(config))
    (folder / ".env").write_text("GREETING_SECRET=hello-from-the-sandbox\n")
    return folder


def _environment_file(stack: Stack) -> Path:
    """Write and return a file to source: it points `agentplane`, `langgraph` and `kubectl` at this stack."""
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
