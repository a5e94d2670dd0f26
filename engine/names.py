"""Names that more than one part must agree on: groups, labels, annotations, field managers, object names."""

from __future__ import annotations

import re

LGP_API_VERSION = "apps.langchain.ai/v1alpha1"
LGP_KIND = "LGP"

SERVICE_ACCOUNT = ("v1", "ServiceAccount")
SECRET_PROVIDER_CLASS = ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass")
BUDGET = ("policy/v1", "PodDisruptionBudget")
"""API version and kind."""

LISTENER_MANAGER = "agentplane-listener"
"""Field manager of what the listener applies: LGP spec, Secrets."""
OPERATOR_MANAGER = "agentplane-operator"
"""Field manager of what the operator applies: every object of an LGP, and the LGP's status."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "agentplane"
DEPLOYMENT_LABEL = "agentplane.dev/deployment-id"
"""On LGPs and Secrets: the control plane's deployment."""
LISTENER_LABEL = "agentplane.dev/listener-id"
"""On LGPs and Secrets: whose they are."""
LGP_LABEL = "agentplane.dev/lgp"
"""On every object of an LGP, pods and persistent volume claims included: the LGP's name."""
LGP_NAMESPACE_LABEL = "agentplane.dev/lgp-namespace"
"""On an object of an LGP that is in another namespace: the LGP's."""
REVISION_LABEL = "agentplane.dev/revision-id"
"""On LGPs and Secrets: the revision that they were written for."""
SECRETS_ANNOTATION = "agentplane.dev/secrets-digest"
"""On pods: keyed digest of the secrets they started with, so that a changed secret rolls them."""

STOPPED_ANNOTATION = "agentplane.dev/stopped"
"""On an LGP that the listener scaled to nothing, because its revision failed: the reason, one word."""
STOPPED_MESSAGE_ANNOTATION = "agentplane.dev/stopped-message"
"""On the same: what the failed pods said."""

SHARED_INGRESS_ANNOTATION = "lgp-operator.io/shared-ingress"
"""On the one Ingress whose paths the operator keeps; upstream's name."""

LONGEST_LGP_NAME = 49
"""So that `<name>-db` fits 52 characters: a StatefulSet's pods carry its name and a hash in a 63 character label."""


def is_object_name(name: str) -> bool:
    """Whether every kind of object may be called so: a DNS label that begins with a letter."""
    return len(name) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None


def lgp_name(deployment_name: str, deployment_id: str) -> str:
    """Return `<deployment name>-<32 hex>`: a DNS label, stable for the life of the deployment.

    The deployment's name is lowercased, reduced to letters, digits and dashes, and cut to fit LONGEST_LGP_NAME.
    """
    suffix = deployment_id.replace("-", "").lower()
    room = LONGEST_LGP_NAME - len(suffix) - 1
    stem = re.sub(r"[^a-z0-9-]+", "-", deployment_name.lower())[:room].strip("-")
    if not stem or not stem[0].isalpha():
        stem = f"d-{stem}"[:room].strip("-")
    return f"{stem}-{suffix}"


def deployment_stream(deployment_id: str) -> str:
    return f"deployment/{deployment_id}"


def lgp_stream(namespace: str, name: str) -> str:
    return f"lgp/{namespace}/{name}"


def data_plane_stream(name: str) -> str:
    """The stream of a data plane itself, by listener id (`operator` for an operator that runs alone)."""
    return f"dataplane/{name}"


def route_path(base_path: str, name: str) -> str:
    """Return the path prefix under which an Agent Server is reached: `<base path>/lgp/<LGP name>`."""
    base = base_path.strip("/")
    return f"/{base}/lgp/{name}" if base else f"/lgp/{name}"


def lgp_of_route_path(path: str) -> str | None:
    """Return the LGP name that `route_path` made `path` of; None for a path of another form."""
    _, marker, name = path.rpartition("/lgp/")
    return name if marker and name and "/" not in name else None
