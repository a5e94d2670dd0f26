"""Every key of the upstream values file is honoured or refused: a change of it changes an object or is an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from typing import Any

import pytest
import yaml

from tests.chart.rendering import NEEDED, ROOT, UPSTREAM, Refused, Values, at, container, files, layered, pods, rendered

pytestmark = pytest.mark.skipif(not UPSTREAM.exists(), reason=f"{UPSTREAM} is not here")

VALUES_PAGE = ROOT / "docs" / "values.md"
PROBE_KEYS = ("httpGet", "exec")

GATEWAY: Values = {"ingress": {"enabled": False, "hostname": ""}}

BESIDE: dict[str, Values] = {
    "images.listenerImage.tag": {"images": {"listenerImage": {"repository": "registry.example/ours"}}},
    "images.operatorImage.tag": {"images": {"operatorImage": {"repository": "registry.example/ours"}}},
    "gateway.": {**GATEWAY, "gateway": {"enabled": True, "name": "front", "hostname": "agents.example.com"}},
    "istioGateway.": {**GATEWAY, "istioGateway": {"enabled": True, "name": "front", "hostname": "agents.example.com"}},
    "config.existingSecretName": {"config": {"langsmithApiKey": "", "existingSecretName": "first"}},
    "listener.autoscaling.": {"listener": {"autoscaling": {"enabled": True}}},
    "listener.pdb.": {"listener": {"pdb": {"enabled": True}}},
    "operator.pdb.": {"operator": {"pdb": {"enabled": True}}},
    "redis.pdb.": {"redis": {"pdb": {"enabled": True}}},
    "redis.external.": {"redis": {"external": {"enabled": True, "connectionUrl": "redis://redis.example:6379/1"}}},
    "redis.external.existingSecretName": {"redis": {"external": {"enabled": True, "existingSecretName": "first"}}},
}
"""Values without which a key has no effect, by key or by prefix of the key; the longest match wins."""

CHANGED: dict[str, Any] = {
    "ingress.namespace": "elsewhere",
    "images.listenerImage.pullPolicy": "Always",
    "images.operatorImage.pullPolicy": "Always",
    "images.redisImage.pullPolicy": "Always",
    "config.hostBackendUrl": "https://control.example/api-host",
    "config.smithBackendUrl": "https://smith.example/api",
    "config.hostQueue": "second",
    "config.langsmithWorkspaceId": "33333333-3333-4333-8333-333333333333",
    "config.langgraphListenerId": "33333333-3333-4333-8333-333333333333",
    "config.watchNamespaces": "agents",
    "operator.watchNamespaces": "agents",
    "listener.deployment.command": ["/start.sh"],
    "redis.statefulSet.command": ["/start.sh"],
    "listener.autoscaling.minReplicas": 2,
    "redis.external.connectionUrl": "redis://another.example:6379/1",
    "redis.statefulSet.persistence.size": "20Gi",
    "redis.statefulSet.persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
    "ingress.additionalPaths": [
        {"path": "/x", "pathType": "Prefix", "backend": {"service": {"name": "x", "port": {"number": 1}}}}
    ],
    "ingress.tls": [{"hosts": ["agents.example.com"], "secretName": "tls"}],
}
"""Changed values of keys for which `another` cannot derive a valid value from the default."""

LISTS: dict[str, Any] = {
    "Env": [{"name": "EXAMPLE", "value": "yes"}],
    "imagePullSecrets": [{"name": "pull"}],
    "olumes": [{"name": "more", "emptyDir": {}}],
    "olumeMounts": [{"name": "more", "mountPath": "/more"}],
    "sidecars": [{"name": "beside", "image": "registry.example/beside"}],
    "tolerations": [{"key": "agents", "operator": "Exists"}],
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}],
    "loadBalancerSourceRanges": ["10.0.0.0/8"],
}
"""Changed values of lists that are empty by default, by suffix of the key."""

MAPS: dict[str, Any] = {
    "lifecycle": {"preStop": {"exec": {"command": ["sleep", "1"]}}},
    "extraContainerConfig": {"workingDir": "/"},
    "affinity": {"nodeAffinity": {}},
    "updateStrategy": {"type": "OnDelete"},
    "odSecurityContext": {"runAsUser": 4711},
    "securityContext": {"runAsUser": 4711},
}
"""Changed values of maps that are empty by default, by suffix of the key; all other maps hold strings."""


def upstream() -> Values:
    values: Values = yaml.safe_load(UPSTREAM.read_text(encoding="utf-8"))
    return values


def leaves(values: Values, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every key with its default; a list, an empty map, or the handler of a probe counts as one value."""
    for key, value in values.items():
        path = f"{before}{key}"
        if isinstance(value, dict) and value and key not in PROBE_KEYS:
            yield from leaves(value, f"{path}.")
        else:
            yield path, value


KEYS = dict(leaves(upstream())) if UPSTREAM.exists() else {}


def another(path: str, default: Any) -> Any:
    """Return a value of the same type that is not the default."""
    if path in CHANGED:
        return CHANGED[path]
    end = path.rpartition(".")[2]
    match default:
        case bool():
            return not default
        case int():
            return default + 1
        case str() if path.endswith("service.type"):
            return "LoadBalancer"
        case str():
            return f"{default}changed" if "://" not in default else f"{default}/changed"
        case [] | None:
            return next(value for name, value in LISTS.items() if end.endswith(name))
        case list():
            return (
                [*default[:-1], {**default[-1], "value": "changed"}] if isinstance(default[-1], dict) else ["changed"]
            )
        case {"path": _}:
            return {"path": "/changed", "port": 4711}
        case {"command": _}:
            return {"command": ["/check.sh"]}
        case {}:
            return next((value for name, value in MAPS.items() if end.endswith(name)), {"key": "changed"})
    raise AssertionError(
        f"{path}: no changed value known for the default {default!r}; add one to CHANGED, LISTS or MAPS"
    )


def beside(path: str) -> Values:
    fitting = [start for start in BESIDE if path == start or (start.endswith(".") and path.startswith(start))]
    return BESIDE[max(fitting, key=len)] if fitting else {}


def shown(text: dict[str, str]) -> dict[str, str]:
    """Return the rendered templates without NOTES.txt, which makes no object."""
    return {name: content for name, content in text.items() if name != "NOTES.txt"}


def attempt(*values: Values) -> tuple[dict[str, str], str]:
    """Return the rendered templates and an empty text, or no templates and the reason of the refusal."""
    try:
        return shown(files(*values)), ""
    except Refused as refusal:
        return {}, str(refusal)


@pytest.mark.parametrize("path", KEYS)
def test_a_key_is_honoured_or_refused(path: str) -> None:
    base = layered(upstream(), NEEDED, beside(path))
    before = shown(files(base))
    current = base
    for part in path.split("."):
        current = current[part]

    after, refusal = attempt(base, at(path, another(path, current if path.endswith("nabled") else KEYS[path])))

    if refusal:
        assert path in refusal, f"the refusal of {path} does not name it: {refusal}"
    else:
        assert after != before, f"{path} is silently ignored"


def test_the_upstream_values_file_lacks_only_the_values_of_the_installation() -> None:
    with pytest.raises(Refused) as refusal:
        files(upstream())

    missing = {line.split(" is not set")[0].strip("- ") for line in str(refusal.value).splitlines() if "- " in line[:2]}
    assert missing == {
        "config.langsmithApiKey",
        "config.langsmithWorkspaceId",
        "config.langgraphListenerId",
        "ingress.hostname",
    }


def test_the_upstream_values_file_runs_our_programs_and_probes() -> None:
    found = rendered(upstream(), NEEDED)

    listener = container(dict(pods(found))["listener"])
    assert listener["image"] == "agentplane:0.1.0"
    assert listener["command"][:4] == ["python", "-m", "workers", "listener"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert set(listener[probe]) & {"exec", "httpGet"} == {"exec"}
        assert listener[probe]["exec"]["command"][:4] == ["python", "-m", "workers.liveness", "listener"]
    assert listener["startupProbe"]["failureThreshold"] == 6
    redis = container(dict(pods(found))["redis"])
    assert redis["livenessProbe"]["exec"]["command"][2].startswith("redis-cli -p 6379 ping")


def test_the_templates_of_the_upstream_values_file_are_mounted_and_set() -> None:
    found = rendered(upstream(), NEEDED)

    templates = found[("ConfigMap", "templates")]["data"]
    assert templates == {f"{name}.yaml": text for name, text in upstream()["operator"]["templates"].items()}
    for name, pod in pods(found):
        if name == "redis":
            continue
        values = {variable["name"]: variable.get("value") for variable in container(pod)["env"]}
        assert values["AGENTPLANE_TEMPLATE_DB"] == "/etc/agentplane/templates/db.yaml"
        assert {"name": "templates", "mountPath": "/etc/agentplane/templates", "readOnly": True} in container(pod)[
            "volumeMounts"
        ]


def documented() -> list[list[str]]:
    """Return the cells of every key's row in the tables of the page that compare the two charts."""
    section = VALUES_PAGE.read_text(encoding="utf-8").partition("\n## Keys of the langgraph-dataplane chart\n")[2]
    lines = section.partition("\n## ")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]


def test_the_tables_in_the_docs_have_every_key_and_no_other() -> None:
    patterns = [key.strip("`") for key, _, _ in documented()]

    assert [key for key in KEYS if not any(fnmatch(key, pattern) for pattern in patterns)] == []
    assert [pattern for pattern in patterns if not any(fnmatch(key, pattern) for key in KEYS)] == []
    assert sorted(set(patterns)) == sorted(patterns)


def test_the_tables_in_the_docs_have_one_key_a_row_and_fit_the_page() -> None:
    assert {supported for _, supported, _ in documented()} == {"yes", "partly"}
    assert [key for key, _, _ in documented() if not re.fullmatch(r"`[\w.*]+`", key)] == []
    assert [row for row in documented() if len(" | ".join(row)) > 110] == []
