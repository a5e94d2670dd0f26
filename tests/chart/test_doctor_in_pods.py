"""`agentplane doctor` in each pod of a release: with the pod's environment and account, no check fails or warns.

The release is installed on a real API server with RBAC. The test does the kubelet's part: it sets the variables of each
pod and uses the token of the pod's account. The check `workers` is left out, because no worker runs to answer its ping.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import yaml

from cli.doctor import workers
from cli.doctor.finding import Finding, Level
from cli.doctor.run import examine
from engine.ports import Manifest
from engine.settings import PREFIX
from sandbox.control_plane.server import ControlPlane, seed
from tests.chart.rendering import RELEASE, Values, at, chart, environment, helm, layered, own_secrets, pods
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually
from tests.support.granted import gateway_definition
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import install_crd
from tests.support.service_accounts import with_token

KEY = "lsv2_pods_key"
WORKSPACE = "6e1a7a6e-0000-4000-8000-0000000090d5"
SELF_SUBJECT = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}

LAYOUTS: dict[str, Values] = {
    "an ingress": {},
    "a gateway that no account may read": {
        "ingress": {"enabled": False},
        "gateway": {"enabled": True, "name": "front", "namespace": "default", "tlsEnabled": False},
    },
    "a network policy": at("networkPolicy.enabled", True),
    "an operator alone": {"listener": {"enabled": False}, "config": {"digestKey": "a-long-random-word"}},
}


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


Examine = Callable[[str], list[Finding]]


@pytest.fixture(params=LAYOUTS)
def doctor_in(
    request: pytest.FixtureRequest,
    own_real: ApiServer,
    control_plane: ControlPlane,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Examine]:
    """Install a release; yields a function that runs the doctor in the pod of a process."""
    monkeypatch.setattr(workers, "PING_SECONDS", 0.05)
    home = make_namespace(own_real)
    install_crd(own_real)
    _serve_routes(own_real)
    listener = seed(control_plane.store, WORKSPACE, f"compute-{home}", [home])["id"]
    layout = LAYOUTS[request.param]
    way = "gateway" if "gateway" in layout else "ingress"
    values = layered(
        {
            "config": {
                "langsmithApiKey": KEY,
                "langsmithWorkspaceId": WORKSPACE,
                "langgraphListenerId": str(listener),
                "hostBackendUrl": control_plane.url,
                "smithBackendUrl": f"{control_plane.url}/langsmith",
                "hostQueue": f"test-{uuid4().hex[:8]}",
                "settings": {"health_check_address": f"127.0.0.1:{control_plane.port}"},
            },
            way: {"hostname": "agents.example.com", "tlsEnabled": False},
            "redis": {"external": {"enabled": True, "connectionUrl": redis_url}},
            "leases": {"release": False},  # no kubelet is here to run the Job
            "operator": {"createCRDs": False, "kedaEnabled": False},
            "flower": {"enabled": True, "existingSecretName": "flower"},
        },
        layout,
    )
    with helm.Config(kubeconfig_path=own_real.kubeconfig, namespace=home) as config:
        release = config.install(chart(), RELEASE, values)
        manifests = [manifest for manifest in yaml.safe_load_all(release["manifest"]) if manifest]
        try:
            yield lambda process: _examine(own_real, home, manifests, process, tmp_path)
        finally:
            config.uninstall(RELEASE)


def _serve_routes(server: ApiServer) -> None:
    """Make the API server serve HTTPRoutes and Gateways; no Role of the chart names Gateways."""
    routes = gateway_definition()
    kinds = {"kind": "Gateway", "plural": "gateways", "singular": "gateway", "listKind": "GatewayList"}
    gateways = {
        **routes,
        "metadata": {**routes["metadata"], "name": "gateways.gateway.networking.k8s.io"},
        "spec": {**routes["spec"], "names": kinds},
    }
    with server.http() as http:
        for definition in (routes, gateways):
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            assert http.post(path, json=definition).status_code in (201, 409)
        eventually(
            lambda: http.get("/apis/gateway.networking.k8s.io/v1/gateways").status_code == 200, "routes are served"
        )


def _examine(server: ApiServer, home: str, manifests: list[Manifest], process: str, folder: Path) -> list[Finding]:
    by_name = {(m["kind"], m["metadata"]["name"].removeprefix(f"{RELEASE}-")): m for m in manifests}
    pod = dict(pods(by_name))[process]
    found = environment(pod, own_secrets(manifests) | {("flower", "basic_auth"): "me:word"})
    if pod["automountServiceAccountToken"]:
        path = f"/api/v1/namespaces/{home}/serviceaccounts/{pod['serviceAccountName']}/token"
        with server.http() as http:
            token = http.post(path, json=SELF_SUBJECT).raise_for_status().json()["status"]["token"]
        found[f"{PREFIX}KUBECONFIG"] = str(with_token(server.kubeconfig, token, folder))
    else:  # as in a pod without a mounted token: no kubeconfig, no token file
        found |= {"KUBECONFIG": str(folder / "none"), "HOME": str(folder)}
    with pytest.MonkeyPatch.context() as inside:
        for name in os.environ:
            if name.startswith(PREFIX):
                inside.delenv(name)
        for name, value in found.items():
            inside.setenv(name, value)
        return list(examine())


def test_no_check_fails_or_warns_in_any_pod(doctor_in: Examine, request: pytest.FixtureRequest) -> None:
    layout = request.node.callspec.params["doctor_in"]
    processes = ["listener", "operator", "watcher", "beat", "flower"]
    if layout == "an operator alone":
        processes.remove("listener")

    found = {process: doctor_in(process) for process in processes}

    wrong = [
        (process, finding)
        for process, findings in found.items()
        for finding in findings
        if finding.level in (Level.WARN, Level.FAIL) and finding.subject != "workers"
    ]
    assert wrong == []
    permissions = {process: {f.detail for f in found[process] if f.subject == "permissions"} for process in processes}
    for process in ("listener", "operator", "watcher"):
        if process in processes:
            (only,) = permissions[process]
            assert only.endswith(f"all that the {process} needs")
    assert permissions["beat"] == permissions["flower"] == set()
    skipped = {process: [f.subject for f in found[process] if f.level is Level.SKIP] for process in processes}
    assert skipped == {process: [] for process in processes} | (
        {"operator": ["gateway"]} if "gateway" in layout else {}
    )
    assert all(("network policy" in {f.subject for f in found[p]}) is (layout == "a network policy") for p in processes)


@pytest.mark.parametrize("doctor_in", ["an ingress"], indirect=True)
def test_a_missing_right_is_reported_in_the_pod_that_lacks_it(doctor_in: Examine, own_real: ApiServer) -> None:
    with own_real.http() as http:
        roles = http.get("/apis/rbac.authorization.k8s.io/v1/roles").json()["items"]
        (role,) = [r for r in roles if r["metadata"]["name"] == f"{RELEASE}-operator"]
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{role['metadata']['namespace']}/roles/{RELEASE}-operator"
        role["rules"] = [rule for rule in role["rules"] if "statefulsets" not in rule["resources"]]
        http.put(path, json=role).raise_for_status()

    lacking = [f.detail for f in doctor_in("operator") if f.level is Level.FAIL]
    assert len(lacking) == 1
    assert "StatefulSet (get, list, create, patch, delete)" in lacking[0]
    assert [f for f in doctor_in("watcher") if f.level is Level.FAIL] == []
