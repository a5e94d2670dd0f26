"""Image references of the sandbox: each resolves to a folder that runs, a stand-in without a process, or an error.

The sandbox has no registry. `sandbox.local/<app>` names the folder `<images>/<app>`; tag and digest are part of the
reference and of the reported image id, but do not select content. An Agent Server on the in-memory runtime never
contacts its Postgres and Redis, so these images get a stand-in: the container is reported as running, without a
process. All other images cannot be pulled.

A folder with a `langgraph.json` is an Agent Server. A folder with an `image.json` is another program; the file holds
what a Dockerfile would:

    {"env": {"PYTHONPATH": "{home}"}, "command": ["python", "serve.py", "{port}"]}

Both keys are optional; `{home}` is the container's own copy of the folder, `{port}` the local port to listen on.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOCAL_REGISTRY = "sandbox.local"
AGENT_CONFIG = "langgraph.json"
PROGRAM_CONFIG = "image.json"
QUEUE_ENTRYPOINT = "/storage/queue_entrypoint.sh"

# Last path components of the repositories that get a stand-in.
INFRASTRUCTURE = frozenset(
    {"postgres", "postgresql", "pgvector", "redis", "valkey", "redis-stack-server", "redis-cluster"}
)

# [registry/]repository[:tag][@sha256:digest]; the tag is looked for after the last slash only.
_REFERENCE = re.compile(
    r"(?P<repository>[a-z0-9]+(?:[._:/-]+[a-zA-Z0-9]+)*?)"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)


class ImageError(Exception):
    """An image that cannot be pulled; `reason` is the kubelet's waiting reason, e.g. ErrImagePull."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Program:
    """Environment and command of an image that is not an Agent Server; the Pod spec overrides both."""

    env: Mapping[str, str] = field(default_factory=dict)
    # ENTRYPOINT: a container's `command` replaces it, a container's `args` follow it.
    command: tuple[str, ...] = ()

    @property
    def takes_port(self) -> bool:
        """Whether the command has a placeholder for the port to listen on."""
        return any("{port}" in word for word in self.command)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A resolved image."""

    # The reference in the Pod spec.
    reference: str
    # Repository and digest, for the Pod's status.
    image_id: str
    # The folder to run, None for a stand-in.
    folder: Path | None
    # None for an Agent Server and for a stand-in.
    program: Program | None = None


def resolve(reference: str, images: Path) -> Image:
    """Return the image of a reference. Raises ImageError: InvalidImageName, or ErrImagePull for an unknown image."""
    match = _REFERENCE.fullmatch(reference)
    if match is None:
        raise ImageError(
            "InvalidImageName",
            f'Failed to apply default image tag "{reference}": couldn\'t parse image name: invalid reference '
            "format (expected [registry/]repository[:tag][@sha256:<64 hex digits>])",
        )
    repository = match["repository"]
    image_id = f"{repository}@{match['digest'] or _stand_in_digest(reference)}"
    registry, _, app = repository.partition("/")
    if registry == LOCAL_REGISTRY:
        folder = images / app
        if "/" in app or not any((folder / config).is_file() for config in (AGENT_CONFIG, PROGRAM_CONFIG)):
            known = sorted(
                path.parent.name for path in images.glob("*/*") if path.name in (AGENT_CONFIG, PROGRAM_CONFIG)
            )
            raise ImageError(
                "ErrImagePull",
                f'failed to pull image "{reference}": {repository}: not found '
                f"(images of this node: {', '.join(known) or 'none'})",
            )
        return Image(reference=reference, image_id=image_id, folder=folder, program=_program(folder))
    if repository.rsplit("/", 1)[-1] in INFRASTRUCTURE:
        return Image(reference=reference, image_id=image_id, folder=None)
    raise ImageError(
        "ErrImagePull",
        f'failed to pull image "{reference}": this node has no registry to pull from; '
        f"use {LOCAL_REGISTRY}/<app>, or an image with a stand-in ({', '.join(sorted(INFRASTRUCTURE))})",
    )


def _program(folder: Path) -> Program | None:
    config = folder / PROGRAM_CONFIG
    if not config.is_file():
        return None
    document = json.loads(config.read_text())
    return Program(env=document.get("env") or {}, command=tuple(document.get("command") or ()))


def is_queue_worker(command: list[str]) -> bool:
    """Whether the command starts a queue worker; an in-memory Agent Server does the work of one itself."""
    return any(QUEUE_ENTRYPOINT in part for part in command)


def _stand_in_digest(reference: str) -> str:
    # A reference without digest needs an image id too; it is derived from the name, so equal names have equal ids.
    return "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
