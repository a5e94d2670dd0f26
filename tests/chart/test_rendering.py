"""What the chart renders: settings that load, hardened pods, and error messages that say what to do."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.log.sentinels import Sentinels
from engine.ports import Manifest
from engine.settings import Settings, unknown_variables
from tests.chart.rendering import (
    API_KEY,
    CHART,
    LISTENER,
    NEEDED,
    RELEASE,
    ROOT,
    SENTINELS,
    WORKSPACE,
    Refused,
    Values,
    at,
    container,
    environment,
    files,
    helm,
    layered,
    objects,
    own_secrets,
    pods,
    rendered,
    settings_of,
)
from workers.app import in_flight_key, list_key, served_queues

PROCESSES = ("listener", "operator", "beat", "watcher", "flower")
FLOWER: Values = {"flower": {"enabled": True, "existingSecretName": "flower"}}
GATEWAY: Values = {
    "ingress": {"enabled": False},
    "gateway": {"enabled": True, "name": "front", "namespace": "gateways", "hostname": "agents.example.com"},
    "config": {"watchNamespaces": "blue, green,blue"},
}


OPERATOR_ALONE: Values = {"listener": {"enabled": False}, "config": {"digestKey": "a-long-word"}}


def secrets(found: dict[tuple[str, str], Any]) -> dict[tuple[str, str], str]:
    """Return Secret values by Secret name and key; Secrets that the chart does not make have example values."""
    values = own_secrets(found.values())
    return {("flower", "basic_auth"): "me:secret", ("mine", "langsmith_api_key"): API_KEY, **values}


VARIANTS: dict[str, Values] = {
    "the least": {},
    "an existing Secret": {"config": {"langsmithApiKey": "", "existingSecretName": "mine"}},
    "a region": {"config": {"region": "gcp-eu"}},
    "URLs": {"config": {"hostBackendUrl": "https://me.example/api-host", "smithBackendUrl": "https://me.example/api"}},
    "a gateway and two namespaces": GATEWAY,
    "istio": {
        "ingress": {"enabled": False},
        "istioGateway": {"enabled": True, "name": "front", "hostname": "agents.example.com", "basePath": "/agents"},
    },
    "no exposure": {"ingress": {"enabled": False}, "config": {"enableLGPDeploymentHealthCheck": False}},
    "templates": {"operator": {"templates": {"service": "apiVersion: v1\nkind: Service\n"}}},
    "an external Redis": {
        "redis": {"external": {"enabled": True, "connectionUrl": "rediss://u:p@redis.example:6380/2"}}
    },
    "Sentinels": {
        "redis": {
            "external": {
                "enabled": True,
                "connectionUrl": "sentinel://:p@one.example/2;sentinel://two.example",
                "sentinel": {"master": "main", "username": "me", "password": "own"},
            }
        }
    },
    "no operator": {"operator": {"enabled": False}},
    "no listener": {
        "listener": {"enabled": False},
        "config": {"digestKey": "a-long-word", "langsmithApiKey": ""},
        "operator": {"watchNamespaces": "blue"},
    },
    "other settings": {"config": {"settings": {"poll_seconds": 30, "tracing_enabled": False, "log_level": "debug"}}},
    "a proxy and authorities": {
        "proxy": {"httpsProxy": "http://proxy.example:3128", "noProxy": ".corp.example"},
        "caBundle": {"secretName": "authorities"},
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_process_starts_with_its_environment(
    variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = rendered(NEEDED, FLOWER, VARIANTS[variant])
    for (kind, name), manifest in found.items():
        if (kind, name) == ("ConfigMap", "templates"):
            for file, text in manifest["data"].items():
                (tmp_path / file).write_text(text)
    loaded = {}
    for name, pod in pods(found):
        if name not in PROCESSES:
            continue
        variables = environment(pod, secrets(found))
        mounts = {mount["mountPath"] for mount in container(pod)["volumeMounts"]}
        for variable, value in variables.items():
            if value.startswith("/etc/agentplane/"):
                assert str(Path(value).parent) in mounts, f"{variable} of {name} is a path without a volume mount"
        with monkeypatch.context() as patch:
            for variable in ("AGENTPLANE_REDIS_URL", "AGENTPLANE_KUBECONFIG"):
                patch.delenv(variable, raising=False)
            for variable, value in variables.items():
                if variable.startswith("AGENTPLANE_"):
                    patch.setenv(variable, value.replace("/etc/agentplane/templates", str(tmp_path)))
            assert unknown_variables() == []
            loaded[name] = Settings.load()

    assert {name: settings.process for name, settings in loaded.items()} == {name: name for name in loaded}
    own = {"metrics_port", "process"}
    configurations = {name: settings.model_dump(exclude=own) for name, settings in loaded.items()}
    assert len(loaded) >= 4
    assert all(configuration == configurations["beat"] for configuration in configurations.values())


def test_values_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    values = {"config": {"watchNamespaces": "agents", "enableLGPDeploymentHealthCheck": False}, "clusterDomain": "c.l"}
    found = rendered(NEEDED, values, namespace="platform")
    for name, value in environment(dict(pods(found))["operator"], secrets(found)).items():
        monkeypatch.setenv(name, value)

    settings = Settings.load()

    assert (str(settings.workspace_id), str(settings.listener_id)) == (WORKSPACE, LISTENER)
    assert settings.langsmith_api_key is not None
    assert settings.langsmith_api_key.get_secret_value() == API_KEY
    assert settings.watch_namespaces == ("agents",)
    assert settings.prefix == f"platform-{RELEASE}"
    assert settings.redis_display == f"redis://{RELEASE}-redis.platform.svc.c.l:6379/0"
    assert (settings.routing.kind, settings.routing.hostname) == ("ingress", "agents.example.com")
    assert settings.health_check_enabled is False
    assert settings.metrics_port == 8081
    assert settings.pod_disruption_budgets is True
    assert (settings.managed_service_accounts, settings.managed_secret_provider_classes) == (False, False)


@pytest.mark.parametrize(
    ("value", "setting", "resource"),
    [
        ("operator.managedResources.serviceAccounts", "managed_service_accounts", "serviceaccounts"),
        (
            "operator.managedResources.secretProviderClasses",
            "managed_secret_provider_classes",
            "secretproviderclasses",
        ),
    ],
)
def test_rights_on_managed_resources_are_granted_only_if_they_are_enabled(
    value: str, setting: str, resource: str
) -> None:
    def granted_to(found: list[Manifest]) -> set[str]:
        roles = [m for m in found if m["kind"] == "Role"]
        return {m["metadata"]["name"] for m in roles for rule in m["rules"] if resource in rule["resources"]}

    off, on = objects(NEEDED), objects(NEEDED, at(value, True))
    assert granted_to(off) == set()
    assert granted_to(on) == {f"{RELEASE}-operator", f"{RELEASE}-watcher"}
    assert (getattr(settings_of(off), setting), getattr(settings_of(on), setting)) == (False, True)


@pytest.mark.parametrize(
    ("namespace", "release", "queue", "prefix"),
    [
        ("default", "data-plane", "host", "default-data-plane-langgraph-dataplane"),
        ("default", "data-plane", "second", "second"),
        ("a-namespace-with-quite-a-long-name", "langgraph-dataplane", "", "a-namespace-with-quite-a-long-n-"),
    ],
)
def test_two_installations_share_no_prefix_unless_told_to(
    namespace: str, release: str, queue: str, prefix: str
) -> None:
    found = rendered(NEEDED, at("config.hostQueue", queue), namespace=namespace, release=release)
    variables = next(environment(pod, secrets(found)) for name, pod in pods(found) if name.endswith("beat"))
    assert variables["AGENTPLANE_PREFIX"].startswith(prefix)
    assert len(variables["AGENTPLANE_PREFIX"]) <= 40


def test_pods_are_hardened() -> None:
    for name, pod in pods(rendered(NEEDED, FLOWER)):
        security = container(pod)["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert security["readOnlyRootFilesystem"] is True
        assert security["allowPrivilegeEscalation"] is False
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert pod["enableServiceLinks"] is False
        writable = {mount["mountPath"] for mount in container(pod)["volumeMounts"] if not mount.get("readOnly")}
        assert writable == ({"/data"} if name == "redis" else {"/tmp"})
        assert pod["automountServiceAccountToken"] is (name in ("listener", "operator", "watcher"))
        assert {"startupProbe", "livenessProbe"} <= container(pod).keys()


def test_a_key_of_a_security_context_is_merged_into_the_defaults() -> None:
    change = at("listener.deployment.podSecurityContext", {"runAsUser": None, "fsGroup": 4})
    pod = dict(pods(rendered(NEEDED, change)))["listener"]
    expected = {"runAsNonRoot": True, "runAsGroup": 10001, "fsGroup": 4, "seccompProfile": {"type": "RuntimeDefault"}}
    assert pod["securityContext"] == expected


@pytest.mark.parametrize("component", ["listener", "operator", "redis", "beat", "watcher"])
@pytest.mark.parametrize("mounted", [True, False])
def test_the_token_of_an_account_is_mounted_or_not_as_its_values_say(component: str, mounted: bool) -> None:
    found = rendered(NEEDED, at(f"{component}.serviceAccount.automountServiceAccountToken", mounted))
    assert dict(pods(found))[component]["automountServiceAccountToken"] is mounted
    assert found[("ServiceAccount", component)]["automountServiceAccountToken"] is mounted


@pytest.mark.parametrize("component", ["listener", "operator", "redis", "beat", "watcher"])
@pytest.mark.parametrize("mounted", [True, False])
def test_the_token_of_an_existing_account_is_mounted_or_not_as_the_values_say(component: str, mounted: bool) -> None:
    account = {"create": False, "name": "mine", "automountServiceAccountToken": mounted}
    found = rendered(NEEDED, at(f"{component}.serviceAccount", account))
    pod = dict(pods(found))[component]

    assert (pod["serviceAccountName"], pod["automountServiceAccountToken"]) == ("mine", mounted)
    assert ("ServiceAccount", component) not in found


def test_a_role_keeps_its_name_beside_an_account_that_exists() -> None:
    found = rendered(NEEDED, at("operator.serviceAccount", {"create": False, "name": "mine"}))
    assert ("ServiceAccount", "operator") not in found
    binding = found[("RoleBinding", "operator")]
    assert binding["roleRef"]["name"] == f"{RELEASE}-operator"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "mine", "namespace": "default"}]
    assert dict(pods(found))["operator"]["serviceAccountName"] == "mine"


def test_every_watched_namespace_has_roles_and_nothing_is_cluster_wide() -> None:
    found = objects(NEEDED, GATEWAY)
    roles = {(m["metadata"]["namespace"], m["metadata"]["name"]) for m in found if m["kind"] == "Role"}
    assert roles == {
        (where, f"{RELEASE}-{component}")
        for where in ("blue", "green")
        for component in ("listener", "operator", "watcher", "leases")
    }
    cluster_wide = [m["kind"] for m in found if "namespace" not in m["metadata"]]
    assert cluster_wide == ["CustomResourceDefinition"]


def test_volumes_of_everybody_and_of_one() -> None:
    more = {
        "commonVolumes": [{"name": "all", "emptyDir": {}}],
        "commonVolumeMounts": [{"name": "all", "mountPath": "/all"}],
        "listener": {
            "deployment": {
                "volumes": [{"name": "one", "emptyDir": {}}],
                "volumeMounts": [{"name": "one", "mountPath": "/one"}],
            }
        },
    }
    for name, pod in pods(rendered(NEEDED, more)):
        expected = {"all", "one"} if name == "listener" else {"all"}
        assert expected <= {volume["name"] for volume in pod["volumes"]}
        assert expected <= {mount["name"] for mount in container(pod)["volumeMounts"]}


def test_a_custom_probe_replaces_ours_and_custom_timings_keep_it() -> None:
    probes = {
        "readinessProbe": {"tcpSocket": {"port": 8080}},
        "livenessProbe": {"failureThreshold": 9},
        "startupProbe": {"httpGet": {"path": "/health", "port": 8080}, "periodSeconds": 3},
    }
    listener = container(dict(pods(rendered(NEEDED, at("listener.deployment", probes))))["listener"])
    check = {"command": ["python", "-m", "workers.liveness", "listener", "--prefix", f"default-{RELEASE}"]}
    assert "exec" not in listener["readinessProbe"]
    assert (listener["livenessProbe"]["exec"], listener["livenessProbe"]["failureThreshold"]) == (check, 9)
    assert (listener["startupProbe"]["exec"], listener["startupProbe"]["periodSeconds"]) == (check, 3)
    assert "httpGet" not in listener["startupProbe"]


def test_a_changed_secret_or_template_rolls_the_pods_that_restart_by_themselves() -> None:
    def checksums(*values: Values) -> dict[str, str | None]:
        return {
            name: manifest["spec"]["template"]["metadata"].get("annotations", {}).get("agentplane.dev/checksum")
            for (kind, name), manifest in rendered(NEEDED, *values).items()
            if kind == "Deployment"
        }

    before = checksums()
    assert checksums() == before
    for change in (at("config.langsmithApiKey", "lsv2_other"), at("operator.templates.service", "kind: Service")):
        assert all(checksums(change)[name] != checksum for name, checksum in before.items())
    for password in ("one", "other"):
        url = {"enabled": True, "connectionUrl": f"redis://:{password}@redis.example:6379/0"}
        after = checksums(at("redis.external", url))
        assert all(after[name] != checksum for name, checksum in before.items())
        before = after
    assert checksums(at("listener.deployment.autoRestart", False))["listener"] is None
    assert API_KEY not in "".join(text for name, text in files(NEEDED).items() if name != "secrets.yaml")


def test_redis_keeps_the_log_and_evicts_nothing() -> None:
    args = container(dict(pods(rendered(NEEDED)))["redis"])["args"]
    assert args[:1] == ["redis-server"]
    assert {("--appendonly", "yes"), ("--maxmemory-policy", "noeviction")} <= set(pairwise(args))


def test_tls_to_redis_is_verified_unless_told_otherwise() -> None:
    url = "rediss://me:secret@redis.example:6380/2"
    found = rendered(NEEDED, {"redis": {"external": {"enabled": True, "connectionUrl": url}}})
    assert secrets(found)[(f"{RELEASE}-redis", "connection_url")] == f"{url}?ssl_cert_reqs=required"
    assert ("StatefulSet", "redis") not in found


def test_sentinels_become_the_redis_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    found = rendered(NEEDED, {"redis": {"external": SENTINELS}})

    assert ("StatefulSet", "redis") not in found
    for name, value in environment(dict(pods(found))["watcher"], secrets(found)).items():
        monkeypatch.setenv(name, value)
    where = Settings.load().redis
    assert where == Sentinels(
        hosts=(("one.example", 26380), ("two.example", 26379)),
        master="main",
        database=2,
        username="me",
        password="secret",
        sentinel_username="watch",
        sentinel_password="own-secret",
        tls={"ssl_cert_reqs": "required"},
    )


@pytest.mark.parametrize(
    ("given", "keys"),
    [
        (SENTINELS, {"password": "password", "sentinelPassword": "sentinel_password"}),
        (
            {
                "enabled": True,
                "existingSecretName": "mine",
                "passwordSecretKey": "redis-password",
                "address": "one.example:26380, two.example:26379",
                "username": "me",
                "databaseIndex": 2,
                "tls": True,
                "sentinel": {"master": "main", "username": "watch", "passwordSecretKey": "own-password"},
            },
            {"password": "redis-password", "sentinelPassword": "own-password"},
        ),
        ({"enabled": True, "connectionUrl": "sentinel://one.example", "sentinel": {"master": "main"}}, {}),
    ],
    ids=["a URL", "a Secret", "no password"],
)
def test_keda_reads_queues_through_the_sentinels(tmp_path: Path, given: Values, keys: dict[str, str]) -> None:
    scaling = {"autoscaling": {"enabled": True, "keda": {"enabled": True}}}

    found = rendered_with_keda(tmp_path, layered(NEEDED, {"listener": scaling, "redis": {"external": given}}))

    triggers = found[("ScaledObject", "listener")]["spec"]["triggers"]
    assert {trigger["type"] for trigger in triggers} == {"redis-sentinel"}
    for trigger in triggers:
        metadata = {key: value for key, value in trigger["metadata"].items() if not key.startswith("list")}
        if not keys:
            plain = {"addresses": "one.example:26379", "databaseIndex": "0", "enableTLS": "false"}
            assert metadata == {**plain, "sentinelMaster": "main"}
            assert "authenticationRef" not in trigger
            continue
        assert metadata == {
            "addresses": "one.example:26380,two.example:26379",
            "sentinelMaster": "main",
            "sentinelUsername": "watch",
            "username": "me",
            "databaseIndex": "2",
            "enableTLS": "true",
        }
        assert trigger["authenticationRef"] == {"name": f"{RELEASE}-redis"}
    authentications = [m for (kind, _), m in found.items() if kind == "TriggerAuthentication"]
    secret = given.get("existingSecretName", f"{RELEASE}-redis")
    references = [one for m in authentications for one in m["spec"]["secretTargetRef"]]
    assert references == [{"parameter": name, "name": secret, "key": key} for name, key in sorted(keys.items())]
    if references and "connectionUrl" in given:
        assert {(one["name"], one["key"]) for one in references} <= secrets(found).keys()


def test_the_custom_resource_definition_is_the_one_of_the_project() -> None:
    (crd,) = [m for m in objects(NEEDED) if m["kind"] == "CustomResourceDefinition"]
    assert crd == yaml.safe_load((ROOT / "k8s/crds/lgps.apps.langchain.ai.yaml").read_text())
    assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_the_package_holds_the_custom_resource_definition(tmp_path: Path) -> None:
    archive = helm.package(CHART, destination=tmp_path)
    with tarfile.open(archive) as package:
        packed = package.extractfile("agentplane/files/lgps.apps.langchain.ai.yaml")
        assert packed is not None
        assert packed.read() == (ROOT / "k8s/crds/lgps.apps.langchain.ai.yaml").read_bytes()


@pytest.mark.parametrize("values", [{}, layered(NEEDED, FLOWER, at("networkPolicy.enabled", True))])
def test_helm_lint_has_no_complaint(values: Values) -> None:
    report = helm.lint(CHART, values, strict=True)
    assert report["errors"] == []
    assert [m for m in report["messages"] if m["severity"] > 1] == []


def test_the_chart_knows_every_setting() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert schema["properties"]["config"]["properties"]["settings"]["propertyNames"]["pattern"]
    assert (CHART / "files/settings.txt").read_text().split() == sorted(Settings.model_fields)


SECOND_ROUTE = {"gateway": {"enabled": True, "name": "front", "hostname": "agents.example.com"}}
REFUSALS: dict[str, tuple[Values, list[str]]] = {
    "an unknown key": (at("listener.deployment.replicaCount", 2), ["replicaCount", "not allowed"]),
    "a value of the wrong type": (at("listener.deployment.replicas", "two"), ["/listener/deployment/replicas"]),
    "an unknown setting": (
        at("config.settings.pol_seconds", 3),
        ["config.settings.pol_seconds: there is no such setting; did you mean poll_seconds?"],
    ),
    "a setting that has its own key in the values": (
        at("config.settings.watch_namespaces", "x"),
        ["AGENTPLANE_WATCH_NAMESPACES twice"],
    ),
    "a variable that is set twice": (
        {
            "commonEnv": [{"name": "A", "value": "1"}],
            "beat": {"deployment": {"extraEnv": [{"name": "A", "value": "2"}]}},
        },
        ["environment of beat has A twice"],
    ),
    "no API key": (at("config.langsmithApiKey", ""), ["config.langsmithApiKey is not set", "existingSecretName"]),
    "an invalid id": (
        at("config.langsmithWorkspaceId", "mine"),
        ["config.langsmithWorkspaceId=mine is not a UUID"],
    ),
    "two kinds of exposure": (SECOND_ROUTE, ["ingress and gateway are enabled together", "ingress.enabled=false"]),
    "several namespaces behind an ingress": (
        at("config.watchNamespaces", "blue,green"),
        ["blue,green does not work with ingress", "Services of its own namespace", "use gateway or istioGateway"],
    ),
    "URLs of two regions": (
        at("config.hostBackendUrl", "https://eu.api.host.langchain.com")
        | {
            "config": {
                "hostBackendUrl": "https://eu.api.host.langchain.com",
                "smithBackendUrl": "https://api.smith.langchain.com",
            }
        },
        ["config.hostBackendUrl belongs to gcp-eu, config.smithBackendUrl belongs to gcp-us", "one region"],
    ),
    "a region and a URL of another": (
        {"config": {"region": "aws-us", "hostBackendUrl": "https://api.host.langchain.com"}},
        ["config.hostBackendUrl belongs to gcp-us, config.region belongs to aws-us"],
    ),
    "swapped URLs": (
        at("config.hostBackendUrl", "https://api.smith.langchain.com"),
        ["the wrong one of the two URLs"],
    ),
    "upstream's image from a mirror": (
        at("images.listenerImage.repository", "mirror.example/langchain/langsmith-backend"),
        ["contains another program", "images.agentplaneImage.repository"],
    ),
    "a tag of upstream's image": (
        at("images.operatorImage.tag", "0.1.35"),
        ["images.operatorImage.tag=0.1.35", "images.agentplaneImage.tag"],
    ),
    "upstream's program": (
        at("listener.deployment.command", ["host_backend_entrypoint.sh", "./other.sh"]),
        ["listener.deployment.command", "not in the image"],
    ),
    "Flower without a password": (at("flower.enabled", True), ["flower.existingSecretName is not set", "basic auth"]),
    "Sentinels without a master": (
        at("redis.external", {"enabled": True, "connectionUrl": "sentinel://:hunter2@one.example:26379/0"}),
        ["redis.external.sentinel.master is not set", "know the master"],
    ),
    "the master's name in the URL": (
        at("redis.external", {"enabled": True, "connectionUrl": "sentinel://:hunter2@one.example/main"}),
        ["the name of the master belongs in redis.external.sentinel.master"],
    ),
    "Sentinels and a server": (
        at(
            "redis.external",
            {
                "enabled": True,
                "connectionUrl": "sentinel://:hunter2@one.example;redis://two.example",
                "sentinel": {"master": "main"},
            },
        ),
        ["every address between the semicolons must be sentinel://"],
    ),
    "a master without Sentinels": (
        at(
            "redis.external",
            {"enabled": True, "connectionUrl": "redis://:hunter2@one.example", "sentinel": {"master": "main"}},
        ),
        ["redis.external.sentinel has no effect", "does not start with sentinel://"],
    ),
    "a password of Sentinels together with a Secret": (
        at(
            "redis.external",
            {"enabled": True, "existingSecretName": "redis", "sentinel": {"master": "main", "password": "hunter2"}},
        ),
        ["put the password into the Secret", "redis.external.sentinel.passwordSecretKey"],
    ),
    "a Secret key without a Secret": (
        at(
            "redis.external",
            {
                "enabled": True,
                "connectionUrl": "sentinel://one.example",
                "sentinel": {"master": "main", "passwordSecretKey": "own"},
            },
        ),
        ["redis.external.existingSecretName, which is not set", "set redis.external.sentinel.password"],
    ),
    "a password of Sentinels without a master": (
        at(
            "redis.external",
            {"enabled": True, "existingSecretName": "redis", "sentinel": {"passwordSecretKey": "own"}},
        ),
        ["redis.external.sentinel.master is not set"],
    ),
    "Sentinels without an external Redis": (
        at("redis.external.sentinel.master", "main"),
        ["redis.external.sentinel have no effect while redis.external.enabled is false"],
    ),
    "an invalid URL of Redis": (
        at("redis.external", {"enabled": True, "connectionUrl": "redis://:hunter2%zz@one.example:6379x"}),
        ["redis.external.connectionUrl (its value is not shown)", "percent-encoded"],
    ),
    "KEDA and Sentinels in a Secret": (
        {
            "redis": {"external": {"enabled": True, "existingSecretName": "redis", "sentinel": {"master": "main"}}},
            "operator": {"autoscaling": {"enabled": True, "keda": {"enabled": True}}},
        },
        ["operator.autoscaling.keda.enabled", "redis.external.address to host:port of every Sentinel, separated"],
    ),
    "an external Redis without a URL": (
        at("redis.external.enabled", True),
        ["needs redis.external.connectionUrl", "connection_url"],
    ),
    "KEDA and a URL in a Secret": (
        {
            "redis": {"external": {"enabled": True, "existingSecretName": "redis"}},
            "operator": {"autoscaling": {"enabled": True, "keda": {"enabled": True}}},
        },
        ["operator.autoscaling.keda.enabled", "redis.external.address"],
    ),
    "an invalid prefix": (at("config.hostQueue", "My_Queue"), ["config.hostQueue=My_Queue", "lowercase"]),
    "templates under their former key": (at("listener.templates", {"db": "x"}), ["operator.templates"]),
    "an address of Redis without a port": (
        at("redis.external", {"enabled": True, "existingSecretName": "redis", "address": "hunter2"}),
        ["redis.external.address (its value is not shown)", "host:port"],
    ),
    "an invalid port of Redis": (
        at("redis.external", {"enabled": True, "connectionUrl": "redis://:hunter2@one.example:99999"}),
        ["redis.external.connectionUrl (its value is not shown)", "from 1 to 65535"],
    ),
    "an invalid port in the hostname": (
        at("ingress.hostname", "agents.example.com:99999"),
        ["ingress.hostname=agents.example.com:99999", "from 1 to 65535"],
    ),
    "a port in the hostname that is no number": (
        at("ingress.hostname", "agents.example.com:https"),
        ["ingress.hostname"],
    ),
    "a hostname that is an address": (at("ingress.hostname", "2001:db8::1"), ["ingress.hostname=2001:db8::1"]),
    "a peer that is no object": (at("networkPolicy.gatewayTo", ["envoy"]), ["/networkPolicy/gatewayTo/0"]),
    "an empty peer": (at("networkPolicy.gatewayTo", [{}]), ["/networkPolicy/gatewayTo/0"]),
    "a misspelt peer": (at("networkPolicy.processesFrom", [{"podselector": {}}]), ["/networkPolicy/processesFrom/0"]),
    "an address for a peer": (
        at("networkPolicy.redisFrom", [{"ipBlock": {"cidr": "10.0.0.1"}}]),
        ["/redisFrom/0/ipBlock/cidr"],
    ),
    "a variable that is a number": (
        at("commonEnv", [{"name": "THREADS", "value": 5}]),
        ["/commonEnv/0/value", "want null or string"],
    ),
    "a tag that YAML reads as a fraction": (
        at("images.agentplaneImage.tag", 1.1),
        ["/images/agentplaneImage/tag", "string"],
    ),
    "a number as a tag of upstream's image": (at("images.operatorImage.tag", 17), ["images.operatorImage.tag=17"]),
    "a hostname that is a URL": (at("ingress.hostname", "https://agents.example.com"), ["without https://"]),
    "no component enabled": ({"listener": {"enabled": False}, "operator": {"enabled": False}}, ["nothing would run"]),
    "several mistakes": (
        {"config": {"langsmithApiKey": "", "hostQueue": "A"}, "flower": {"enabled": True}},
        ["config.langsmithApiKey", "config.hostQueue", "flower.existingSecretName"],
    ),
}


def _parts(values: Values, path: str = "") -> Iterator[str]:
    """Yield the paths of all values, without empty strings and without the fields that Kubernetes defines."""
    for name, value in values.items():
        if value != "":
            yield f"{path}{name}"
        if isinstance(value, dict) and not name.endswith(("resources", "Context", "Probe")):
            yield from _parts(value, f"{path}{name}.")


EVERYTHING = layered(
    NEEDED,
    FLOWER,
    at("networkPolicy.enabled", True),
    at("listener.autoscaling.enabled", True),
    {name: at("pdb.enabled", True) for name in ("listener", "operator", "redis")},
)


def test_every_value_may_be_null_or_is_refused_by_name() -> None:
    failed = {}
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in ("operator", "beat", "watcher", "flower"):
        values[name]["deployment"] = {"replicas": 1}  # the listener has the full set of keys
    for path in _parts(values):
        try:
            files(EVERYTHING, at(path, None))
        except Refused as refusal:
            message = str(refusal)
            named = path.rpartition(".")[2] in message
            if not named or not ("execution error at (agentplane/templates/validate" in message or "schema" in message):
                failed[path] = message
    assert failed == {}


@pytest.mark.parametrize("tag", [20261127, 12345678901])
def test_a_tag_of_digits_needs_no_quotes(tag: int) -> None:
    found = rendered(NEEDED, at("images.agentplaneImage", {"repository": "registry.example/agentplane", "tag": tag}))
    assert {container(pod)["image"] for name, pod in pods(found) if name != "redis"} == {
        f"registry.example/agentplane:{tag}"
    }


def test_values_of_an_older_chart_still_render() -> None:
    """`helm upgrade --reuse-values` does not add the defaults of the new chart."""
    old = [at("operator.managedResources", None), at("operator.podDisruptionBudgets", None), at("networkPolicy", {})]
    assert files(EVERYTHING, *old) == files(EVERYTHING)


@pytest.mark.parametrize("case", REFUSALS)
def test_a_mistake_in_the_values_is_refused_with_its_fix(case: str) -> None:
    values, words = REFUSALS[case]
    with pytest.raises(Refused) as refusal:
        files(NEEDED, values)
    for word in words:
        assert word in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("images", "listener", "beat"),
    [
        ({}, "agentplane:0.1.0", "agentplane:0.1.0"),
        (
            {"agentplaneImage": {"repository": "r.example/agentplane", "tag": "2"}},
            "r.example/agentplane:2",
            "r.example/agentplane:2",
        ),
        ({"listenerImage": {"repository": "r.example/mine", "tag": "3"}}, "r.example/mine:3", "agentplane:0.1.0"),
        ({"registry": "r.example"}, "r.example/agentplane:0.1.0", "r.example/agentplane:0.1.0"),
        (
            {"agentplaneImage": {"tag": "sha256:" + "0" * 64}},
            "agentplane@sha256:" + "0" * 64,
            "agentplane@sha256:" + "0" * 64,
        ),
    ],
)
def test_images(images: Values, listener: str, beat: str) -> None:
    found = dict(pods(rendered(NEEDED, {"images": images})))
    assert container(found["listener"])["image"] == listener
    assert container(found["beat"])["image"] == beat


def test_the_shared_ingress_is_in_the_namespace_of_the_agent_servers() -> None:
    found = rendered(
        NEEDED,
        at("config.watchNamespaces", "agents"),
        at("ingress.metricsPrefix", "/data-plane/"),
        namespace="platform",
    )
    shared = found[("Ingress", "ingress")]
    assert shared["metadata"]["namespace"] == "agents"
    assert shared["metadata"]["annotations"]["lgp-operator.io/shared-ingress"] == "true"
    assert shared["spec"]["rules"] == [{"host": "agents.example.com"}]
    paths = found[("Ingress", "paths")]
    assert paths["metadata"]["namespace"] == "platform"
    assert "lgp-operator.io/shared-ingress" not in (paths["metadata"].get("annotations") or {})
    (path,) = paths["spec"]["rules"][0]["http"]["paths"]
    assert (path["path"], path["backend"]["service"]["name"]) == ("/data-plane/metrics", f"{RELEASE}-operator")


def test_an_operator_alone_renders_no_object_of_the_listener() -> None:
    kinds = {kind for kind, name in rendered(NEEDED, OPERATOR_ALONE) if name == "listener"}
    assert kinds == set()
    assert files(NEEDED, OPERATOR_ALONE)["NOTES.txt"].count("deploy/langgraph-dataplane-operator") == 3


@pytest.mark.parametrize(
    ("values", "scaled"),
    [({}, ("listener", "operator")), (OPERATOR_ALONE, ("operator",))],
    ids=["both", "operator alone"],
)
def test_workers_scale_by_the_length_of_their_queues_and_by_messages_in_flight(
    tmp_path: Path, values: Values, scaled: tuple[str, ...]
) -> None:
    scaling = {
        "autoscaling": {
            "enabled": True,
            "minReplicas": 2,
            "maxReplicas": 7,
            "keda": {
                "enabled": True,
                "queueLength": 50,
                "inFlight": 5,
                "pollingInterval": 20,
                "scaleDownSeconds": 90,
            },
        }
    }
    given = layered(NEEDED, {"listener": scaling, "operator": scaling, "config": {"hostQueue": "blue"}}, values)

    found = rendered_with_keda(tmp_path, given)

    settings = settings_of(list(found.values()))
    assert tuple(name for kind, name in found if kind == "ScaledObject") == scaled
    for worker in scaled:
        spec = found[("ScaledObject", worker)]["spec"]
        assert {t["metadata"]["listName"]: t["metadata"]["listLength"] for t in spec["triggers"]} == {
            **{list_key(settings, queue): "50" for queue in served_queues(settings, worker)},
            in_flight_key(settings, worker): "5",
        }
        assert {trigger["type"] for trigger in spec["triggers"]} == {"redis"}
        assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["pollingInterval"]) == (2, 7, 20)
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
        assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 90
        assert spec["scaleTargetRef"] == {"name": f"{RELEASE}-{worker}"}
        assert "replicas" not in found[("Deployment", worker)]["spec"]


def rendered_with_keda(folder: Path, values: Values) -> dict[tuple[str, str], Any]:
    """Render the chart as in a cluster that serves ScaledObjects; return the manifests by kind and name.

    Rendering alone knows no cluster, so a copy of the chart has the check for the API replaced by `true`.
    """
    shutil.copytree(CHART, folder / "chart")
    template = folder / "chart" / "templates" / "autoscaling.yaml"
    text = template.read_text(encoding="utf-8")
    check = '.Capabilities.APIVersions.Has "keda.sh/v1alpha1/ScaledObject"'
    assert text.count(check) == 1
    template.write_text(text.replace(check, "true"), encoding="utf-8")
    rendered_files = helm.Chart.load(folder / "chart").render(values, name=RELEASE, namespace="default")
    return {
        (manifest["kind"], manifest["metadata"]["name"].removeprefix(f"{RELEASE}-")): manifest
        for name, content in sorted(rendered_files.items())
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(content)
        if manifest
    }


def test_with_an_hpa_the_deployment_has_no_replica_count() -> None:
    scaling = {"enabled": True, "minReplicas": 2, "maxReplicas": 4, "targetMemoryUtilizationPercentage": None}
    found = rendered(NEEDED, at("listener.autoscaling", scaling))
    spec = found[("HorizontalPodAutoscaler", "listener")]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 4)
    assert [metric["resource"]["name"] for metric in spec["metrics"]] == ["cpu"]
    assert "replicas" not in found[("Deployment", "listener")]["spec"]
    instead = rendered(NEEDED, at("listener.autoscaling", {**scaling, "keda": {"enabled": True, "fallback": "hpa"}}))
    assert instead[("HorizontalPodAutoscaler", "listener")]["spec"] == spec
    own = rendered(NEEDED, at("listener.autoscaling", {"enabled": True, "createHpa": False}))
    assert ("HorizontalPodAutoscaler", "listener") not in own
    assert "replicas" not in own[("Deployment", "listener")]["spec"]


def test_the_values_in_the_installation_guide_render() -> None:
    guide = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    blocks = [textwrap.dedent(block) for block in re.findall(r"(?:^    .*\n|^\n(?=    ))+", guide, re.MULTILINE)]
    (values,) = [yaml.safe_load(block) for block in blocks if "# values.yaml" in block]
    (gateway,) = [yaml.safe_load(block) for block in blocks if block.strip().startswith("ingress: {enabled")]
    (redis,) = [yaml.safe_load(block) for block in blocks if block.strip().startswith("redis:")]

    least = {name for kind, name in rendered(values, namespace="agentplane") if kind in ("Deployment", "StatefulSet")}
    assert least == {"listener", "operator", "beat", "watcher", "redis"}
    hostname = {"ingress": {"hostname": "", "ingressClassName": ""}}
    assert ("Role", "listener") in rendered(values, hostname, gateway, redis, namespace="agentplane")
