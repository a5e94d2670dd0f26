"""What a container comes down to on this machine: its command, its whole environment, and where it listens. Pure.

There is one network for all pods, so two of them cannot listen on one port. An Agent Server is told a local port of
its own. So is a program whose image takes one (`{port}`), and one whose environment holds a number of its `ports`:
that variable holds the local port instead. Any other program listens where it wants to, which must be free.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sandbox.kubelet.environment import expand
from sandbox.kubelet.images import Program
from sandbox.kubelet.runtime import Execution, command_line, image_environment, listening_port
from sandbox.kubelet.volumes import led

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


def of_agent_server(container: dict[str, Any], env: Mapping[str, str], *, home: Path, port: int) -> Execution:
    """An Agent Server that listens on local `port`; `env` is what the Pod spec resolves to."""
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
    """Any other program; `mounts` are its volumes' folders by mountPath."""

    def placed(word: str) -> str:
        return led(word, mounts).replace("{home}", str(home)).replace("{port}", str(port))

    ports = _told(program, container, env, port)
    mine = {name: str(port) if value in map(str, ports) else led(value, mounts) for name, value in env.items()}
    said = {name: placed(value) for name, value in program.env.items()}
    start = [led(expand(word, env), mounts) for word in container.get("command") or ()]
    arguments = [led(expand(word, env), mounts) for word in container.get("args") or ()]
    return Execution(
        container={**container, **{name: _led(container[name], mounts) for name in PROBES if name in container}},
        command=[*(start or map(placed, program.command)), *arguments],
        env={**image_environment(home), **said, **mine},
        ports=ports,
    )


def _told(program: Program, container: dict[str, Any], env: Mapping[str, str], port: int) -> dict[int, int]:
    if program.is_told_its_port and not container.get("command"):
        return {listening_port(dict(env)): port}
    declared = [one["containerPort"] for one in container.get("ports") or ()]
    return next(({number: port} for number in declared if str(number) in env.values()), {})


def _led(probe: dict[str, Any], mounts: Mapping[str, Path]) -> dict[str, Any]:
    if "exec" not in probe:
        return probe
    return {**probe, "exec": {"command": [led(word, mounts) for word in probe["exec"].get("command") or ()]}}
