"""Access: bearer tokens, and access reviews."""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.client import Api, refused, succeeded
from tests.support.api_servers import ApiServer


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}],
    ids=["none", "wrong", "another scheme"],
)
def test_without_the_token(api_server: ApiServer, headers: dict[str, str]) -> None:
    with httpx.Client(base_url=api_server.url, verify=api_server.verify, headers=headers) as stranger:
        status = refused(stranger.get("/api/v1/namespaces/default/pods"), 401, "Unauthorized")
        assert status["message"] == "Unauthorized"
        assert stranger.get("/version").status_code == 401


def test_access_reviews(api: Api) -> None:
    attributes = {"namespace": api.namespace, "verb": "create", "group": "apps", "resource": "deployments"}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
    answer = succeeded(api.http.post(path, json=review))
    assert answer["kind"] == "SelfSubjectAccessReview"
    assert answer["status"]["allowed"] is True
