"""Large resource requests, from the control plane to the pods: the engine allows whatever the LGP definition allows.

The hosted service caps cores, because it owns the nodes. A self-hosted data plane leaves the limit to the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.listener.state import Phase
from engine.names import LGP_LABEL
from engine.ports import Manifest
from sandbox.control_plane.server import ControlPlane
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.listener_stack import KEY, WORKSPACE, at_work
from tests.support.operator_stack import Kubelet, shared_ingress

SPEC = {
    "cpu": 96,
    "cpu_limit": 192,
    "memory_mb": 1_048_576,
    "memory_limit_mb": 2_097_152,
    "queue_cpu": 64,
    "queue_memory_mb": 524_288,
    "db_cpu": 48,
    "db_memory_mb": 786_432,
    "db_storage_gi": 65_536,
    "redis_cpu": 32,
    "redis_memory_mb": 262_144,
    "min_scale": 1,
    "max_scale": 500,
}


@pytest.fixture
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


def test_large_requests_reach_the_pods_unchanged(plane: ControlPlane, api_server: ApiServer, namespace: str) -> None:
    with (
        at_work(plane, api_server, namespace, operator_enabled=True) as both,
        Kubelet(api_server, namespace),
    ):
        cluster = both.engine.ports.cluster
        cluster.create(shared_ingress(namespace))
        source = {
            "listener_id": both.engine.settings.stream_name,
            "listener_config": {"k8s_namespace": namespace},
            "resource_spec": SPEC,
        }
        deployment_id = both.deploy(source_config=source)
        eventually(lambda: both.phase(deployment_id) is Phase.DEPLOYED, "the deployment is deployed")

        name = both.key(deployment_id).name
        made = {
            manifest["metadata"]["name"].removeprefix(name): manifest["spec"]
            for kind in ("Deployment", "StatefulSet")
            for manifest in cluster.list("apps/v1", kind, namespace, labels=f"{LGP_LABEL}={name}")
        }
        assert {suffix: resources(spec) for suffix, spec in made.items()} == {
            "": (("96", "1Ti"), ("192", "2Ti")),
            "-queue": (("64", "512Gi"), ("128", "1Ti")),
            "-db": (("48", "768Gi"), ("96", "1536Gi")),
            "-redis": (("32", "256Gi"), ("64", "256Gi")),
        }
        claim = made["-db"]["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"]
        assert claim == "64Ti"


def resources(spec: Manifest) -> tuple[tuple[str, str], tuple[str, str]]:
    """Return cpu and memory of the first container: the requests, then the limits."""
    found = spec["template"]["spec"]["containers"][0]["resources"]
    return tuple((found[side]["cpu"], found[side]["memory"]) for side in ("requests", "limits"))  # type: ignore[return-value]
