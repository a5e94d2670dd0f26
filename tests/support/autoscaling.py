"""Values and KEDA's definition, shared by the tests of autoscaling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import httpx

from engine.operator.config import OperatorConfig, SharedIngress
from tests.support.eventually import eventually

NAME = "hello-0123456789abcdef0123456789abcdef"

DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

KEDA = OperatorConfig(ingress=SharedIngress(hostname="agents.example.com"), keda_enabled=True)

QUIET: dict[str, Any] = {"database": {"enabled": False}, "redis": {"enabled": False}}
"""A spec without database and Redis, which are not scaled, so that tests are quick."""

KEDA_DEFINITION: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "scaledobjects.keda.sh"},
    "spec": {
        "group": "keda.sh",
        "scope": "Namespaced",
        "names": {"kind": "ScaledObject", "listKind": "ScaledObjectList", "plural": "scaledobjects"},
        "versions": [
            {
                "name": "v1alpha1",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            part: {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                            for part in ("spec", "status")
                        },
                    }
                },
            }
        ],
    },
}
"""A CustomResourceDefinition of ScaledObjects that accepts any fields.

test_manifests_valid checks our manifests against KEDA's own definition."""


@contextlib.contextmanager
def keda_installed(http: httpx.Client) -> Iterator[None]:
    """Make the API server serve ScaledObjects until the block ends."""
    http.post(DEFINITIONS, json=KEDA_DEFINITION).raise_for_status()
    eventually(lambda: serves(http, "keda.sh/v1alpha1"), "ScaledObjects are served")
    try:
        yield
    finally:
        http.delete(f"{DEFINITIONS}/scaledobjects.keda.sh").raise_for_status()
        eventually(lambda: not serves(http, "keda.sh/v1alpha1"), "ScaledObjects are no longer served")


def serves(http: httpx.Client, api_version: str) -> bool:
    return http.get(f"/apis/{api_version}").status_code == 200
