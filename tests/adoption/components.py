"""Our operator and our listener at work on an Agent Server that upstream's made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from engine.listener.state import Phase
from engine.operator.events import Adopted
from engine.ports import Manifest
from tests.adoption.cluster import Cluster, Snapshot
from tests.adoption.objects import IMAGE, TOKEN, Upstream
from tests.support.eventually import eventually
from tests.support.listener_stack import WORKSPACE, Listener
from tests.support.operator_stack import Operator


@contextlib.contextmanager
def ours(cluster: Cluster, kubeconfig: Path | None = None, **options: Any) -> Iterator[Operator]:
    """Run our operator in the namespace, as the administrator unless `kubeconfig` names another account."""
    with Operator(kubeconfig or cluster.api.kubeconfig, cluster.namespace, **options) as operator:
        yield operator


def wait_adopted(operator: Operator, name: str) -> Adopted:
    """Wait until our operator has nothing left to do for an LGP; return what the operator keeps."""
    eventually(lambda: operator.available(name, operator.lgp(name)["metadata"]["generation"]), f"{name} is available")
    operator.quiet(name, seconds=1.5)  # longer than a drift stays unconfirmed
    found = operator.state(name).adopted
    assert found is not None, operator.types(name)
    return found


def upstream_in(cluster: Cluster, **changes: Any) -> tuple[Upstream, Snapshot]:
    """Create an Agent Server as upstream does; return it, with a snapshot."""
    upstream = Upstream(namespace=cluster.namespace, **changes)
    cluster.upstream(upstream)
    return upstream, cluster.snapshot(upstream)


def environment(workload: Manifest) -> dict[str, Any]:
    """Return the environment variables of the main container of a workload: name → value or reference."""
    env = workload["spec"]["template"]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry.get("value", entry.get("valueFrom")) for entry in env}


def upstream_of(listener: Listener, cluster: Cluster, name: str = "support", called: str = "", **spec: Any) -> Upstream:
    """Create a deployment on the control plane, and its Agent Server as upstream does.

    `called` is the part of the LGP's name before the id; empty for `name`.
    """
    secrets = [{"name": "OPENAI_API_KEY", "value": TOKEN}]
    image = {"image_uri": IMAGE}
    deployment_id = listener.deploy(name, source_revision_config=image, secrets=secrets)
    upstream = Upstream(
        namespace=cluster.namespace,
        deployment=called or name,
        deployment_id=deployment_id,
        revision=listener.shown(deployment_id)["latest_revision_id"],
        workspace_id=WORKSPACE,
    )
    cluster.upstream(upstream, **spec)
    return upstream


def wait_deployed(listener: Listener, upstream: Upstream) -> None:
    """Wait until our listener reports the revision as deployed, and has nothing left to do."""
    eventually(lambda: listener.phase(upstream.deployment_id) is Phase.DEPLOYED, "the revision is deployed")
    eventually(lambda: "SecretsPruned" in listener.types(upstream.deployment_id), "nothing is left to do")
