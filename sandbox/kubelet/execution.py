"""How a container runs on this machine: its command, its complete environment, and its local ports. Pure.

All pods share one network, so two pods cannot listen on the same port. An Agent Server listens on a local port of its
own. A program does so in two cases: its image takes a port (`{port}`), or a variable of its environment equals one of
its container ports; the variable then holds the local port instead. Any other program listens on a port of its own
choice, which must be free.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.kubelet.environment import expand
from sandbox.kubelet.images import Program
from sandbox.kubelet.runtime import Execution, command_line, image_environment, listening_port
from sandbox.kubelet.volumes import local_path

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def of_agent_server(container: dict[str, Any], env: Mapping[str, str], *, home: Path, port: int) -> Execution:
    """Return how an Agent Server runs on local `port`; `env` is the environment of the Pod spec."""
    own = dict(env)
    return Execution(
        container=container,
        command=command_line(container, own, port),
        env={**image_environment(home), **own},
        ports={listening_port(own): port},
    )


def of_program(
    program: Program,
    container: dict[str, Any],
    env: Mapping[str, str],
    *,
    home: Path,
    port: int,
    mounts: Mapping[str, Path],
) -> Execution:
    """Return how another program runs; `mounts` maps each mountPath to the folder of its volume."""

    def placed(word: str) -> str:
        return local_path(word, mounts).replace("{home}", str(home)).replace("{port}", str(port))

    ports = _ports(program, container, env, port)
    own = {name: str(port) if value in map(str, ports) else local_path(value, mounts) for name, value in env.items()}
    image = {name: placed(value) for name, value in program.env.items()}
    start = [local_path(expand(word, env), mounts) for word in container.get("command") or ()]
    arguments = [local_path(expand(word, env), mounts) for word in container.get("args") or ()]
    return Execution(
        container={**container, **{name: _local(container[name], mounts) for name in PROBES if name in container}},
        command=[*(start or map(placed, program.command)), *arguments],
        env={**image_environment(home), **image, **own},
        ports=ports,
    )


def _ports(program: Program, container: dict[str, Any], env: Mapping[str, str], port: int) -> dict[int, int]:
    """Return port inside the container → local port; empty for a program that chooses its port itself."""
    if program.takes_port and not container.get("command"):
        return {listening_port(dict(env)): port}
    declared = [one["containerPort"] for one in container.get("ports") or ()]
    return next(({number: port} for number in declared if str(number) in env.values()), {})


def _local(probe: dict[str, Any], mounts: Mapping[str, Path]) -> dict[str, Any]:
    """Return a probe whose command has local paths instead of mountPaths."""
    if "exec" not in probe:
        return probe
    return {**probe, "exec": {"command": [local_path(word, mounts) for word in probe["exec"].get("command") or ()]}}
