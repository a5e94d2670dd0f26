"""Render the chart with Helm itself, and read the rendered manifests."""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.ports import Manifest
from engine.settings import PREFIX, Settings

helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "k8s" / "chart"
UPSTREAM = ROOT.parent / "shared" / "reference" / "langgraph-dataplane-values.yaml"

RELEASE = "langgraph-dataplane"
WORKSPACE = "11111111-1111-4111-8111-111111111111"
LISTENER = "22222222-2222-4222-8222-222222222222"
API_KEY = "lsv2_pt_0123456789"

NEEDED: dict[str, Any] = {
    "config": {"langsmithApiKey": API_KEY, "langsmithWorkspaceId": WORKSPACE, "langgraphListenerId": LISTENER},
    "ingress": {"hostname": "agents.example.com"},
}
"""The values that every installation must set."""

Values = dict[str, Any]


class Refused(Exception):
    """The chart refuses the values; the text is the error message of Helm."""


def layered(*layers: Values) -> Values:
    """Merge values as Helm merges several values files; later layers win."""
    whole: Values = {}
    for layer in layers:
        for key, value in copy.deepcopy(layer).items():
            if isinstance(value, dict) and isinstance(whole.get(key), dict):
                whole[key] = layered(whole[key], value)
            else:
                whole[key] = value
    return whole


def at(path: str, value: Any) -> Values:
    """`a.b.c`, value → {"a": {"b": {"c": value}}}."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return dict(value)


@cache
def chart() -> Any:
    """The chart, loaded once."""
    return helm.Chart.load(CHART)


def files(*values: Values, namespace: str = "default", release: str = RELEASE) -> dict[str, str]:
    """Render the chart; return the text of each template by file name. Raises Refused."""
    return _files(json.dumps(layered(*values), sort_keys=True), namespace, release)


@cache
def _files(values: str, namespace: str, release: str) -> dict[str, str]:
    try:
        found: dict[str, str] = chart().render(json.loads(values), name=release, namespace=namespace)
    except helm.HelmError as error:
        raise Refused(str(error)) from None
    return {name.rpartition("/")[2]: text for name, text in found.items()}


def objects(*values: Values, namespace: str = "default", release: str = RELEASE) -> list[Manifest]:
    """Render the chart; return every manifest of the release. Raises Refused."""
    return [
        manifest
        for name, text in sorted(files(*values, namespace=namespace, release=release).items())
        if name.endswith(".yaml")
        for manifest in yaml.safe_load_all(text)
        if manifest
    ]


def rendered(*values: Values, namespace: str = "default", release: str = RELEASE) -> dict[tuple[str, str], Manifest]:
    """Render the chart; return the manifests by kind and name, without the prefix of the release name."""
    return {
        (manifest["kind"], manifest["metadata"]["name"].removeprefix(f"{release}-")): manifest
        for manifest in objects(*values, namespace=namespace, release=release)
    }


def pods(found: dict[tuple[str, str], Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Yield name and pod spec of every Deployment and StatefulSet."""
    for (kind, name), manifest in found.items():
        if kind in ("Deployment", "StatefulSet"):
            yield name, manifest["spec"]["template"]["spec"]


def container(pod: Manifest) -> Manifest:
    """Return the container of a pod that runs the chart's own program; sidecars come after it."""
    found: Manifest = pod["containers"][0]
    return found


def environment(pod: Manifest, secrets: dict[tuple[str, str], str] | None = None) -> dict[str, str]:
    """Return the environment of the container as a kubelet sets it; `secrets` resolves references to Secrets."""
    values: dict[str, str] = {}
    for variable in container(pod).get("env", []):
        reference = variable.get("valueFrom", {}).get("secretKeyRef")
        if reference is None:
            values[variable["name"]] = variable["value"]
            continue
        value = (secrets or {}).get((reference["name"], reference["key"]))
        assert value is not None or reference.get("optional"), (
            f"{variable['name']} refers to a Secret value that does not exist"
        )
        if value is not None:
            values[variable["name"]] = value
    return values


def own_secrets(manifests: Iterable[Manifest]) -> dict[tuple[str, str], str]:
    """Return the values of the Secrets of a release by Secret name and key."""
    return {
        (manifest["metadata"]["name"], key): base64.b64decode(value).decode()
        for manifest in manifests
        if manifest["kind"] == "Secret"
        for key, value in (manifest["data"] or {}).items()
    }


def settings_of(manifests: Sequence[Manifest]) -> Settings:
    """Return the settings of the processes of a release, with `failure_grace_seconds` shortened to 1 second."""
    beat = next(m for m in manifests if m["kind"] == "Deployment" and m["metadata"]["name"].endswith("-beat"))
    found = environment(beat["spec"]["template"]["spec"], own_secrets(manifests))
    given = {name.removeprefix(PREFIX).lower(): value for name, value in found.items() if name.startswith(PREFIX)}
    return Settings.load(**{**given, "failure_grace_seconds": 1.0})


SENTINELS: Values = {
    "enabled": True,
    "connectionUrl": "sentinel://me:secret@one.example:26380/2;sentinel://two.example;",
    "sentinel": {"master": "main", "username": "watch", "password": "own-secret"},
    "tls": True,
}
