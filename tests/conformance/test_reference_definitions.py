"""The definitions that the product meets in clusters, where they lie beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.envtest import load_crds
from tests.conformance.client import Api, succeeded
from tests.conformance.conftest import install_definition
from tests.conformance.objects import Object

FOLDER = Path(__file__).parents[3] / "shared" / "reference" / "crds"
FILES = sorted(FOLDER.glob("*.yaml"))
LGP = "lgps.apps.langchain.ai.yaml"

pytestmark = pytest.mark.skipif(not FILES, reason="the reference definitions are not beside the checkout")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_definitions_are_accepted(api: Api, file: Path) -> None:
    for crd in load_crds(file):
        response = api.send("POST", "customresourcedefinitions", body=crd, dryRun="All")
        assert response.status_code in (201, 409), response.text


def test_an_lgp_is_applied_twice_and_written_once(api: Api) -> None:
    (crd,) = load_crds(FOLDER / LGP)
    for version in crd["spec"]["versions"]:
        assert version["name"] == "v1alpha1"
    path = f"/apis/apps.langchain.ai/v1alpha1/namespaces/{api.namespace}/lgps/web"
    install_definition(api, crd)
    body: Object = {
        "apiVersion": "apps.langchain.ai/v1alpha1",
        "kind": "LGP",
        "metadata": {"name": "web"},
        "spec": {
            "serverSpec": {
                "image": "sandbox.local/hello:1",
                "replicas": 1,
                "env": [{"name": "A", "value": "1"}],
                "resources": {"limits": {"cpu": "1000m", "memory": "1024Mi"}},
            },
            "database": {"enabled": True, "storageSizeGi": 1},
        },
    }
    headers = {"Content-Type": "application/apply-patch+yaml"}
    params = {"fieldManager": "tester"}
    first = succeeded(api.http.patch(path, json=body, headers=headers, params=params))
    again = succeeded(api.http.patch(path, json=body, headers=headers, params=params))
    assert first == again
    assert first["spec"]["serverSpec"]["image"] == "sandbox.local/hello:1"
    assert first["spec"]["serverSpec"]["queueEnabled"] is True
    assert first["spec"]["database"]["maxConnections"] == 100
