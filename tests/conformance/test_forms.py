"""The forms of an answer: PartialObjectMetadata, and forms that the server refuses."""

from __future__ import annotations

import pytest

from tests.conformance.client import PATCHES, TABLE, Api, refused, succeeded
from tests.conformance.objects import Object, config_map, widget

ONE = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
INITIAL: Object = {"sendInitialEvents": True, "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": True}


def test_the_metadata_of_one_object(api: Api) -> None:
    made = api.create("configmaps", config_map("a", labels={"x": "1"}))
    found = succeeded(api.send("GET", "configmaps", "a", accept=ONE))
    assert found == {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": made["metadata"]}


def test_the_metadata_of_a_list(api: Api) -> None:
    api.create("configmaps", config_map("a", labels={"x": "1"}))
    api.create("configmaps", config_map("b"))
    found = succeeded(api.send("GET", "configmaps", accept=LIST, labelSelector="x=1"))
    assert (found["kind"], found["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    assert found["metadata"]["resourceVersion"]
    (item,) = found["items"]
    assert (item["kind"], item["apiVersion"]) == ("PartialObjectMetadata", "meta.k8s.io/v1")
    assert set(item) == {"kind", "apiVersion", "metadata"}
    assert item["metadata"]["name"] == "a"


def test_pages_of_metadata(api: Api) -> None:
    for name in "abc":
        api.create("configmaps", config_map(name))
    first = succeeded(api.send("GET", "configmaps", accept=LIST, limit=2))
    rest = succeeded(api.send("GET", "configmaps", accept=LIST, limit=2, **{"continue": first["metadata"]["continue"]}))
    assert [item["metadata"]["name"] for item in first["items"] + rest["items"]] == ["a", "b", "c"]


def test_the_metadata_of_custom_resources(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a"))
    found = succeeded(api.send("GET", "widgets", accept=LIST))
    assert [item["metadata"]["name"] for item in found["items"]] == ["a"]
    assert "spec" not in found["items"][0]


def test_a_watch_of_metadata(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    path = api.path("configmaps")
    params: Object = {"watch": "true", "timeoutSeconds": "2"}
    params |= {name: str(value).lower() if value is True else value for name, value in INITIAL.items()}
    response = api.http.get(path, params=params, headers={"Accept": ONE})
    events = [event for event in response.iter_lines() if event]
    assert all('"kind":"PartialObjectMetadata"' in event.replace(" ", "") for event in events)
    assert [event[9:14] for event in events[:2]] == ["ADDED", "BOOKM"]


def test_the_metadata_of_what_is_written(api: Api) -> None:
    body = config_map("a")
    made = succeeded(api.send("POST", "configmaps", body=body, accept=ONE))
    assert made["kind"] == "PartialObjectMetadata"
    patch = {"metadata": {"labels": {"x": "1"}}}
    changed = succeeded(api.send("PATCH", "configmaps", "a", patch, type=PATCHES["merge"], accept=ONE))
    assert set(changed) == {"kind", "apiVersion", "metadata"}
    assert changed["metadata"]["labels"] == {"x": "1"}


def test_a_form_for_one_does_not_fit_many(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    assert "is a list" in refused(api.send("GET", "configmaps", accept=ONE), 406, "NotAcceptable")["message"]
    status = refused(api.send("GET", "configmaps", "a", accept=LIST), 406, "NotAcceptable")
    assert "is not a list" in status["message"]


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;as=Poem;g=meta.k8s.io;v=v1", ONE.replace("v=v1", "v=v7")]
)
def test_forms_that_do_not_exist(api: Api, accept: str) -> None:
    refused(api.send("GET", "configmaps", accept=accept), 406, "NotAcceptable")


def test_the_first_form_that_exists_is_given(api: Api) -> None:
    accept = f"application/json;as=Poem;g=meta.k8s.io;v=v1, text/html, {TABLE}, application/json"
    assert succeeded(api.send("GET", "configmaps", accept=accept))["kind"] == "Table"
    assert succeeded(api.send("GET", "configmaps", accept="text/html, */*"))["kind"] == "ConfigMapList"


def test_a_dry_run_of_a_deletion_says_that_the_object_would_be_gone(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    assert succeeded(api.send("DELETE", "configmaps", "a", dryRun="All"))["status"] == "Success"
    assert api.find("configmaps", "a") is not None
