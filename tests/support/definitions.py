"""Definitions of kinds that the tests need and that come with no folder of definitions."""

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
"""The Secrets Store CSI driver's kind, as far as its public documentation gives the shape."""
