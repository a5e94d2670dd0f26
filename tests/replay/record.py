"""Records the logs of this folder from real runs: `python -m tests.replay.record [NAME …]`.

Each recording is a stack of its own, a piece of the demo's story, and the export of its log. Record anew only when
behaviour is meant to change; then read the difference.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine.log.export import export_log
from sandbox.demo import scenario
from sandbox.demo.world import World, image
from sandbox.stack import Cluster, running
from tests.support.eventually import eventually

LOGS = Path(__file__).with_name("logs")


def happy_path(world: World) -> None:
    scenario.deploy(world, print)


def update(world: World) -> None:
    happy_path(world)
    scenario.update(world, print)


def failed_revision(world: World) -> None:
    happy_path(world)
    scenario.fail(world, print)


def superseded_revision(world: World) -> None:
    happy_path(world)
    world.deploy(scenario.HELLO, image("slow", 1), scenario.FIRST_SECRET, wait=False)
    deployment_id = world.deployment(scenario.HELLO)["id"]
    applied = scenario.types(world, deployment_id).count("LgpApplied")
    eventually(lambda: scenario.types(world, deployment_id).count("LgpApplied") > applied, "it rolls out", 20)
    world.deploy(scenario.HELLO, image("hello2", 1), scenario.FIRST_SECRET)
    eventually(lambda: "RevisionSuperseded" in scenario.types(world, deployment_id), "it is superseded", 20)


def crash_in_mid_rollout(world: World) -> None:
    scenario.crash(world, print)


def deletion(world: World) -> None:
    happy_path(world)
    scenario.delete(world, print)


def drift(world: World) -> None:
    world.deploy(scenario.SURVIVOR, image("hello", 1), scenario.FIRST_SECRET)
    scenario.drift(world, print)


RECORDINGS: dict[str, Callable[[World], None]] = {
    recording.__name__.replace("_", "-"): recording
    for recording in (
        happy_path,
        update,
        failed_revision,
        superseded_revision,
        crash_in_mid_rollout,
        deletion,
        drift,
    )
}


def record(name: str) -> None:
    """Run one piece of the story and write its log."""
    with tempfile.TemporaryDirectory() as directory, running(Cluster.EMBEDDED, Path(directory)) as stack:
        world = World(stack)
        RECORDINGS[name](world)
        eventually(lambda: not world.events.dirty(), "everything has settled", 30)
        (LOGS / f"{name}.jsonl").write_bytes(b"".join(export_log(world.events)))
        world.close()


if __name__ == "__main__":
    for chosen in sys.argv[1:] or RECORDINGS:
        print(f"recording {chosen} …")
        record(chosen)
