"""Decides which Postgres of a namespace has the data of an LGP. Pure.

An empty database beside the full one would be worse than no database. So when it is ambiguous which database is meant,
the operator refuses, and a person labels the database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from engine import names
from engine.operator.adoption.field_managers import pods_are_ours
from engine.operator.config import OperatorConfig
from engine.operator.events import Adopted, AdoptedDatabase
from engine.operator.lgp import Lgp
from engine.operator.manifests import database as database_manifests
from engine.operator.manifests import label_value, object_names
from engine.operator.manifests.environment import PASSWORD, POSTGRES_DB, POSTGRES_USER
from engine.ports import Manifest

DATABASE_AMBIGUOUS = "DatabaseAmbiguous"
"""Reason of a refusal: pods exist, and which database they use cannot be told."""

ID = re.compile(r".*-([0-9a-f]{32})")
"""An LGP that the control plane's listener wrote has a name that ends in the id of its deployment."""
URI_VARIABLES = ("POSTGRES_URI", "DATABASE_URI")
"""Environment variables with the URI of the database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AmbiguousDatabase:
    """Several databases, or none, may be the LGP's."""

    message: str
    """Why, and how a person resolves the ambiguity."""


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
    for manifest in database_manifests.objects(lgp.model_copy(update={"adopted": Adopted()}), config):
        if manifest["kind"] == "StatefulSet":
            return str(manifest["spec"]["template"]["spec"]["containers"][0].get("image", ""))
    return ""


def _postgres_container(live: Manifest) -> Manifest:
    containers: list[Manifest] = live["spec"]["template"]["spec"].get("containers") or [{}]
    with_password = (c for c in containers if any(e.get("name") == PASSWORD for e in c.get("env") or []))
    return next(with_password, containers[0])
