"""Decides what the operator keeps of an LGP's existing objects. Pure.

Three rules:

- What leads to data is kept, whatever its name: the Postgres StatefulSet, its Service, its PersistentVolumeClaims, the
  Secret with its password (engine/operator/adoption/database.py).
- Pods that run what the LGP asks for keep running, whatever else they have: every operator adds its own variables,
  labels and probes. A rolling update replaces the pods when the LGP, or a template of the configuration, changes.
- Selectors are kept, because a selector is immutable.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from engine import names
from engine.kubernetes import managed_fields
from engine.operator.adoption.differences import PlannedManifests, differences
from engine.operator.adoption.field_managers import pods_are_ours
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, AdoptedDatabase, AdoptedObject
from engine.operator.lgp import Lgp
from engine.operator.manifests import object_names, objects
from engine.operator.manifests.environment import POSTGRES_DB, POSTGRES_USER
from engine.operator.plan import template_digest
from engine.ports import Manifest, ObjectKey


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundObjects:
    """The existing objects of an LGP."""

    name_prefix: str = ""
    """First part of their names; empty when our names begin the same."""
    database: AdoptedDatabase | None = None
    objects: Mapping[str, Manifest] = field(default_factory=dict)
    """`str(key)` → the live object, for each that we would create too."""
    unfinished_rollout: str = ""
    """Set when the other operator had not rolled out the newest generation of the LGP: its pods are outdated, whatever
    they look like. Says which generations."""


def adopt(
    lgp: Lgp, redacted: Lgp, config: OperatorConfig, found: FoundObjects, planned: PlannedManifests
) -> Adopted | None:
    """Return what the operator keeps of the `found` objects, None when every object is as we would create it.

    `planned` are our manifests of `lgp` beside the found names and database. `redacted` is `lgp` as the log has it;
    later plans, to which the kept digests are compared, are made from it. Raises SettingsError, InvalidResource.
    """
    kept: dict[str, AdoptedObject] = {}
    keeps_pods: set[str] = set()
    for key, live in found.objects.items():
        selector, planned_selector = _selector(live), _selector(planned.full[key])
        if live["kind"] != "Service" and not pods_are_ours(live):
            reasons = _reasons_to_replace(key, live, lgp, found, planned)
            kept[key] = AdoptedObject(uid=live["metadata"]["uid"], selector=selector, differences=reasons)
            if not reasons:
                keeps_pods.add(key)
        elif selector != planned_selector and (selector or live["kind"] != "Service"):
            kept[key] = AdoptedObject(uid=live["metadata"]["uid"], selector=selector)
    if not kept and not found.name_prefix and _is_as_planned(found.database, lgp, config):
        return None
    managers = {
        manager
        for live in found.objects.values()
        for manager in managed_fields.other_managers(live, names.OPERATOR_MANAGER)
    }
    adopted = Adopted(
        name_prefix=found.name_prefix,
        objects=kept,
        database=found.database,
        config_digest=config.digest,
        managers=tuple(sorted(managers)),
    )
    return keep_pods(adopted, keeps_pods, redacted, config)


def _reasons_to_replace(
    key: str, live: Manifest, lgp: Lgp, found: FoundObjects, planned: PlannedManifests
) -> tuple[str, ...]:
    """Return why the pods of a workload are replaced; empty when they keep running."""
    if found.unfinished_rollout:
        return (found.unfinished_rollout,)
    return tuple(differences(planned.bare[key], planned.full[key], live, lgp))


def keep_pods(adopted: Adopted, keys: Collection[str], redacted: Lgp, config: OperatorConfig) -> Adopted:
    """Return `adopted`, with the pods of the workloads `keys` kept until our manifests have another pod template."""
    beside = with_adopted(redacted, adopted)
    templates = {
        str(ObjectKey.of(manifest)): template_digest(manifest)
        for manifest in objects(beside, config)
        if has_pod_template(manifest)
    }
    kept = {
        key: AdoptedObject(uid=one.uid, selector=one.selector, template_digest=templates.get(key, ""))
        if key in keys
        else one
        for key, one in adopted.objects.items()
    }
    return adopted.model_copy(update={"objects": kept})


def has_pod_template(manifest: Manifest) -> bool:
    """Return whether a manifest of ours has a pod template."""
    return "template" in manifest.get("spec", {})


def pods_match(key: str, live: Manifest, lgp: Lgp, planned: PlannedManifests) -> bool:
    """Return whether the pods of an adopted workload, made by another operator, are what the LGP asks for now."""
    return not pods_are_ours(live) and not any(differences(planned.bare[key], planned.full[key], live, lgp))


def with_adopted(lgp: Lgp, adopted: Adopted) -> Lgp:
    """Return the LGP beside `adopted` objects."""
    return lgp.model_copy(update={"adopted": adopted})


def _is_as_planned(found: AdoptedDatabase | None, lgp: Lgp, config: OperatorConfig) -> bool:
    """Return whether a database has the name, the user and the Secret of the database that we would create."""
    if found is None:
        return True
    name = object_names(lgp, config).database
    planned = AdoptedDatabase(
        name=name,
        service=name,
        secret=lgp.spec.database.secret_name,
        user=POSTGRES_USER,
        database=POSTGRES_DB,
        image=found.image,
        template_image=found.image,
        claims=found.claims,
    )
    return found == planned


def _selector(manifest: Manifest) -> dict[str, str]:
    """Return the labels by which a workload or Service selects its pods."""
    selector = manifest["spec"].get("selector") or {}
    labels: dict[str, str] = selector if manifest["kind"] == "Service" else selector.get("matchLabels") or {}
    return dict(labels)
