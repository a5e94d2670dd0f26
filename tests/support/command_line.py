"""The command `agentplane` with the environment of one installation, in this process or in a separate one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from cli.main import app
from engine.event import Event
from engine.listener.events import (
    DeploymentRegistered,
    RevisionRequested,
)
from engine.log.redis import RedisLog
from engine.names import deployment_stream, lgp_name

ROOT = Path(__file__).resolve().parents[2]

PATIENCE = 60.0

HELLO = "97e32883-8b48-4b1c-8bc8-eb08c3462c00"

IMAGE = f"registry.example/hello@sha256:{'5' * 64}"


def environment(redis_url: str, prefix: str, **more: str) -> dict[str, str]:
    settings = {"AGENTPLANE_REDIS_URL": redis_url, "AGENTPLANE_PREFIX": prefix}
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "PYTHONPATH": str(ROOT),
        **settings,
        **more,
    }


class Agentplane:
    """Runs commands, as in `run("status")`, with the environment of one installation."""

    def __init__(self, redis_url: str, prefix: str) -> None:
        self.environment = environment(redis_url, prefix)
        self.events = RedisLog.from_url(redis_url, prefix)

    def run(self, *arguments: str, code: int = 0, **more: str) -> Result:
        """Run a command within this process, which is quicker; fail unless its exit code is `code`."""
        unset = {name: None for name in os.environ if name.startswith("AGENTPLANE_") or name == "COLUMNS"}
        done = CliRunner().invoke(app, arguments, env={**unset, **self.environment, **more}, prog_name="agentplane")
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == code, f"{arguments}: {done.exit_code}\n{done.stdout}{done.stderr}"
        return done

    def shell(self, script: str) -> str:
        """Run a shell script in which `agentplane` is the command; return what it prints."""
        command = f'agentplane() {{ "{sys.executable}" -m cli.main "$@"; }}\n{script}'
        done = subprocess.run(
            ["bash", "-c", command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    def start(self, *arguments: str, stdout: Path) -> subprocess.Popen[bytes]:
        with stdout.open("wb") as output:
            command = [sys.executable, "-m", "cli.main", *arguments]
            return subprocess.Popen(command, env=self.environment, stdout=output, stderr=subprocess.STDOUT)

    def append(self, stream: str, *events: Event) -> None:
        self.events.append(stream, self.events.version(stream), events, actor="test")

    def deployment(self, deployment_id: str = HELLO, name: str = "hello") -> str:
        """Register a deployment that asks for a revision; return its stream."""
        stream = deployment_stream(deployment_id)
        self.append(
            stream,
            DeploymentRegistered(
                deployment_id=deployment_id,
                name=name,
                workspace_id="w",
                listener_id="l",
                namespace="agents",
                lgp=lgp_name(name, deployment_id),
            ),
            RevisionRequested(
                revision_id=f"revision-of-{name}",
                image=IMAGE,
                resource_spec={},
                secret_names=("TOKEN",),
                secrets_digest="s",
                content_digest="c",
            ),
        )
        return stream


def lines(done: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]
