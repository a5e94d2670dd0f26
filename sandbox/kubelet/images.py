"""What an image reference means in the sandbox: a folder that runs, a stand-in that only claims to, or nothing.

There is no registry here. `sandbox.local/<app>` names the folder `<images>/<app>`; tag and digest are part of the
reference and of the reported image id, but do not select content. Infrastructure that an Agent Server on the
in-memory runtime never contacts is stood in for. Everything else cannot be pulled.

A folder with a `langgraph.json` is an Agent Server. One with an `image.json` is any other program, which says there
what a Dockerfile would:

    {"env": {"PYTHONPATH": "{home}"}, "command": ["python", "serve.py", "{port}"]}

Both may be left out; `{home}` is the container's own copy of the folder, `{port}` the local port to listen on.
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

# Last path component of a repository that is infrastructure.
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
    """An image that cannot be had; `reason` is the kubelet's word for it."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, kw_only=True)
class Program:
    """What an image that is no Agent Server sets and starts, unless the pod says otherwise."""

    env: Mapping[str, str] = field(default_factory=dict)
    # ENTRYPOINT: what a pod's `command` replaces and its `args` follow.
    command: tuple[str, ...] = ()

    @property
    def is_told_its_port(self) -> bool:
        return any("{port}" in word for word in self.command)


@dataclass(frozen=True, kw_only=True)
class Image:
    """A resolved image."""

    # As the Pod spec names it.
    reference: str
    # As reported in the status: repository and digest.
    image_id: str
    # The folder to run, None for a stand-in.
    folder: Path | None
    # None for an Agent Server and for a stand-in.
    program: Program | None = None


def resolve(reference: str, images: Path) -> Image:
    """The image behind `reference`. Raises ImageError: InvalidImageName, or ErrImagePull when nobody has it."""
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
        f"it runs {LOCAL_REGISTRY}/<app> and stands in for {', '.join(sorted(INFRASTRUCTURE))}",
    )


def _program(folder: Path) -> Program | None:
    config = folder / PROGRAM_CONFIG
    if not config.is_file():
        return None
    said = json.loads(config.read_text())
    return Program(env=said.get("env") or {}, command=tuple(said.get("command") or ()))


def is_queue_worker(command: list[str]) -> bool:
    """Whether the command starts a queue worker, whose work the in-memory Agent Server does itself."""
    return any(QUEUE_ENTRYPOINT in part for part in command)


def _stand_in_digest(reference: str) -> str:
    # A reference by tag still needs an id; derived from the name, so that equal names have equal ids.
    return "sha256:" + hashlib.sha256(reference.encode()).hexdigest()
