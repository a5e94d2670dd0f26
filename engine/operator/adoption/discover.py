"""Looking at what is there before the first object of an LGP is made, and before one that was there is changed.

`adoption` decides what is kept; here are the reads it decides by, and the one write that is no apply: the fields of a
spec that others set become ours right before pods of theirs are replaced, so that what nobody asks for any more goes.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.errors import ObjectConflict, ObjectRefused
from engine.names import is_object_name
from engine.operator.adoption import choose
from engine.operator.adoption.choose import Found, Unclear
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, AdoptedDatabase
from engine.operator.lgp import Lgp
from engine.operator.manifests import makes_postgres, objects
from engine.operator.manifests.environment import PASSWORD
from engine.operator.manifests.naming import base_name
from engine.operator.plan import PlannedObject
from engine.ports import Manifest, ObjectKey, Ports

TRIES = 5
"""Reads and writes of one object whose fields become ours before the act is deferred."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """What a first look found."""

    adopted: Adopted | None
    """None: nothing to take over."""
    server: Manifest | None
    """The API server's Deployment under the name that we give it; None: not there."""


def discover(
    lgp: Lgp, redacted: Lgp, live: Manifest, config: OperatorConfig, config_digest: str, ports: Ports
) -> Discovery:
    """Look for objects of an LGP of which this log knows none. `live` is the LGP as the API server has it.

    Two reads where there is nothing. Raises ObjectRefused where it is not clear which database is the LGP's, or how to
    get into it.
    """
    usual = _deployment(lgp, base_name(lgp.name), ports)
    named = _deployment(lgp, lgp.name, ports) if usual is None and base_name(lgp.name) != lgp.name else None
    base = lgp.name if named is not None else ""
    pods = usual or named
    database = _database(lgp, config, pods, ports) if makes_postgres(lgp) else None
    if pods is None and database is None:
        return Discovery(adopted=None, server=None)
    beside = lgp.model_copy(update={"adopted": Adopted(base=base, database=database)})
    found = {}
    for manifest in objects(beside, config):
        key = ObjectKey.of(manifest)
        if key.kind in ("Deployment", "StatefulSet", "Service") and key.namespace == lgp.namespace:
            there = _get(key, ports)
            if there is not None:
                found[str(key)] = there
    what = Found(base=base, database=database, objects=found, behind=_behind(live))
    return Discovery(adopted=choose.adopt(lgp, redacted, config, config_digest, what), server=usual)


def _deployment(lgp: Lgp, name: str, ports: Ports) -> Manifest | None:
    if not is_object_name(name):
        return None
    return _get(ObjectKey(api_version="apps/v1", kind="Deployment", namespace=lgp.namespace, name=name), ports)


def _get(key: ObjectKey, ports: Ports) -> Manifest | None:
    """Return the object unless it is on its way out."""
    live = ports.cluster.get(key)
    return None if live is None or "deletionTimestamp" in live["metadata"] else live


def _behind(live: Manifest) -> str:
    """Return why pods cannot be what an LGP asks for: the operator before us had not yet seen what it says now."""
    generation, seen = live["metadata"].get("generation", 0), (live.get("status") or {}).get("observedGeneration")
    if seen is None or seen >= generation:
        return ""
    return f"generation {generation} of the LGP, of which the operator before has rolled out {seen} at most"


def _database(lgp: Lgp, config: OperatorConfig, pods: Manifest | None, ports: Ports) -> AdoptedDatabase | None:
    """Return what leads to the data of an LGP that asks for a database, None when there are none yet."""
    if pods is not None:
        candidates = ports.cluster.list("apps/v1", "StatefulSet", lgp.namespace)
    else:
        key = _stateful_set(lgp, choose.usual_database(lgp))
        alone = _get(key, ports) if key is not None else None
        candidates = [alone] if alone is not None else []
    match choose.choose_database(lgp, config, candidates, pods):
        case None:
            return None
        case Unclear(message=message):
            raise ObjectRefused(message, reason=choose.DATABASE_UNCLEAR, status=409)
        case live:
            return _with_password(choose.describe_database(live, lgp, config), lgp, ports)


def _stateful_set(lgp: Lgp, name: str) -> ObjectKey | None:
    if not name:
        return None
    return ObjectKey(api_version="apps/v1", kind="StatefulSet", namespace=lgp.namespace, name=name)


def _with_password(database: AdoptedDatabase, lgp: Lgp, ports: Ports) -> AdoptedDatabase:
    """Return `database` if its password is where it should be: a new one would not open it."""
    secret = ObjectKey(api_version="v1", kind="Secret", namespace=lgp.namespace, name=database.secret)
    live = ports.cluster.get(secret)
    if live is None or PASSWORD not in (live.get("data") or {}):
        raise ObjectRefused(
            f"the database of LGP {lgp.namespace}/{lgp.name}, StatefulSet {database.name}, is there, but its password "
            f"is not: Secret {database.secret} has no key {PASSWORD}; put it there. Nothing is changed until "
            "then",
            reason=choose.DATABASE_UNCLEAR,
            status=409,
        )
    return database


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """What a look at an object that was taken over found."""

    gone: bool = False
    """It is not there: what was kept of it is void."""
    still: bool = False
    """Its pods are what is asked for now, too: they can be left alone."""


def inspect(
    wanted: PlannedObject, adopted: Adopted, lgp: Lgp, config: OperatorConfig, config_digest: str, ports: Ports
) -> Inspection:
    """Look at a workload that was taken over, before it is applied as `wanted`.

    `lgp` has its secret values. Where our pods are to take the place of others', the fields of the spec that others
    set become ours. Raises ObjectConflict when somebody else was faster every time.
    """
    for _ in range(TRIES):
        live = _get(wanted.key, ports)
        if live is None:
            return Inspection(gone=True)
        if wanted.held:
            return Inspection()
        kept = adopted.objects.get(str(wanted.key))
        same = kept is not None and bool(kept.template) and adopted.config_digest == config_digest
        if same and choose.still_asked(lgp, config, str(wanted.key), live):
            return Inspection(still=True)
        fields = choose.taken_over(live)
        if fields is None:
            return Inspection()
        metadata = {"resourceVersion": live["metadata"]["resourceVersion"], "managedFields": fields}
        try:
            ports.cluster.patch(wanted.key, {"metadata": metadata}, before_write=ports.keep_lock)
        except ObjectConflict:
            continue
        return Inspection()
    raise ObjectConflict(f"{wanted.key} was changed by others in each of {TRIES} tries", status=409)
