"""What the log may hold of an LGP."""

from __future__ import annotations

import hashlib
import hmac
from typing import Any

import pytest

from engine.errors import InvalidResource
from engine.operator.lgp import parse_lgp, read_lgp, redact_spec


def digest(value: bytes) -> str:
    return hmac.new(b"key", value, hashlib.sha256).hexdigest()


def hidden(value: str) -> str:
    return f"redacted:{digest(value.encode())}"


def redact(server: dict[str, Any]) -> dict[str, Any]:
    redacted: dict[str, Any] = redact_spec({"serverSpec": server}, digest)["serverSpec"]
    return redacted


def test_values_become_digests_and_names_stay() -> None:
    server = redact({"image": "i", "env": [{"name": "OPENAI_API_KEY", "value": "sk-1"}]})
    assert server == {"image": "i", "env": [{"name": "OPENAI_API_KEY", "value": hidden("sk-1")}]}


@pytest.mark.parametrize(
    "variable",
    [
        {"name": "LANGSMITH_HOST_REVISION_ID", "value": "42"},
        {"name": "LANGCHAIN_ENDPOINT", "value": "https://api.smith.langchain.com"},
        {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "s", "key": "KEY"}}},
        {"name": "EMPTY", "value": ""},
    ],
)
def test_what_is_no_secret_stays_readable(variable: dict[str, Any]) -> None:
    assert redact({"env": [variable]})["env"] == [variable]


@pytest.mark.parametrize("name", ["LANGCHAIN_API_KEY", "POSTGRES_URI", "POSTGRES_URI_CUSTOM", "REDIS_URI", "PATH"])
def test_platform_variables_that_may_hold_a_secret_are_hidden(name: str) -> None:
    assert redact({"env": [{"name": name, "value": "x"}]})["env"] == [{"name": name, "value": hidden("x")}]


def test_an_endpoint_with_a_password_in_it_is_hidden() -> None:
    url = "https://me:secret@proxy"
    assert redact({"env": [{"name": "LANGCHAIN_ENDPOINT", "value": url}]})["env"][0]["value"] == hidden(url)


def test_containers_of_others() -> None:
    container = {
        "name": "proxy",
        "image": "proxy:1",
        "command": ["proxy"],
        "args": ["--token", "t0"],
        "env": [{"name": "T", "value": "t1"}],
        "livenessProbe": {
            "httpGet": {"path": "/", "port": 1, "httpHeaders": [{"name": "Authorization", "value": "t2"}]}
        },
        "readinessProbe": {"exec": {"command": ["check", "t3"]}},
        "lifecycle": {"preStop": {"exec": {"command": ["bye", "t4"]}}},
        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
    }
    for field in ("sidecars", "initContainers"):
        assert redact({field: [container]})[field] == [
            {
                "name": "proxy",
                "image": "proxy:1",
                "command": [hidden("proxy")],
                "args": [hidden("--token"), hidden("t0")],
                "env": [{"name": "T", "value": hidden("t1")}],
                "livenessProbe": {
                    "httpGet": {
                        "path": "/",
                        "port": 1,
                        "httpHeaders": [{"name": "Authorization", "value": hidden("t2")}],
                    }
                },
                "readinessProbe": {"exec": {"command": [hidden("check"), hidden("t3")]}},
                "lifecycle": {"preStop": {"exec": {"command": [hidden("bye"), hidden("t4")]}}},
                "volumeMounts": [{"name": "v", "mountPath": "/v"}],
            }
        ]


@pytest.mark.parametrize(
    "server",
    [
        "s3cr3t",
        {"env": "s3cr3t"},
        {"env": ["s3cr3t"]},
        {"env": [{"value": "s3cr3t"}]},
        {"env": [{"name": {"x": "s3cr3t"}, "value": "s3cr3t"}]},
        {"env": [{"name": "PORT", "value": ["s3cr3t"]}]},
        {"sidecars": {"a": "s3cr3t"}},
        {"sidecars": [["s3cr3t"]]},
        {"sidecars": [{"args": "s3cr3t", "command": {"a": "s3cr3t"}}]},
        {"sidecars": [{"livenessProbe": {"exec": {"command": "s3cr3t"}}}]},
        {"unknown": "s3cr3t"},
    ],
)
def test_odd_shapes_do_not_leak(server: Any) -> None:
    assert "s3cr3t" not in repr(redact_spec({"serverSpec": server, "other": "s3cr3t"}, digest))


def test_an_lgp_that_cannot_be_understood_names_the_field_and_not_the_value() -> None:
    with pytest.raises(InvalidResource, match=r"LGP team/a: spec\.serverSpec\.env\.0\.value: ") as caught:
        parse_lgp("team", "a", "u", {"serverSpec": {"image": "i", "env": [{"name": "A", "value": ["s3cr3t"]}]}})
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "problem"),
    [
        ({}, r"spec\.serverSpec\.image: Field required"),
        ({"image": "i", "replicas": -1}, r"spec\.serverSpec\.replicas"),
        (
            {"image": "i", "sidecars": [{"name": "a"}], "initContainers": [{"name": "a"}]},
            "containers have the same name more than once: a",
        ),
        ({"image": "i", "volumeMounts": [{"name": "a", "mountPath": "/x"}] * 2}, "volumeMounts .* mountPath .*: /x"),
    ],
)
def test_what_is_refused(server: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidResource, match=problem):
        parse_lgp("team", "a", "u", {"serverSpec": server})


def test_defaults_are_those_of_the_resource_definition() -> None:
    spec = parse_lgp("team", "a", "u", {"serverSpec": {"image": "i"}, "database": None}).spec
    assert spec.server_spec.queue_enabled
    assert (spec.database.enabled, spec.database.max_connections, spec.database.storage_size_gi) == (False, 100, 10)
    assert spec.database.secret_name == "postgres-credentials"
    assert (spec.redis.enabled, spec.ingress.enabled, spec.autoscaling.enabled) == (False, False, False)


def test_reading_what_the_api_server_stored() -> None:
    stored = {
        "metadata": {"namespace": "team", "name": "a", "uid": "u", "annotations": {"x": "y"}},
        "spec": {"serverSpec": {"image": "i"}},
    }
    assert read_lgp(stored).stream == "lgp/team/a"
