"""`resource_spec` means what the control plane's OpenAPI says."""

from __future__ import annotations

from typing import Any

import pytest

from engine.listener import adoption
from engine.listener.desired import cores, desired_manifest, mebibytes, queue_spec
from engine.listener.events import SecretReference
from engine.names import LONGEST_LGP_NAME, lgp_name
from engine.runtime.values import replace
from tests.support.listener import DEPLOYMENT, ListenerWorld, resource, see


def lgp(world: ListenerWorld, spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    raw = resource(**changes)
    raw["source_config"]["resource_spec"] = spec
    see(world, raw)
    state = world.state()
    revisions = replace(state.revisions, current=replace(state.revision, secret="the-secret"))
    made: dict[str, Any] = desired_manifest(replace(state, revisions=revisions), world.config)["spec"]
    return made


def test_limits_are_twice_the_request_unless_given(world: ListenerWorld) -> None:
    server = lgp(world, {"cpu": 0.5, "memory_mb": 1500, "memory_limit_mb": 2048})["serverSpec"]

    assert server["resources"] == {
        "requests": {"cpu": "500m", "memory": "1500Mi"},
        "limits": {"cpu": "1", "memory": "2Gi"},
    }


def test_a_queue_worker_takes_the_servers_requests_and_twice_them_as_limits(world: ListenerWorld) -> None:
    server = lgp(world, {"cpu": 1, "cpu_limit": 8, "memory_mb": 1024, "queue_cpu": 2})["serverSpec"]

    assert server["queueResources"] == {
        "requests": {"cpu": "2", "memory": "1Gi"},
        "limits": {"cpu": "4", "memory": "2Gi"},
    }
    assert queue_spec({"cpu": 1, "cpu_limit": 8}) == {"cpu": 1}


def test_the_memory_limit_of_redis_is_its_request(world: ListenerWorld) -> None:
    redis = lgp(world, {"redis_cpu": 1, "redis_memory_mb": 512})["redis"]

    assert redis["resources"]["limits"] == {"cpu": "2", "memory": "512Mi"}


def test_what_is_not_asked_for_is_left_to_the_operator(world: ListenerWorld) -> None:
    spec = lgp(world, {})

    assert "resources" not in spec["serverSpec"]
    assert "autoscaling" not in spec
    assert spec["database"]["enabled"]
    assert spec["redis"] == {"enabled": True}


def test_all_that_may_be_written_is_in_the_table_of_what_our_listener_takes_out_again(world: ListenerWorld) -> None:
    some = [{"name": "x", "image": "i", "mountPath": "/m"}]
    spec = {
        **dict.fromkeys(
            ("cpu", "memory_mb", "queue_cpu", "db_cpu", "redis_cpu", "db_storage_gi", "db_max_connections"), 1
        ),
        **dict.fromkeys(("image_pull_secrets", "init_containers", "sidecars", "volumes", "volume_mounts"), some),
        **{"min_scale": 1, "max_scale": 3, "service_account_name": "runner"},
        **{"labels": {"a": "b"}, "annotations": {"a": "b"}},
    }
    written = lgp(world, spec)

    assert written.keys() == adoption.WRITTEN.keys()
    for name, fields in adoption.WRITTEN.items():
        # Only a database that was taken over has `legacyName`.
        assert fields is None or written[name].keys() == fields - {"legacyName"}, name


def test_fields_that_our_listener_never_writes_are_not_taken_out() -> None:
    left = {
        "labels": None,
        "managedResources": None,
        "nodeSelector": {"pool": None},
        "serverSpec": {"warmPool": None, "sidecars": None},
        "redis": {"cluster": None},
        "autoscaling": None,
    }

    assert adoption.without_others(left) == {"labels": None, "serverSpec": {"sidecars": None}, "autoscaling": None}


def test_a_database_and_redis_of_ones_own_mean_that_none_is_made(world: ListenerWorld) -> None:
    reference = SecretReference(name="REDIS_URI_CUSTOM", secret_name="mine", secret_key="uri").model_dump()
    spec = lgp(
        world, {}, secrets=[{"name": "POSTGRES_URI_CUSTOM", "value": "postgres://"}], secret_references=[reference]
    )

    assert spec["database"] == {"enabled": False}
    assert spec["redis"] == {"enabled": False}
    assert {
        "name": "REDIS_URI_CUSTOM",
        "valueFrom": {"secretKeyRef": {"name": "mine", "key": "uri"}},
    } in spec["serverSpec"]["env"]


def test_room_to_grow_is_autoscaling_and_the_queue_follows(world: ListenerWorld) -> None:
    assert lgp(world, {"min_scale": 1, "max_scale": 5})["autoscaling"] == {
        "enabled": True,
        "minReplicas": 1,
        "maxReplicas": 5,
        "queueMinReplicas": 1,
        "queueMaxReplicas": 5,
    }


def test_the_environment_has_each_name_once_and_no_secret_value(world: ListenerWorld) -> None:
    env = lgp(world, {})["serverSpec"]["env"]
    names = [entry["name"] for entry in env]

    assert names == sorted(set(names))
    by_name = {entry["name"]: entry for entry in env}
    assert by_name["OPENAI_API_KEY"] == {
        "name": "OPENAI_API_KEY",
        "valueFrom": {"secretKeyRef": {"name": "the-secret", "key": "OPENAI_API_KEY"}},
    }
    assert by_name["LANGSMITH_HOST_PROJECT_ID"]["value"] == DEPLOYMENT
    assert by_name["LANGCHAIN_ENDPOINT"]["value"] == "https://smith.example"
    assert "valueFrom" in by_name["LANGCHAIN_API_KEY"]


def test_tracing_can_be_switched_off(world: ListenerWorld) -> None:
    world.config = world.config.model_copy(update={"tracing": False})
    env = {entry["name"]: entry.get("value") for entry in lgp(world, {})["serverSpec"]["env"]}

    assert env["LANGSMITH_TRACING_V2"] == env["LANGCHAIN_TRACING_V2"] == env["LANGSMITH_TRACING"] == "false"


@pytest.mark.parametrize(("value", "quantity"), [(0.1, "100m"), (0.25, "200m"), (1, "1"), (1.5, "1500m"), (16.0, "16")])
def test_cores_are_rounded_to_one_decimal(value: float, quantity: str) -> None:
    assert cores(value) == quantity


@pytest.mark.parametrize(("value", "quantity"), [(512, "512Mi"), (1024, "1Gi"), (1536, "1536Mi"), (4096, "4Gi")])
def test_memory_is_mebibytes(value: int, quantity: str) -> None:
    assert mebibytes(value) == quantity


@pytest.mark.parametrize(
    "name", ["hello", "My Agent", "a" * 80, "42-agents", "-", "ünïcode", "ends-with-a-dash-----------"]
)
def test_an_lgp_name_is_a_dns_label_that_leaves_room(name: str) -> None:
    made = lgp_name(name, DEPLOYMENT)

    assert len(made) <= LONGEST_LGP_NAME
    assert made[0].isalpha()
    assert made[-1].isalnum()
    assert made.endswith(DEPLOYMENT.replace("-", ""))
    assert set(made) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
