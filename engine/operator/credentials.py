"""Secrets with generated values (the password of Postgres): created once, and never overwritten."""

from __future__ import annotations

import secrets
from dataclasses import replace

from engine.operator.context import ApplyResult, Context
from engine.operator.manifests import Credential
from engine.ports import Manifest


def create_credential(credential: Credential, context: Context) -> ApplyResult:
    """Create a Secret with random values, unless a Secret of that name exists: its values stay, whoever wrote them.

    An existing Secret only gets our labels and owners if they are missing, so that the Secret is found, and is deleted
    with its LGP.
    """
    live = context.cluster.get(credential.key)
    if live is None:
        values = {entry.field: secrets.token_hex(entry.random_bytes) for entry in credential.generated}
        context.ports.keep_lock()
        created = context.cluster.create(credential.with_values(values))
        return replace(ApplyResult.existing(uid=""), created=created)
    if not _has_labels_and_owners(live["metadata"], credential.manifest["metadata"]):
        context.apply(credential.manifest)
    return ApplyResult.existing(uid=live["metadata"]["uid"])


def _has_labels_and_owners(live: Manifest, planned: Manifest) -> bool:
    labels = live.get("labels") or {}
    owners = {owner.get("uid") for owner in live.get("ownerReferences") or []}
    return all(labels.get(key) == value for key, value in (planned.get("labels") or {}).items()) and all(
        owner.get("uid") in owners for owner in planned.get("ownerReferences") or []
    )
