"""The `kubernetes` client for Python, which other tools use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.conformance.client import Api
from tests.conformance.objects import IMAGE, Object, config_map, deployment, widget
from tests.support.api_servers import ApiServer

kubernetes: Any = pytest.importorskip("kubernetes")


@pytest.fixture
def client(api_server: ApiServer) -> Iterator[Any]:
    with kubernetes.config.new_client_from_config(str(api_server.kubeconfig)) as found:
        yield found


def test_typed_objects(api: Api, client: Any) -> None:
    apps = kubernetes.client.AppsV1Api(client)
    api.create("deployments", deployment("web", replicas=0))
    found = apps.read_namespaced_deployment("web", api.namespace)
    assert found.spec.template.spec.containers[0].image == IMAGE
    found.spec.replicas = 1
    found.metadata.resource_version = None  # the controller may write a status in between
    assert apps.replace_namespaced_deployment("web", api.namespace, found).spec.replicas == 1
    assert apps.read_namespaced_deployment_scale("web", api.namespace).spec.replicas == 1
    apps.delete_namespaced_deployment("web", api.namespace)


def test_errors(api: Api, client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    with pytest.raises(kubernetes.client.ApiException) as caught:
        core.read_namespaced_config_map("ghost", api.namespace)
    assert caught.value.status == 404
    assert '"reason":"NotFound"' in caught.value.body.replace(" ", "")


def test_watch(api: Api, client: Any) -> None:
    core = kubernetes.client.CoreV1Api(client)
    since = core.list_namespaced_config_map(api.namespace).metadata.resource_version
    api.create("configmaps", config_map("a"))
    api.delete("configmaps", "a")
    stream = kubernetes.watch.Watch().stream(
        core.list_namespaced_config_map, api.namespace, resource_version=since, timeout_seconds=20
    )
    events = [next(stream), next(stream)]
    stream.close()
    assert [(event["type"], event["object"].metadata.name) for event in events] == [("ADDED", "a"), ("DELETED", "a")]


def test_dynamic_apply(api: Api, widgets: Object, client: Any) -> None:
    dynamic = kubernetes.dynamic.DynamicClient(client)
    kind = dynamic.resources.get(api_version="example.dev/v1", kind="Widget")
    applied = kind.server_side_apply(
        body=widget("a", {"size": 3}), name="a", namespace=api.namespace, field_manager="tester"
    )
    assert applied.spec.size == 3
    assert kind.get(name="a", namespace=api.namespace).spec.color == "red"
