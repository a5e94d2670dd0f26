"""When pods are kept or replaced, which database is an LGP's, and which fields become ours. Without a cluster."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from engine.kubernetes import managed_fields
from engine.operator.adoption import choose
from engine.operator.adoption.choose import FoundObjects
from engine.operator.adoption.database import AmbiguousDatabase, choose_database, describe_database
from engine.operator.adoption.differences import planned_manifests
from engine.operator.adoption.field_managers import owning_all_fields
from engine.operator.config import OperatorConfig, SharedIngress, Templates
from engine.operator.events import Adopted
from engine.operator.lgp import Lgp, parse_lgp, redact_spec
from engine.operator.plan import build_plan
from engine.ports import Manifest
from tests.adoption.objects import HOST, OPERATOR_MANAGER, PASSWORD, Upstream
from tests.support.operator import digest_of

CONFIG = OperatorConfig(ingress=SharedIngress(hostname=HOST))
UPSTREAM = Upstream(namespace="agents")
UID = "11111111-1111-1111-1111-111111111111"


def lgp(**spec: Any) -> Lgp:
    return parse_lgp("agents", UPSTREAM.name, UID, UPSTREAM.lgp(**spec)["spec"])


def redacted(**spec: Any) -> Lgp:
    return parse_lgp("agents", UPSTREAM.name, UID, redact_spec(UPSTREAM.lgp(**spec)["spec"], digest_of))


def live(manifest: Manifest, manager: str = OPERATOR_MANAGER, operation: str = "Update") -> Manifest:
    """Return an object as an API server stores it after a write of `manager`."""
    fields: dict[str, Any] = {"f:spec": {"f:template": {"f:spec": {}}, "f:selector": {}, "f:replicas": {}}}
    entry = {"manager": manager, "operation": operation, "fieldsType": "FieldsV1", "fieldsV1": fields}
    metadata = {**manifest["metadata"], "uid": f"uid-{manifest['metadata']['name']}", "managedFields": [entry]}
    return {**deepcopy(manifest), "metadata": metadata}


def key(manifest: Manifest) -> str:
    return f"{manifest['kind']} agents/{manifest['metadata']['name']}"


def server(change: Any = None) -> Manifest:
    manifest = live(UPSTREAM.server(UID))
    if change is not None:
        change(manifest["spec"]["template"], manifest["spec"]["template"]["spec"]["containers"][0])
    return manifest


def kept(asked: Lgp, of_log: Lgp, *there: Manifest, **more: Any) -> Adopted:
    database = describe_database(live(UPSTREAM.postgres(UID)), asked, CONFIG)
    found = FoundObjects(database=database, objects={key(one): one for one in there}, **more)
    planned = planned_manifests(choose.with_adopted(asked, Adopted(database=database)), CONFIG)
    adopted = choose.adopt(asked, of_log, CONFIG, found, planned)
    assert adopted is not None
    return adopted


# --- pods


def test_pods_that_run_what_the_lgp_asks_for_are_kept_whatever_else_they_have() -> None:
    adopted = kept(lgp(), redacted(), server(), live(UPSTREAM.redis()))

    assert not any(one.differences for one in adopted.objects.values())
    plan = build_plan(
        parse_lgp("agents", UPSTREAM.name, UID, redacted().spec.model_dump(by_alias=True), adopted), CONFIG
    )
    assert plan.kept_pods == {key(server()), key(UPSTREAM.redis())}
    for held in plan.kept_pods:
        manifest = plan.objects[held].manifest
        assert manifest is not None
        assert {"template", "selector"}.isdisjoint(manifest["spec"])


def quantity(template: Manifest, main: Manifest) -> None:
    main["resources"] = {"requests": {"cpu": "0.5", "memory": "1024Mi"}, "limits": {"cpu": "1000m", "memory": "2Gi"}}


def more_of_everything(template: Manifest, main: Manifest) -> None:
    template["metadata"]["annotations"]["sidecar.example/inject"] = "true"
    template["spec"]["containers"].append({"name": "proxy", "image": "proxy"})
    template["spec"]["tolerations"] = [{"key": "gpu", "operator": "Exists"}]
    main["env"] += [{"name": "EMPTY"}, {"name": "HOST_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]


@pytest.mark.parametrize("change", [quantity, more_of_everything])
def test_another_spelling_or_an_extra_field_is_no_difference(change: Any) -> None:
    assert kept(lgp(), redacted(), server(change)).objects[key(server())].differences == ()


VOLUME = {"name": "models", "persistentVolumeClaim": {"claimName": "models"}}
SIDECAR = {"name": "proxy", "image": "proxy:2", "args": ["--secret-in-an-argument"]}
ASKED: dict[str, tuple[dict[str, Any], str]] = {
    "an image": ({"serverSpec": {"image": "other"}}, "containers[api-server].image"),
    "a variable": (
        {"serverSpec": {"env": [{"name": "TOKEN", "value": "hunter2"}]}},
        "containers[api-server].env[TOKEN]",
    ),
    "a reference": (
        {"serverSpec": {"env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}},
        "containers[api-server].env[T]",
    ),
    "resources": (
        {"serverSpec": {"resources": {"requests": {"cpu": "2"}}}},
        "containers[api-server].resources.requests.cpu",
    ),
    "a volume": ({"serverSpec": {"volumes": [VOLUME]}}, "volumes[models]"),
    "a mount": (
        {"serverSpec": {"volumeMounts": [{"name": "models", "mountPath": "/models"}]}},
        "containers[api-server].volumeMounts[/models]",
    ),
    "a sidecar": ({"serverSpec": {"sidecars": [SIDECAR]}}, "containers[proxy]"),
    "an init container": ({"serverSpec": {"initContainers": [SIDECAR]}}, "initContainers[proxy]"),
    "an account": ({"serverSpec": {"serviceAccountName": "bot"}}, "serviceAccountName"),
    "a pull secret": ({"serverSpec": {"imagePullSecrets": [{"name": "pull"}]}}, "imagePullSecrets[pull]"),
    "a label": ({"labels": {"cost": "9"}}, "labels.cost"),
    "an annotation": ({"serverSpec": {"annotations": {"note": "x"}}}, "annotations.note"),
    "a node": ({"nodeSelector": {"pool": "gpu"}}, "nodeSelector.pool"),
    "a toleration": ({"tolerations": [{"key": "gpu", "operator": "Exists"}]}, "tolerations[0]"),
    "an affinity": ({"affinity": {"nodeAffinity": {"x": 1}}}, "affinity.nodeAffinity.x"),
}


@pytest.mark.parametrize("what", ASKED)
def test_pods_without_a_field_that_the_lgp_asks_for_are_replaced_and_the_field_is_named(what: str) -> None:
    spec, field = ASKED[what]

    adopted = kept(lgp(**spec), redacted(**spec), server())

    assert adopted.objects[key(server())].differences == (field,)
    assert adopted.objects[key(server())].template_digest == ""
    assert "hunter2" not in adopted.model_dump_json()
    assert "secret-in-an-argument" not in adopted.model_dump_json()


def test_a_variable_that_operators_set_over_the_lgps_is_no_difference() -> None:
    env = [*UPSTREAM.environment(), {"name": "N_JOBS_PER_WORKER", "value": "4"}, {"name": "REDIS_URI", "value": "x"}]

    adopted = kept(lgp(serverSpec={"env": env}), redacted(serverSpec={"env": env}), server())

    assert adopted.objects[key(server())].differences == ()


def test_pods_under_another_prefix_than_their_route_are_replaced() -> None:
    def elsewhere(template: Manifest, main: Manifest) -> None:
        next(entry for entry in main["env"] if entry["name"] == "MOUNT_PREFIX")["value"] = "/elsewhere"

    adopted = kept(lgp(), redacted(), server(elsewhere))

    assert adopted.objects[key(server())].differences == ("containers[api-server].env[MOUNT_PREFIX]",)


def test_another_pod_template_of_the_configuration_replaces_the_pods() -> None:
    adopted = kept(lgp(), redacted(), server())
    beside = redacted().model_copy(update={"adopted": adopted})
    changed = CONFIG.templates.deployment.replace("  selector:", "  revisionHistoryLimit: 2\n  selector:")
    more = changed.replace("enableServiceLinks: false", "enableServiceLinks: false\n      hostNetwork: false")

    assert key(server()) in build_plan(beside, CONFIG).kept_pods
    for_the_deployment = CONFIG.model_copy(update={"templates": Templates(deployment=changed)})
    assert key(server()) in build_plan(beside, for_the_deployment).kept_pods, "its pods are asked to be the same"
    for_the_pods = CONFIG.model_copy(update={"templates": Templates(deployment=more)})
    assert key(server()) not in build_plan(beside, for_the_pods).kept_pods


def test_objects_that_our_operator_applied_are_not_adopted() -> None:
    wanted = {str(one.key): one.manifest for one in build_plan(lgp(), CONFIG).objects.values() if one.manifest}
    ours = {
        name: live(manifest, "agentplane-operator", "Apply")
        for name, manifest in wanted.items()
        if manifest["kind"] in ("Deployment", "Service")
    }

    planned = planned_manifests(lgp(), CONFIG)
    assert choose.adopt(lgp(), redacted(), CONFIG, FoundObjects(objects=ours), planned) is None


# --- the database


def postgres(name: str = UPSTREAM.database, owner: str = "", **labels: str) -> Manifest:
    manifest = UPSTREAM.postgres(owner)
    manifest["metadata"] |= {"name": name, "labels": labels}
    manifest["spec"]["serviceName"] = name
    return manifest


def pods_at(host: str) -> Manifest:
    manifest = UPSTREAM.server(UID)
    for entry in manifest["spec"]["template"]["spec"]["containers"][0]["env"]:
        if entry["name"] == "POSTGRES_URI":
            entry["value"] = f"postgres://u:{PASSWORD}@{host}.agents.svc.cluster.local:5432/d"
    return live(manifest)


@pytest.mark.parametrize(
    ("there", "pods", "found"),
    [
        pytest.param([], None, None, id="nothing"),
        pytest.param([postgres()], None, UPSTREAM.database, id="upstream's name, no pods yet"),
        pytest.param([postgres("a"), postgres("b")], pods_at("b"), "b", id="where the pods connect to"),
        pytest.param([postgres("a", UID), postgres("b")], pods_at("gone"), "a", id="the LGP's own"),
        pytest.param([postgres(), postgres("b")], pods_at("gone"), UPSTREAM.database, id="upstream's name"),
        pytest.param(
            [postgres("a", UID), postgres("b", **{"agentplane.dev/lgp": UPSTREAM.name})],
            pods_at("a"),
            "b",
            id="the label that a person set",
        ),
    ],
)
def test_which_database_is_an_lgps(there: list[Manifest], pods: Manifest | None, found: str | None) -> None:
    chosen = choose_database(lgp(), CONFIG, there, pods)

    assert not isinstance(chosen, AmbiguousDatabase)
    assert (chosen and chosen["metadata"]["name"]) == found


@pytest.mark.parametrize(
    ("there", "told"),
    [
        pytest.param([postgres("a")], "connect to gone, which is no StatefulSet", id="none that fits"),
        pytest.param([postgres("a", UID), postgres("b", UID)], "several StatefulSets may be", id="several"),
    ],
)
def test_a_person_is_asked_about_an_ambiguous_database(there: list[Manifest], told: str) -> None:
    chosen = choose_database(lgp(), CONFIG, there, pods_at("gone"))

    assert isinstance(chosen, AmbiguousDatabase)
    assert told in chosen.message
    assert "kubectl -n agents label statefulset NAME" in chosen.message
    assert PASSWORD not in chosen.message


def test_a_database_keeps_what_leads_to_its_data_and_its_image() -> None:
    there = live(UPSTREAM.postgres(UID))
    there["spec"]["template"]["spec"]["containers"][0]["image"] = "pgvector/pgvector:pg16"

    database = describe_database(there, lgp(), CONFIG)
    made = {
        str(one.key): one.manifest for one in build_plan(_beside(Adopted(database=database)), CONFIG).objects.values()
    }

    manifest = made[f"StatefulSet agents/{UPSTREAM.database}"]
    assert manifest is not None
    assert manifest["spec"]["template"]["spec"]["containers"][0]["image"] == "pgvector/pgvector:pg16"
    assert f"Service agents/{UPSTREAM.database}" in made
    asked = CONFIG.templates.db.replace("pgvector:pg15", "pgvector:pg17")
    changed = build_plan(
        _beside(Adopted(database=database)), CONFIG.model_copy(update={"templates": Templates(db=asked)})
    ).objects
    other = changed[f"StatefulSet agents/{UPSTREAM.database}"].manifest
    assert other is not None
    assert other["spec"]["template"]["spec"]["containers"][0]["image"] == "pgvector/pgvector:pg17"


def _beside(adopted: Adopted) -> Lgp:
    return lgp().model_copy(update={"adopted": adopted})


# --- field managers


def entry(manager: str, spec: dict[str, Any], operation: str = "Update", **more: Any) -> dict[str, Any]:
    return {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": spec, **more}}


def owned(*entries: dict[str, Any], kind: str = "Deployment", **spec: Any) -> Manifest:
    metadata = {"name": "x", "namespace": "agents", "managedFields": list(entries)}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def test_fields_of_other_managers_become_ours_except_immutable_ones_and_replicas() -> None:
    theirs = entry("manager", {"f:template": {"f:a": {}}, "f:selector": {}, "f:replicas": {}})
    ours = entry("agentplane-operator", {"f:strategy": {}}, "Apply")
    status = {"manager": "kube-controller-manager", "operation": "Update", "fieldsV1": {"f:status": {}}}

    fields = owning_all_fields(owned(theirs, ours, status))

    assert fields is not None
    assert fields[0] == ours | {
        "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:strategy": {}, "f:template": {"f:a": {}}}},
    }
    assert fields[1]["fieldsV1"] == {"f:spec": {"f:selector": {}, "f:replicas": {}}}
    assert fields[2] == status
    assert owning_all_fields(owned(*fields)) is None, "a second change is not needed"


def test_only_unplanned_fields_of_other_managers_are_removed() -> None:
    there = {"labels": {"team": "a"}, "serverSpec": {"image": "x", "replicas": 1}, "database": {"legacyName": True}}
    theirs = entry(
        "python",
        {
            "f:labels": {"f:team": {}},
            "f:serverSpec": {"f:image": {}, "f:replicas": {}},
            "f:database": {"f:legacyName": {}},
            "f:gone": {},
        },
    )

    left = managed_fields.leftovers(
        owned(theirs, kind="LGP", **there),
        "agentplane-listener",
        {"serverSpec": {"image": "y"}, "database": {"legacyName": True}},
    )

    assert left == {"labels": None, "serverSpec": {"replicas": None}}
