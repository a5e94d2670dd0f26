"""Taking over an LGP whose objects are there already: what of them is kept. Pure.

Somebody else's operator made them, or ours before its log was lost. Three rules:

- What leads to data is kept whatever it is called: the Postgres StatefulSet, its Service, its claims, the Secret with
  its password. An empty database beside the full one would be worse than none, so who cannot tell refuses.
- Pods that run what the LGP asks for are left alone, whatever else is in them: an operator adds variables, labels and
  probes to what it is asked for, and every operator others. They are replaced, by a rolling update, when the LGP, or
  the templates of the configuration, ask for something else than they did then.
- Selectors are kept, for nobody can change them.

`differences` compares with what the LGP asks for only: our manifests, made from templates that say nothing, show it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from engine import names
from engine.kubernetes import managed_fields
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

Json = Any

DATABASE_UNCLEAR = "DatabaseUnclear"
"""Reason of a refusal: there are pods, and nobody can tell which database they use."""

ID = re.compile(r".*-([0-9a-f]{32})")
"""An LGP of the control plane's listener ends in the id of its deployment."""
URI_VARIABLES = ("POSTGRES_URI", "DATABASE_URI")
OPERATORS_OWN = frozenset({*URI_VARIABLES, PASSWORD, "REDIS_URI", "N_JOBS_PER_WORKER", "PORT", "MOUNT_PREFIX"})
"""Variables that operators set over those of the LGP."""

BARE_LABEL = "bare"


def _bare(kind: str, container: str) -> str:
    labels = {BARE_LABEL: "pod"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": container}]}}
    spec = {"selector": {"matchLabels": labels}, "template": template}
    return json.dumps({"apiVersion": "apps/v1", "kind": kind, "metadata": {}, "spec": spec})


BARE = {
    "deployment": _bare("Deployment", server.CONTAINER),
    "redis": _bare("Deployment", "redis"),
    "db": _bare("StatefulSet", "postgres"),
}
"""Templates that ask for nothing, as YAML."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unclear:
    """Why it cannot be told which database is an LGP's."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What there is of an LGP's objects."""

    base: str = ""
    """What their names begin with, where that is not what ours do."""
    database: AdoptedDatabase | None = None
    objects: Mapping[str, Manifest] = field(default_factory=dict)
    """Of those that we would make, by `str(key)`."""
    behind: str = ""
    """Why the pods cannot be what the LGP asks for, whatever they look like."""


def adopt(lgp: Lgp, redacted: Lgp, config: OperatorConfig, config_digest: str, found: Found) -> Adopted | None:
    """Return what is kept of what was `found`, None when everything is as we would make it.

    `redacted` is the same LGP as the log has it: what is kept is compared with what is made from that later.
    Raises SettingsError, InvalidResource.
    """
    identity = Adopted(base=found.base, database=found.database, config_digest=config_digest)
    asked = {str(ObjectKey.of(one)): one for one in objects(_beside(lgp, identity), _asking_nothing(config))}
    ours = {str(ObjectKey.of(one)): one for one in objects(_beside(lgp, identity), config)}
    kept: dict[str, AdoptedObject] = {}
    left_alone: set[str] = set()
    for key, live in found.objects.items():
        selector, wanted = _selector(live), _selector(ours[key])
        if live["kind"] == "Service":
            if selector and selector != wanted:
                kept[key] = AdoptedObject(uid=live["metadata"]["uid"], selector=selector)
        elif not owns_pods(live):
            why = (found.behind,) if found.behind else tuple(differences(asked[key], ours[key], live, lgp))
            kept[key] = AdoptedObject(uid=live["metadata"]["uid"], selector=selector, differences=why)
            if not why:
                left_alone.add(key)
        elif selector != wanted:
            kept[key] = AdoptedObject(uid=live["metadata"]["uid"], selector=selector)
    if not kept and not found.base and _is_as_ours(lgp, config, found.database):
        return None
    others = (managed_fields.other_managers(live, names.OPERATOR_MANAGER) for live in found.objects.values())
    managers = sorted({name for some in others for name in some})
    adopted = identity.model_copy(update={"objects": kept, "managers": tuple(managers)})
    return hold(adopted, left_alone, redacted, config)


def hold(adopted: Adopted, keys: Iterable[str], redacted: Lgp, config: OperatorConfig) -> Adopted:
    """Return `adopted` with the pods of these workloads left alone while we would make them as now."""
    beside = _beside(redacted, adopted)
    templates = {str(ObjectKey.of(one)): template_digest(one) for one in objects(beside, config) if makes_pods(one)}
    kept = {
        key: one.model_copy(update={"template": templates.get(key, ""), "differences": ()}) if key in set(keys) else one
        for key, one in adopted.objects.items()
    }
    return adopted.model_copy(update={"objects": kept})


def makes_pods(manifest: Manifest) -> bool:
    """Whether a manifest of ours makes pods."""
    return "template" in manifest.get("spec", {})


def still_asked(lgp: Lgp, config: OperatorConfig, key: str, live: Manifest) -> bool:
    """Whether a workload that was taken over runs what the LGP asks for now."""
    asked = {str(ObjectKey.of(one)): one for one in objects(lgp, _asking_nothing(config))}
    ours = {str(ObjectKey.of(one)): one for one in objects(lgp, config)}
    return not owns_pods(live) and not any(differences(asked[key], ours[key], live, lgp))


def _beside(lgp: Lgp, adopted: Adopted) -> Lgp:
    return lgp.model_copy(update={"adopted": adopted})


def _asking_nothing(config: OperatorConfig) -> OperatorConfig:
    templates = Templates.model_validate({**config.templates.model_dump(), **BARE})
    return config.model_copy(update={"templates": templates})


def _is_as_ours(lgp: Lgp, config: OperatorConfig, there: AdoptedDatabase | None) -> bool:
    """Whether a database is called and reached as the one that we would make."""
    if there is None:
        return True
    name = object_names(lgp, config).database
    usual = AdoptedDatabase(
        name=name,
        service=name,
        secret=lgp.spec.database.secret_name,
        user=POSTGRES_USER,
        database=POSTGRES_DB,
        image=there.image,
        instead_of=there.image,
        claims=there.claims,
    )
    return there == usual


def _selector(manifest: Manifest) -> dict[str, str]:
    """Return the labels by which a workload or Service finds its pods."""
    selector: dict[str, Json] = manifest["spec"].get("selector") or {}
    labels: dict[str, str] = selector if manifest["kind"] == "Service" else selector.get("matchLabels") or {}
    return dict(labels)


# --- whose


def owns_pods(live: Manifest) -> bool:
    """Whether the pod template of a live workload is of our making."""
    return managed_fields.applies(live, names.OPERATOR_MANAGER, "spec", "template")


def taken_over(live: Manifest) -> list[dict[str, Json]] | None:
    """Return the `managedFields` of a live workload with what others set in its spec as ours; None: they set nothing.

    What nobody can change is left to them, and so are replicas, on which an autoscaler may decide.
    """
    return managed_fields.taken_over(live, names.OPERATOR_MANAGER, ("replicas", *FIXED.get(live["kind"], ())))


# --- the database


def usual_database(lgp: Lgp) -> str:
    """Return what the control plane's own operator calls the StatefulSet of an LGP (seen in public listings of pods:
    `lg-<id of the deployment>-0`); empty where the LGP's name has no id.
    """
    found = ID.fullmatch(lgp.name)
    return f"lg-{found[1]}" if found else ""


def choose_database(
    lgp: Lgp, config: OperatorConfig, stateful_sets: Iterable[Manifest], pods: Manifest | None
) -> Manifest | Unclear | None:
    """Return which of the namespace's StatefulSets is the Postgres of `lgp`; None when there is none to be found.

    Best evidence first: our label, which a person may put there; where the running `pods` (the API server's
    Deployment) connect to; whose the StatefulSet is; its name. Pods that connect to a database that is none of these
    are a reason to ask.
    """
    there = {str(one["metadata"]["name"]): one for one in stateful_sets}
    host = database_host(pods) if pods is not None else ""
    expected = (usual_database(lgp), object_names(lgp, config).database, *_legacy(lgp, config))
    for candidates in (
        [one for one in there.values() if _labelled(one, lgp)],
        [one for name, one in there.items() if host and host in (name, one["spec"].get("serviceName"))],
        [one for one in there.values() if _owned(one, lgp) and _is_postgres(one)],
        [there[name] for name in expected if name in there][:1],
    ):
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            told = ", ".join(sorted(str(one["metadata"]["name"]) for one in candidates))
            return Unclear(message=f"{_who(lgp)}, and several StatefulSets may be its database: {told}; {_mend(lgp)}")
    if pods is None or owns_pods(pods):
        return None
    connected = f"connect to {host}" if host else "do not show where they connect to"
    return Unclear(message=f"{_who(lgp)}; they {connected}, which is no StatefulSet of the namespace; {_mend(lgp)}")


def _who(lgp: Lgp) -> str:
    return f"LGP {lgp.namespace}/{lgp.name} asks for a database, and its pods were made by somebody else"


def _mend(lgp: Lgp) -> str:
    return (
        f"say which one with `kubectl -n {lgp.namespace} label statefulset NAME {names.LGP_LABEL}={lgp.name}`; "
        "nothing is changed until then"
    )


def _legacy(lgp: Lgp, config: OperatorConfig) -> tuple[str, ...]:
    base = object_names(lgp, config).server
    return (f"{base}-{config.legacy_database_suffix}",)


def _labelled(live: Manifest, lgp: Lgp) -> bool:
    return (live["metadata"].get("labels") or {}).get(names.LGP_LABEL) == label_value(lgp.name)


def _owned(live: Manifest, lgp: Lgp) -> bool:
    return any(owner.get("uid") == lgp.uid for owner in live["metadata"].get("ownerReferences") or [])


def _is_postgres(live: Manifest) -> bool:
    return any(entry.get("name") == PASSWORD for entry in _postgres_container(live).get("env") or [])


def database_host(deployment: Manifest) -> str:
    """Return the Service that the pods of a Deployment name as their Postgres's host; empty where they do not."""
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
    """Return what leads to the data in a Postgres that is there. Where it does not say which Secret has its password,
    that is the one that the LGP names.
    """
    container = _postgres_container(live)
    env = {entry.get("name"): entry for entry in container.get("env") or []}
    reference = ((env.get(PASSWORD) or {}).get("valueFrom") or {}).get("secretKeyRef") or {}
    spec = live["spec"]
    usual = _template_image(lgp, config)
    image = str(container.get("image", ""))
    return AdoptedDatabase(
        name=live["metadata"]["name"],
        service=spec.get("serviceName") or live["metadata"]["name"],
        secret=(reference.get("name") if reference.get("key") == PASSWORD else "") or lgp.spec.database.secret_name,
        user=(env.get("POSTGRES_USER") or {}).get("value") or POSTGRES_USER,
        database=(env.get("POSTGRES_DB") or {}).get("value") or POSTGRES_DB,
        image=image,
        instead_of=usual,
        claims=tuple(str(claim["metadata"]["name"]) for claim in spec.get("volumeClaimTemplates") or ()),
    )


def _template_image(lgp: Lgp, config: OperatorConfig) -> str:
    for manifest in database.objects(_beside(lgp, Adopted()), config):
        if manifest["kind"] == "StatefulSet":
            return str(manifest["spec"]["template"]["spec"]["containers"][0].get("image", ""))
    return ""


def _postgres_container(live: Manifest) -> dict[str, Json]:
    containers: list[dict[str, Json]] = live["spec"]["template"]["spec"].get("containers") or [{}]
    with_password = (c for c in containers if any(e.get("name") == PASSWORD for e in c.get("env") or []))
    return next(with_password, containers[0])


# --- the pods


def differences(asked: Manifest, ours: Manifest, live: Manifest, lgp: Lgp) -> Iterator[str]:
    """Yield the fields in which the pods of a live workload are not what the LGP asks for, never with values.

    `asked` is our manifest from templates that ask for nothing, `ours` the one from the configuration's templates.
    """
    template, running = asked["spec"]["template"], live["spec"]["template"]
    metadata = template["metadata"]
    own = {BARE_LABEL, *(live["spec"].get("selector") or {}).get("matchLabels", {}), *overlay.own_labels(lgp)}
    labels = {name: value for name, value in (metadata.get("labels") or {}).items() if name not in own}
    there = running.get("metadata") or {}
    yield from _uncovered(labels, there.get("labels"), "labels")
    yield from _uncovered(metadata.get("annotations") or {}, there.get("annotations"), "annotations")
    for name, value in template["spec"].items():
        if name == "initContainers":
            yield from _uncovered([_as_asked(one) for one in value], running["spec"].get(name), name)
        elif name != "containers":
            yield from _uncovered(value, running["spec"].get(name), name)
    main, *sidecars = template["spec"]["containers"]
    yield from _uncovered([_as_asked(one) for one in sidecars], running["spec"]["containers"], "containers")
    mine, theirs = _main(ours), _main(live, _main(ours).get("name"))
    where = f"containers[{theirs.get('name')}]"
    yield from _uncovered(main.get("resources") or {}, theirs.get("resources"), f"{where}.resources")
    if ours["kind"] == "Deployment" and theirs is not None and "image" in main:
        yield from _server_differences(main, mine, theirs, lgp, where)


def _server_differences(
    main: Mapping[str, Json], mine: Mapping[str, Json], theirs: Mapping[str, Json], lgp: Lgp, where: str
) -> Iterator[str]:
    """Yield differences of the Agent Server's own container: `main` as asked, `mine` as we would make it, `theirs`."""
    yield from _uncovered(main["image"], theirs.get("image"), f"{where}.image")
    yield from _uncovered(main.get("volumeMounts") or [], theirs.get("volumeMounts"), f"{where}.volumeMounts")
    variables = [canonical.variable(var.model_dump(by_alias=True)) for var in lgp.spec.server_spec.env]
    asked = [one for one in canonical.by_key(variables, "name") if one["name"] not in OPERATORS_OWN]
    there = [canonical.variable(one) for one in theirs.get("env") or []]
    yield from _uncovered(asked, there, f"{where}.env")
    prefix, other = (_value(c.get("env") or [], "MOUNT_PREFIX") for c in (mine, theirs))
    if prefix and other and prefix != other:
        yield f"{where}.env[MOUNT_PREFIX]"


def _value(env: Iterable[Mapping[str, Json]], name: str) -> str:
    return next((str(entry.get("value") or "") for entry in env if entry.get("name") == name), "")


def _main(workload: Manifest, name: str | None = None) -> dict[str, Json]:
    """Return the container of that name, else the one that the workload is about."""
    containers: list[dict[str, Json]] = workload["spec"]["template"]["spec"]["containers"]
    named = (one for one in containers if name is not None and one.get("name") == name)
    return next(named, server.main_container(workload))


def _as_asked(container: Mapping[str, Json]) -> dict[str, Json]:
    """Return an LGP's container without what we put into every one."""
    return {name: value for name, value in container.items() if name != "terminationMessagePolicy"}


IDENTITIES = ("mountPath", "name")
"""Fields by which an item of a list is told from the others."""


def _uncovered(asked: Json, live: Json, path: str) -> Iterator[str]:
    """Yield the paths of what is asked and not there; more may be there."""
    match asked:
        case Mapping():
            there = live if isinstance(live, Mapping) else {}
            for name, value in asked.items():
                yield from _uncovered(value, there.get(name), f"{path}.{name}")
        case list():
            items = live if isinstance(live, list) else []
            for index, item in enumerate(asked):
                yield from _uncovered_item(item, items, path, index)
        case _:
            if asked != live and not _same_quantity(asked, live, path):
                yield path


def _uncovered_item(asked: Json, items: list[Json], path: str, index: int) -> Iterator[str]:
    identity = next((name for name in IDENTITIES if isinstance(asked, Mapping) and name in asked), None)
    if identity is None:
        if not any(not list(_uncovered(asked, item, path)) for item in items):
            yield f"{path}[{index}]"
        return
    called = asked[identity]
    twin = next((item for item in items if isinstance(item, Mapping) and item.get(identity) == called), None)
    if twin is None:
        yield f"{path}[{called}]"
    else:
        yield from _uncovered(asked, twin, f"{path}[{called}]")


def _same_quantity(asked: Json, live: Json, path: str) -> bool:
    if "resources" not in path or asked is None or live is None:
        return False
    return quantity.canonical(str(asked)) == quantity.canonical(str(live))
