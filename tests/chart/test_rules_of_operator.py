"""What stops working without each right that the chart grants to the operator: see `tests/chart/rights.py`."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from engine import names
from engine.errors import ClusterUnavailable
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.permissions import (
    APPLIED,
)
from engine.names import (
    lgp_stream,
)
from engine.operator.events import LgpRemoved
from engine.operator.observation.lgp import observe_lgp
from engine.ports import Manifest
from tests.chart.rights import (
    API_VERSIONS,
    DOUBLED,
    FRONT,
    KINDS,
    LIGHT,
    OWN_ACCOUNT,
    OWN_CLASS,
    SCALED,
    WITH_DATABASE,
    Line,
    Piece,
    Right,
    Stage,
    Work,
    assert_needed,
    leases,
    name_of,
    posted,
    rights_of,
)
from tests.support import service_accounts
from tests.support.api_servers import ApiServer
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import lgp_manifest


def makes(stage: Stage, resource: str, suffix: str = "", spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An LGP whose object of this kind does not exist yet.

    The object is named after the LGP with `suffix`; in another namespace (`where`) only its label counts.
    """
    work, name = posted(stage, spec)
    return work.until(
        lambda: bool(stage.of(name, resource, where) if where else stage.get(resource, f"{name}{suffix}"))
    )


def status(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: bool((stage.get("lgps", name) or {}).get("status")))


def password(stage: Stage) -> Piece:
    """A Secret with a password that existed before the LGP, so its label does not name the LGP yet."""
    work, name = posted(stage, WITH_DATABASE)
    metadata = {"name": f"{name}-db", "namespace": stage.namespace}
    values = {"POSTGRES_PASSWORD": "kept"}
    stage.make({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    return work.until(lambda: bool(stage.of(name, "secrets")))


def leftover(stage: Stage, resource: str, spec: Manifest = LIGHT, where: str = "") -> Piece:
    """A deleted LGP with one object left: the object has no owner reference, so the garbage collector keeps it."""
    name = f"gone-{uuid.uuid4().hex[:8]}"
    labels = {names.LGP_LABEL: name, **({names.LGP_NAMESPACE_LABEL: stage.namespace} if where else {})}
    metadata = {"name": f"{name}-left", "namespace": stage.space(where), "labels": labels}
    api_version = API_VERSIONS[resource].replace("autoscaling/v2", "autoscaling/v1")
    left = {"apiVersion": api_version, "kind": KINDS[resource], "metadata": metadata}
    stage.make({**left, "spec": spec_of(resource, labels)})
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    lgp = lgp_manifest(stage.namespace, name, **spec)
    lgp["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1}
    work.append(observe_lgp(lgp, work.engine.ports.digest), LgpRemoved())
    return work.until(lambda: not stage.of(name, resource, where))


def spec_of(resource: str, labels: Manifest) -> Manifest:
    """Return the smallest valid spec of a kind."""
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    workload = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    specs: dict[str, Manifest] = {
        "deployments": workload,
        "statefulsets": {**workload, "serviceName": "s"},
        "services": {"ports": [{"port": 80}]},
        "persistentvolumeclaims": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "horizontalpodautoscalers": {"scaleTargetRef": target, "maxReplicas": 2},
        "poddisruptionbudgets": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }
    return specs.get(resource, {})


def made(
    resource: str, what: str, suffix: str = "", spec: Manifest = LIGHT, layout: str = "ingress", where: str = ""
) -> dict[Right, Line]:
    """Return the rights on a kind that the operator applies.

    An apply reads the object, then patches it, or creates it if it does not exist. Leftovers are listed and deleted.
    """
    applied = Line(
        stops=f"an LGP gets no {what}",
        shown=partial(makes, resource=resource, suffix=suffix, spec=spec, where=where),
        reported_as="ObjectRejected",
        layout=layout,
    )
    left = Line(
        stops=f"the {what} stays after its LGP is deleted",
        shown=partial(leftover, resource=resource, spec=spec, where=where),
        reported_as="ActRefused",
        layout=layout,
    )
    lines = {"get": applied, "list": left, "create": applied, "patch": applied, "delete": left}
    return {Right("operator", verb, resource, where): lines[verb] for verb in APPLIED.split()}


def path(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: stage.leads_to(name))


NO_PATH = Line(stops="an Agent Server cannot be reached from outside", shown=path, reported_as="ObjectRejected")

OPERATOR: dict[Right, Line] = {
    **leases("operator", partial(makes, resource="deployments"), "ActRefused"),
    Right("operator", "get", "lgps"): Line(
        stops="an LGP gets no objects", shown=partial(makes, resource="deployments"), reported_as="ActRefused"
    ),
    Right("operator", "patch", "lgps/status"): Line(
        stops="an LGP gets no status, so no revision is ever deployed", shown=status, reported_as="ActRefused"
    ),
    Right("operator", "update", "lgps/finalizers"): Line(
        stops="no object can name its LGP as owner, so no object is made",
        shown=partial(makes, resource="deployments"),
        reported_as="ObjectRejected",
    ),
    **made("deployments", "Agent Server"),
    Right("operator", "get", "deployments"): Line(
        stops="an LGP gets no objects, because the operator cannot check whether there are objects to adopt",
        shown=partial(makes, resource="deployments"),
        reported_as="ActRefused",
    ),
    **made("statefulsets", "database", "-db", WITH_DATABASE),
    **made("services", "Service"),
    **made("secrets", "password", "-db", WITH_DATABASE),
    Right("operator", "patch", "secrets"): Line(
        stops="an existing password is not labelled as the LGP's, so it stays after the LGP is deleted",
        shown=password,
        reported_as="ObjectRejected",
    ),
    **{
        Right("operator", verb, "persistentvolumeclaims"): Line(
            stops="the volume of a database stays after its LGP is deleted",
            shown=partial(leftover, resource="persistentvolumeclaims", spec=WITH_DATABASE),
            reported_as="ActRefused",
        )
        for verb in ("list", "delete")
    },
    **made("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **made("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **made("poddisruptionbudgets", "PodDisruptionBudget", spec=DOUBLED),
    **made("serviceaccounts", "ServiceAccount", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **made("secretproviderclasses", "SecretProviderClass", spec=OWN_CLASS, layout="gateway and KEDA"),
    **{Right("operator", verb, "ingresses"): NO_PATH for verb in ("list", "patch")},
    **{
        Right("operator", verb, "ingresses", FRONT): replace(NO_PATH, layout="ingress elsewhere")
        for verb in ("list", "patch")
    },
    **made("services", "Service in the namespace of the Ingress", layout="ingress elsewhere", where=FRONT),
    **made("httproutes", "route", layout="gateway and KEDA"),
    **made("virtualservices", "route", layout="istio"),
}


@pytest.mark.parametrize("right", OPERATOR, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, OPERATOR[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("operator") == OPERATOR.keys()


def test_a_kind_that_the_owner_check_does_not_know_yet_is_a_passing_error(strict: ApiServer, tmp_path: Path) -> None:
    """Administrators may set the finalizers of every kind, so the plugin skips them; this account may not."""
    namespace = make_namespace(strict)
    services = {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create", "patch"]}
    with strict.http() as http:
        cluster = KubernetesCluster.load(
            service_accounts.account(strict.kubeconfig, http, namespace, [services], tmp_path)
        )
    owner = {"apiVersion": "example.com/v1", "kind": "New", "name": "x", "uid": str(uuid.uuid4())}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "x",
            "namespace": namespace,
            "ownerReferences": [{**owner, "blockOwnerDeletion": True, "controller": True}],
        },
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
    }

    with pytest.raises(ClusterUnavailable, match="will know that kind in less than a minute"):
        cluster.apply(service, manager="somebody")
    cluster.close()
