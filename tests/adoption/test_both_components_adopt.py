"""Our listener, with our operator or upstream's, adopts LGPs that upstream's listener wrote, on a real API server.

The control plane has the same deployments as before. Upstream's two programs are stopped.
"""

from __future__ import annotations

from typing import Any

import pytest

from engine.dataplane.events import ConfigurationRecorded
from engine.digests import digest
from engine.kubernetes.repairs import FREE_REPAIRS
from engine.listener.state import Phase
from engine.log.memory import MemoryLog
from engine.names import DEPLOYMENT_LABEL, LISTENER_LABEL, REVISION_LABEL, data_plane_stream
from engine.ports import Manifest
from engine.queries import find
from engine.replay import replay
from tests.adoption.cluster import Cluster
from tests.adoption.components import environment, ours, upstream_of, wait_adopted, wait_deployed
from tests.adoption.objects import IMAGE, LISTENER_MANAGER, NEXT, PASSWORD, TOKEN, Upstream, path_of, replace
from tests.support.eventually import eventually
from tests.support.listener_stack import Listener
from tests.support.operator_stack import CONFIG


def recorded() -> MemoryLog:
    """Return a log that begins with the operator's configuration."""
    log = MemoryLog()
    config = CONFIG.model_dump(mode="json")
    event = ConfigurationRecorded(component="operator", digest=digest(config), config=config)
    log.acknowledge(
        data_plane_stream("operator"), log.append(data_plane_stream("operator"), 0, [event], actor="dataplane")
    )
    return log


def logged(log: Any) -> str:
    return "".join(str(record.data) for record in log.read_all(limit=100_000))


@pytest.mark.parametrize(
    ("name", "called"),
    [
        pytest.param("support", "support", id="short"),
        pytest.param("customer-support-agent", "customer-support-agent", id="longer than ours"),
        pytest.param("customer-support-agent", "customer-supp", id="cut elsewhere"),
    ],
)
def test_both_components_adopt_and_nothing_restarts(
    listener: Listener, cluster: Cluster, name: str, called: str
) -> None:
    upstream = upstream_of(listener, cluster, name, called)
    before, spec = cluster.snapshot(upstream), cluster.get(upstream.lgp())["spec"]
    log = recorded()

    with ours(cluster, events=log) as operator, listener:
        wait_adopted(operator, upstream.name)
        wait_deployed(listener, upstream)
        operator.quiet(upstream.name)

        assert cluster.snapshot(upstream) == before
        lgps = cluster.items("/apis/apps.langchain.ai/v1alpha1", "lgps")
        assert [lgp["metadata"]["name"] for lgp in lgps] == [upstream.name], "one LGP, under its name of before"
        assert lgps[0]["spec"] == spec
        labels = lgps[0]["metadata"]["labels"]
        assert labels[DEPLOYMENT_LABEL] == upstream.deployment_id
        assert labels[LISTENER_LABEL] == listener.engine.settings.stream_name
        assert labels[REVISION_LABEL] == upstream.revision
        assert listener.types(upstream.deployment_id).count("LgpAdopted") == 1
        assert find(listener.events, upstream.name).id == upstream.deployment_id

        for events in (log, listener.events):
            result = replay(events.read_all(limit=100_000))
            assert result.divergences == []
            assert TOKEN not in logged(events)
            assert PASSWORD not in logged(events)


def test_the_next_revision_is_ours_and_keeps_the_database(listener: Listener, cluster: Cluster) -> None:
    newer: Manifest = {
        "serverSpec": {"warmPool": {"size": 1}},
        "sandbox": {"image": "s"},
        "redis": {"enabled": True, "shards": 2},
    }
    upstream = upstream_of(listener, cluster, **newer)
    before = cluster.snapshot(upstream)
    with ours(cluster) as operator, listener:
        wait_adopted(operator, upstream.name)
        wait_deployed(listener, upstream)

        body = {"source_revision_config": {"image_uri": NEXT}}
        listener.http.patch(f"/v2/deployments/{upstream.deployment_id}", json=body).raise_for_status()
        eventually(lambda: _image(cluster, upstream) == NEXT, "the LGP asks for the next revision")
        eventually(lambda: listener.phase(upstream.deployment_id) is Phase.DEPLOYED, "the revision is deployed")
        operator.quiet(upstream.name)

        after, lgp = cluster.snapshot(upstream), cluster.get(upstream.lgp())
        assert after.uids == before.uids
        assert (after.password, after.claims, after.paths) == (before.password, before.claims, before.paths)
        assert after.templates[upstream.database] == before.templates[upstream.database]
        assert lgp["spec"]["database"]["secretName"] == upstream.secret
        assert lgp["spec"]["database"]["legacyName"] is True
        assert (lgp["spec"]["serverSpec"]["warmPool"], lgp["spec"]["sandbox"]) == ({"size": 1}, {"image": "s"})
        assert lgp["spec"]["redis"]["shards"] == 2, "fields of a newer listener stay"
        ignored = operator.condition(upstream.name, "IgnoredFields")["message"]
        assert all(path in ignored for path in ("spec.serverSpec.warmPool", "spec.sandbox", "spec.redis.shards"))
        assert "labels" not in lgp["spec"], "fields that only upstream's listener set are removed"
        found = environment(cluster.get(upstream.server()))
        assert found["OPENAI_API_KEY"]["secretKeyRef"]["key"] == "OPENAI_API_KEY"
        assert found["POSTGRES_PASSWORD"]["secretKeyRef"]["name"] == upstream.secret


def _image(cluster: Cluster, upstream: Upstream) -> str:
    return str(cluster.get(upstream.lgp())["spec"]["serverSpec"]["image"])


def test_a_revision_that_upstream_never_deployed_is_rolled_out_with_the_reason(
    listener: Listener, cluster: Cluster
) -> None:
    upstream = upstream_of(listener, cluster)
    before = cluster.snapshot(upstream)
    body = {"source_revision_config": {"image_uri": NEXT}}
    listener.http.patch(f"/v2/deployments/{upstream.deployment_id}", json=body).raise_for_status()

    with ours(cluster) as operator, listener:
        eventually(lambda: listener.phase(upstream.deployment_id) is Phase.DEPLOYED, "the newer revision is deployed")
        operator.quiet(upstream.name)

        (adopted,) = [
            record.data
            for record in listener.events.read(f"deployment/{upstream.deployment_id}")
            if record.type == "LgpAdopted"
        ]
        assert adopted["differences"] == [
            "spec.serverSpec.image",
            "spec.serverSpec.env[LANGSMITH_HOST_REVISION_ID]",
        ]
        after = cluster.snapshot(upstream)
        assert (after.uids, after.claims, after.password) == (before.uids, before.claims, before.password)
        assert cluster.get(upstream.server())["spec"]["template"]["spec"]["containers"][0]["image"] == NEXT


def test_an_adopted_lgp_that_a_person_changes_becomes_ours(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    with ours(cluster) as operator, listener:
        wait_adopted(operator, upstream.name)
        wait_deployed(listener, upstream)

        cluster.merge(upstream.lgp(), {"spec": {"serverSpec": {"image": "registry.example/other:1"}}})
        eventually(lambda: "DriftDetected" in listener.types(upstream.deployment_id), "the change is noticed")
        eventually(lambda: _image(cluster, upstream) == IMAGE, "the LGP is restored")
        operator.quiet(upstream.name)

        state = listener.state(upstream.deployment_id)
        assert state.lgp.adopted.untouched_for == ""
        assert cluster.get(upstream.lgp())["spec"]["database"]["secretName"] == upstream.secret


def test_our_listener_adopts_while_upstreams_operator_stays(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    before = cluster.snapshot(upstream)
    counts = dict.fromkeys(("replicas", "readyReplicas", "updatedReplicas", "availableReplicas"), 2)
    status = {"observedGeneration": 1, "deploymentStatus": {**counts, "updateRevision": upstream.revision}}
    path = f"{path_of(upstream.lgp())}/{upstream.name}/status"
    headers = {"Content-Type": "application/merge-patch+json"}
    cluster.http.patch(path, json={"status": status}, headers=headers).raise_for_status()

    with listener:
        wait_deployed(listener, upstream)

        assert cluster.snapshot(upstream) == before
        assert cluster.get(upstream.lgp())["metadata"]["generation"] == 1


def test_an_upstream_listener_that_still_runs_is_noticed(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    with ours(cluster) as operator, listener:
        wait_adopted(operator, upstream.name)
        wait_deployed(listener, upstream)
        for version in range(FREE_REPAIRS + 1):
            _upstream_writes(cluster, upstream, f"registry.example/theirs:{version}")
            eventually(lambda: _image(cluster, upstream) == IMAGE, "our image is restored")

        drifts = listener.types(upstream.deployment_id).count("DriftDetected")
        repairs = listener.state(upstream.deployment_id).lgp.repairs
        assert drifts == repairs == FREE_REPAIRS + 1, "the next repair waits longer"


def _upstream_writes(cluster: Cluster, upstream: Upstream, image: str) -> Manifest:
    return replace(cluster.http, upstream.lgp(serverSpec={"image": image}), LISTENER_MANAGER)
