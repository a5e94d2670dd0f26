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
    """An LGP whose object of this kind is to be made. Its name ends in `suffix`; elsewhere in anything."""
    work, name = posted(stage, spec)
    return work.until(
        lambda: bool(stage.of(name, resource, where) if where else stage.get(resource, f"{name}{suffix}"))
    )


def status(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: bool((stage.get("lgps", name) or {}).get("status")))


def password(stage: Stage) -> Piece:
    """A password that was there before, so that its Secret does not go with the LGP yet."""
    work, name = posted(stage, WITH_DATABASE)
    metadata = {"name": f"{name}-db", "namespace": stage.namespace}
    values = {"POSTGRES_PASSWORD": "kept"}
    stage.make({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    return work.until(lambda: bool(stage.of(name, "secrets")))


def leftover(stage: Stage, resource: str, spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An LGP that is gone, and one object of it that is not: it lost its owner, or never had one."""
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
    """The least that an object may say."""
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
    """An apply reads, then patches, and creates what is not there; leftovers are listed and deleted."""
    applied = Line(
        stops=f"an LGP gets no {what}",
        shown=partial(makes, resource=resource, suffix=suffix, spec=spec, where=where),
        told="ObjectRejected",
        layout=layout,
    )
    left = Line(
        stops=f"the {what} of an LGP outlives it",
        shown=partial(leftover, resource=resource, spec=spec, where=where),
        told="ActRefused",
        layout=layout,
    )
    lines = {"get": applied, "list": left, "create": applied, "patch": applied, "delete": left}
    return {Right("operator", verb, resource, where): lines[verb] for verb in APPLIED.split()}


def path(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: stage.leads_to(name))


NO_PATH = Line(stops="an Agent Server cannot be reached from outside", shown=path, told="ObjectRejected")

OPERATOR: dict[Right, Line] = {
    **leases("operator", partial(makes, resource="deployments"), "ActRefused"),
    Right("operator", "get", "lgps"): Line(
        stops="nothing is made of an LGP", shown=partial(makes, resource="deployments"), told="ActRefused"
    ),
    Right("operator", "patch", "lgps/status"): Line(
        stops="nobody learns how an LGP is, and no revision is ever deployed", shown=status, told="ActRefused"
    ),
    Right("operator", "update", "lgps/finalizers"): Line(
        stops="no object can have its LGP as owner, so none is made",
        shown=partial(makes, resource="deployments"),
        told="ObjectRejected",
    ),
    **made("deployments", "Agent Server"),
    Right("operator", "get", "deployments"): Line(
        stops="nothing is made of an LGP, for something may be there to be taken over",
        shown=partial(makes, resource="deployments"),
        told="ActRefused",
    ),
    **made("statefulsets", "database", "-db", WITH_DATABASE),
    **made("services", "Service"),
    **made("secrets", "password", "-db", WITH_DATABASE),
    Right("operator", "patch", "secrets"): Line(
        stops="a password that was there before is not told to be the LGP's, and outlives it",
        shown=password,
        told="ObjectRejected",
    ),
    **{
        Right("operator", verb, "persistentvolumeclaims"): Line(
            stops="the volume of a database outlives its LGP",
            shown=partial(leftover, resource="persistentvolumeclaims", spec=WITH_DATABASE),
            told="ActRefused",
        )
        for verb in ("list", "delete")
    },
    **made("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **made("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **made("poddisruptionbudgets", "budget of evictions", spec=DOUBLED),
    **made("serviceaccounts", "account of its own", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **made("secretproviderclasses", "class of secrets", spec=OWN_CLASS, layout="gateway and KEDA"),
    **{Right("operator", verb, "ingresses"): NO_PATH for verb in ("list", "patch")},
    **{
        Right("operator", verb, "ingresses", FRONT): replace(NO_PATH, layout="ingress elsewhere")
        for verb in ("list", "patch")
    },
    **made("services", "Service beside the Ingress", layout="ingress elsewhere", where=FRONT),
    **made("httproutes", "route", layout="gateway and KEDA"),
    **made("virtualservices", "route", layout="istio"),
}


@pytest.mark.parametrize("right", OPERATOR, ids=name_of)
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    assert_needed(right, OPERATOR[right], stages)


def test_every_right_of_every_layout_is_in_the_table() -> None:
    assert rights_of("operator") == OPERATOR.keys()


def test_a_kind_that_the_api_server_does_not_know_as_owner_yet_is_waited_for(strict: ApiServer, tmp_path: Path) -> None:
    """An account that may set the finalizers of every kind, as administrators may, is not asked for the kind."""
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
