"""What the control plane sends is checked field by field, and a wrong one is named."""

from __future__ import annotations

from typing import Any

import pytest

from engine.errors import InvalidResource
from engine.listener.resource import parse_deployment
from tests.support.listener import DEPLOYMENT, ListenerWorld, resource, see


def specified(**spec: Any) -> dict[str, Any]:
    raw = resource()
    raw["source_config"]["resource_spec"] = spec
    return raw


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ({"cpu": "2"}, "cpu"),
        ({"cpu": 0}, "cpu"),
        ({"cpu_limit": True}, "cpu_limit"),
        ({"memory_mb": 512.5}, "memory_mb"),
        ({"memory_mb": "1Gi"}, "memory_mb"),
        ({"memory_limit_mb": -1}, "memory_limit_mb"),
        ({"min_scale": "one"}, "min_scale"),
        ({"max_scale": 2**31}, "max_scale"),
        ({"queue_cpu": []}, "queue_cpu"),
        ({"db_storage_gi": 0}, "db_storage_gi"),
        ({"db_max_connections": "many"}, "db_max_connections"),
        ({"labels": {"team": 1}}, "labels.team"),
        ({"annotations": ["a"]}, "annotations"),
        ({"service_account_name": {}}, "service_account_name"),
        ({"image_pull_secrets": ["regcred"]}, "image_pull_secrets.0"),
        ({"volumes": {"name": "v"}}, "volumes"),
        ({"volume_mounts": [{"name": "v", "mountPath": 7}]}, "volume_mounts.0.mountPath"),
        ({"sidecars": [{"name": "proxy"}]}, "sidecars.0.image"),
        ({"init_containers": [{"name": "i", "image": "i", "env": [{"value": "x"}]}]}, "init_containers.0.env.0.name"),
    ],
)
def test_a_wrong_type_in_the_resource_spec_is_named_by_its_path(spec: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(specified(**spec))

    assert refused.value.field == f"source_config.resource_spec.{path}"
    assert refused.value.resource == f"deployment {DEPLOYMENT}"
    assert "correct it on the control plane" in refused.value.problem


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": 7}, "name"),
        ({"id": "not/an/id"}, "id"),
        ({"latest_revision_id": "a b"}, "latest_revision_id"),
        ({"source_revision_config": {"image_uri": ""}}, "source_revision_config.image_uri"),
        ({"secrets": [{"name": "A"}]}, "secrets.0.value"),
        ({"secret_references": [{"name": "A", "secret_name": "s"}]}, "secret_references.0.secret_key"),
    ],
)
def test_a_wrong_field_is_named_by_its_path(change: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(resource(**change))

    assert refused.value.field == path


def test_a_problem_never_repeats_a_value() -> None:
    with pytest.raises(InvalidResource) as refused:
        parse_deployment(resource(secrets=[{"name": "A", "value": {"nested": "sk-nested"}}]))

    assert "sk-nested" not in str(refused.value)


def test_what_nobody_here_knows_is_left_out_and_snippets_pass_as_they_are(world: ListenerWorld) -> None:
    volume = {"name": "cache", "hostPath": {"path": "/cache"}, "emptyDir": None}
    sidecar = {"name": "proxy", "image": "proxy:1", "ports": [{"containerPort": 1}], "env": [{"name": "A"}]}
    raw = specified(cpu=1, orchestrator_cpu="whatever", invented={"a": 1}, volumes=[volume], sidecars=[sidecar])

    see(world, raw)

    assert world.state().revision.resource_spec == {
        "cpu": 1,
        "volumes": [{"name": "cache", "hostPath": {"path": "/cache"}}],
        "sidecars": [sidecar],
    }


def test_what_only_the_api_server_requires_is_left_to_it(world: ListenerWorld) -> None:
    see(world, specified(volumes=[{"emptyDir": {}}], volume_mounts=[{"name": "v"}]))

    assert world.state().revision.resource_spec == {"volumes": [{"emptyDir": {}}], "volume_mounts": [{"name": "v"}]}


def test_a_deployment_may_have_neither_secrets_nor_a_spec(world: ListenerWorld) -> None:
    raw = resource(secrets=None)
    raw["source_config"]["resource_spec"] = None
    see(world, raw)
    world.advance()

    assert world.state().revision.resource_spec == {}
    assert world.state().revision.phase == "DEPLOYING"
