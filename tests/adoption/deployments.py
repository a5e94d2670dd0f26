"""A deployment that upstream made for the control plane."""

from __future__ import annotations

from typing import Any

from engine.listener.state import Phase
from tests.adoption.cluster import Cluster
from tests.adoption.objects import IMAGE, TOKEN, Upstream
from tests.support.listener_stack import WORKSPACE, Listener
from tests.support.operator_stack import until

NEXT = "registry.example/support@sha256:" + "cd" * 32


def upstream_of(listener: Listener, cluster: Cluster, name: str = "support", called: str = "", **spec: Any) -> Upstream:
    """Create a deployment on the control plane and let upstream make it; its LGP is `called` that, and its id."""
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


def deployed(listener: Listener, upstream: Upstream) -> None:
    """Wait until our listener says that the revision serves."""
    until(lambda: listener.phase(upstream.deployment_id) is Phase.DEPLOYED, "the revision is deployed")
    until(lambda: "SecretsPruned" in listener.types(upstream.deployment_id), "and nothing is left to do")
