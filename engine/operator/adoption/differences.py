"""Finds the fields in which the running pods of a workload are not what the LGP asks for. Pure.

Pods are compared only with what the LGP itself asks for, because every operator adds its own variables, labels and
probes. Our manifests from bare templates, which ask for nothing, show what the LGP itself asks for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from engine.event import Json
from engine.operator.adoption.database import URI_VARIABLES
from engine.operator.config import OperatorConfig, Templates
from engine.operator.lgp import Lgp
from engine.operator.manifests import canonical, objects, overlay, quantity, server
from engine.operator.manifests.environment import PASSWORD
from engine.ports import Manifest, ObjectKey

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
class PlannedManifests:
    """Our manifests of an LGP, twice, by `str(key)`."""

    bare: Mapping[str, Manifest]
    """Made from templates that ask for nothing: they have only what the LGP itself asks for."""
    full: Mapping[str, Manifest]
    """Made from the templates of the configuration."""


def planned_manifests(lgp: Lgp, config: OperatorConfig) -> PlannedManifests:
    """Return our manifests of an LGP. Raises SettingsError, InvalidResource."""
    templates = Templates.model_validate({**config.templates.model_dump(), **BARE_TEMPLATES})
    bare = config.model_copy(update={"templates": templates})
    return PlannedManifests(
        bare={str(ObjectKey.of(manifest)): manifest for manifest in objects(lgp, bare)},
        full={str(ObjectKey.of(manifest)): manifest for manifest in objects(lgp, config)},
    )


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
