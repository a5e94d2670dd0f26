"""`helm upgrade` from the previous commit, under load, with another template, setting and image: nothing is lost."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from engine.names import LGP_LABEL
from engine.operator import templates
from tests.chart.rendering import CHART, Values, layered
from tests.cluster import place
from tests.cluster.cluster import DEPLOYMENTS, PODS, Cluster, Manifest, fetch
from tests.cluster.data_plane import COMPONENTS, DataPlane, Install, Workspace, doubled, gateway, image
from tests.support.eventually import eventually

UNDER_LOAD = 12


def changed() -> Values:
    """Return values with another template of Agent Servers, another setting, and another image."""
    template = yaml.safe_load(templates.DEPLOYMENT)
    template["spec"]["template"]["metadata"]["annotations"] = {"example.com/template": "second"}
    return layered(
        {"operator": {"templates": {"deployment": yaml.safe_dump(template)}}},
        {"config": {"settings": {"request_timeout_seconds": 20}}},
        image(place.variable("IMAGE")),
    )


def lay_load(workspace: Workspace, earlier: list[str], upgraded: threading.Event) -> None:
    """Create deployments and update earlier ones during the upgrade."""
    first, second = place.images("STUB")
    for number in range(UNDER_LOAD):
        workspace.create(f"under-load-{number}", first)
        workspace.update(earlier[number % len(earlier)], image=second if number % 2 else first)
        upgraded.wait(1.5)


def test_an_upgrade_under_load_loses_nothing(cluster: Cluster, prepare: Install) -> None:
    cluster.need("gateway.networking.k8s.io/v1", "a Gateway")
    chart = Path(place.variable("EARLIER_CHART"))
    without_queues = {"config": {"settings": {"queue_enabled": False}}}
    plane = prepare(gateway(), image(place.variable("EARLIER")), without_queues)
    plane.upgrade(chart=chart)
    stub, _ = place.images("STUB")
    earlier = [plane.workspace.create(f"earlier-{number}", stub) for number in range(3)]
    plane.workspace.wait_until_deployed()
    before = {pod["metadata"]["name"] for name in COMPONENTS for pod in plane.pods(name)}

    upgraded = threading.Event()
    with ThreadPoolExecutor(1) as aside:
        load = aside.submit(lay_load, plane.workspace, earlier, upgraded)
        plane.upgrade(changed(), chart=CHART)
        upgraded.set()
        load.result()
        plane.workspace.wait_until_deployed(180)
        eventually(lambda: old_templates(cluster, plane) == [], "every Agent Server has the new template", 150)
        eventually(lambda: rolled_out(cluster, plane), "every rollout is complete", 150)

    assert doubled(plane.log()) == []
    for deployment in plane.workspace.deployments():
        answer = fetch(deployment["source_config"]["custom_url"], "/info").json()
        assert answer["host"]["revision_id"] == deployment["latest_revision_id"], deployment["name"]
    eventually(
        lambda: not before & {pod["metadata"]["name"] for pod in plane.pods()},
        "the pods of the earlier release have ended",
    )
    plane.uninstall()


def servers(cluster: Cluster, plane: DataPlane) -> list[Manifest]:
    """Return the Deployments of Agent Servers, API servers and queue workers."""
    return cluster.listed(DEPLOYMENTS, plane.agents, LGP_LABEL)


def old_templates(cluster: Cluster, plane: DataPlane) -> list[str]:
    """Return the names of Deployments of Agent Servers that were not made from the changed template."""
    return [
        found["metadata"]["name"]
        for found in servers(cluster, plane)
        if (found["spec"]["template"]["metadata"].get("annotations") or {}).get("example.com/template") != "second"
    ]


def rolled_out(cluster: Cluster, plane: DataPlane) -> bool:
    """Whether all pods of every Agent Server are ready and of its newest template, and no pod is being deleted."""
    pods = cluster.listed(PODS, plane.agents, LGP_LABEL)
    return not any("deletionTimestamp" in pod["metadata"] for pod in pods) and all(
        found["status"].get("observedGeneration") == found["metadata"]["generation"]
        and found["status"].get("replicas")
        == found["status"].get("updatedReplicas")
        == found["status"].get("readyReplicas")
        for found in servers(cluster, plane)
    )
