"""`agentplane adoption` forecasts what an adoption changes, with the settings of the installation; it only reads."""

from __future__ import annotations

import json
import os
from typing import Any

from typer.testing import CliRunner

from cli.main import app
from sandbox.ports import free_port
from tests.adoption.cluster import Cluster
from tests.adoption.components import ours, upstream_of, wait_adopted, wait_deployed
from tests.adoption.objects import LISTENER_MANAGER, NEXT, PASSWORD, TOKEN, Upstream, path_of
from tests.support.listener_stack import KEY, WORKSPACE, Listener


def adoption(listener: Listener, *flags: str, code: int = 0) -> str:
    """Run the command with the settings of a data plane that is not installed yet; return its output."""
    settings = {
        "LANGSMITH_API_KEY": KEY,
        "WORKSPACE_ID": WORKSPACE,
        "LISTENER_ID": listener.engine.settings.stream_name,
        "WATCH_NAMESPACES": listener.namespace,
        "HOST_BACKEND_URL": str(listener.settings.host_backend_url),
        "SMITH_BACKEND_URL": str(listener.settings.smith_backend_url),
        "INGRESS_HOSTNAME": "agents.example.com",
        "KUBECONFIG": str(listener.settings.kubeconfig),
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}/0",  # no Redis
    }
    environment: dict[str, Any] = dict.fromkeys(name for name in os.environ if name.startswith("AGENTPLANE_"))
    environment |= {f"AGENTPLANE_{name}": value for name, value in settings.items()}
    done = CliRunner().invoke(app, ["adoption", *flags], env=environment, prog_name="agentplane")
    assert done.exit_code == code, f"{done.stdout}{done.stderr}{done.exception}"
    assert TOKEN not in done.stdout
    assert PASSWORD not in done.stdout
    return done.stdout


def versions(cluster: Cluster) -> dict[str, str]:
    """Return uid → resourceVersion of every object that an adoption may write."""
    apps = "/apis/apps/v1"
    found = cluster.items(apps, "deployments") + cluster.items(apps, "statefulsets")
    found += cluster.items("/api/v1", "services") + cluster.items("/api/v1", "secrets")
    found += cluster.items("/apis/apps.langchain.ai/v1alpha1", "lgps")
    return {one["metadata"]["uid"]: one["metadata"]["resourceVersion"] for one in found}


def test_an_adoption_without_a_restart_is_forecast_and_comes_true(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    before, written = cluster.snapshot(upstream), versions(cluster)

    output = adoption(listener)
    (forecast,) = [json.loads(line) for line in adoption(listener, "--json").splitlines()]

    assert versions(cluster) == written, "nothing is written"
    assert f"{cluster.namespace}/{upstream.name}" in output
    assert "stays as it is: it already has revision" in output
    assert forecast["replaced"] == {}
    assert {key.split()[0] for key in forecast["stays"]} == {"Deployment", "StatefulSet"}
    assert len(forecast["stays"]) == len(before.uids)
    assert (forecast["database"], forecast["secret"]) == (upstream.database, upstream.secret)
    with ours(cluster) as operator, listener:
        wait_adopted(operator, upstream.name)
        wait_deployed(listener, upstream)
        assert cluster.snapshot(upstream) == before

        assert "stays as it is" in adoption(listener), "as long as there is no newer revision"


def test_what_would_restart_is_forecast_with_the_reason(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    cluster.merge(upstream.lgp(), {"spec": {"redis": {"resources": {"limits": {"memory": "3Gi"}}}}}, LISTENER_MANAGER)
    body = {"source_revision_config": {"image_uri": NEXT}}
    listener.http.patch(f"/v2/deployments/{upstream.deployment_id}", json=body).raise_for_status()

    (forecast,) = [json.loads(line) for line in adoption(listener, "--json").splitlines()]

    assert "is rewritten" in forecast["listener"]
    assert "spec.serverSpec.image" in forecast["listener"]
    names = {key.rpartition("/")[2]: why for key, why in forecast["replaced"].items()}
    assert names == {
        upstream.name: ["the LGP"],
        f"{upstream.name}-queue": ["the LGP"],
        f"{upstream.name}-redis": ["containers[redis].resources.limits.memory"],
    }
    assert [key.rpartition("/")[2] for key in forecast["stays"]] == [upstream.database]


def test_a_refusal_is_forecast(listener: Listener, cluster: Cluster) -> None:
    upstream = upstream_of(listener, cluster)
    cluster.http.delete(f"{path_of(upstream.password())}/{upstream.secret}").raise_for_status()

    output = adoption(listener, code=1)

    assert "refused" in output
    assert f"Secret {upstream.secret} has no key POSTGRES_PASSWORD; put the password of the database there" in output


def test_a_managed_account_that_is_not_allowed_is_forecast_with_the_value_to_set(
    listener: Listener, cluster: Cluster
) -> None:
    upstream_of(listener, cluster, managedResources={"serviceAccount": {}})

    output = adoption(listener, code=1)

    assert "refused" in output
    assert "set operator.managedResources.serviceAccounts=true" in " ".join(output.split())


def test_an_lgp_of_another_listener_is_left_alone(listener: Listener, cluster: Cluster) -> None:
    upstream = Upstream(namespace=cluster.namespace)
    cluster.upstream(upstream)

    assert "is left alone: no deployment of this listener" in adoption(listener)
