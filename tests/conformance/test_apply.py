"""Server-side apply: field ownership, conflicts between managers, and removal of fields."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import PATCHES, Api, generation, refused, succeeded, version
from tests.conformance.objects import IMAGE, Object, config_map, container, deployment, service, widget


def managers(obj: Object) -> dict[tuple[str, str], Object]:
    """Return the entries of managedFields by (manager, operation)."""
    return {(entry["manager"], entry["operation"]): entry for entry in obj["metadata"]["managedFields"]}


def owned(obj: Object, manager: str, operation: str = "Apply") -> Object:
    """Return the fields of one manager; empty when it owns none."""
    fields: Object = managers(obj).get((manager, operation), {}).get("fieldsV1", {})
    return fields


def partial(resource: str, spec: Object) -> Object:
    """Return an apply configuration of a Deployment with its identity and the given part of the spec."""
    assert resource == "web"
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": resource}, "spec": spec}


def in_pod(spec: Object) -> Object:
    return partial("web", {"template": {"spec": spec}})


def containers(obj: Object) -> dict[str, Object]:
    return {item["name"]: item for item in obj["spec"]["template"]["spec"]["containers"]}


def test_apply_creates(api: Api) -> None:
    response = api.try_apply("configmaps", config_map("a", {"a": "1"}, labels={"x": "y"}))
    assert response.status_code == 201
    entry = managers(succeeded(response))["tester", "Apply"]
    assert entry["apiVersion"] == "v1"
    assert entry["fieldsType"] == "FieldsV1"
    assert entry["time"]
    assert entry["fieldsV1"]["f:data"]["f:a"] == {}
    assert entry["fieldsV1"]["f:metadata"]["f:labels"]["f:x"] == {}
    assert "f:name" not in entry["fieldsV1"]["f:metadata"]


def test_applying_the_same_again_writes_nothing(api: Api) -> None:
    first = api.apply("deployments", deployment("web", replicas=0))
    response = api.try_apply("deployments", deployment("web", replicas=0))
    assert response.status_code == 200
    assert managers(response.json())["tester", "Apply"] == managers(first)["tester", "Apply"]
    assert generation(response.json()) == 1


def test_applying_the_same_again_keeps_the_version(api: Api) -> None:
    first = api.apply("configmaps", config_map("a"))
    second = api.apply("configmaps", config_map("a"))
    assert second == first


def test_apply_changes_values(api: Api) -> None:
    first = api.apply("configmaps", config_map("a", {"a": "1"}))
    second = api.apply("configmaps", config_map("a", {"a": "2"}))
    assert second["data"] == {"a": "2"}
    assert int(version(second)) > int(version(first))


def test_fields_left_out_are_removed(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1", "b": "2"}))
    assert api.apply("configmaps", config_map("a", {"b": "2"}))["data"] == {"b": "2"}


def test_fields_of_nobody_else_only_are_removed(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"mine": "1"}), "one")
    api.apply("configmaps", config_map("a", {"theirs": "2"}), "two")
    assert api.apply("configmaps", config_map("a", {}), "one")["data"] == {"theirs": "2"}


def test_removed_fields_fall_back_to_their_default(api: Api) -> None:
    api.apply("deployments", deployment("web", replicas=0, revisionHistoryLimit=3))
    assert api.apply("deployments", deployment("web", replicas=0))["spec"]["revisionHistoryLimit"] == 10


def test_another_managers_value_is_a_conflict(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}), "one")
    status = refused(api.try_apply("configmaps", config_map("a", {"a": "2"}), "two"), 409, "Conflict")
    assert "conflict with" in status["message"]
    assert '"one"' in status["message"]
    (cause,) = status["details"]["causes"]
    assert cause["reason"] == "FieldManagerConflict"
    assert cause["field"] == ".data.a"
    assert '"one"' in cause["message"]
    assert api.get("configmaps", "a")["data"] == {"a": "1"}


def test_every_conflict_is_named(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1", "b": "1"}, labels={"x": "1"}), "one")
    second = config_map("a", {"a": "2", "b": "2"}, labels={"x": "2"})
    status = refused(api.try_apply("configmaps", second, "two"), 409, "Conflict")
    fields = {cause["field"] for cause in status["details"]["causes"]}
    assert fields == {".data.a", ".data.b", ".metadata.labels.x"}


def test_force_takes_the_field(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1", "b": "1"}), "one")
    forced = api.apply("configmaps", config_map("a", {"a": "2"}), "two", force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert owned(forced, "two")["f:data"] == {"f:a": {}}
    assert "f:a" not in owned(forced, "one")["f:data"]
    assert "f:b" in owned(forced, "one")["f:data"]


def test_the_same_value_is_shared(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}), "one")
    both = api.apply("configmaps", config_map("a", {"a": "1"}), "two")
    assert "f:a" in owned(both, "one")["f:data"]
    assert "f:a" in owned(both, "two")["f:data"]
    kept = api.apply("configmaps", config_map("a", {}), "one")
    assert kept["data"] == {"a": "1"}


def test_a_shared_field_cannot_be_changed_by_one(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}), "one")
    api.apply("configmaps", config_map("a", {"a": "1"}), "two")
    refused(api.try_apply("configmaps", config_map("a", {"a": "2"}), "one"), 409, "Conflict")


def test_a_manager_is_required(api: Api) -> None:
    response = api.send("PATCH", "configmaps", "a", config_map("a"), type=PATCHES["apply"])
    assert response.status_code in (400, 422)
    assert "fieldManager" in response.json()["message"]


@pytest.mark.parametrize("manager", ["m" * 129, "bell\a"], ids=["too long", "unprintable"])
def test_managers_have_plain_short_names(api: Api, manager: str) -> None:
    response = api.try_apply("configmaps", config_map("a"), manager)
    assert response.status_code in (400, 422)
    assert "fieldManager" in response.json()["message"]


def test_force_is_for_apply_only(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    response = api.send("PATCH", "configmaps", "a", {"data": {}}, type=PATCHES["merge"], force=True)
    assert response.status_code in (400, 422)


def test_managed_fields_may_not_be_applied(api: Api) -> None:
    body = config_map("a", managedFields=[{"manager": "x", "operation": "Apply"}])
    status = refused(api.try_apply("configmaps", body), 400, "BadRequest")
    assert "managedFields" in status["message"]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"kind": "ConfigMap", "metadata": {"name": "a"}}', ""),
        (b'{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}', ""),
        (b'{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "b"}}', "name"),
        (b"- not an object", ""),
    ],
    ids=["no apiVersion", "another kind", "another name", "a list"],
)
def test_what_is_no_apply_configuration(api: Api, body: bytes, says: str) -> None:
    response = api.send("PATCH", "configmaps", "a", body, type=PATCHES["apply"], fieldManager="tester")
    assert response.status_code in (400, 404, 422, 500)
    assert says in response.json()["message"]
    assert api.find("configmaps", "a") is None


def test_yaml(api: Api) -> None:
    body = b"# a comment\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata: {a: 'yes'}\n"
    response = api.send("PATCH", "configmaps", "a", body, type=PATCHES["apply"], fieldManager="tester")
    assert succeeded(response)["data"] == {"a": "yes"}


def test_containers_of_two_managers_live_together(api: Api) -> None:
    api.apply("deployments", deployment("web", replicas=0), "one")
    sidecar = in_pod({"containers": [container("sidecar")]})
    both = api.apply("deployments", sidecar, "two")
    assert set(containers(both)) == {"main", "sidecar"}
    fields = owned(both, "two")["f:spec"]["f:template"]["f:spec"]["f:containers"]
    assert set(fields) == {'k:{"name":"sidecar"}'}
    assert fields['k:{"name":"sidecar"}'] == {".": {}, "f:name": {}, "f:image": {}}
    kept = api.apply("deployments", in_pod({}), "two")
    assert set(containers(kept)) == {"main"}


def test_one_container_may_have_fields_of_two_managers(api: Api) -> None:
    api.apply("deployments", deployment("web", replicas=0), "one")
    theirs = {"name": "main", "resources": {"limits": {"cpu": "1"}}}
    both = api.apply("deployments", in_pod({"containers": [theirs]}), "two")
    assert containers(both)["main"]["image"] == IMAGE
    assert containers(both)["main"]["resources"] == {"limits": {"cpu": "1"}}
    kept = api.apply("deployments", in_pod({"containers": [{"name": "main"}]}), "two")
    assert containers(kept)["main"]["resources"] == {}
    assert containers(kept)["main"]["image"] == IMAGE


def test_env_merges_by_name(api: Api) -> None:
    first = container(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    api.apply("deployments", deployment("web", replicas=0, containers=[first]), "one")
    second = {"name": "main", "env": [{"name": "C", "value": "3"}]}
    both = api.apply("deployments", in_pod({"containers": [second]}), "two")
    assert {item["name"] for item in containers(both)["main"]["env"]} == {"A", "B", "C"}
    less = container(env=[{"name": "B", "value": "2"}])
    kept = api.apply("deployments", deployment("web", replicas=0, containers=[less]), "one")
    assert {item["name"] for item in containers(kept)["main"]["env"]} == {"B", "C"}


def test_ports_merge_by_number_and_protocol(api: Api) -> None:
    first = container(ports=[{"containerPort": 80, "protocol": "TCP"}])
    api.apply("deployments", deployment("web", replicas=0, containers=[first]), "one")
    second = {"name": "main", "ports": [{"containerPort": 80, "protocol": "UDP"}]}
    both = api.apply("deployments", in_pod({"containers": [second]}), "two")
    ports = {(port["containerPort"], port["protocol"]) for port in containers(both)["main"]["ports"]}
    assert ports == {(80, "TCP"), (80, "UDP")}


def test_service_ports_merge(api: Api) -> None:
    api.apply("services", service("web", ports=[{"name": "http", "port": 80, "protocol": "TCP"}]), "one")
    metrics = [{"name": "metrics", "port": 9090, "protocol": "TCP"}]
    second = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"ports": metrics}}
    both = api.apply("services", second, "two")
    assert {port["port"] for port in both["spec"]["ports"]} == {80, 9090}


def test_plain_lists_belong_to_one_manager(api: Api) -> None:
    first = container(args=["a", "b"])
    api.apply("deployments", deployment("web", replicas=0, containers=[first]), "one")
    second = in_pod({"containers": [{"name": "main", "args": ["b"]}]})
    status = refused(api.try_apply("deployments", second, "two"), 409, "Conflict")
    (cause,) = status["details"]["causes"]
    assert cause["field"].endswith('containers[name="main"].args')
    forced = api.apply("deployments", second, "two", force=True)
    assert containers(forced)["main"]["args"] == ["b"]


def test_finalizers_are_a_set(api: Api) -> None:
    api.apply("configmaps", config_map("a", finalizers=["example.dev/one"]), "one")
    both = api.apply("configmaps", config_map("a", finalizers=["example.dev/two"]), "two")
    assert set(both["metadata"]["finalizers"]) == {"example.dev/one", "example.dev/two"}
    assert 'v:"example.dev/two"' in owned(both, "two")["f:metadata"]["f:finalizers"]
    kept = api.apply("configmaps", config_map("a"), "one")
    assert kept["metadata"]["finalizers"] == ["example.dev/two"]
    api.apply("configmaps", config_map("a"), "two")


def test_owner_references_merge_by_uid(api: Api) -> None:
    owners = [api.create("configmaps", config_map(name))["metadata"] for name in ("x", "y")]
    for owner in owners:
        reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": owner["name"], "uid": owner["uid"]}
        both = api.apply("configmaps", config_map("a", ownerReferences=[reference]), owner["name"])
    assert {item["name"] for item in both["metadata"]["ownerReferences"]} == {"x", "y"}


def test_order_of_applied_items_is_kept(api: Api) -> None:
    env = [{"name": name, "value": "1"} for name in ("C", "A", "B")]
    made = api.apply("deployments", deployment("web", replicas=0, containers=[container(env=env)]))
    assert [item["name"] for item in containers(made)["main"]["env"]] == ["C", "A", "B"]


def test_duplicate_keys_are_refused(api: Api) -> None:
    env = [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]
    response = api.try_apply("deployments", deployment("web", replicas=0, containers=[container(env=env)]))
    assert response.status_code in (400, 500)
    assert "duplicate" in response.json()["message"]


def test_unchanged_version_as_precondition(api: Api) -> None:
    made = api.apply("configmaps", config_map("a", {"a": "1"}))
    changed = api.apply("configmaps", config_map("a", {"a": "2"}, resourceVersion=version(made)))
    stale = api.try_apply("configmaps", config_map("a", {"a": "3"}, resourceVersion=version(made)))
    refused(stale, 409, "Conflict")
    assert api.get("configmaps", "a") == changed


def test_the_uid_stays(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}))
    other = config_map("a", {"a": "2"}, uid="11111111-2222-3333-4444-555555555555")
    response = api.try_apply("configmaps", other)
    assert refused(response, 422, "Invalid")["details"]["causes"][0]["field"] == "metadata.uid"
    assert api.get("configmaps", "a")["data"] == {"a": "1"}


def test_updates_own_what_they_change(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1", "b": "1"}), "one")
    live = api.get("configmaps", "a")
    live["data"]["a"] = "2"
    updated = api.update("configmaps", live, fieldManager="editor")
    assert owned(updated, "editor", "Update")["f:data"] == {"f:a": {}}
    assert "f:a" not in owned(updated, "one")["f:data"]
    status = refused(api.try_apply("configmaps", config_map("a", {"a": "1", "b": "1"}), "one"), 409, "Conflict")
    assert status["details"]["causes"][0]["field"] == ".data.a"


def test_created_fields_belong_to_the_creator(api: Api) -> None:
    made = api.create("configmaps", config_map("a", {"a": "1"}), fieldManager="maker")
    assert "f:a" in owned(made, "maker", "Update")["f:data"]
    refused(api.try_apply("configmaps", config_map("a", {"a": "2"}), "one"), 409, "Conflict")


def test_merge_patches_own_what_they_change(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}), "one")
    patched = api.patch("configmaps", "a", {"data": {"z": "1"}}, fieldManager="editor")
    assert owned(patched, "editor", "Update")["f:data"] == {"f:z": {}}
    kept = api.apply("configmaps", config_map("a", {}), "one")
    assert kept["data"] == {"z": "1"}


def test_the_user_agent_names_the_manager(api: Api) -> None:
    path = api.path("configmaps")
    headers = {"User-Agent": "some-tool/1.2 (linux)"}
    made = succeeded(api.http.post(path, json=config_map("a"), headers=headers))
    assert ("some-tool", "Update") in managers(made)


def test_an_applied_object_can_be_adopted_by_another(api: Api) -> None:
    """A field that one manager stops applying and another still applies stays; only the other manager owns it."""
    api.apply("configmaps", config_map("a", {"a": "1"}), "old")
    api.apply("configmaps", config_map("a", {"a": "1"}), "new")
    kept = api.apply("configmaps", config_map("a", {}), "old")
    assert kept["data"] == {"a": "1"}
    assert api.apply("configmaps", config_map("a", {"a": "2"}), "new")["data"] == {"a": "2"}


def test_managed_fields_can_be_cleared(api: Api) -> None:
    api.apply("configmaps", config_map("a", {"a": "1"}), "one")
    api.patch("configmaps", "a", {"metadata": {"managedFields": [{}]}})
    assert api.get("configmaps", "a")["metadata"].get("managedFields", []) == []
    taken = api.apply("configmaps", config_map("a", {"a": "2"}), "two", force=True)
    assert taken["data"] == {"a": "2"}
    assert owned(taken, "one") == {}


def test_status_is_ignored_by_an_apply_of_the_object(api: Api) -> None:
    body = deployment("web", replicas=0)
    body["status"] = {"replicas": 7}
    made = api.apply("deployments", body)
    assert made.get("status", {}).get("replicas", 0) == 0


def test_apply_of_a_status(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 3}))
    body: dict[str, Any] = {**widget("a"), "status": {"phase": "Ready"}}
    del body["spec"]
    applied = api.apply("widgets", body, "reporter", sub="status")
    assert applied["status"] == {"phase": "Ready"}
    assert applied["spec"]["size"] == 3
    assert generation(applied) == 1
    assert "f:phase" in owned(applied, "reporter")["f:status"]
    again = api.apply("widgets", body, "reporter", sub="status")
    assert version(again) == version(applied)


def test_apply_of_a_status_does_not_touch_the_spec(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 3}))
    body = {**widget("a", {"size": 5}), "status": {"phase": "Ready"}}
    applied = api.apply("widgets", body, "reporter", sub="status", force=True)
    assert applied["spec"]["size"] == 3


def test_custom_resources_apply(api: Api, widgets: Object) -> None:
    made = api.apply("widgets", widget("a", {"size": 3, "tags": ["x"]}), "one")
    assert made["spec"] == {"size": 3, "tags": ["x"], "color": "red", "replicas": 2}
    assert "f:color" not in owned(made, "one")["f:spec"]
    assert api.apply("widgets", widget("a", {"size": 3, "tags": ["x"]}), "one") == made


def test_custom_list_maps_merge_by_their_key(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 1, "parts": [{"name": "x", "count": 1}]}), "one")
    second = widget("a", {"parts": [{"name": "y", "count": 2}]})
    both = api.apply("widgets", second, "two")
    assert {part["name"]: part["count"] for part in both["spec"]["parts"]} == {"x": 1, "y": 2}
    kept = api.apply("widgets", widget("a", {"size": 1}), "one")
    assert kept["spec"]["parts"] == [{"name": "y", "count": 2}]


def test_custom_sets_merge(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 1, "flags": ["x"]}), "one")
    both = api.apply("widgets", widget("a", {"flags": ["y"]}), "two")
    assert set(both["spec"]["flags"]) == {"x", "y"}


def test_custom_atomic_lists_conflict(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 1, "steps": ["x"]}), "one")
    response = api.try_apply("widgets", widget("a", {"steps": ["y"]}), "two")
    status = refused(response, 409, "Conflict")
    assert [cause["field"] for cause in status["details"]["causes"]] == [".spec.steps"]


def test_free_form_objects_are_owned_key_by_key(api: Api, widgets: Object) -> None:
    api.apply("widgets", widget("a", {"size": 1, "settings": {"x": "1"}}), "one")
    both = api.apply("widgets", widget("a", {"settings": {"y": "2"}}), "two")
    assert both["spec"]["settings"] == {"x": "1", "y": "2"}


def test_apply_is_validated(api: Api) -> None:
    refused(api.try_apply("deployments", deployment("web", replicas=-1)), 422, "Invalid")
    assert api.find("deployments", "web") is None


def test_another_spelling_of_a_quantity_is_no_change(api: Api) -> None:
    main = container(resources={"limits": {"cpu": "1000m", "memory": "1024Mi"}})
    made = api.apply("deployments", deployment("web", replicas=0, containers=[main]))
    again = api.apply("deployments", deployment("web", replicas=0, containers=[main]))
    assert generation(again) == generation(made) == 1
    assert containers(again)["main"]["resources"]["limits"] == {"cpu": "1", "memory": "1Gi"}
