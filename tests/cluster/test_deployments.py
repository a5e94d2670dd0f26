"""A deployment's life with real clients: deploy, update, fail, crash, delete; through an Ingress, then a Gateway."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sandbox.demo.prober import Prober
from tests.cluster import place
from tests.cluster.cluster import Cluster, fetch, outside, silent
from tests.cluster.data_plane import ELSEWHERE, EXPOSURES, DataPlane
from tests.support.eventually import eventually

NOWHERE = f"registry.invalid/none@sha256:{'0' * 64}"
OUR_TEMPLATE = {"operator": {"templates": {"deployment": "", "service": ""}}}
"""Our built-in templates: a pod waits a moment before it ends. With upstream's, proxies still send requests to it."""
TWO = {"min_scale": 2, "max_scale": 2}


@pytest.fixture(scope="module", params=EXPOSURES)
def reached(request: pytest.FixtureRequest, cluster: Cluster, plane: DataPlane) -> Iterator[DataPlane]:
    """The data plane, with one kind of exposure."""
    if request.param == "gateway":
        cluster.need("gateway.networking.k8s.io/v1", "a Gateway")
    plane.upgrade(EXPOSURES[request.param](), OUR_TEMPLATE)
    yield plane
    plane.workspace.delete(*(one["id"] for one in plane.workspace.deployments()))
    eventually(lambda: not plane.workspace.deployments(), "every deployment is gone")
    plane.upgrade(EXPOSURES["ingress"]())


@pytest.fixture(scope="module")
def steady(reached: DataPlane) -> str:
    """The name of a deployed deployment with two replicas."""
    reached.workspace.create("steady", place.images("STUB")[0], spec=TWO)
    reached.workspace.wait_until_deployed()
    return "steady"


def serves(plane: DataPlane, name: str) -> bool:
    """Whether the latest revision of a deployment answers at its URL."""
    expected = plane.workspace.deployment(name)["latest_revision_id"]
    answer = fetch(plane.workspace.url_of(name), "/info")
    return answer.is_success and answer.json()["host"]["revision_id"] == expected


def test_langgraph_deploy_ends_deployed_and_the_agent_server_answers(reached: DataPlane) -> None:
    agent, _ = place.images("AGENT")

    done = reached.workspace.deploy("hello", agent, GREETING_SECRET="s3cret")

    assert done.returncode == 0, done.stdout + done.stderr + reached.diagnostics()
    assert reached.workspace.revision("hello") == "DEPLOYED"
    assert fetch(reached.workspace.url_of("hello"), "/ok").json()["ok"] is True
    assert serves(reached, "hello")


def test_langgraph_deploy_delete_leaves_nothing(cluster: Cluster, reached: DataPlane) -> None:
    lgp, url = reached.lgp_name("hello"), reached.workspace.url_of("hello")
    before = cluster.objects_of(reached.agents, lgp)
    assert {"persistentvolumeclaims", "statefulsets", "secrets"} <= {name.split()[0] for name in before}

    done = reached.workspace.langgraph("delete", reached.workspace.deployment("hello")["id"], "--force")

    assert done.returncode == 0, done.stdout + done.stderr
    eventually(lambda: not cluster.objects_of(reached.agents, lgp), "nothing is left")
    eventually(lambda: silent(url), "nothing answers at the URL")


def test_no_request_fails_during_an_update(reached: DataPlane, steady: str) -> None:
    address, headers = outside(reached.workspace.url_of(steady), "/ok")

    with Prober(address, headers) as prober:
        done = reached.workspace.deploy(steady, place.images("STUB")[1], **ELSEWHERE, CHANGED="yes")
        assert done.returncode == 0, done.stdout + done.stderr
        eventually(lambda: one_revision(reached, steady), "the pods of the earlier revision are gone")

    assert serves(reached, steady)
    assert prober.requests > 20
    assert prober.failures == []


def one_revision(plane: DataPlane, name: str) -> bool:
    """Whether a deployment has exactly two pods, both of one ReplicaSet."""
    pods = plane.cluster.listed("/api/v1/namespaces/{ns}/pods", plane.agents, f"app={plane.lgp_name(name)}")
    return len(pods) == 2 and len({pod["metadata"]["labels"]["pod-template-hash"] for pod in pods}) == 1


def test_an_image_that_cannot_be_pulled_fails_with_the_reason(reached: DataPlane, steady: str) -> None:
    serving = fetch(reached.workspace.url_of(steady), "/info").json()

    done = reached.workspace.deploy(steady, NOWHERE, **ELSEWHERE)

    assert done.returncode != 0
    assert reached.workspace.revision(steady) == "DEPLOY_FAILED"
    reason = reached.reason(steady)
    assert "registry.invalid/none" in reason
    assert "ImagePull" in reason
    assert fetch(reached.workspace.url_of(steady), "/info").json() == serving


def test_a_program_that_crashes_fails_with_its_last_words(reached: DataPlane, steady: str) -> None:
    serving = fetch(reached.workspace.url_of(steady), "/info").json()
    words = {**ELSEWHERE, "STUB_CRASH": "no weights found"}

    done = reached.workspace.deploy(steady, place.images("STUB")[0], **words)

    assert done.returncode != 0
    assert reached.workspace.revision(steady) == "DEPLOY_FAILED"
    reason = reached.reason(steady)
    assert "exit code 3" in reason or "CrashLoopBackOff" in reason
    assert "stub: ***" in reason, "the last words, without the value of the secret"
    assert fetch(reached.workspace.url_of(steady), "/info").json() == serving
