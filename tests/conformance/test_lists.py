"""Lists: selectors, pages, collections."""

from __future__ import annotations

import pytest

from tests.conformance.client import Api, refused, succeeded, version
from tests.conformance.objects import Object, config_map, pod, widget


@pytest.fixture
def shelf(api: Api) -> Api:
    """Four ConfigMaps whose labels differ."""
    shelved: dict[str, dict[str, str]] = {
        "plain": {},
        "red": {"color": "red", "size": "1"},
        "green": {"color": "green", "size": "2"},
        "both": {"color": "red", "example.dev/kind": "big"},
    }
    for name, labels in shelved.items():
        api.create("configmaps", config_map(name, labels=labels))
    return api


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("color=red", "both red"),
        ("color==red", "both red"),
        ("color!=red", "green plain"),
        ("color in (red,green)", "both green red"),
        ("color notin (green)", "both plain red"),
        ("color", "both green red"),
        ("!color", "plain"),
        ("color=red,size=1", "red"),
        ("color=red,!size", "both"),
        ("example.dev/kind=big", "both"),
        ("size in (1, 2),color notin (red)", "green"),
        ("size>1", "green"),
        ("size<2", "red"),
        ("color=", ""),
    ],
)
def test_label_selectors(shelf: Api, selector: str, expected: str) -> None:
    names = set(shelf.names("configmaps", labelSelector=selector)) - {"kube-root-ca.crt"}
    assert names == set(expected.split())


@pytest.mark.parametrize("selector", ["color in red", "a=b=c", "color in (", "=x", "-x"])
def test_broken_label_selectors(api: Api, selector: str) -> None:
    refused(api.send("GET", "configmaps", labelSelector=selector), 400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("metadata.name=red", {"red"}),
        ("metadata.name==red", {"red"}),
        ("metadata.name!=red", {"plain", "green", "both"}),
        ("metadata.name=ghost", set()),
    ],
)
def test_field_selectors(shelf: Api, selector: str, expected: set[str]) -> None:
    assert set(shelf.names("configmaps", fieldSelector=selector)) - {"kube-root-ca.crt"} == expected


def test_field_selector_of_pods(api: Api) -> None:
    api.create("pods", pod("waiting"))
    api.create("pods", pod("placed", spec={"nodeName": "somewhere"}))
    api.patch("pods", "placed", {"status": {"phase": "Running"}}, sub="status")
    assert api.names("pods", fieldSelector="status.phase=Running") == ["placed"]
    assert api.names("pods", fieldSelector="status.phase!=Running") == ["waiting"]
    assert api.names("pods", fieldSelector="spec.nodeName=somewhere") == ["placed"]
    assert api.names("pods", fieldSelector="spec.nodeName=,status.phase=Pending") == ["waiting"]


def test_unknown_field_selectors_are_refused(api: Api) -> None:
    status = refused(api.send("GET", "configmaps", fieldSelector="data.a=1"), 400, "BadRequest")
    assert "data.a" in status["message"]


def test_lists_say_what_they_are(shelf: Api) -> None:
    listed = shelf.list("configmaps")
    assert (listed["kind"], listed["apiVersion"]) == ("ConfigMapList", "v1")
    newest = max(int(version(item)) for item in listed["items"])
    assert int(listed["metadata"]["resourceVersion"]) >= newest


def test_empty_lists_have_items(api: Api) -> None:
    assert api.list("pods")["items"] == []


def test_lists_are_ordered_by_name(shelf: Api) -> None:
    names = shelf.names("configmaps")
    assert names == sorted(names)


def test_lists_over_all_namespaces(shelf: Api) -> None:
    listed = shelf.list("configmaps", namespace="", fieldSelector=f"metadata.namespace={shelf.namespace}")
    names = {item["metadata"]["name"] for item in listed["items"]}
    assert {"plain", "red", "green", "both"} <= names


def test_custom_resources_list_like_builtin_ones(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a", labels={"x": "1"}))
    api.create("widgets", widget("b"))
    listed = api.list("widgets", labelSelector="x=1")
    assert (listed["kind"], listed["apiVersion"]) == ("WidgetList", "example.dev/v1")
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
    assert api.names("widgets", fieldSelector="metadata.name=b") == ["b"]


def test_pages(api: Api) -> None:
    for number in range(7):
        api.create("pods", pod(f"p{number}"))
    pages: list[list[str]] = []
    token = ""
    while True:
        page = api.list("pods", limit=3, **({"continue": token} if token else {}))
        pages.append([item["metadata"]["name"] for item in page["items"]])
        token = page["metadata"].get("continue", "")
        if not token:
            break
        assert page["metadata"]["remainingItemCount"] == 7 - sum(map(len, pages))
    assert pages == [["p0", "p1", "p2"], ["p3", "p4", "p5"], ["p6"]]


def test_pages_show_one_moment(api: Api) -> None:
    for number in range(4):
        api.create("pods", pod(f"p{number}"))
    first = api.list("pods", limit=2)
    api.delete("pods", "p3")
    api.create("pods", pod("p9"))
    second = api.list("pods", limit=2, **{"continue": first["metadata"]["continue"]})
    assert [item["metadata"]["name"] for item in second["items"]] == ["p2", "p3"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_pages_with_a_selector(api: Api) -> None:
    for number in range(6):
        api.create("pods", pod(f"p{number}", labels={"half": str(number % 2)}))
    first = api.list("pods", limit=2, labelSelector="half=1")
    assert [item["metadata"]["name"] for item in first["items"]] == ["p1", "p3"]
    assert "remainingItemCount" not in first["metadata"]
    token = {"continue": first["metadata"]["continue"]}
    second = api.list("pods", limit=2, labelSelector="half=1", **token)
    assert [item["metadata"]["name"] for item in second["items"]] == ["p5"]


def test_a_full_page_that_is_the_last_has_no_token(api: Api) -> None:
    for number in range(2):
        api.create("pods", pod(f"p{number}"))
    assert "continue" not in api.list("pods", limit=2)["metadata"]


def test_broken_page_tokens(api: Api) -> None:
    refused(api.send("GET", "pods", limit=2, **{"continue": "nonsense"}), 400, "BadRequest")


def test_list_at_any_version(api: Api) -> None:
    made = api.create("pods", pod("a"))
    listed = api.list("pods", resourceVersion=version(made))
    assert [item["metadata"]["name"] for item in listed["items"]] == ["a"]
    assert succeeded(api.send("GET", "pods", resourceVersion="0"))["kind"] == "PodList"


def test_delete_collection(shelf: Api) -> None:
    succeeded(shelf.send("DELETE", "configmaps", labelSelector="color=red"))
    assert set(shelf.names("configmaps")) - {"kube-root-ca.crt"} == {"plain", "green"}


def test_a_list_of_exactly_one_version(api: Api) -> None:
    made = api.create("configmaps", config_map("a", {"x": "1"}))
    second = api.create("configmaps", config_map("b"))
    api.patch("configmaps", "a", {"data": {"x": "2"}})
    api.delete("configmaps", "b")
    options = {"resourceVersionMatch": "Exact", "resourceVersion": second["metadata"]["resourceVersion"]}
    found = api.list("configmaps", **options)
    assert found["metadata"]["resourceVersion"] == options["resourceVersion"]
    assert [item["metadata"]["name"] for item in found["items"]] == ["a", "b"]
    assert found["items"][0]["data"] == made["data"]
    not_older = api.list("configmaps", **{**options, "resourceVersionMatch": "NotOlderThan"})
    assert [item["data"] for item in not_older["items"]] == [{"x": "2"}]
