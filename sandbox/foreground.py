"""`agentplane up`: the stack in the foreground, the engine's processes by their Procfile under honcho."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from honcho.manager import Manager
from rich.console import Console

from engine.names import route_path
from sandbox.demo.world import image
from sandbox.processes import ServerStartError
from sandbox.stack import PREFIX, Cluster, Ports, Stack, expand, procfile, tool


def up(cluster: Cluster) -> int:
    """Start everything, print what to paste, and stay until interrupted. Returns the exit code."""
    console = Console(highlight=False)
    with tempfile.TemporaryDirectory(prefix="agentplane-up-") as directory:
        stack = Stack(
            cluster=cluster, directory=Path(directory), ports=Ports.reserve(), overrides={"LOG_FORMAT": "console"}
        )
        # Ctrl-C while the infrastructure starts ends in the same orderly way as later.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            stack.start_infrastructure(lambda name: console.print(f"up: {name}"))
            _print_paste(console, stack)
            return _honcho(stack)
        except KeyboardInterrupt:
            return 0
        except ServerStartError as error:
            console.print(f"[bold red]could not start[/]: {error}", soft_wrap=True)
            return 1
        finally:
            stack.stop()
            stack.ports.give_back()


def _honcho(stack: Stack) -> int:
    """Run the Procfile until a signal, or until one of its processes ends."""
    manager = Manager()
    environment = stack.environment()
    for name, command in procfile().items():
        manager.add_process(name, f"exec {expand(command, environment)}", env=environment, cwd=str(stack.directory))
    manager.loop()
    return int(manager.returncode or 0)


def _print_paste(console: Console, stack: Stack) -> None:
    deploy = [
        f"cd $(mktemp -d) && LANGSMITH_API_KEY={stack.api_key} {tool('langgraph')} deploy",
        f"--host-url {stack.control_plane_url} --name hello --image-uri {image('hello', 1)} --no-input",
    ]
    lines = (
        ("deploy something", " ".join(deploy)),
        ("kubectl", f"export KUBECONFIG={stack.kubeconfig}; kubectl -n {stack.namespace} get lgps,pods"),
        ("control plane", stack.control_plane_url),
        ("Flower", stack.flower_url),
        ("Agent Servers", f"http://{stack.hostname}{route_path('', '<LGP name>')}/docs"),
        (
            "what happens",
            f"AGENTPLANE_REDIS_URL={stack.redis_url} AGENTPLANE_PREFIX={PREFIX} {tool('agentplane')} events -f",
        ),
    )
    console.print()
    for title, text in lines:
        console.print(f"[bold]{title}[/]")
        console.print(f"  {text}", markup=False, soft_wrap=True)
    console.print("\nCtrl-C ends everything and leaves nothing behind.\n")
