"""Names that several modules share: API groups, labels, annotations, field managers, object names, streams."""

from __future__ import annotations

import re

LGP_API_VERSION = "apps.langchain.ai/v1alpha1"
LGP_KIND = "LGP"

SERVICE_ACCOUNT = ("v1", "ServiceAccount")
SECRET_PROVIDER_CLASS = ("secrets-store.csi.x-k8s.io/v1", "SecretProviderClass")
BUDGET = ("policy/v1", "PodDisruptionBudget")
"""API version and kind."""

LISTENER_MANAGER = "agentplane-listener"
"""Field manager of the listener's applies: specs of LGPs, and Secrets."""
OPERATOR_MANAGER = "agentplane-operator"
"""Field manager of the operator's applies: the objects of LGPs, and the status of LGPs."""

MANAGED_BY_LABEL = "app.kubernetes.io/managed-by"
MANAGED_BY = "agentplane"
DEPLOYMENT_LABEL = "agentplane.dev/deployment-id"
"""On LGPs and Secrets: id of the deployment in the control plane."""
LISTENER_LABEL = "agentplane.dev/listener-id"
"""On LGPs and Secrets: id of the listener that owns the object."""
LGP_LABEL = "agentplane.dev/lgp"
"""On every object of an LGP, pods and PersistentVolumeClaims included: name of the LGP."""
LGP_NAMESPACE_LABEL = "agentplane.dev/lgp-namespace"
"""On an object of an LGP in another namespace than the LGP's: namespace of the LGP."""
REVISION_LABEL = "agentplane.dev/revision-id"
"""On LGPs and Secrets: id of the revision that the object was applied for."""
SECRETS_ANNOTATION = "agentplane.dev/secrets-digest"
"""On pods: keyed digest of their secrets, so that a changed secret starts a rollout."""

STOPPED_ANNOTATION = "agentplane.dev/stopped"
"""On an LGP that the listener scaled to zero because its revision failed: the reason, one word."""
STOPPED_MESSAGE_ANNOTATION = "agentplane.dev/stopped-message"
"""On the same LGP: the message of the failed pods."""

SHARED_INGRESS_ANNOTATION = "lgp-operator.io/shared-ingress"
"""On the shared Ingress whose paths the operator manages; the name is upstream's."""

LONGEST_LGP_NAME = 49
"""Characters. `<name>-db` must fit 52: the pods of a StatefulSet have its name and a hash in a label of 63."""


def is_object_name(name: str) -> bool:
    """Whether `name` is valid for every kind of object: a DNS label that begins with a letter."""
    return len(name) <= 63 and re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name) is not None


def lgp_name(deployment_name: str, deployment_id: str) -> str:
    """Return the LGP's name, `<deployment name>-<32 hex>`: a DNS label, the same for the life of the deployment.

    The deployment's name is lowercased, reduced to letters, digits and dashes, and cut to fit LONGEST_LGP_NAME.
    """
    suffix = deployment_id.replace("-", "").lower()
    room = LONGEST_LGP_NAME - len(suffix) - 1
    stem = re.sub(r"[^a-z0-9-]+", "-", deployment_name.lower())[:room].strip("-")
    if not stem or not stem[0].isalpha():
        stem = f"d-{stem}"[:room].strip("-")
    return f"{stem}-{suffix}"


def deployment_stream(deployment_id: str) -> str:
    """Return the name of a deployment's stream."""
    return f"deployment/{deployment_id}"


def lgp_stream(namespace: str, name: str) -> str:
    """Return the name of an LGP's stream."""
    return f"lgp/{namespace}/{name}"


DATA_PLANE_PREFIX = "dataplane/"
"""What the name of a data plane's own stream starts with."""


def data_plane_stream(name: str) -> str:
    """Return the name of a data plane's own stream; `name` is the listener's id, or `operator` without a listener."""
    return f"{DATA_PLANE_PREFIX}{name}"
