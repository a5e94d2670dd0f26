"""The rows that `kubectl get` prints."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conformance.client import TABLE, Api
from tests.conformance.objects import Object, config_map, deployment, pod, secret, service, stateful_set, widget


def table(api: Api, resource: str, name: str | None = None, **params: Any) -> tuple[list[str], list[Object], Object]:
    response = api.send("GET", resource, name, accept=TABLE, **params)
    found = response.json()
    assert (found["kind"], found["apiVersion"]) == ("Table", "meta.k8s.io/v1"), response.text
    shown = [column["name"] for column in found["columnDefinitions"] if column.get("priority", 0) == 0]
    rows = [
        dict(zip([column["name"] for column in found["columnDefinitions"]], row["cells"], strict=True))
        for row in found["rows"]
    ]
    return shown, rows, found


@pytest.mark.parametrize(
    ("resource", "body", "columns"),
    [
        ("deployments", deployment("web", replicas=0), "Name Ready Up-to-date Available Age"),
        ("statefulsets", stateful_set("web", replicas=0), "Name Ready Age"),
        ("pods", pod("web"), "Name Ready Status Restarts Age"),
        ("services", service("web"), "Name Type Cluster-IP External-IP Port(s) Age"),
        ("configmaps", config_map("web"), "Name Data Age"),
        ("secrets", secret("web"), "Name Type Data Age"),
    ],
)
def test_columns(api: Api, resource: str, body: Object, columns: str) -> None:
    api.create(resource, body)
    shown, rows, _ = table(api, resource, fieldSelector="metadata.name=web")
    assert shown == columns.split()
    assert [row["Name"] for row in rows] == ["web"]


def test_cells(api: Api) -> None:
    api.create("pods", pod("web"))
    api.create("secrets", secret("web", stringData={"x": "1", "y": "2"}))
    api.create("services", service("web"))
    (row,) = table(api, "pods")[1]
    assert (row["Ready"], row["Status"]) == ("0/1", "Pending")
    rows = {row["Name"]: row for row in table(api, "secrets")[1]}
    assert rows["web"]["Data"] == 2
    (row,) = table(api, "services")[1]
    assert (row["Type"], row["Port(s)"]) == ("ClusterIP", "80/TCP")


def test_one_object_is_a_table_of_one_row(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    _, rows, _ = table(api, "configmaps", "a")
    assert [row["Name"] for row in rows] == ["a"]


def test_rows_carry_the_metadata(api: Api) -> None:
    made = api.create("configmaps", config_map("a", labels={"x": "y"}))
    _, _, found = table(api, "configmaps", "a")
    (row,) = found["rows"]
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["uid"] == made["metadata"]["uid"]
    assert "data" not in row["object"]


def test_rows_carry_the_object_on_demand(api: Api) -> None:
    made = api.create("configmaps", config_map("a"))
    _, _, found = table(api, "configmaps", "a", includeObject="Object")
    assert found["rows"][0]["object"]["data"] == made["data"]


def test_columns_of_custom_resources(api: Api, widgets: Object) -> None:
    api.create("widgets", widget("a", {"size": 3}))
    api.patch("widgets", "a", {"status": {"phase": "Ready"}}, sub="status")
    shown, rows, _ = table(api, "widgets")
    assert shown == ["Name", "Size", "Phase", "Age"]
    assert (rows[0]["Name"], rows[0]["Size"], rows[0]["Phase"]) == ("a", 3, "Ready")


def test_other_clients_get_plain_lists(api: Api) -> None:
    accept = f"{TABLE},application/json"
    assert api.send("GET", "configmaps", accept=accept).json()["kind"] == "Table"
    assert api.send("GET", "configmaps").json()["kind"] == "ConfigMapList"
