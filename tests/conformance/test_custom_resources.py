"""CustomResourceDefinitions and the objects of the kinds that they define."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.client import PATCHES, Api, causes, install_definition, refused, succeeded
from tests.conformance.objects import Object, definition, widget, widget_definition
from tests.support.eventually import eventually

PLAIN: Object = {"type": "object", "properties": {"spec": {"type": "object"}}}


def group_of(api: Api) -> str:
    """Return an API group that no other test uses."""
    return f"{api.namespace}.dev"


def path_of(api: Api, plural: str = "things", name: str = "") -> str:
    base = f"/apis/{group_of(api)}/v1/namespaces/{api.namespace}/{plural}"
    return f"{base}/{name}" if name else base


def thing(api: Api, name: str = "a", **rest: Any) -> Object:
    return {"apiVersion": f"{group_of(api)}/v1", "kind": "Thing", "metadata": {"name": name}, **rest}


def install(api: Api, schema: Object, **version: Any) -> Object:
    return install_definition(api, definition("things", group_of(api), "Thing", schema, **version))


def test_defaults_in_a_list_that_is_applied_again_are_no_second_write(api: Api) -> None:
    """The apply configuration has no defaults, and replaces the list as a whole."""
    port = {"group": {"type": "string", "default": ""}, "weight": {"type": "integer", "default": 1}}
    item = {"type": "object", "properties": {"name": {"type": "string"}, **port}}
    spec = {"type": "object", "properties": {"ports": {"type": "array", "items": item}}}
    install(api, {"type": "object", "properties": {"spec": spec}})
    body = thing(api, spec={"ports": [{"name": "web"}]})
    headers, params = {"Content-Type": PATCHES["apply"]}, {"fieldManager": "tester"}

    first = succeeded(api.http.patch(path_of(api, name="a"), json=body, headers=headers, params=params))
    time.sleep(1.1)  # the times of writes have a resolution of one second
    again = succeeded(api.http.patch(path_of(api, name="a"), json=body, headers=headers, params=params))

    assert first["spec"]["ports"] == [{"name": "web", "group": "", "weight": 1}]
    assert again == first


def test_a_definition_becomes_established(api: Api, widgets: Object) -> None:
    conditions = {item["type"]: item["status"] for item in widgets["status"]["conditions"]}
    assert conditions["NamesAccepted"] == "True"
    assert conditions["Established"] == "True"
    assert widgets["status"]["acceptedNames"]["plural"] == "widgets"
    assert widgets["status"]["storedVersions"] == ["v1"]


def test_names_of_a_definition_are_completed(api: Api) -> None:
    crd = definition("things", group_of(api), "Thing", PLAIN)
    crd["spec"]["names"] = {"plural": "things", "kind": "Thing"}
    names = api.create("customresourcedefinitions", crd)["spec"]["names"]
    assert (names["singular"], names["listKind"]) == ("thing", "ThingList")
    api.delete("customresourcedefinitions", crd["metadata"]["name"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"group": "other.dev"}, "metadata.name"),
        ({"scope": "Everywhere"}, "spec.scope"),
        ({"versions": []}, "spec.versions"),
        ({"names": {"plural": "things", "kind": "not a kind"}}, "spec.names.kind"),
    ],
    ids=["group", "scope", "versions", "kind"],
)
def test_definitions_are_validated(api: Api, change: Object, field: str) -> None:
    crd = definition("things", group_of(api), "Thing", PLAIN)
    crd["spec"] |= change
    status = refused(api.send("POST", "customresourcedefinitions", body=crd), 422, "Invalid")
    assert field in {named for named, _ in causes(status)}


def test_schemas_must_be_structural(api: Api) -> None:
    crd = definition("things", group_of(api), "Thing", {"type": "object", "properties": {"spec": {}}})
    status = refused(api.send("POST", "customresourcedefinitions", body=crd), 422, "Invalid")
    assert "openAPIV3Schema.properties[spec].type: Required value" in status["message"]


def test_defaults_are_filled_in(api: Api, widgets: Object) -> None:
    made = api.create("widgets", widget("a"))
    assert made["spec"] == {"size": 1, "replicas": 2, "color": "red"}


def test_defaults_inside_objects_need_the_object(api: Api, widgets: Object) -> None:
    assert "finish" not in api.create("widgets", widget("a"))["spec"]
    made = api.create("widgets", widget("b", {"size": 1, "finish": {"layers": 2}}))
    assert made["spec"]["finish"] == {"coat": "matt", "layers": 2}


def test_null_means_the_default(api: Api, widgets: Object) -> None:
    made = api.create("widgets", widget("a", {"size": 1, "color": None, "note": None}))
    assert made["spec"]["color"] == "red"
    assert made["spec"]["note"] is None


def test_unknown_fields_are_pruned(api: Api, widgets: Object) -> None:
    made = api.create("widgets", {**widget("a", {"size": 1, "ghost": 1, "finish": {"x": 1}}), "ghost": 1})
    assert "ghost" not in made
    assert "ghost" not in made["spec"]
    assert made["spec"]["finish"] == {"coat": "matt"}


def test_unknown_fields_are_kept_where_the_schema_says_so(api: Api, widgets: Object) -> None:
    free = {"deep": {"er": [1, "two", {"three": True}]}}
    assert api.create("widgets", widget("a", {"size": 1, "anything": free}))["spec"]["anything"] == free


def test_values_keep_their_types(api: Api, widgets: Object) -> None:
    free = {"text": "1", "whole": 1, "float": 1.5, "flag": False, "none": None, "big": 9007199254740993}
    made = api.create("widgets", widget("a", {"size": 1, "anything": free}))
    assert made["spec"]["anything"] == free


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({}, "spec.size"),
        ({"size": "big"}, "spec.size"),
        ({"size": 1.5}, "spec.size"),
        ({"size": 0}, "spec.size"),
        ({"size": 10}, "spec.size"),
        ({"size": 1, "color": "blue"}, "spec.color"),
        ({"size": 1, "code": "ABC"}, "spec.code"),
        ({"size": 1, "code": "abcdef"}, "spec.code"),
        ({"size": 1, "tags": ["a", "b", "c"]}, "spec.tags"),
        ({"size": 1, "tags": "a"}, "spec.tags"),
        ({"size": 1, "settings": {"x": 1}}, "spec.settings.x"),
        ({"size": 1, "parts": [{"count": 1}]}, "spec.parts"),
        ({"size": 1, "finish": []}, "spec.finish"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_values_are_validated(api: Api, widgets: Object, spec: Object, field: str) -> None:
    status = refused(api.send("POST", "widgets", body=widget("a", spec)), 422, "Invalid")
    assert 'Widget.example.dev "a" is invalid' in status["message"]
    assert any(named.startswith(field) for named, _ in causes(status)), status
    assert status["details"]["kind"] == "Widget"
    assert status["details"]["group"] == "example.dev"


def test_a_missing_required_object(api: Api, widgets: Object) -> None:
    body = widget("a")
    del body["spec"]
    status = refused(api.send("POST", "widgets", body=body), 422, "Invalid")
    assert ("spec", "FieldValueRequired") in causes(status)


def test_all_mistakes_are_reported_at_once(api: Api, widgets: Object) -> None:
    spec = {"size": 10, "color": "blue", "code": "ABC"}
    status = refused(api.send("POST", "widgets", body=widget("a", spec)), 422, "Invalid")
    assert {field for field, _ in causes(status)} >= {"spec.size", "spec.color", "spec.code"}


def test_duplicate_keys_of_a_list_map(api: Api, widgets: Object) -> None:
    parts = [{"name": "x"}, {"name": "x"}]
    response = api.send("POST", "widgets", body=widget("a", {"size": 1, "parts": parts}))
    status = refused(response, 422, "Invalid")
    assert ("spec.parts[1]", "FieldValueDuplicate") in causes(status)


def test_updates_and_patches_are_validated_too(api: Api, widgets: Object) -> None:
    made = api.create("widgets", widget("a"))
    made["spec"]["size"] = 11
    refused(api.send("PUT", "widgets", "a", made), 422, "Invalid")
    response = api.send("PATCH", "widgets", "a", {"spec": {"size": 11}}, type="application/merge-patch+json")
    refused(response, 422, "Invalid")


def test_status_is_validated(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    patch = {"status": {"replicas": "many"}}
    response = api.send("PATCH", "widgets", "a", patch, sub="status", type="application/merge-patch+json")
    assert any(field == "status.replicas" for field, _ in causes(refused(response, 422, "Invalid")))


def test_generation_of_custom_resources(api: Api, widgets: Object) -> None:
    assert api.create("widgets", widget("a"))["metadata"]["generation"] == 1
    labelled = api.patch("widgets", "a", {"metadata": {"labels": {"x": "1"}, "annotations": {"y": "2"}}})
    assert labelled["metadata"]["generation"] == 1
    assert api.patch("widgets", "a", {"spec": {"size": 2}})["metadata"]["generation"] == 2


@pytest.mark.parametrize(("value", "accepted"), [(5, True), ("50%", True), (1.5, False), ([], False)])
def test_int_or_string(api: Api, value: Any, accepted: bool) -> None:
    either = {"type": "object", "properties": {"either": {"x-kubernetes-int-or-string": True}}}
    install(api, {"type": "object", "properties": {"spec": either}})
    response = api.http.post(path_of(api), json=thing(api, spec={"either": value}))
    assert response.status_code == (201 if accepted else 422), response.text
    api.delete("customresourcedefinitions", f"things.{group_of(api)}")


def test_without_a_status_subresource_status_is_a_field(api: Api) -> None:
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    install(api, schema)
    made = succeeded(api.http.post(path_of(api), json=thing(api, status={"phase": "x"}, anything=1)))
    assert made["status"] == {"phase": "x"}
    assert made["anything"] == 1
    assert made["metadata"]["generation"] == 1
    assert api.http.get(path_of(api, name="a/status")).status_code == 404
    api.delete("customresourcedefinitions", f"things.{group_of(api)}")


def test_deleting_a_definition_deletes_its_objects(api: Api) -> None:
    install(api, PLAIN)
    succeeded(api.http.post(path_of(api), json=thing(api)))
    name = f"things.{group_of(api)}"
    api.delete("customresourcedefinitions", name)
    eventually(lambda: api.find("customresourcedefinitions", name) is None, "the definition is gone")
    eventually(lambda: api.http.get(path_of(api)).status_code == 404, "its resources are gone")
    install(api, PLAIN)
    assert succeeded(api.http.get(path_of(api)))["items"] == []
    api.delete("customresourcedefinitions", name)


def test_cluster_scoped_kinds(api: Api) -> None:
    crd = definition("things", group_of(api), "Thing", PLAIN)
    crd["spec"]["scope"] = "Cluster"
    install_definition(api, crd)
    path = f"/apis/{group_of(api)}/v1/things"
    made = succeeded(api.http.post(path, json=thing(api)))
    assert "namespace" not in made["metadata"]
    assert succeeded(api.http.get(f"{path}/a"))["metadata"]["uid"] == made["metadata"]["uid"]
    api.delete("customresourcedefinitions", crd["metadata"]["name"])


def test_a_schema_may_change(api: Api) -> None:
    install(api, PLAIN)
    name = f"things.{group_of(api)}"
    path = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties"
    change = [{"op": "add", "path": path, "value": {"new": {"type": "string"}}}]
    api.patch("customresourcedefinitions", name, change, "json")

    def keeps_the_new_field() -> bool:
        answer = api.http.post(path_of(api), json=thing(api, spec={"new": "x"}))
        if answer.status_code == 503:
            return False  # a real server stops the handler of the earlier schema while it handles requests
        made = succeeded(answer)
        api.http.delete(path_of(api, name="a"))
        return "new" in made["spec"]

    eventually(keeps_the_new_field, "the new schema is in force")
    api.delete("customresourcedefinitions", name)


def test_versions_that_are_not_served(api: Api, widgets: Object) -> None:
    assert api.http.get("/apis/example.dev/v2/widgets").status_code == 404


def test_the_definition_itself_is_discovered(api: Api, widgets: Object) -> None:
    spec = widget_definition()["spec"]
    found = api.get("customresourcedefinitions", "widgets.example.dev")["spec"]
    assert found["names"]["shortNames"] == spec["names"]["shortNames"]
    groups = {group["name"] for group in succeeded(api.http.get("/apis"))["groups"]}
    assert "example.dev" in groups


def test_the_wording_of_limits(api: Api, widgets: Object) -> None:
    spec = {"size": 1, "code": "abcdef", "tags": ["a", "b", "c"]}
    status = refused(api.send("POST", "widgets", body=widget("a", spec)), 422, "Invalid")
    found = {cause["field"]: (cause["reason"], cause["message"]) for cause in status["details"]["causes"]}
    assert found == {
        "spec.code": ("FieldValueTooLong", "Too long: may not be more than 5 bytes"),
        "spec.tags": ("FieldValueTooMany", "Too many: 3: must have at most 2 items"),
    }
