"""The control plane's public API, its rules and its status routes, over HTTP."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from sandbox.control_plane.rules import seeded_listener_id
from sandbox.control_plane.server import ControlPlane, parse_listener, seed

DIGEST = "@sha256:" + "a" * 64
SECRET = "correct-horse-battery-staple"
NOBODY = str(uuid.UUID(int=7))

Json = dict[str, Any]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with ControlPlane({}) as plane:
        yield plane


@pytest.fixture
def workspace(plane: ControlPlane) -> str:
    """Return the id of a workspace that only this test uses; the id is also its API key."""
    return admit(plane)


@pytest.fixture
def http(plane: ControlPlane, workspace: str) -> Iterator[httpx.Client]:
    """A client of the test's workspace, which has no listener."""
    with httpx.Client(base_url=plane.url, headers=plane.headers(workspace)) as client:
        yield client


@pytest.fixture
def neighbour(plane: ControlPlane) -> Iterator[httpx.Client]:
    """A client of another workspace."""
    with httpx.Client(base_url=plane.url, headers=plane.headers(admit(plane))) as client:
        yield client


@pytest.fixture
def listener(http: httpx.Client) -> Json:
    """A listener of the first workspace that serves two namespaces."""
    return make_listener(http, "cluster", "agents", "staging")


def admit(plane: ControlPlane) -> str:
    workspace = str(uuid.uuid4())
    plane.admit(workspace, workspace)
    return workspace


def make_listener(http: httpx.Client, compute_id: str, *namespaces: str) -> Json:
    body = {"compute_type": "k8s", "compute_id": compute_id, "compute_config": {"k8s_namespaces": namespaces}}
    answer = http.post("/v2/listeners", json=body)
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def body(name: str = "app", **changes: Any) -> Json:
    return {
        "name": name,
        "source": "external_docker",
        "source_config": {},
        "source_revision_config": {"image_uri": f"sandbox.local/app{DIGEST}"},
        "secrets": [{"name": "TOKEN", "value": SECRET}],
        **changes,
    }


def on(listener: Json, namespace: str = "agents", **config: Any) -> Json:
    return {"listener_id": listener["id"], "listener_config": {"k8s_namespace": namespace}, **config}


def create(http: httpx.Client, name: str = "app", **changes: Any) -> Json:
    answer = http.post("/v2/deployments", json=body(name, **changes))
    assert answer.status_code == 201, answer.text
    made: Json = answer.json()
    return made


def get(http: httpx.Client, deployment: Json) -> Json:
    answer: Json = http.get(f"/v2/deployments/{deployment['id']}").raise_for_status().json()
    return answer


def report(
    http: httpx.Client, deployment: Json, status: str, revision: str | None = None, **why: str
) -> httpx.Response:
    """Send the report of a data plane about a revision, or about the deployment itself."""
    of = f"/revisions/{revision}" if revision else ""
    return http.patch(f"/v2/deployments/{deployment['id']}{of}/status", json={"status": status, **why})


def names(http: httpx.Client, **query: Any) -> list[str]:
    answer = http.get("/v2/deployments", params=query).raise_for_status().json()
    return [resource["name"] for resource in answer["resources"]]


# --- keys and workspaces


@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": "wrong"}, {"Authorization": "Bearer wrong"}])
def test_without_a_known_key_everything_is_401(plane: ControlPlane, headers: dict[str, str]) -> None:
    for path in ("/v2/deployments", f"/v2/deployments/{NOBODY}", "/v2/listeners"):
        answer = httpx.get(plane.url + path, headers=headers)
        assert answer.status_code == 401
        assert "X-Api-Key" in answer.json()["detail"]


def test_a_key_alone_determines_the_workspace_also_as_bearer_token(
    plane: ControlPlane, workspace: str, http: httpx.Client
) -> None:
    create(http)
    for headers in ({"X-Api-Key": workspace}, {"Authorization": f"Bearer {workspace}"}):
        assert httpx.get(f"{plane.url}/v2/deployments", headers=headers).json()["resources"][0]["name"] == "app"


@pytest.mark.parametrize("tenant", [NOBODY, "no uuid"])
def test_a_key_of_another_workspace_is_403(plane: ControlPlane, workspace: str, tenant: str) -> None:
    answer = httpx.get(f"{plane.url}/v2/deployments", headers={"X-Api-Key": workspace, "X-Tenant-Id": tenant})
    assert answer.status_code == 403
    assert tenant in answer.json()["detail"]


def test_a_workspace_sees_and_touches_only_its_own(http: httpx.Client, neighbour: httpx.Client) -> None:
    deployment, listener = create(http), make_listener(http, "cluster", "agents")
    path = f"/v2/deployments/{deployment['id']}"
    revision = f"{path}/revisions/{deployment['latest_revision_id']}"
    create(neighbour)  # the same name is free in another workspace

    assert len(names(neighbour)) == 1
    assert neighbour.get("/v2/listeners").json()["resources"] == []
    refused = [
        neighbour.get(path),
        neighbour.patch(path, json={"secrets": []}),
        neighbour.delete(path),
        neighbour.delete("/v2/deployments", params={"deployment_ids": deployment["id"]}),
        neighbour.get(f"{path}/revisions"),
        neighbour.get(revision),
        neighbour.post(f"{revision}/redeploy"),
        neighbour.patch(f"{revision}/status", json={"status": "DEPLOYED"}),
        neighbour.patch(f"{path}/status", json={"status": "READY"}),
        neighbour.post(f"/v1/projects/{deployment['id']}/deploy_logs", json={}),
        neighbour.get(f"/v2/listeners/{listener['id']}"),
        neighbour.patch(f"/v2/listeners/{listener['id']}", json={"version": "2"}),
        neighbour.delete(f"/v2/listeners/{listener['id']}"),
    ]
    assert [answer.status_code for answer in refused] == [404] * len(refused)
    assert get(http, deployment) == deployment


# --- create


def test_a_new_deployment_waits_for_its_database_and_has_a_queued_revision(http: httpx.Client, workspace: str) -> None:
    references = [{"name": "DB", "secret_name": "shared", "secret_key": "uri"}]
    deployment = create(http, secret_references=references)
    revision = http.get(f"/v2/deployments/{deployment['id']}/revisions/{deployment['latest_revision_id']}").json()

    assert deployment["status"] == "AWAITING_DATABASE"
    assert deployment["tenant_id"] == workspace
    assert deployment["active_revision_id"] is None
    assert deployment["secrets"] == [{"name": "TOKEN", "value": SECRET}]
    assert deployment["secret_references"] == references
    assert get(http, deployment) == deployment
    assert http.get("/v2/deployments").json() == {"resources": [deployment], "offset": 1}
    assert revision["status"] == "QUEUED"
    assert revision["source_revision_config"]["image_uri"] == f"sandbox.local/app{DIGEST}"


def test_resource_spec_keeps_kubernetes_names_and_rounds_cores(http: httpx.Client) -> None:
    spec = {
        "cpu": 0.25,
        "queue_cpu_limit": 15.97,
        "min_scale": 2,
        "volumes": [{"name": "v", "emptyDir": {}, "downwardAPI": {"items": []}}],
        "sidecars": [{"name": "s", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}]}],
        "init_containers": [{"name": "i", "image": "i", "env": [{"name": "A", "valueFrom": {"x": {"y": [1]}}}]}],
    }
    stored = create(http, source_config={"resource_spec": spec})["source_config"]["resource_spec"]
    assert stored == {**spec, "cpu": 0.2, "queue_cpu_limit": 16.0}


def test_cores_have_no_upper_bound_on_nodes_of_ones_own(http: httpx.Client) -> None:
    spec = {"cpu": 96.0, "cpu_limit": 192.0, "queue_cpu": 48.0, "queue_cpu_limit": 64.0, "redis_cpu": 32.0}

    assert create(http, source_config={"resource_spec": spec})["source_config"]["resource_spec"] == spec


def test_names_are_unique_in_a_workspace_until_the_holder_is_gone(http: httpx.Client) -> None:
    first = create(http)
    taken = http.post("/v2/deployments", json=body())
    assert taken.status_code == 409
    assert "'app'" in taken.json()["detail"]
    http.delete(f"/v2/deployments/{first['id']}")
    create(http)


IMAGE = {"image_uri": "repository/image:1"}
REFUSED_CREATIONS = {
    "name in capitals": ({"name": "App"}, "App"),
    "name from a digit": ({"name": "1app"}, "letter"),
    "name too long": ({"name": "a" * 64}, "63"),
    "empty name": ({"name": ""}, "name"),
    "github": ({"source": "github"}, "external_docker"),
    "internal_docker": ({"source": "internal_docker"}, "external_docker"),
    "internal_source": ({"source": "internal_source"}, "external_docker"),
    "no image": ({"source_revision_config": {}}, "image_uri' is required"),
    "image with a blank": ({"source_revision_config": {"image_uri": "an image"}}, "an image"),
    "another source's field": ({"source_config": {"repo_url": "https://example.com/r"}}, "repo_url"),
    "another source's config path": (
        {"source_revision_config": {**IMAGE, "langgraph_config_path": "l"}},
        "langgraph_c",
    ),
    "unknown listener": ({"source_config": {"listener_id": NOBODY}}, NOBODY),
    "namespace without listener": ({"source_config": {"listener_config": {"k8s_namespace": "agents"}}}, "agents"),
    "no variable's name": ({"secrets": [{"name": "no-good", "value": SECRET}]}, "no-good"),
    "repeated secret": ({"secrets": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}, "A"),
    "negative scale": ({"source_config": {"resource_spec": {"min_scale": -1}}}, "min_scale"),
    "huge scale": ({"source_config": {"resource_spec": {"max_scale": 2**70}}}, "max_scale"),
    "scales crossed": (
        {"source_config": {"resource_spec": {"queue_min_scale": 3, "queue_max_scale": 2}}},
        "queue_min_",
    ),
    "pull secret": ({"source_config": {"resource_spec": {"image_pull_secrets": [{"name": "A_b"}]}}}, "A_b"),
}


@pytest.mark.parametrize(("changes", "named"), REFUSED_CREATIONS.values(), ids=REFUSED_CREATIONS.keys())
def test_a_creation_against_the_rules_is_400_and_names_the_mistake(
    http: httpx.Client, changes: Json, named: str
) -> None:
    answer = http.post("/v2/deployments", json=body(**changes))
    assert answer.status_code == 400
    assert named in answer.json()["detail"]
    assert SECRET not in answer.text
    assert names(http) == []


BAD_FORMS: dict[str, tuple[Any, list[str | int]]] = {
    "missing field": ({key: value for key, value in body().items() if key != "secrets"}, ["body", "secrets"]),
    "secret without value": (body(secrets=[{"name": "A"}]), ["body", "secrets", 0, "value"]),
    "number for text": (body(secrets=[{"name": "A", "value": 1}]), ["body", "secrets", 0, "value"]),
    "unknown source": (body(source="svn"), ["body", "source"]),
    "too few cores": (
        body(source_config={"resource_spec": {"cpu": 0.05}}),
        ["body", "source_config", "resource_spec", "cpu"],
    ),
    "text for number": (
        body(source_config={"resource_spec": {"min_scale": "1"}}),
        ["body", "source_config", "resource_spec", "min_scale"],
    ),
    "no uuid": (body(source_config={"listener_id": "x"}), ["body", "source_config", "listener_id"]),
    "list for object": ([SECRET], ["body"]),
}


@pytest.mark.parametrize(("form", "where"), BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_a_malformed_body_is_422_with_its_place_and_without_its_values(
    http: httpx.Client, form: Any, where: list[str | int]
) -> None:
    answer = http.post("/v2/deployments", json=form)
    errors = answer.json()["detail"]
    assert answer.status_code == 422
    assert [error["loc"] for error in errors] == [where]
    assert all(error["msg"] and error["type"] for error in errors)
    assert SECRET not in answer.text


@pytest.mark.parametrize("text", ["", "{", '{"name": NaN}', '{"a": 1e999}', "\x00", "[" * 100_000, '"\\ud800"'])
def test_what_is_not_json_is_422(http: httpx.Client, text: str) -> None:
    answer = http.post("/v2/deployments", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][0] == "body"


def test_a_form_post_is_422(http: httpx.Client) -> None:
    assert http.post("/v2/deployments", data={"name": "app"}).status_code == 422


# --- placement


def test_a_workspace_with_listeners_requires_one(http: httpx.Client, listener: Json) -> None:
    answer = http.post("/v2/deployments", json=body())
    assert answer.status_code == 400
    # `langgraph deploy` searches for exactly this text.
    assert "listener_id' is required" in answer.json()["detail"]
    assert listener["id"] in answer.json()["detail"]


@pytest.mark.parametrize("config", [{}, {"listener_config": {}}, {"listener_config": {"k8s_namespace": "elsewhere"}}])
def test_the_namespace_must_be_one_of_the_listener(http: httpx.Client, listener: Json, config: Json) -> None:
    answer = http.post("/v2/deployments", json=body(source_config={"listener_id": listener["id"], **config}))
    assert answer.status_code == 400
    assert "agents, staging" in answer.json()["detail"]
    assert create(http, source_config=on(listener))["source_config"]["listener_id"] == listener["id"]


def test_inferring_places_only_where_there_is_no_choice() -> None:
    with (
        ControlPlane({"key": NOBODY}, infer_listener=True) as plane,
        httpx.Client(base_url=plane.url, headers=plane.headers()) as http,
    ):
        only = make_listener(http, "one", "agents")
        assert create(http)["source_config"]["listener_config"] == {"k8s_namespace": "agents"}
        http.patch(f"/v2/listeners/{only['id']}", json={"compute_config": {"k8s_namespaces": ["agents", "staging"]}})
        assert "serves agents, staging" in http.post("/v2/deployments", json=body("two-namespaces")).json()["detail"]
        make_listener(http, "two", "agents")
        assert "listener_id' is required" in http.post("/v2/deployments", json=body("two-listeners")).json()["detail"]


# --- patch and redeploy


@pytest.mark.parametrize(
    "patch",
    [
        {"secrets": []},
        {"secrets": [{"name": "TOKEN", "value": SECRET}]},
        {"source_revision_config": {"image_uri": "other:2"}},
        {"source_config": {"resource_spec": {"min_scale": 1}}},
        {"secret_references": []},
    ],
)
def test_secrets_images_and_resources_make_a_new_revision(http: httpx.Client, patch: Json) -> None:
    before = create(http)
    after = http.patch(f"/v2/deployments/{before['id']}", json=patch).json()
    revisions = http.get(f"/v2/deployments/{before['id']}/revisions").json()["resources"]

    assert [revision["id"] for revision in revisions] == [after["latest_revision_id"], before["latest_revision_id"]]
    assert [revision["status"] for revision in revisions] == ["QUEUED", "QUEUED"]
    assert after["updated_at"] > before["updated_at"]
    assert after == get(http, before)
    assert after["source_revision_config"] == revisions[0]["source_revision_config"]
    assert (after["image_version"], before["image_version"]) == (
        ("2", None) if "source_rev" in str(patch) else (None, None)
    )


def test_a_resource_spec_replaces_the_earlier_one_whole(http: httpx.Client) -> None:
    before = create(http, source_config={"resource_spec": {"cpu": 1, "min_scale": 2}})
    after = http.patch(f"/v2/deployments/{before['id']}", json={"source_config": {"resource_spec": {"cpu": 2}}}).json()
    assert after["source_config"]["resource_spec"] == {"cpu": 2}


def test_other_changes_make_no_revision_and_none_changes_nothing(http: httpx.Client) -> None:
    before = create(http)
    path = f"/v2/deployments/{before['id']}"
    nothing = http.patch(path, json={"name": "app", "source_config": {"custom_url": None}, "tracked_packages": ["x"]})
    assert nothing.json() == before
    url = http.patch(path, json={"source_config": {"custom_url": "http://localhost/lgp/app"}}).json()
    assert url["source_config"]["custom_url"] == "http://localhost/lgp/app"
    assert url["latest_revision_id"] == before["latest_revision_id"]
    assert url["updated_at"] > before["updated_at"]


def test_what_is_fixed_at_creation_cannot_be_patched(http: httpx.Client, listener: Json) -> None:
    other = make_listener(http, "other", "agents")
    deployment = create(http, source_config=on(listener, deployment_type="dev"))
    refused: list[Json] = [
        {"name": "other"},
        {"source": "github"},
        {"revision_source": "internal_docker"},
        {"source_config": {"listener_id": other["id"]}},
        {"source_config": {"listener_config": {"k8s_namespace": "staging"}}},
        {"source_config": {"deployment_type": "prod"}},
        {"source_config": {"build_command": "make"}},
    ]
    for patch in refused:
        answer = http.patch(f"/v2/deployments/{deployment['id']}", json=patch)
        assert answer.status_code == 400, patch
    same = http.patch(f"/v2/deployments/{deployment['id']}", json={"name": "app", "source_config": on(listener)})
    assert same.json() == deployment


def test_redeploying_an_earlier_revision_makes_a_new_one_with_its_image(http: httpx.Client) -> None:
    first = create(http)
    path = f"/v2/deployments/{first['id']}"
    http.patch(path, json={"source_revision_config": {"image_uri": "other:2"}})
    again = http.post(f"{path}/revisions/{first['latest_revision_id']}/redeploy").json()

    assert again["latest_revision_id"] not in (None, first["latest_revision_id"])
    assert again["source_revision_config"] == first["source_revision_config"]
    assert len(http.get(f"{path}/revisions").json()["resources"]) == 3
    assert http.post(f"{path}/revisions/{NOBODY}/redeploy").status_code == 404


# --- lists


def test_filters(http: httpx.Client, listener: Json) -> None:
    # This deployment was created before the workspace had a listener.
    http.delete(f"/v2/listeners/{listener['id']}")
    alone = create(http, "alone")
    listener = make_listener(http, "again", "agents")
    tagged = create(
        http,
        "tagged",
        source_config=on(listener, deployment_type="prod"),
        source_revision_config={"image_uri": "r:5000/i:7"},
    )
    create(http, "tagged-too", source_config=on(listener))
    report(http, tagged, "READY")

    assert names(http) == ["tagged-too", "tagged", "alone"]
    assert names(http, name="tagged") == ["tagged"]
    assert names(http, name="tag") == []
    assert names(http, name_contains="tagged") == ["tagged-too", "tagged"]
    assert names(http, name_contains="%") == []
    assert names(http, name_contains="") == names(http)
    assert names(http, status="READY") == ["tagged"]
    assert names(http, status="READY,AWAITING_DATABASE") == names(http)
    assert names(http, status="no such") == []
    assert names(http, remote_reconciled=True) == ["tagged-too", "tagged"]
    assert names(http, remote_reconciled=False) == ["alone"]
    assert names(http, deployment_ids=f"{alone['id']},{tagged['id']},x") == ["tagged", "alone"]
    assert names(http, image_version="7") == ["tagged"]
    assert names(http, deployment_type="prod") == ["tagged"]
    assert names(http, deployment_type="dev") == []
    assert names(http, tag_value_ids=NOBODY) == []
    assert names(http, agent_id="a", agent_environment="staging") == []
    assert names(http, name_contains="tagged", limit=1, offset=1) == ["tagged"]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": 0},
        {"limit": 101},
        {"limit": "x"},
        {"offset": -1},
        {"deployment_type": "big"},
        {"remote_reconciled": "x"},
        {"remote_reconciled": 1},
        {"status": ["READY", "UNUSED"]},
    ],
)
def test_a_malformed_query_is_422(http: httpx.Client, query: Json) -> None:
    answer = http.get("/v2/deployments", params=query)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", *query]


def test_paging_reaches_everything_once_and_ends(http: httpx.Client) -> None:
    made = [create(http, f"app-{number}")["name"] for number in range(7)]
    seen, offset = [], 0
    while resources := (page := http.get("/v2/deployments", params={"limit": 3, "offset": offset}).json())["resources"]:
        seen += [resource["name"] for resource in resources]
        offset = page["offset"]
    assert seen == made[::-1]
    assert offset == 7
    assert http.get("/v2/deployments", params={"offset": 10**30}).json()["resources"] == []


def test_revisions_are_listed_newest_first_and_by_status(http: httpx.Client) -> None:
    deployment = create(http)
    path = f"/v2/deployments/{deployment['id']}"
    for number in range(3):
        http.patch(path, json={"source_revision_config": {"image_uri": f"i:{number}"}})
    report(http, deployment, "SKIPPED", deployment["latest_revision_id"])

    def images(**query: Any) -> list[str]:
        found = http.get(f"{path}/revisions", params=query).raise_for_status().json()["resources"]
        return [revision["source_revision_config"]["image_uri"] for revision in found]

    assert images() == ["i:2", "i:1", "i:0", f"sandbox.local/app{DIGEST}"]
    assert images(limit=1, offset=1) == ["i:1"]
    assert images(status="SKIPPED,DEPLOYED") == [f"sandbox.local/app{DIGEST}"]
    assert images(remote_reconciled=True) == []
    assert len(images(remote_reconciled=False)) == 4


# --- deletion


def test_a_deployment_of_a_listener_is_deleted_when_its_data_plane_reports_it(
    http: httpx.Client, listener: Json
) -> None:
    deployment = create(http, source_config=on(listener))
    path = f"/v2/deployments/{deployment['id']}"

    assert report(http, deployment, "DELETED").status_code == 409  # no user asked for the deletion
    assert http.delete(path, params={"delete_tracing_project": True}).status_code == 204
    assert http.delete(path).status_code == 204
    assert get(http, deployment)["status"] == "AWAITING_DELETE"
    assert names(http, status="AWAITING_DELETE") == ["app"]
    assert http.patch(path, json={"secrets": []}).status_code == 400
    assert http.post(f"{path}/revisions/{deployment['latest_revision_id']}/redeploy").status_code == 400
    assert report(http, deployment, "READY").status_code == 409
    assert report(http, deployment, "DELETED").status_code == 204
    assert http.get(path).status_code == 404
    assert http.get(f"{path}/revisions/{deployment['latest_revision_id']}").status_code == 404
    assert report(http, deployment, "DELETED").status_code == 404
    assert names(http) == []


def test_a_deployment_without_a_data_plane_is_deleted_at_once(http: httpx.Client) -> None:
    alone = create(http, "alone")
    listener = make_listener(http, "cluster", "agents")
    waiting, orphan = (create(http, name, source_config=on(listener)) for name in ("waiting", "orphan"))
    for deployment in (alone, waiting):
        assert http.delete(f"/v2/deployments/{deployment['id']}").status_code == 204
    assert names(http) == ["orphan", "waiting"]
    assert http.delete(f"/v2/listeners/{listener['id']}").status_code == 204
    assert names(http) == ["orphan"]
    http.delete(f"/v2/deployments/{orphan['id']}")
    assert names(http) == []


def test_bulk_deletion_answers_for_each(http: httpx.Client) -> None:
    first, second = create(http, "first"), create(http, "second")

    def delete(*ids: str) -> httpx.Response:
        return http.delete("/v2/deployments", params={"deployment_ids": ids})

    partly = delete(first["id"], NOBODY)
    assert partly.status_code == 207
    assert partly.json()["deleted"] == [first["id"]]
    assert [failure["deployment_id"] for failure in partly.json()["failed"]] == [NOBODY]
    assert delete(second["id"]).json() == {"deleted": [second["id"]], "failed": []}
    assert delete(NOBODY).status_code == 404
    assert delete().status_code == 422
    assert delete("x").json()["detail"][0]["loc"] == ["query", "deployment_ids", 0]
    assert delete(*[NOBODY] * 101).status_code == 422


# --- reports


def test_a_revision_that_is_deployed_becomes_the_active_one(http: httpx.Client, listener: Json) -> None:
    deployment = create(http, source_config=on(listener))
    revision = deployment["latest_revision_id"]
    for status in ("AWAITING_DEPLOY", "DEPLOYING", "DEPLOYING", "DEPLOYED", "DEPLOYED"):
        answer = report(http, deployment, status, revision)
        assert answer.status_code == 200
        assert answer.json()["status"] == status
        assert answer.json()["updated_at"] > answer.json()["created_at"]
    assert report(http, deployment, "READY").json()["status"] == "READY"
    assert get(http, deployment)["active_revision_id"] == revision

    backwards = report(http, deployment, "DEPLOYING", revision)
    assert backwards.status_code == 409
    assert "DEPLOYED" in backwards.json()["detail"]
    assert report(http, deployment, "AWAITING_DATABASE").status_code == 409
    assert get(http, deployment)["status"] == "READY"


def test_a_failed_successor_leaves_the_active_revision(http: httpx.Client) -> None:
    deployment = create(http)
    first = deployment["latest_revision_id"]
    report(http, deployment, "DEPLOYED", first)
    second = http.patch(f"/v2/deployments/{deployment['id']}", json={"secrets": []}).json()["latest_revision_id"]
    report(http, deployment, "DEPLOY_FAILED", second, reason="ImagePullBackOff", message="pod app-1")
    assert get(http, deployment)["active_revision_id"] == first
    assert get(http, deployment)["latest_revision_id"] == second


def test_a_late_report_of_an_older_revision_does_not_make_it_active(http: httpx.Client) -> None:
    deployment = create(http)
    second = http.patch(f"/v2/deployments/{deployment['id']}", json={"secrets": []}).json()["latest_revision_id"]
    report(http, deployment, "DEPLOYED", second)
    assert report(http, deployment, "DEPLOYED", deployment["latest_revision_id"]).status_code == 200
    assert get(http, deployment)["active_revision_id"] == second


def test_unknown_statuses_and_revisions_are_refused(http: httpx.Client) -> None:
    deployment = create(http)
    assert report(http, deployment, "FINE", deployment["latest_revision_id"]).status_code == 422
    assert report(http, deployment, "DEPLOYED").status_code == 422
    assert report(http, deployment, "DEPLOYED", NOBODY).status_code == 404
    assert report(http, deployment, "AWAITING_DELETE").status_code == 409


def logs(http: httpx.Client, deployment: Json, revision: str | None = None, **request: Any) -> list[Json]:
    of = f"/revisions/{revision}" if revision else ""
    answer = http.post(f"/v1/projects/{deployment['id']}{of}/deploy_logs", json=request)
    lines: list[Json] = answer.raise_for_status().json()["logs"]
    return lines


def test_reports_are_log_lines(http: httpx.Client) -> None:
    deployment = create(http)
    revision = deployment["latest_revision_id"]
    report(http, deployment, "DEPLOYING", revision, reason="RolloutStarted")
    for _ in range(2):
        report(http, deployment, "DEPLOY_FAILED", revision, reason="CrashLoopBackOff", message="exit code 3")
    report(http, deployment, "READY")

    newest = logs(http, deployment)
    assert [line["level"] for line in newest] == ["INFO", "ERROR", "INFO", "INFO"]  # a repeated report adds no line
    assert newest[1]["message"] == f"revision {revision} DEPLOY_FAILED: CrashLoopBackOff: exit code 3"
    assert logs(http, deployment, order="asc") == newest[::-1]
    assert logs(http, deployment, revision) == newest[1:]
    assert logs(http, deployment, limit=1) == newest[:1]
    assert logs(http, deployment, level="ERROR") == logs(http, deployment, query="crashloop") == newest[1:2]
    assert logs(http, deployment, start_time="2999-01-01T00:00:00Z") == []
    assert logs(http, deployment, start_time="2020-01-01T00:00:00", end_time="2999-01-01T00:00:00Z") == newest
    builds = http.post(f"/v1/projects/{deployment['id']}/revisions/{revision}/build_logs", json={"order": "asc"})
    assert builds.json()["logs"] == []


def test_the_page_shows_states_and_reasons_but_no_secret(
    plane: ControlPlane, workspace: str, http: httpx.Client
) -> None:
    deployment = create(http)
    message = "<script>alert(1)</script>"
    report(
        http, deployment, "DEPLOY_FAILED", deployment["latest_revision_id"], reason="CrashLoopBackOff", message=message
    )
    page = httpx.get(f"{plane.url}/o/{workspace}/host/deployments/{deployment['id']}")

    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    for text in ("AWAITING_DATABASE", "DEPLOY_FAILED", "CrashLoopBackOff", "&lt;script&gt;", deployment["id"]):
        assert text in page.text
    assert "<script>" not in page.text
    assert SECRET not in page.text
    assert httpx.get(f"{plane.url}/o/{NOBODY}/host/deployments/{deployment['id']}").status_code == 404


# --- listeners


def test_a_listener_publishes_its_version_and_namespaces(http: httpx.Client, listener: Json) -> None:
    path = f"/v2/listeners/{listener['id']}"
    assert http.get(path).json() == listener
    assert http.patch(path, json={}).json() == listener
    changed = http.patch(path, json={"version": "1.2", "compute_config": {"k8s_namespaces": ["new"]}}).json()
    assert changed == {
        **listener,
        "version": "1.2",
        "compute_config": {"k8s_namespaces": ["new"]},
        "updated_at": changed["updated_at"],
    }
    assert changed["updated_at"] > listener["updated_at"]
    assert http.get("/v2/listeners").json() == {"resources": [changed], "offset": 1}
    assert http.delete(path).status_code == 204
    assert http.get(path).status_code == http.delete(path).status_code == 404


def test_a_compute_id_is_unique_in_its_workspace_and_fixed(
    http: httpx.Client, neighbour: httpx.Client, listener: Json
) -> None:
    body = {"compute_type": "k8s", "compute_id": "cluster", "compute_config": {"k8s_namespaces": ["x"]}}
    assert http.post("/v2/listeners", json=body).status_code == 409
    assert neighbour.post("/v2/listeners", json=body).status_code == 201
    moved = http.patch(f"/v2/listeners/{listener['id']}", json={"compute_id": "other"})
    assert moved.status_code == 422
    assert moved.json()["detail"][0]["loc"] == ["body", "compute_id"]


@pytest.mark.parametrize("namespaces", [None, [], ["Not_A_Name"], ["twice", "twice"]])
def test_a_listener_needs_proper_namespaces(http: httpx.Client, listener: Json, namespaces: list[str] | None) -> None:
    config = {"compute_config": {"k8s_namespaces": namespaces}}
    for answer in (
        http.post("/v2/listeners", json={"compute_type": "k8s", "compute_id": "new", **config}),
        http.patch(f"/v2/listeners/{listener['id']}", json=config),
    ):
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", "compute_config", "k8s_namespaces"]


def test_seeding_twice_keeps_one_listener_under_a_foreseeable_id(
    plane: ControlPlane, workspace: str, http: httpx.Client
) -> None:
    seed(plane.store, *parse_listener(f"{workspace}:laptop:one"))
    seed(plane.store, *parse_listener(f"{workspace}:laptop:one,two"))
    (listener,) = http.get("/v2/listeners").json()["resources"]
    assert listener["id"] == seeded_listener_id(workspace, "laptop")
    assert listener["compute_config"] == {"k8s_namespaces": ["one", "two"]}


@pytest.mark.parametrize("text", ["", "w:c", "w:c:", "w::n", "w:c:n:x"])
def test_a_malformed_seed_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="WORKSPACE:COMPUTE_ID:NAMESPACE"):
        parse_listener(text)


# --- HTTP


def test_unknown_paths_and_methods(http: httpx.Client) -> None:
    assert http.get("/v2/nothing").json() == {"detail": "Not Found"}
    wrong = http.put("/v2/deployments", json={})
    assert (wrong.status_code, wrong.json()["detail"]) == (405, "Method Not Allowed")
    assert {"GET", "POST", "DELETE"} <= set(wrong.headers["allow"].split(", "))
    assert http.get("/v2/deployments/not-a-uuid").json()["detail"][0]["loc"] == ["path", "deployment_id"]
    assert http.head("/v2/deployments").status_code == 200
    assert http.get("/ok").json() == {"ok": True}
