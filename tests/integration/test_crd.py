"""Our definition of the LGP accepts every object that upstream's definition accepts, and works with kubectl."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from engine.kubernetes.cluster import KubernetesCluster
from engine.names import LISTENER_MANAGER
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.operator_stack import install_crd

OURS = Path(__file__).resolve().parents[2] / "k8s" / "crds" / "lgps.apps.langchain.ai.yaml"
UPSTREAM = Path(__file__).resolve().parents[3] / "shared" / "reference" / "crds" / "lgps.apps.langchain.ai.yaml"

Schema = dict[str, Any]

PRESERVE = "x-kubernetes-preserve-unknown-fields"
COMPARED = (
    "type",
    "format",
    "default",
    "enum",
    "required",
    "maximum",
    "maxLength",
    "maxItems",
    "nullable",
    "x-kubernetes-int-or-string",
)
"""What must be the same where both definitions speak of a field."""
DEFAULTS_OF_KUBERNETES = (
    "",
    "TCP",
    "ext4",
    "xfs",
    False,
    "default",
    "/etc/ceph/keyring",
    "rbd",
    "admin",
    "ThinProvisioned",
)
"""Defaults of upstream inside what ours leaves open: Kubernetes gives the same ones to containers and volumes."""
OURS_ALONE = {("spec.serverSpec.replicas", "minimum", 0), ("spec.serverSpec.numJobsPerWorker", "minimum", 0)}
"""What ours refuses and upstream's does not: numbers that no Deployment could have."""


PROPOSED = "spec.managedResources"
"""A field that upstream proposes (langchain-ai/helm, pull request 927) and its definition does not have yet."""


def schema(file: Path) -> Schema:
    definition = yaml.safe_load(file.read_text())
    (version,) = definition["spec"]["versions"]
    found: Schema = version["schema"]["openAPIV3Schema"]
    return found


@dataclass(frozen=True)
class Field:
    """One field of upstream's definition and the same field of ours; None if our definition leaves the field open."""

    path: str
    theirs: Schema
    ours: Schema | None


def fields(theirs: Schema, ours: Schema | None, path: str = "") -> Iterator[Field]:
    """Yield every field of upstream's definition. Fail for a field that our definition would prune or refuse."""
    yield Field(path.lstrip("."), theirs, ours)
    for name, field in theirs.get("properties", {}).items():
        yield from _below(f"{path}.{name}", field, ours, ("properties", name))
    for part in ("items", "additionalProperties"):
        if isinstance(theirs.get(part), dict):
            yield from _below(f"{path}[]", theirs[part], ours, (part,))


def _below(path: str, theirs: Schema, parent: Schema | None, step: tuple[str, ...]) -> Iterator[Field]:
    """Yield the fields of `theirs`, which lies at the keys `step` below the schema `parent` of our definition."""
    ours: Any = parent
    for key in step:
        ours = (ours or {}).get(key)
    kept = parent is None or isinstance(ours, dict) or parent.get(PRESERVE)
    assert kept, f"{path.lstrip('.')} would be pruned by our definition"
    yield from fields(theirs, ours, path)


@pytest.fixture(scope="module")
def compared() -> list[Field]:
    if not UPSTREAM.exists():
        pytest.skip(f"upstream's definition is not at {UPSTREAM}")
    return list(fields(schema(UPSTREAM), schema(OURS)))


def test_every_field_of_upstream_is_accepted(compared: list[Field]) -> None:
    assert len(compared) > 900
    paths = {field.path for field in compared}
    assert {"spec.serverSpec.sidecars[].lifecycle.preStop.exec.command[]", "status.conditions[].reason"} <= paths


def test_types_and_defaults_are_the_same(compared: list[Field]) -> None:
    differences = [
        (field.path, word, field.theirs.get(word), field.ours.get(word))
        for field in compared
        if field.ours is not None
        for word in COMPARED
        if field.theirs.get(word) != field.ours.get(word) and not _left_to_kubernetes(field, word)
    ]
    assert differences == []


def _left_to_kubernetes(field: Field, word: str) -> bool:
    """Return whether the API server checks the field itself: it refuses invalid containers and volumes on apply."""
    return word == "required" and field.ours is not None and bool(field.ours.get(PRESERVE))


def test_defaults_in_what_is_left_open_are_those_of_kubernetes(compared: list[Field]) -> None:
    given = {
        field.path: field.theirs["default"] for field in compared if field.ours is None and "default" in field.theirs
    }
    assert {path: value for path, value in given.items() if value not in DEFAULTS_OF_KUBERNETES} == {}


def test_ours_is_not_stricter(compared: list[Field]) -> None:
    words = ("minimum", "minLength", "minItems", "pattern", "x-kubernetes-validations", "minProperties")
    stricter = {
        (field.path, word, field.ours[word])
        for field in compared
        if field.ours is not None
        for word in words
        if word in field.ours and field.ours[word] != field.theirs.get(word)
    }
    assert stricter == OURS_ALONE


def test_ours_defines_no_field_that_upstream_does_not_have(compared: list[Field]) -> None:
    """Upstream's definition, if installed, would prune a field that only our definition has."""
    theirs = {field.path for field in compared}
    ours = {field.path for field in fields(schema(OURS), None)}
    assert {path for path in ours - theirs if not path.startswith(PROPOSED)} == set()
    assert PROPOSED in ours - theirs


def test_values_that_upstream_proposes_are_accepted_unchanged() -> None:
    managed = schema(OURS)["properties"]["spec"]["properties"]["managedResources"]
    account, provider = (managed["properties"][name] for name in ("serviceAccount", "secretProviderClass"))

    assert managed["minProperties"] == 1
    assert {name: field["type"] for name, field in account["properties"].items()} == {
        "annotations": "object",
        "automountServiceAccountToken": "boolean",
    }
    assert sorted(provider["required"]) == ["name", "parameters", "provider"]
    assert (provider["properties"]["name"]["minLength"], provider["properties"]["name"]["maxLength"]) == (1, 253)
    assert provider["properties"]["provider"]["enum"] == ["azure"]
    assert provider["properties"]["parameters"]["minProperties"] == 1


def test_every_extensible_object_keeps_unknown_fields() -> None:
    """This holds for every object with listed fields; containers and volumes are left open as a whole."""
    whole = schema(OURS)["properties"]

    def pruning(part: Schema, path: str) -> Iterator[str]:
        if "properties" in part and not part.get(PRESERVE):
            yield path
        for name, below in part.get("properties", {}).items():
            yield from pruning(below, f"{path}.{name}")

    assert [path for name in ("spec", "status") for path in pruning(whole[name], name)] == []


def test_every_field_of_ours_is_described() -> None:
    silent = [
        field.path
        for field in fields(schema(OURS), None)
        if "description" not in field.theirs and not field.path.endswith("[]")
    ]
    assert silent == ["apiVersion", "kind", "metadata"]


# --- on API servers

Kubectl = Callable[..., str]


@pytest.fixture
def kubectl(api_server: ApiServer, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """Return a function: `kubectl("get", "lgps")` runs kubectl in the test's namespace; `stdin` holds objects."""
    binary = shutil.which("kubectl")
    if binary is None:
        pytest.skip("kubectl is not installed")
    install_crd(api_server)
    home = tmp_path_factory.mktemp("home")

    def run(*arguments: str, stdin: Any = None) -> str:
        command = [binary, "--kubeconfig", str(api_server.kubeconfig), "--namespace", namespace, *arguments]
        finished = subprocess.run(
            command,
            input=json.dumps(stdin) if stdin is not None else None,
            env={**os.environ, "HOME": str(home)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert finished.returncode == 0, f"kubectl {' '.join(arguments)}: {finished.stdout}{finished.stderr}"
        return finished.stdout

    return run


LGP: dict[str, Any] = {
    "apiVersion": "apps.langchain.ai/v1alpha1",
    "kind": "LGP",
    "metadata": {"name": "hello"},
    "spec": {"serverSpec": {"image": "registry.example/hello:1"}, "database": {}, "redis": {}},
}


def put_status(http: httpx.Client, namespace: str, status: Any) -> httpx.Response:
    return http.patch(
        f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps/hello/status",
        json={"status": status},
        headers={"Content-Type": "application/merge-patch+json"},
    )


def condition(kind: str, status: str, reason: str) -> dict[str, Any]:
    since = "2026-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": "reported", "lastTransitionTime": since}


def test_kubectl_applies_the_file_unchanged(kubectl: Kubectl, http: httpx.Client) -> None:
    """A user runs `kubectl apply -f`."""
    output = kubectl("apply", "--server-side", "--force-conflicts", "-f", str(OURS))

    assert "lgps.apps.langchain.ai" in output
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/lgps.apps.langchain.ai"
    conditions = {c["type"]: c["status"] for c in http.get(path).json()["status"]["conditions"]}
    assert (conditions["Established"], conditions["NamesAccepted"]) == ("True", "True")
    assert conditions.get("NonStructuralSchema") != "True"


def test_defaults_apply(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=LGP)

    spec = json.loads(kubectl("get", "lgp", "hello", "-o", "json"))["spec"]

    assert spec == {
        "serverSpec": {"image": "registry.example/hello:1", "queueEnabled": True},
        "database": {
            "enabled": False,
            "legacyName": False,
            "maxConnections": 100,
            "secretName": "postgres-credentials",
            "storageSizeGi": 10,
        },
        "redis": {"enabled": False},
    }


@pytest.mark.parametrize("name", ["lgp", "lgps", "agent", "agents", "lgps.apps.langchain.ai"])
def test_its_names(kubectl: Kubectl, name: str) -> None:
    kubectl("apply", "-f", "-", stdin=LGP)

    assert kubectl("get", name, "-o", "name") == "lgp.apps.langchain.ai/hello\n"


def test_its_columns(kubectl: Kubectl, http: httpx.Client, namespace: str) -> None:
    kubectl("apply", "-f", "-", stdin=LGP)
    conditions = [condition("Available", "True", "RolledOut"), condition("Degraded", "False", "AsExpected")]
    status = {
        "conditions": conditions,
        "endpoint": "https://agents.example.com/lgp/hello",
        "deploymentStatus": {"updateRevision": "r1"},
    }
    put_status(http, namespace, status).raise_for_status()

    heads, row = (line.split() for line in kubectl("get", "lgps").splitlines())
    wide_heads, wide_row = (line.split() for line in kubectl("get", "lgps", "-o", "wide").splitlines())

    assert heads == ["NAME", "READY", "REASON", "DEGRADED", "AGE"]
    assert row[:-1] == ["hello", "True", "RolledOut", "False"]
    assert {"ENDPOINT", "IMAGE", "REVISION"} < set(wide_heads)
    assert {"https://agents.example.com/lgp/hello", "registry.example/hello:1", "r1"} < set(wide_row)


def test_a_status_needs_a_reason(kubectl: Kubectl, http: httpx.Client, namespace: str) -> None:
    kubectl("apply", "-f", "-", stdin=LGP)

    refused = put_status(http, namespace, {"conditions": [condition("Available", "True", "")]})

    assert refused.status_code == 422
    assert "reason" in refused.json()["message"]


def test_spec_and_status_are_written_apart(kubectl: Kubectl, http: httpx.Client, namespace: str) -> None:
    kubectl("apply", "-f", "-", stdin={**LGP, "status": {"endpoint": "https://elsewhere"}})

    assert "status" not in json.loads(kubectl("get", "lgp", "hello", "-o", "json"))


@pytest.mark.parametrize("api_server", ["real"], indirect=True, scope="session")
def test_kubectl_explains_it(kubectl: Kubectl) -> None:
    """`kubectl explain` reads OpenAPI, which the embedded API server does not serve."""
    eventually(lambda: "queueEnabled" in kubectl("explain", "lgp.spec.serverSpec"), "definitions are published")

    explanation = kubectl("explain", "lgp.spec")
    deeper = kubectl("explain", "lgp.spec.serverSpec.queueEnabled")

    assert "Desired state of the Agent Server." in explanation
    for field in ("serverSpec", "database", "redis", "ingress", "autoscaling", "affinity", "tolerations"):
        assert f"{field}\t<" in explanation, explanation
    assert "Whether separate processes, the queue workers, execute runs." in deeper
    assert "<no description>" not in explanation + deeper


# --- what newer versions write


def create(http: httpx.Client, namespace: str, spec: Any, name: str = "newer") -> httpx.Response:
    manifest = {**LGP, "metadata": {"name": name}, "spec": {**LGP["spec"], **spec}}
    return http.post(f"/apis/apps.langchain.ai/v1alpha1/namespaces/{namespace}/lgps", json=manifest)


PROVIDER = {"name": "vault", "provider": "azure", "parameters": {"keyvaultName": "v"}}


@pytest.fixture
def defined(api_server: ApiServer) -> None:
    install_crd(api_server)


@pytest.mark.usefixtures("defined")
@pytest.mark.parametrize(
    ("managed", "refused"),
    [
        ({"serviceAccount": {}}, ""),
        ({"serviceAccount": {"annotations": {"a": "b"}, "automountServiceAccountToken": False}}, ""),
        ({"secretProviderClass": PROVIDER}, ""),
        ({"ofTomorrow": {"x": 1}}, ""),
        ({}, "managedResources"),
        ({"secretProviderClass": {**PROVIDER, "provider": "aws"}}, "provider"),
        ({"secretProviderClass": {**PROVIDER, "name": "v" * 254}}, "name"),
        ({"secretProviderClass": {**PROVIDER, "name": ""}}, "name"),
        ({"secretProviderClass": {**PROVIDER, "parameters": {}}}, "parameters"),
        ({"secretProviderClass": {"name": "v", "provider": "azure"}}, "parameters"),
        ({"serviceAccount": {"automountServiceAccountToken": "no"}}, "automountServiceAccountToken"),
    ],
)
def test_which_managed_resources_are_accepted(http: httpx.Client, namespace: str, managed: Any, refused: str) -> None:
    answer = create(http, namespace, {"managedResources": managed})

    assert answer.status_code == (422 if refused else 201), answer.text
    if refused:
        assert refused in answer.json()["message"]
    else:
        assert answer.json()["spec"]["managedResources"] == managed


NEWER: dict[str, Any] = {
    "serverSpec": {"image": "registry.example/hello:1", "warmPool": {"size": 3}},
    "database": {"enabled": True, "backups": {"daily": True}},
    "redis": {"enabled": True, "cluster": [1, 2]},
    "ingress": {"enabled": True, "paths": ["/x"]},
    "autoscaling": {"enabled": True, "scaleToZero": True},
    "managedResources": {"serviceAccount": {"imagePullSecrets": [{"name": "r"}]}, "bucket": {"name": "b"}},
    "sandbox": {"image": "s"},
}


@pytest.mark.usefixtures("defined")
def test_fields_of_newer_listeners_are_kept_and_outlive_what_our_listener_applies(
    http: httpx.Client, api_server: ApiServer, namespace: str
) -> None:
    made = create(http, namespace, NEWER)
    assert made.status_code == 201, made.text
    ours = {**LGP, "metadata": {"name": "newer", "namespace": namespace}}
    ours["spec"] = {
        "serverSpec": {"image": "registry.example/hello:2", "replicas": 2},
        "database": {"enabled": True, "maxConnections": 50},
        "redis": {"enabled": True},
        "ingress": {"enabled": True},
    }
    cluster = KubernetesCluster.load(api_server.kubeconfig)
    for _ in range(2):
        applied = cluster.apply(ours, manager=LISTENER_MANAGER).manifest["spec"]
    cluster.close()

    def lost(before: Any, after: Any, path: str) -> Iterator[str]:
        for key, value in before.items():
            if isinstance(value, dict):
                yield from lost(value, after.get(key, {}), f"{path}.{key}")
            elif value != after.get(key) and (path, key) != ("spec.serverSpec", "image"):
                yield f"{path}.{key}"

    assert list(lost(NEWER, made.json()["spec"], "spec")) == []
    assert list(lost(NEWER, applied, "spec")) == []
    assert applied["serverSpec"]["image"] == "registry.example/hello:2"
    assert applied["database"]["maxConnections"] == 50
