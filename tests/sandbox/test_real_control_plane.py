"""Starting, restarting and ending the real control plane, and the definitions that tests give it."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
import yaml

from sandbox import envtest
from sandbox.ports import free_port, release
from tests.support.api_servers import ApiServer

REFERENCE = Path(__file__).parents[3] / "shared" / "reference" / "crds"

DEFINITION = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: things.example.dev}
spec: {group: example.dev}
status: {conditions: []}
"""


def test_definitions_are_read_without_their_status(tmp_path: Path) -> None:
    (tmp_path / "things.yaml").write_text(DEFINITION + "---\nkind: ConfigMap\n")
    (definition,) = envtest.load_crds(tmp_path)
    assert definition["spec"] == {"group": "example.dev"}
    assert "status" not in definition


def test_missing_binaries_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    reason = envtest.available()
    assert reason is not None
    assert "kube-apiserver" in reason
    assert str(tmp_path) in reason
    with pytest.raises(envtest.BinariesNotFoundError, match="KUBEBUILDER_ASSETS"):
        envtest.RealControlPlane()


def test_reference_crds_are_accepted(real_api_server: ApiServer) -> None:
    if not REFERENCE.is_dir():
        pytest.skip("the reference CRDs are not beside the checkout")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    with real_api_server.http() as http:
        for crd in envtest.load_crds(REFERENCE):
            response = http.post(path, json=crd, params={"dryRun": "All"})
            assert response.status_code in (201, 409), response.text


def test_objects_survive_a_restart_of_the_api_server() -> None:
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    with envtest.RealControlPlane() as cluster:
        context = ssl.create_default_context(cafile=str(cluster.ca))
        headers = {"Authorization": f"Bearer {cluster.token}"}
        with httpx.Client(base_url=cluster.url, verify=context, headers=headers, timeout=30) as http:
            body = {"metadata": {"name": "kept"}}
            http.post("/api/v1/namespaces/default/configmaps", json=body).raise_for_status()
            pid = cluster.api_server.pid
            cluster.restart_api_server()
            assert cluster.api_server.pid != pid
        with httpx.Client(base_url=cluster.url, verify=context, headers=headers, timeout=30) as http:
            assert http.get("/api/v1/namespaces/default/configmaps/kept").status_code == 200
        directory = cluster.directory
    assert not directory.exists()


def test_it_runs_in_the_foreground_until_a_signal(tmp_path: Path) -> None:
    if reason := envtest.available():
        pytest.skip(f"real API server: {reason}")
    port, kubeconfig = free_port(), tmp_path / "kubeconfig"
    command = [sys.executable, "-m", "sandbox.envtest", "--port", str(port), "--dir", str(tmp_path / "state")]
    command += ["--kubeconfig", str(kubeconfig), "--token", "a-token-of-my-own"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        assert process.stderr.readline().startswith(f"ready: https://127.0.0.1:{port}")
        assert yaml.safe_load(kubeconfig.read_text())["users"][0]["user"]["token"] == "a-token-of-my-own"
        if kubectl := shutil.which("kubectl"):
            shown = subprocess.run(
                [kubectl, "--kubeconfig", kubeconfig, "get", "namespaces", "-o", "name"],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert "namespace/default" in shown.stdout.split(), shown.stderr
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.communicate()
        release(port)
