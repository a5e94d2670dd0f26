"""Looks at an LGP's existing objects: before the first object is applied, and before an adopted workload is applied.

`choose` decides what the operator keeps; this module does the reads that the decisions need. The one write, in
`inspect`, makes the fields that other managers set in a workload ours, right before our pods replace theirs: the apply
that follows then removes the fields that nobody asks for any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from engine.errors import ObjectConflict, ObjectRefused
from engine.names import is_object_name
from engine.operator.adoption import choose
from engine.operator.adoption.choose import FoundObjects
from engine.operator.adoption.database import (
    DATABASE_AMBIGUOUS,
    AmbiguousDatabase,
    choose_database,
    describe_database,
    upstream_database_name,
)
from engine.operator.adoption.differences import PlannedManifests, planned_manifests
from engine.operator.adoption.field_managers import owning_all_fields
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, AdoptedDatabase
from engine.operator.lgp import Lgp, read_lgp
from engine.operator.manifests import makes_postgres
from engine.operator.manifests.environment import PASSWORD
from engine.operator.manifests.naming import base_name
from engine.operator.plan import PlannedObject
from engine.ports import Manifest, ObjectKey, Ports

TRIES = 5
"""Reads and writes of one object, while its fields become ours, before the act is deferred."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """One LGP that may have objects of another operator, and the means to look at the objects."""

    live: Manifest
    """The LGP as the API server stores it."""
    redacted: Lgp
    """The LGP as the log has it, with the objects that are adopted already."""
    config: OperatorConfig
    ports: Ports

    @cached_property
    def lgp(self) -> Lgp:
        """The LGP with its secret values. Raises InvalidResource."""
        return read_lgp(self.live, self.redacted.adopted)

    @cached_property
    def planned(self) -> PlannedManifests:
        """Our manifests of the LGP beside the adopted objects. Raises SettingsError, InvalidResource."""
        return planned_manifests(self.lgp, self.config)

    def get(self, key: ObjectKey) -> Manifest | None:
        """Return a live object; None when there is none, or when the object is being deleted."""
        live = self.ports.cluster.get(key)
        return None if live is None or "deletionTimestamp" in live["metadata"] else live


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """The result of `discover`."""

    adopted: Adopted | None
    """None: there is nothing to adopt."""
    server: Manifest | None
    """The Agent Server's Deployment under the name that we give it; None when it does not exist."""


def discover(adoption: Adoption) -> Discovery:
    """Look for objects of an LGP of which the log knows none. Two reads when there are none.

    Raises ObjectRefused when it is ambiguous which database is the LGP's, or when the password of the database is
    missing.
    """
    lgp = adoption.lgp
    usual = _deployment(base_name(lgp.name), adoption)
    named = _deployment(lgp.name, adoption) if usual is None and base_name(lgp.name) != lgp.name else None
    name_prefix = lgp.name if named is not None else ""
    pods = usual or named
    database = _database(pods, adoption) if makes_postgres(lgp) else None
    if pods is None and database is None:
        return Discovery(adopted=None, server=None)
    beside = choose.with_adopted(lgp, Adopted(name_prefix=name_prefix, database=database))
    planned = planned_manifests(beside, adoption.config)
    found = FoundObjects(
        name_prefix=name_prefix,
        database=database,
        objects=_existing(planned, adoption),
        unfinished_rollout=_unfinished_rollout(adoption.live),
    )
    adopted = choose.adopt(lgp, adoption.redacted, adoption.config, found, planned)
    return Discovery(adopted=adopted, server=usual)


def _deployment(name: str, adoption: Adoption) -> Manifest | None:
    if not is_object_name(name):
        return None
    namespace = adoption.lgp.namespace
    return adoption.get(ObjectKey(api_version="apps/v1", kind="Deployment", namespace=namespace, name=name))


def _existing(planned: PlannedManifests, adoption: Adoption) -> dict[str, Manifest]:
    """Return the live workloads and Services, in the namespace of the LGP, that we would create too."""
    found = {}
    for manifest in planned.full.values():
        key = ObjectKey.of(manifest)
        if key.kind in ("Deployment", "StatefulSet", "Service") and key.namespace == adoption.lgp.namespace:
            live = adoption.get(key)
            if live is not None:
                found[str(key)] = live
    return found


def _unfinished_rollout(live: Manifest) -> str:
    """Return which generation of the LGP the previous operator had not rolled out yet; empty when there is none."""
    generation = live["metadata"].get("generation", 0)
    observed = (live.get("status") or {}).get("observedGeneration")
    if observed is None or observed >= generation:
        return ""
    return f"generation {generation} of the LGP: the previous operator rolled out generation {observed} at most"


def _database(pods: Manifest | None, adoption: Adoption) -> AdoptedDatabase | None:
    """Return where the data of an LGP is that asks for a database; None when the LGP has no data yet."""
    lgp = adoption.lgp
    if pods is not None:
        candidates = adoption.ports.cluster.list("apps/v1", "StatefulSet", lgp.namespace)
    else:
        name = upstream_database_name(lgp)
        key = ObjectKey(api_version="apps/v1", kind="StatefulSet", namespace=lgp.namespace, name=name)
        only = adoption.get(key) if name else None
        candidates = [only] if only is not None else []
    match choose_database(lgp, adoption.config, candidates, pods):
        case None:
            return None
        case AmbiguousDatabase(message=message):
            raise ObjectRefused(message, reason=DATABASE_AMBIGUOUS, status=409)
        case live:
            database = describe_database(live, lgp, adoption.config)
            _require_password(database, adoption)
            return database


def _require_password(database: AdoptedDatabase, adoption: Adoption) -> None:
    """Raise ObjectRefused when the password of the database is missing: a new password would not open the database."""
    lgp = adoption.lgp
    secret = ObjectKey(api_version="v1", kind="Secret", namespace=lgp.namespace, name=database.secret)
    live = adoption.ports.cluster.get(secret)
    if live is None or PASSWORD not in (live.get("data") or {}):
        raise ObjectRefused(
            f"StatefulSet {database.name}, the database of LGP {lgp.namespace}/{lgp.name}, exists, but Secret "
            f"{database.secret} has no key {PASSWORD}; put the password of the database there. Nothing is changed "
            "until then",
            reason=DATABASE_AMBIGUOUS,
            status=409,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """The result of `inspect`. Neither field set: the workload can be applied as planned."""

    missing: bool = False
    """The workload does not exist any more."""
    adopted: Adopted | None = None
    """The pods are what the LGP asks for now: what the operator keeps from now on, with these pods running."""


def inspect(planned: PlannedObject, adoption: Adoption) -> Inspection:
    """Look at an adopted workload before it is applied as `planned`.

    When our pods are about to replace those of another operator, the fields of the spec that other managers set become
    ours. Raises ObjectConflict when other writers were faster in every try.
    """
    key = str(planned.key)
    for _ in range(TRIES):
        live = adoption.get(planned.key)
        if live is None:
            return Inspection(missing=True)
        if planned.keeps_pods:
            return Inspection()
        if _kept_pods(key, adoption) and choose.pods_match(key, live, adoption.lgp, adoption.planned):
            redacted, config = adoption.redacted, adoption.config
            return Inspection(adopted=choose.keep_pods(redacted.adopted, {key}, redacted, config))
        fields = owning_all_fields(live)
        if fields is None:
            return Inspection()
        metadata = {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}
        try:
            adoption.ports.cluster.patch(planned.key, {"metadata": metadata}, before_write=adoption.ports.keep_lock)
        except ObjectConflict:
            continue
        return Inspection()
    raise ObjectConflict(f"{planned.key} was changed by others in each of {TRIES} tries", status=409)


def _kept_pods(key: str, adoption: Adoption) -> bool:
    """Return whether the pods of an adopted workload kept running until now, under the configuration of today."""
    adopted = adoption.redacted.adopted
    known = adopted.objects.get(key)
    return known is not None and bool(known.template_digest) and adopted.config_digest == adoption.config.digest
