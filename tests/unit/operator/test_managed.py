"""The ServiceAccount and the SecretProviderClass that an LGP asks for, from the manifests to their drift."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InvalidResource, ObjectRefused
from engine.operator import manifests
from engine.operator.config import OperatorConfig, SharedIngress, Templates
from engine.operator.lgp import Lgp, parse_lgp, redact_spec
from engine.ports import Manifest, ObjectKey, lgp_key
from tests.support.operator import NAME, NAMESPACE, STREAM, OperatorWorld, digest_of, lgp_manifest, shared_ingress

ALLOWED = OperatorConfig(
    ingress=SharedIngress(hostname="agents.example.com"),
    managed_service_accounts=True,
    managed_secret_provider_classes=True,
)
CLIENT = {"azure.workload.identity/client-id": "c-1"}
PARAMETERS = {"keyvaultName": "vault", "usePodIdentity": "false", "objects": "array:\n- |\n  objectName: key\n"}
PROVIDER = {"name": "support-secrets", "provider": "azure", "parameters": PARAMETERS}
ASKED = {"serviceAccount": {"annotations": CLIENT}, "secretProviderClass": PROVIDER}
ACCOUNT = ObjectKey(api_version="v1", kind="ServiceAccount", namespace=NAMESPACE, name=f"{NAME}-sa")
CLASS = ObjectKey(
    api_version="secrets-store.csi.x-k8s.io/v1",
    kind="SecretProviderClass",
    namespace=NAMESPACE,
    name="support-secrets",
)


def lgp(managed: Any = ASKED, name: str = NAME, **server: Any) -> Lgp:
    manifest = lgp_manifest(name=name, managedResources=managed, serverSpec=server)
    return parse_lgp(NAMESPACE, name, "uid-1", manifest["spec"])


def asked(
    managed: Any = ASKED, config: OperatorConfig = ALLOWED, world: OperatorWorld | None = None, **spec: Any
) -> OperatorWorld:
    world = world or OperatorWorld(config=config)
    world.cluster.put(shared_ingress())
    world.cluster.put(lgp_manifest(**({"managedResources": managed} if managed else {}), **spec))
    world.run()
    return world


def accounts(found: list[Manifest]) -> set[Any]:
    pods = [one["spec"]["template"]["spec"] for one in found if "template" in one.get("spec", {})]
    assert len(pods) == 4  # API server, queue workers, Redis, Postgres
    return {pod.get("serviceAccountName") for pod in pods}


# --- manifests


def test_all_pods_use_the_account_that_was_made_before_them() -> None:
    found = manifests.objects(lgp(), ALLOWED)

    assert [one["kind"] for one in found[:2]] == ["ServiceAccount", "SecretProviderClass"]
    account, provider = found[:2]
    assert account["metadata"]["name"] == f"{NAME}-sa"
    assert account["metadata"]["annotations"] == CLIENT
    assert "automountServiceAccountToken" not in account
    assert provider["spec"] == {"provider": "azure", "parameters": PARAMETERS}
    assert {one["metadata"]["ownerReferences"][0]["uid"] for one in (account, provider)} == {"uid-1"}
    assert accounts(found) == {f"{NAME}-sa"}


@pytest.mark.parametrize("mounted", [True, False])
def test_the_account_says_whether_its_token_is_mounted(mounted: bool) -> None:
    (account, *_) = manifests.objects(lgp({"serviceAccount": {"automountServiceAccountToken": mounted}}), ALLOWED)

    assert account["automountServiceAccountToken"] is mounted


def test_an_empty_account_is_an_account() -> None:
    found = manifests.objects(lgp({"serviceAccount": {}}), ALLOWED)

    assert found[0]["kind"] == "ServiceAccount"
    assert accounts(found) == {f"{NAME}-sa"}


def test_the_managed_account_wins_over_the_lgp_and_over_the_template() -> None:
    template = Templates().deployment.replace("enableServiceLinks", "serviceAccount: old\n      enableServiceLinks")
    config = ALLOWED.model_copy(update={"templates": Templates(deployment=template)})
    found = manifests.objects(lgp(serviceAccountName="runner"), config)

    assert accounts(found) == {f"{NAME}-sa"}
    assert not any("serviceAccount" in one["spec"]["template"]["spec"] for one in found if one["kind"] == "Deployment")


def test_without_one_the_lgp_and_the_template_name_the_account() -> None:
    found = manifests.objects(lgp({"secretProviderClass": PROVIDER}, serviceAccountName="runner"), ALLOWED)

    assert accounts(found) == {"runner", None}


def test_a_name_that_fits_nowhere_else_is_kept_for_the_account() -> None:
    long = "a" * 100
    assert manifests.service_account_name(lgp(name=long)) == f"{long}-sa"
    assert len(manifests.service_account_name(lgp(name="a" * 251))) < 64


def test_a_provider_of_another_cloud_is_refused_by_its_field() -> None:
    with pytest.raises(InvalidResource, match=r"spec\.managedResources\.secretProviderClass\.provider"):
        lgp({"secretProviderClass": {**PROVIDER, "provider": "aws"}})


def test_the_log_has_no_parameter_and_the_same_objects() -> None:
    spec = lgp_manifest(managedResources=ASKED)["spec"]
    redacted = redact_spec(spec, digest_of)

    kept = redacted["managedResources"]["secretProviderClass"]
    assert kept["parameters"].keys() == PARAMETERS.keys()
    assert all(value.startswith("redacted:") for value in kept["parameters"].values())
    whole, told = (parse_lgp(NAMESPACE, NAME, "u", one) for one in (spec, redacted))
    keys = [[ObjectKey.of(one) for one in manifests.objects(it, ALLOWED)] for it in (whole, told)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("odd", ["x", [1], {"serviceAccount": 1}, {"secretProviderClass": {"parameters": "secret"}}])
def test_odd_shapes_are_hidden_too(odd: Any) -> None:
    assert "secret" not in str(redact_spec({"managedResources": odd}, digest_of)).replace("secretProviderClass", "")


# --- the switch


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("serviceAccount", ("operator.managedResources.serviceAccounts", "AGENTPLANE_MANAGED_SERVICE_ACCOUNTS")),
        (
            "secretProviderClass",
            ("operator.managedResources.secretProviderClasses", "AGENTPLANE_MANAGED_SECRET_PROVIDER_CLASSES"),
        ),
    ],
)
def test_a_disabled_kind_is_refused_with_the_value_to_set(field: str, values: tuple[str, str]) -> None:
    both = {"serviceAccount": "managed_service_accounts", "secretProviderClass": "managed_secret_provider_classes"}
    world = asked(config=ALLOWED.model_copy(update={both[field]: False}))

    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "ManagedResourcesOff")
    assert f"has spec.managedResources.{field}," in degraded["message"]
    assert f"{values[0]}=true ({values[1]})" in degraded["message"]
    assert not [key for key in world.cluster.objects if key.kind in ("Deployment", "ServiceAccount")]


def test_running_pods_stay_while_the_lgp_is_refused() -> None:
    world = asked(managed=None, config=ALLOWED.model_copy(update={"managed_service_accounts": False}))
    before = dict(world.cluster.objects)
    world.cluster.put(lgp_manifest("r2", managedResources=ASKED))
    world.run()

    assert world.condition("Degraded")["reason"] == "ManagedResourcesOff"
    assert {key: one for key, one in world.cluster.objects.items() if key.kind != "LGP"} == {
        key: one for key, one in before.items() if key.kind != "LGP"
    }


# --- in the cluster


def test_objects_come_and_go_with_their_field() -> None:
    world = asked()

    assert {ACCOUNT, CLASS} <= world.cluster.objects.keys()
    assert world.condition("Degraded")["status"] == "False"
    order = [call for verb, call in world.cluster.calls if verb == "apply"]
    assert order.index(str(ACCOUNT)) < order.index(str(world.find("Deployment")))

    world.cluster.put(lgp_manifest("r2"))
    world.run()

    assert not {ACCOUNT, CLASS} & world.cluster.objects.keys()
    assert world.condition("Degraded")["status"] == "False"


def test_a_namesake_created_in_the_meantime_is_not_pruned() -> None:
    world = asked()
    del world.cluster.objects[ACCOUNT]
    world.cluster.put(
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT.name, "namespace": NAMESPACE}}
    )
    world.cluster.put(lgp_manifest("r2"))
    world.advance()
    world.run()

    assert ACCOUNT in world.cluster.objects


@pytest.mark.parametrize("key", [ACCOUNT, CLASS], ids=lambda key: key.kind)
@pytest.mark.parametrize("change", ["deleted", "edited"])
def test_drift_is_repaired(key: ObjectKey, change: str) -> None:
    world = asked()
    uid = world.cluster.objects[key]["metadata"]["uid"]
    if change == "deleted":
        del world.cluster.objects[key]
    else:
        world.cluster.edit(key)
    world.run()

    drifts = [r.data for r in world.events.read(STREAM) if r.type == "DriftDetected"]
    assert [(d["key"]["kind"], d["change"]) for d in drifts] == [(key.kind, change)]
    live = world.cluster.objects[key]
    assert (live["metadata"]["uid"] == uid) is (change == "edited")
    assert live["metadata"]["managedFields"][0]["manager"] == "agentplane-operator"


@pytest.mark.parametrize("key", [ACCOUNT, CLASS], ids=lambda key: key.kind)
def test_a_namesake_stays_and_is_reported(key: ObjectKey) -> None:
    world = OperatorWorld(config=ALLOWED)
    metadata = {"name": key.name, "namespace": NAMESPACE, "annotations": {"mine": "yes"}}
    theirs = world.cluster.put({"apiVersion": key.api_version, "kind": key.kind, "metadata": metadata})
    asked(world=world)

    assert world.cluster.objects[key] == theirs
    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "ObjectRejected")
    assert f"{key} exists and does not belong to LGP {NAMESPACE}/{NAME}" in degraded["message"]

    del world.cluster.objects[key]
    world.run(120)
    assert world.condition("Degraded")["status"] == "False"


def test_an_object_that_another_operator_made_for_this_lgp_is_adopted() -> None:
    world = OperatorWorld(config=ALLOWED)
    world.cluster.put(shared_ingress())
    live = world.cluster.put(lgp_manifest(managedResources=ASKED))
    owner = {"apiVersion": live["apiVersion"], "kind": "LGP", "name": NAME, "uid": live["metadata"]["uid"]}
    metadata = {"name": ACCOUNT.name, "namespace": NAMESPACE, "ownerReferences": [owner]}
    uid = world.cluster.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata})["metadata"]["uid"]
    world.run()

    assert world.cluster.objects[ACCOUNT]["metadata"]["annotations"] == CLIENT
    assert world.cluster.objects[ACCOUNT]["metadata"]["uid"] == uid


def test_an_lgp_that_is_created_again_owns_the_objects_of_the_first() -> None:
    world = asked()
    del world.cluster.objects[lgp_key(NAMESPACE, NAME)]
    world.watch()
    world.cluster.put(lgp_manifest(managedResources=ASKED))
    world.run()

    assert world.condition("Degraded")["status"] == "False"
    owners = world.cluster.objects[ACCOUNT]["metadata"]["ownerReferences"]
    assert [one["uid"] for one in owners] == [world.cluster.objects[lgp_key(NAMESPACE, NAME)]["metadata"]["uid"]]


def test_without_the_csi_driver_the_condition_says_what_to_install() -> None:
    world = OperatorWorld(config=ALLOWED)
    world.cluster.unserved.add(CLASS.kind)
    asked(world=world)

    degraded = world.condition("Degraded")
    assert (degraded["status"], degraded["reason"]) == ("True", "KindNotServed")
    assert (
        "does not serve SecretProviderClass secrets-store.csi.x-k8s.io/v1: install the Secrets Store CSI driver"
        in (degraded["message"])
    )
    assert world.find("Deployment")

    world.cluster.unserved.clear()
    world.run(60)
    assert CLASS in world.cluster.objects
    assert world.condition("Degraded")["status"] == "False"


def test_a_field_that_is_overridden_is_named() -> None:
    world = asked(serverSpec={"serviceAccountName": "runner"})

    ignored = world.condition("IgnoredFields")
    assert (ignored["status"], ignored["reason"]) == ("True", "OverriddenFields")
    assert (
        f"spec.serverSpec.serviceAccountName=runner, since spec.managedResources.serviceAccount gives {NAME}-sa"
        in (ignored["message"])
    )


def test_objects_of_a_disabled_kind_are_left_in_place_without_permission_to_delete() -> None:
    world = asked()
    off = OperatorWorld(config=OperatorConfig(ingress=ALLOWED.ingress), cluster=world.cluster, clock=world.clock)
    off.events = world.events
    off.loop._events = world.events
    world.cluster.forbids = lambda key: (
        ObjectRefused("forbidden", status=403) if key.kind in ("ServiceAccount", "SecretProviderClass") else None
    )
    world.cluster.put(lgp_manifest("r2"))
    off.run()

    (pruned,) = [r.data for r in off.events.read(STREAM) if r.type == "ObjectsPruned"]
    assert sorted(pruned["left_in_place"]) == sorted([str(ACCOUNT), str(CLASS)])
    assert off.condition("Degraded")["status"] == "False"
