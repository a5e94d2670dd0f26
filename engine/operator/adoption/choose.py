"""Decides what the operator keeps of an LGP's existing objects. Pure.

Three rules:

- What leads to data is kept, whatever its name: the Postgres StatefulSet, its Service, its PersistentVolumeClaims, the
  Secret with its password. An empty database beside the full one would be worse than no database, so if it is ambiguous
  which database is the LGP's, the operator refuses.
- Pods that run what the LGP asks for keep running, whatever else they have: every operator adds its own variables,
  labels and probes. A rolling update replaces the pods when the LGP, or a template of the configuration, changes.
- Selectors are kept, because a selector is immutable.

`differences` compares pods only with what the LGP itself asks for. Our manifests from bare templates, which ask for
nothing, show what that is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from engine import names
from engine.event import Json
from engine.kubernetes import managed_fields
from engine.kubernetes.managed_fields import Fields
from engine.operator.config import OperatorConfig, Templates
from engine.operator.events import Adopted, AdoptedDatabase, AdoptedObject
from engine.operator.lgp import Lgp
from engine.operator.manifests import (
    canonical,
    database,
    label_value,
    object_names,
    objects,
    overlay,
    quantity,
    server,
)
from engine.operator.manifests.adopted import FIXED
from engine.operator.manifests.environment import PASSWORD, POSTGRES_DB, POSTGRES_USER
from engine.operator.plan import template_digest
from engine.ports import Manifest, ObjectKey

DATABASE_AMBIGUOUS = "DatabaseAmbiguous"
"""Reason of a refusal: pods exist, and which database they use cannot be told."""

ID = re.compile(r".*-([0-9a-f]{32})")
"""An LGP that the control plane's listener wrote has a name that ends in the id of its deployment."""
URI_VARIABLES = ("POSTGRES_URI", "DATABASE_URI")
OPERATOR_VARIABLES = frozenset({*URI_VARIABLES, PASSWORD, "REDIS_URI", "N_JOBS_PER_WORKER", "PORT", "MOUNT_PREFIX"})
"""Environment variables that operators set, whatever the LGP says of them."""

BARE_LABEL = "bare"


def _bare(kind: str, container: str) -> str:
    labels = {BARE_LABEL: "pod"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": container}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": kind, "metadata": {}, "spec": spec})


BARE_TEMPLATES = {
    "deployment": _bare("Deployment", server.CONTAINER),
    "redis": _bare("Deployment", "redis"),
    "db": _bare("StatefulSet", "postgres"),
}
"""Templates that ask for nothing, as YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousDatabase:
    """Several databases, or none, may be the LGP's."""

    message: str
    """Why, and how a person resolves the ambiguity."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedManifests:
    """Our manifests of an LGP, twice, by `str(key)`."""

    bare: Mapping[str, Manifest]
    """Made from templates that ask for nothing: they have only what the LGP itself asks for."""
    full: Mapping[str, Manifest]
    """Made from the templates of the configuration."""


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


def planned_manifests(lgp: Lgp, config: OperatorConfig) -> PlannedManifests:
    """Return our manifests of an LGP. Raises SettingsError, InvalidResource."""
    templates = Templates.model_validate({**config.templates.model_dump(), **BARE_TEMPLATES})
    bare = config.model_copy(update={"templates": templates})
    return PlannedManifests(
        bare={str(ObjectKey.of(manifest)): manifest for manifest in objects(lgp, bare)},
        full={str(ObjectKey.of(manifest)): manifest for manifest in objects(lgp, config)},
    )


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
    selector: dict[str, Json] = manifest["spec"].get("selector") or {}
    labels: dict[str, str] = selector if manifest["kind"] == "Service" else selector.get("matchLabels") or {}
    return dict(labels)


# --- field managers


def pods_are_ours(live: Manifest) -> bool:
    """Return whether our operator applied the pod template of a live workload."""
    return managed_fields.applies(live, names.OPERATOR_MANAGER, "spec", "template")


def owning_all_fields(live: Manifest) -> list[Fields] | None:
    """Return the `managedFields` of a live workload after the fields of its spec that others set are ours.

    Immutable fields stay with their managers, and so does `replicas`, which an autoscaler may set. None when other
    managers set no other field.
    """
    return managed_fields.taken_over(live, names.OPERATOR_MANAGER, ("replicas", *FIXED.get(live["kind"], ())))


# --- the database


def upstream_database_name(lgp: Lgp) -> str:
    """Return the name that the hosted control plane's own operator gives the StatefulSet of an LGP; empty without one.

    Public listings of pods show `lg-<id of the deployment>-0`. The id is the end of the LGP's name.
    """
    found = ID.fullmatch(lgp.name)
    return f"lg-{found[1]}" if found else ""


def choose_database(
    lgp: Lgp, config: OperatorConfig, stateful_sets: Iterable[Manifest], pods: Manifest | None
) -> Manifest | AmbiguousDatabase | None:
    """Return which of the namespace's StatefulSets is the Postgres of `lgp`; None when no database exists yet.

    The best evidence first: our label, which a person may set; the host to which the running `pods` (the Agent Server's
    Deployment) connect; the owner of the StatefulSet; the name of the StatefulSet. Pods that connect to none of these
    make the database ambiguous.
    """
    by_name = {str(one["metadata"]["name"]): one for one in stateful_sets}
    host = database_host(pods) if pods is not None else ""
    expected = (upstream_database_name(lgp), object_names(lgp, config).database, _legacy_name(lgp, config))
    for candidates in (
        [one for one in by_name.values() if _is_labelled(one, lgp)],
        [one for name, one in by_name.items() if host and host in (name, one["spec"].get("serviceName"))],
        [one for one in by_name.values() if _is_owned(one, lgp) and _is_postgres(one)],
        [by_name[name] for name in expected if name in by_name][:1],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            listed = ", ".join(sorted(str(one["metadata"]["name"]) for one in candidates))
            return _ambiguous(lgp, f"several StatefulSets may be the database: {listed}")
    if pods is None or pods_are_ours(pods):
        return None
    if not host:
        return _ambiguous(lgp, "the pods do not show which database they connect to")
    return _ambiguous(lgp, f"the pods connect to {host}, which is no StatefulSet of the namespace")


def _ambiguous(lgp: Lgp, why: str) -> AmbiguousDatabase:
    return AmbiguousDatabase(
        message=f"LGP {lgp.namespace}/{lgp.name} asks for a database, and another operator made its pods; {why}; "
        f"label the database with `kubectl -n {lgp.namespace} label statefulset NAME {names.LGP_LABEL}={lgp.name}`; "
        "nothing is changed until then"
    )


def _legacy_name(lgp: Lgp, config: OperatorConfig) -> str:
    return f"{object_names(lgp, config).server}-{config.legacy_database_suffix}"


def _is_labelled(live: Manifest, lgp: Lgp) -> bool:
    return (live["metadata"].get("labels") or {}).get(names.LGP_LABEL) == label_value(lgp.name)


def _is_owned(live: Manifest, lgp: Lgp) -> bool:
    return any(owner.get("uid") == lgp.uid for owner in live["metadata"].get("ownerReferences") or [])


def _is_postgres(live: Manifest) -> bool:
    return any(entry.get("name") == PASSWORD for entry in _postgres_container(live).get("env") or [])


def database_host(deployment: Manifest) -> str:
    """Return the Service that the pods of a Deployment name as the host of their Postgres; empty without one."""
    for container in deployment["spec"]["template"]["spec"].get("containers") or []:
        for entry in container.get("env") or []:
            if entry.get("name") in URI_VARIABLES and entry.get("value"):
                try:
                    host = urlsplit(entry["value"]).hostname or ""
                except ValueError:
                    continue
                return host.partition(".")[0]
    return ""


def describe_database(live: Manifest, lgp: Lgp, config: OperatorConfig) -> AdoptedDatabase:
    """Return where the data and the password of a live Postgres are.

    When the StatefulSet names no Secret with the password, the Secret is the one that the LGP names.
    """
    container = _postgres_container(live)
    env = {entry.get("name"): entry for entry in container.get("env") or []}
    reference = ((env.get(PASSWORD) or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
    spec = live["spec"]
    return AdoptedDatabase(
        name=live["metadata"]["name"],
        service=spec.get("serviceName") or live["metadata"]["name"],
        secret=(reference.get("name") if reference.get("key") == PASSWORD else "") or lgp.spec.database.secret_name,
        user=(env.get("POSTGRES_USER") or {}).get("value") or POSTGRES_USER,
        database=(env.get("POSTGRES_DB") or {}).get("value") or POSTGRES_DB,
        image=str(container.get("image", "")),
        template_image=_template_image(lgp, config),
        claims=tuple(str(claim["metadata"]["name"]) for claim in spec.get("volumeClaimTemplates") or ()),
    )


def _template_image(lgp: Lgp, config: OperatorConfig) -> str:
    for manifest in database.objects(with_adopted(lgp, Adopted()), config):
        if manifest["kind"] == "StatefulSet":
            return str(manifest["spec"]["template"]["spec"]["containers"][0].get("image", ""))
    return ""


def _postgres_container(live: Manifest) -> Manifest:
    containers: list[Manifest] = live["spec"]["template"]["spec"].get("containers") or [{}]
    with_password = (c for c in containers if any(e.get("name") == PASSWORD for e in c.get("env") or []))
    return next(with_password, containers[0])


# --- the pods


def differences(bare: Manifest, full: Manifest, live: Manifest, lgp: Lgp) -> Iterator[str]:
    """Yield the fields (never the values) in which the pods of a live workload are not what the LGP asks for.

    `bare` and `full` are our manifests of the workload (`PlannedManifests`).
    """
    asked, running = bare["spec"]["template"], live["spec"]["template"]
    metadata = asked["metadata"]
    own = {BARE_LABEL, *(live["spec"].get("selector") or {}).get("matchLabels", {}), *overlay.own_labels(lgp)}
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name not in own}
    running_metadata = running.get("metadata") or {}
    yield from _missing(labels, running_metadata.get("labels"), "labels")
    yield from _missing(metadata.get("annotations") or {}, running_metadata.get("annotations"), "annotations")
    for name, value in asked["spec"].items():
        if name == "initContainers":
            yield from _missing([_of_lgp(one) for one in value], running["spec"].get(name), name)
        elif name != "containers":
            yield from _missing(value, running["spec"].get(name), name)
    main, *sidecars = asked["spec"]["containers"]
    yield from _missing([_of_lgp(one) for one in sidecars], running["spec"]["containers"], "containers")
    planned_main = _main(full)
    running_main = _main(live, planned_main.get("name"))
    where = f"containers[{running_main.get('name')}]"
    yield from _missing(main.get("resources") or {}, running_main.get("resources"), f"{where}.resources")
    if full["kind"] == "Deployment" and "image" in main:
        yield from _server_differences(main, planned_main, running_main, lgp, where)


def _server_differences(asked: Manifest, planned: Manifest, running: Manifest, lgp: Lgp, where: str) -> Iterator[str]:
    """Yield the differences of the Agent Server's own container: `asked` is bare, `planned` full, `running` live."""
    yield from _missing(asked["image"], running.get("image"), f"{where}.image")
    yield from _missing(asked.get("volumeMounts") or [], running.get("volumeMounts"), f"{where}.volumeMounts")
    variables = [canonical.variable(var.model_dump(by_alias=True)) for var in lgp.spec.server_spec.env]
    of_lgp = [one for one in canonical.by_key(variables, "name") if one["name"] not in OPERATOR_VARIABLES]
    existing = [canonical.variable(one) for one in running.get("env") or []]
    yield from _missing(of_lgp, existing, f"{where}.env")
    prefix, other = (_value(container.get("env") or [], "MOUNT_PREFIX") for container in (planned, running))
    if prefix and other and prefix != other:
        yield f"{where}.env[MOUNT_PREFIX]"


def _value(env: Iterable[Manifest], name: str) -> str:
    return next((str(entry.get("value") or "") for entry in env if entry.get("name") == name), "")


def _main(workload: Manifest, name: str | None = None) -> Manifest:
    """Return the container called `name`, else the main container of the workload."""
    containers: list[Manifest] = workload["spec"]["template"]["spec"]["containers"]
    named = (one for one in containers if name is not None and one.get("name") == name)
    return next(named, server.main_container(workload))


def _of_lgp(container: Manifest) -> Manifest:
    """Return a container of the LGP without the field that the operator sets in every container."""
    return {name: value for name, value in container.items() if name != "terminationMessagePolicy"}


IDENTITIES = ("mountPath", "name")
"""Fields that identify an item of a list."""


def _missing(asked: Json, live: Json, path: str) -> Iterator[str]:
    """Yield the paths of what is asked for and not in `live`, which may have more."""
    match asked:
        case Mapping():
            fields = live if isinstance(live, Mapping) else {}
            for name, value in asked.items():
                yield from _missing(value, fields.get(name), f"{path}.{name}")
        case list():
            items = live if isinstance(live, list) else []
            for index, item in enumerate(asked):
                yield from _missing_item(item, items, path, index)
        case _:
            if asked != live and not _same_quantity(asked, live, path):
                yield path


def _missing_item(asked: Json, items: list[Json], path: str, index: int) -> Iterator[str]:
    identity = next((name for name in IDENTITIES if isinstance(asked, Mapping) and name in asked), None)
    if identity is None:
        if not any(not list(_missing(asked, item, path)) for item in items):
            yield f"{path}[{index}]"
        return
    name = asked[identity]
    same = next((item for item in items if isinstance(item, Mapping) and item.get(identity) == name), None)
    if same is None:
        yield f"{path}[{name}]"
    else:
        yield from _missing(asked, same, f"{path}[{name}]")


def _same_quantity(asked: Json, live: Json, path: str) -> bool:
    if "resources" not in path or asked is None or live is None:
        return False
    return quantity.canonical(str(asked)) == quantity.canonical(str(live))
