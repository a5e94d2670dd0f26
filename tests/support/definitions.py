"""CustomResourceDefinitions that the tests need and for which no file exists."""

from __future__ import annotations

from typing import Any

_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_SPEC = {"type": "object", "properties": {"provider": {"type": "string"}, "parameters": _STRINGS}}

SECRET_PROVIDER_CLASSES: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {
        "name": "secretproviderclasses.secrets-store.csi.x-k8s.io",
        "annotations": {"api-approved.kubernetes.io": "unapproved, a test's own"},
    },
    "spec": {
        "group": "secrets-store.csi.x-k8s.io",
        "scope": "Namespaced",
        "names": {
            "kind": "SecretProviderClass",
            "plural": "secretproviderclasses",
            "singular": "secretproviderclass",
            "listKind": "SecretProviderClassList",
        },
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": _SPEC}}},
            }
        ],
    },
}
"""The kind of the Secrets Store CSI driver, as far as its public documentation describes the fields."""
