"""A container's environment as a kubelet resolves it. Pure: Secrets and ConfigMaps are dictionaries."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest

from sandbox.kubelet.environment import ContainerConfigError, Kind, expand, resolve

STORED: dict[tuple[str, str], dict[str, Any]] = {
    ("secrets", "keys"): {"data": {"API_KEY": base64.b64encode(b"abc").decode(), "not a name": ""}},
    ("configmaps", "flags"): {"data": {"MODE": "fast", "API_KEY": "overridden"}},
}


async def lookup(kind: Kind, namespace: str, name: str) -> dict[str, Any] | None:
    assert namespace == "agents"
    return STORED.get((kind, name))


def environment(**container: Any) -> dict[str, str]:
    pod = {
        "metadata": {"name": "hello-1", "namespace": "agents", "uid": "u", "labels": {"app": "hello"}},
        "spec": {"nodeName": "sandbox", "containers": [container]},
    }
    return asyncio.run(resolve(pod, container, lookup))


def test_literals_and_references_to_earlier_variables() -> None:
    env = environment(env=[{"name": "A", "value": "1"}, {"name": "B", "value": "$(A)-$(LATER)-$$(A)"}, {"name": "C"}])
    assert env == {"A": "1", "B": "1-$(LATER)-$(A)", "C": ""}


def test_env_from_comes_first_and_later_sources_win() -> None:
    env = environment(
        envFrom=[{"configMapRef": {"name": "flags"}}, {"secretRef": {"name": "keys"}, "prefix": "MY_"},
                 {"secretRef": {"name": "keys"}}],
        env=[{"name": "MODE", "value": "$(MODE)er"}],
    )  # fmt: skip
    assert env == {"MODE": "faster", "API_KEY": "abc", "MY_API_KEY": "abc"}


def test_values_from_keys_fields_and_resources() -> None:
    def source(**one: Any) -> dict[str, Any]:
        return {"name": next(iter(one)), "valueFrom": next(iter(one.values()))}

    env = environment(
        resources={"limits": {"cpu": "500m", "memory": "1Gi"}},
        env=[
            source(KEY={"secretKeyRef": {"name": "keys", "key": "API_KEY"}}),
            source(MODE={"configMapKeyRef": {"name": "flags", "key": "MODE"}}),
            source(NAME={"fieldRef": {"fieldPath": "metadata.name"}}),
            source(APP={"fieldRef": {"fieldPath": "metadata.labels['app']"}}),
            source(NODE={"fieldRef": {"fieldPath": "spec.nodeName"}}),
            source(IP={"fieldRef": {"fieldPath": "status.podIP"}}),
            source(CPUS={"resourceFieldRef": {"resource": "limits.cpu"}}),
            source(MEMORY={"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}),
        ],
    )
    assert env == {"KEY": "abc", "MODE": "fast", "NAME": "hello-1", "APP": "hello", "NODE": "sandbox",
                   "IP": "127.0.0.1", "CPUS": "1", "MEMORY": "1024"}  # fmt: skip


def test_what_is_missing_stops_the_container_unless_optional() -> None:
    def optional(**ref: Any) -> dict[str, Any]:
        return {"name": "X", "valueFrom": {"secretKeyRef": {"optional": True, **ref}}}

    assert environment(env=[optional(name="absent", key="K"), optional(name="keys", key="K")],
                       envFrom=[{"secretRef": {"name": "absent", "optional": True}}]) == {}  # fmt: skip
    for container, message in (
        ({"envFrom": [{"secretRef": {"name": "absent"}}]}, 'secret "absent" not found'),
        ({"envFrom": [{"configMapRef": {"name": "absent"}}]}, 'configmap "absent" not found'),
        ({"env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "keys", "key": "K"}}}]},
         "couldn't find key K in Secret agents/keys"),
        ({"env": [{"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.hostname"}}}]}, "unsupported fieldPath"),
    ):  # fmt: skip
        with pytest.raises(ContainerConfigError) as caught:
            environment(**container)
        assert message in str(caught.value)


def test_expansion_leaves_other_dollars_alone() -> None:
    assert expand("$HOME ${X} $(X) $$X $", {"X": "1"}) == "$HOME ${X} 1 $X $"
