"""The real kubectl with both API servers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sandbox import envtest
from tests.conformance.client import Api, succeeded, version
from tests.conformance.objects import (
    Object,
    claim,
    config_map,
    container,
    deployment,
    ingress,
    secret,
    service,
    stateful_set,
    widget,
)
from tests.conformance.workloads import condition, live_pods, pods_become_ready, rolled_out
from tests.support.api_servers import ApiServer
from tests.support.eventually import eventually

Finished = subprocess.CompletedProcess[str]
Kubectl = Callable[..., Finished]

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@pytest.fixture
def run(api_server: ApiServer, namespace: str, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """`run("get", "pods")` runs kubectl in the test's namespace; `stdin` takes objects, which are sent as YAML."""
    found = f"{envtest.assets()}{os.pathsep}{os.environ.get('PATH', '')}"  # prefers the server's version
    binary = shutil.which("kubectl", path=found)
    if binary is None:
        pytest.skip("kubectl is not installed")
    home = tmp_path_factory.getbasetemp() / f"kubectl-{api_server.name}"  # one discovery cache per server
    home.mkdir(exist_ok=True)

    def kubectl(
        *arguments: str, stdin: Object | list[Object] | None = None, env: dict[str, str] | None = None
    ) -> Finished:
        documents = stdin if isinstance(stdin, list) else [stdin] if stdin else []
        return subprocess.run(
            [binary, "--kubeconfig", api_server.kubeconfig, "--namespace", namespace, *arguments],
            input=yaml.safe_dump_all(documents) if documents else None,
            capture_output=True,
            text=True,
            timeout=60,
            env={"HOME": str(home), "PATH": "/usr/bin:/bin", **(env or {})},
        )

    return kubectl


@pytest.fixture
def kubectl(run: Kubectl) -> Kubectl:
    """Like `run`, for commands that must succeed."""

    def checked(*arguments: str, **options: object) -> Finished:
        finished = run(*arguments, **options)
        assert finished.returncode == 0, f"kubectl {' '.join(arguments)}: {finished.stdout}{finished.stderr}"
        return finished

    return checked


# apply


def test_apply_creates_then_leaves_alone_then_configures(api: Api, kubectl: Kubectl) -> None:
    body = [config_map("a", {"x": "1", "y": "1"}), service("web")]
    assert kubectl("apply", "-f", "-", stdin=body).stdout == "configmap/a created\nservice/web created\n"
    before = version(api.get("configmaps", "a"))
    assert kubectl("apply", "-f", "-", stdin=body).stdout == "configmap/a unchanged\nservice/web unchanged\n"
    assert version(api.get("configmaps", "a")) == before
    assert kubectl("apply", "-f", "-", stdin=config_map("a", {"x": "2"})).stdout == "configmap/a configured\n"
    assert api.get("configmaps", "a")["data"] == {"x": "2"}


def test_apply_keeps_what_others_added(api: Api, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=deployment("web", replicas=0))
    sidecar = {"spec": {"template": {"spec": {"containers": [container("sidecar")]}}}}
    api.patch("deployments", "web", sidecar, "strategic")
    kubectl("apply", "-f", "-", stdin=deployment("web", replicas=0, containers=[container(image="other:2")]))
    containers = api.get("deployments", "web")["spec"]["template"]["spec"]["containers"]
    assert {item["name"]: item["image"] for item in containers}["main"] == "other:2"
    assert {item["name"] for item in containers} == {"main", "sidecar"}


def test_apply_of_a_deployment_twice_changes_nothing(api: Api, kubectl: Kubectl) -> None:
    probe = {"httpGet": {"path": "/ok", "port": 8000}}
    main = container(
        env=[{"name": "A", "value": "1"}],
        ports=[{"containerPort": 8000}],
        readinessProbe=probe,
        resources={"limits": {"cpu": "1", "memory": "1Gi"}},
    )
    body = deployment("web", replicas=0, containers=[main])
    kubectl("apply", "-f", "-", stdin=body)
    assert kubectl("apply", "-f", "-", stdin=body).stdout == "deployment.apps/web unchanged\n"


def test_apply_of_a_custom_resource(api: Api, widgets: Object, kubectl: Kubectl) -> None:
    assert kubectl("apply", "-f", "-", stdin=widget("a")).stdout == "widget.example.dev/a created\n"
    assert kubectl("apply", "-f", "-", stdin=widget("a")).stdout == "widget.example.dev/a unchanged\n"
    changed = kubectl("apply", "-f", "-", stdin=widget("a", {"size": 4}))
    assert changed.stdout == "widget.example.dev/a configured\n"
    assert api.get("widgets", "a")["spec"]["size"] == 4


def test_server_side_apply(api: Api, run: Kubectl, kubectl: Kubectl) -> None:
    said = kubectl("apply", "--server-side", "-f", "-", stdin=config_map("a")).stdout
    assert said == "configmap/a serverside-applied\n"
    contested = config_map("a", {"a": "2"})
    arguments = ["apply", "--server-side", "--field-manager=other", "-f", "-"]
    refused = run(*arguments, stdin=contested)
    assert refused.returncode != 0
    assert 'conflict with "kubectl"' in refused.stderr
    kubectl(*arguments, "--force-conflicts", stdin=contested)
    assert api.get("configmaps", "a")["data"] == {"a": "2"}


def test_dry_run_and_diff(api: Api, run: Kubectl, kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=config_map("a"))
    changed = config_map("a", {"a": "2"})
    said = kubectl("apply", "--dry-run=server", "-f", "-", stdin=changed).stdout
    assert said == "configmap/a configured (server dry run)\n"
    if shutil.which("diff"):
        shown = run("diff", "-f", "-", stdin=changed)
        assert shown.returncode == 1, shown.stderr
        assert '+  a: "2"' in shown.stdout
    assert api.get("configmaps", "a")["data"] == {"a": "1"}


def test_mistakes_are_explained(run: Kubectl) -> None:
    refused = run("create", "-f", "-", stdin=deployment("web", replicas=-1))
    assert refused.returncode == 1
    assert 'The Deployment "web" is invalid: spec.replicas' in refused.stderr


def test_create_twice(run: Kubectl, kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "a", "--from-literal=x=1")
    again = run("create", "configmap", "a", "--from-literal=x=1")
    assert 'configmaps "a" already exists' in again.stderr


# get and describe


def test_get_prints_a_table(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=0))
    heading, row = kubectl("get", "deployments").stdout.splitlines()
    assert heading.split() == ["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE"]
    assert row.split()[:4] == ["web", "0/0", "0", "0"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-o", "name"], "configmap/a"),
        (["-o", "jsonpath={.data.a}"], "1"),
        (["-o", "custom-columns=N:.metadata.name", "--no-headers"], "a"),
        (["-o", "go-template={{.data.a}}"], "1"),
    ],
)
def test_output_formats(api: Api, kubectl: Kubectl, arguments: list[str], expected: str) -> None:
    api.create("configmaps", config_map("a"))
    assert kubectl("get", "configmap", "a", *arguments).stdout.strip() == expected


def test_get_as_json_and_yaml(api: Api, kubectl: Kubectl) -> None:
    made = api.create("configmaps", config_map("a"))
    assert json.loads(kubectl("get", "cm", "a", "-o", "json", "--show-managed-fields").stdout) == made
    listed = yaml.safe_load(kubectl("get", "cm", "-o", "yaml", "-l", "!x").stdout)
    assert "a" in [item["metadata"]["name"] for item in listed["items"]]


def test_get_by_short_name_and_category(api: Api, widgets: Object, kubectl: Kubectl) -> None:
    api.create("widgets", widget("a"))
    api.create("services", service("web"))
    assert kubectl("get", "wd", "-o", "name").stdout == "widget.example.dev/a\n"
    everything = kubectl("get", "all", "-o", "name").stdout.split()
    assert {"service/web", "widget.example.dev/a"} <= set(everything)


def test_get_what_is_missing(run: Kubectl) -> None:
    finished = run("get", "deployment", "ghost")
    assert finished.returncode == 1
    assert 'Error from server (NotFound): deployments.apps "ghost" not found' in finished.stderr
    assert "No resources found" in run("get", "pods").stderr


def test_get_of_an_unknown_kind(run: Kubectl) -> None:
    assert 'doesn\'t have a resource type "ghosts"' in run("get", "ghosts").stderr


@pytest.mark.parametrize(
    ("resource", "body", "expected"),
    [
        ("deployments", deployment("web", replicas=0), "RollingUpdateStrategy:"),
        ("statefulsets", stateful_set("web", replicas=0), "Pods Status:"),
        ("services", service("web"), "TargetPort:"),
        ("ingresses", ingress("web"), "localhost"),
        ("configmaps", config_map("web", {"key": "visible"}), "visible"),
        ("persistentvolumeclaims", claim("web"), "Access Modes:"),
        ("widgets", widget("web"), "Color:"),
    ],
)
def test_describe(api: Api, widgets: Object, kubectl: Kubectl, resource: str, body: Object, expected: str) -> None:
    api.create(resource, body)
    shown = kubectl("describe", resource, "web").stdout
    assert shown.startswith("Name:")
    assert expected in shown


def test_describe_hides_secrets(api: Api, kubectl: Kubectl) -> None:
    api.create("secrets", secret("web", stringData={"key": "hidden-value"}))
    shown = kubectl("describe", "secret", "web").stdout
    assert "key:" in shown
    assert "12 bytes" in shown
    assert "hidden-value" not in shown


def test_describe_a_pod(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    pod = eventually(lambda: live_pods(api), "the Pod is there")[0]["metadata"]["name"]
    shown = kubectl("describe", "pod", pod).stdout
    assert "Controlled By:" in shown
    assert "ReplicaSet/web-" in shown


def test_discovery_commands(widgets: Object, kubectl: Kubectl) -> None:
    listed = kubectl("api-resources", "--no-headers").stdout
    assert {"deployments", "pods", "widgets"} <= {line.split()[0] for line in listed.splitlines()}
    assert "apps/v1" in kubectl("api-versions").stdout.split()
    assert "Server Version: v1." in kubectl("version").stdout
    assert kubectl("auth", "can-i", "create", "deployments").stdout.strip() == "yes"


def test_explain(kubectl: Kubectl) -> None:
    assert "replicas" in kubectl("explain", "deployment.spec").stdout


# edit, patch, replace, scale


def test_label_annotate_patch(api: Api, kubectl: Kubectl) -> None:
    api.create("configmaps", config_map("a"))
    kubectl("label", "configmap", "a", "x=1")
    kubectl("annotate", "configmap", "a", "example.dev/note=text")
    kubectl("patch", "configmap", "a", "--type=merge", "-p", '{"data":{"a":"2"}}')
    kubectl("patch", "configmap", "a", "--type=json", "-p", '[{"op":"add","path":"/data/b","value":"3"}]')
    kubectl("label", "configmap", "a", "x-")
    found = api.get("configmaps", "a")
    assert "labels" not in found["metadata"]
    assert found["metadata"]["annotations"] == {"example.dev/note": "text"}
    assert found["data"] == {"a": "2", "b": "3"}


def test_edit(api: Api, kubectl: Kubectl, tmp_path: Path) -> None:
    api.create("configmaps", config_map("a"))
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/sh\nsed \'s/a: "1"/a: "edited"/\' "$1" > "$1.new" && cp "$1.new" "$1"\n')
    editor.chmod(0o755)
    kubectl("edit", "configmap", "a", env={"KUBE_EDITOR": str(editor)})
    assert api.get("configmaps", "a")["data"] == {"a": "edited"}


def test_replace(api: Api, kubectl: Kubectl) -> None:
    first = api.create("configmaps", config_map("a"))
    kubectl("replace", "-f", "-", stdin=config_map("a", {"b": "2"}))
    assert api.get("configmaps", "a")["data"] == {"b": "2"}
    kubectl("replace", "--force", "-f", "-", stdin=config_map("a", {"c": "3"}))
    assert api.get("configmaps", "a")["metadata"]["uid"] != first["metadata"]["uid"]


def test_scale(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=0))
    said = kubectl("scale", "deployment/web", "--replicas=2").stdout
    assert said == "deployment.apps/web scaled\n"
    eventually(lambda: len(live_pods(api)) == 2, "two Pods are there")


def test_scale_with_a_precondition(api: Api, run: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=0))
    refused = run("scale", "deployment/web", "--current-replicas=5", "--replicas=2")
    assert refused.returncode == 1
    assert api.get("deployments", "web")["spec"]["replicas"] == 0


# wait and rollout


def test_rollout_status(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=2))
    with pods_become_ready(api):
        said = kubectl("rollout", "status", "deployment/web", "--timeout=50s").stdout
    assert 'deployment "web" successfully rolled out' in said


def test_rollout_status_of_a_failure(api: Api, run: Kubectl) -> None:
    api.create("deployments", deployment("web", progressDeadlineSeconds=1))
    finished = run("rollout", "status", "deployment/web", "--timeout=50s")
    assert finished.returncode == 1
    assert 'deployment "web" exceeded its progress deadline' in finished.stderr


def test_rollout_status_of_a_set(api: Api, kubectl: Kubectl) -> None:
    api.create("statefulsets", stateful_set("web", replicas=2))
    with pods_become_ready(api):
        said = kubectl("rollout", "status", "statefulset/web", "--timeout=50s").stdout
    assert "partitioned roll out complete" in said or "statefulset rolling update complete" in said


def test_new_image_history_and_undo(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    with pods_become_ready(api):
        kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        kubectl("set", "image", "deployment/web", "main=other:2")
        kubectl("rollout", "status", "deployment/web", "--timeout=50s")
        history = kubectl("rollout", "history", "deployment/web").stdout
        assert [line.split()[0] for line in history.splitlines() if line[:1].isdigit()] == ["1", "2"]
        kubectl("rollout", "undo", "deployment/web")
        kubectl("rollout", "status", "deployment/web", "--timeout=50s")
    container_now = api.get("deployments", "web")["spec"]["template"]["spec"]["containers"][0]
    assert container_now["image"] != "other:2"


def test_rollout_restart(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    with pods_become_ready(api):
        eventually(lambda: rolled_out(api, "web"), "web is rolled out")
        before = {pod["metadata"]["uid"] for pod in live_pods(api)}
        kubectl("rollout", "restart", "deployment/web")
        kubectl("rollout", "status", "deployment/web", "--timeout=50s")
    assert not before & {pod["metadata"]["uid"] for pod in live_pods(api)}


def test_pause_and_resume(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=0))
    kubectl("rollout", "pause", "deployment/web")
    assert api.get("deployments", "web")["spec"]["paused"] is True
    kubectl("rollout", "resume", "deployment/web")
    assert not api.get("deployments", "web")["spec"].get("paused", False)


def test_wait_for_a_condition(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    with pods_become_ready(api):
        said = kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=50s").stdout
    assert said == "deployment.apps/web condition met\n"
    assert condition(api.get("deployments", "web"), "Available")["status"] == "True"


def test_wait_for_a_value(api: Api, widgets: Object, kubectl: Kubectl) -> None:
    api.create("widgets", widget("a"))
    api.patch("widgets", "a", {"status": {"phase": "Ready"}}, sub="status")
    kubectl("wait", "--for=jsonpath={.status.phase}=Ready", "widget/a", "--timeout=50s")


def test_wait_gives_up(api: Api, run: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    finished = run("wait", "--for=condition=Available", "deployment/web", "--timeout=1s")
    assert finished.returncode == 1
    assert "timed out waiting for the condition" in finished.stderr


# delete


def test_delete_waits_until_it_is_gone(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    eventually(lambda: live_pods(api), "the Pod is there")
    assert kubectl("delete", "deployment", "web", "--timeout=50s").stdout.startswith('deployment.apps "web" deleted')
    assert api.find("deployments", "web") is None
    eventually(lambda: not live_pods(api), "the Pods are gone")


def test_delete_by_label_and_of_nothing(api: Api, run: Kubectl, kubectl: Kubectl) -> None:
    api.create("configmaps", config_map("a", labels={"x": "1"}))
    api.create("configmaps", config_map("b"))
    kubectl("delete", "configmap", "-l", "x=1")
    assert api.find("configmaps", "a") is None
    assert api.find("configmaps", "b") is not None
    assert run("delete", "configmap", "a").returncode == 1
    kubectl("delete", "configmap", "a", "--ignore-not-found")


def test_delete_leaves_orphans_on_demand(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web"))
    eventually(lambda: live_pods(api), "the Pod is there")
    kubectl("delete", "deployment", "web", "--cascade=orphan", "--timeout=50s")
    assert len(live_pods(api)) == 1


def test_delete_from_a_file(api: Api, kubectl: Kubectl) -> None:
    body = [config_map("a"), secret("b")]
    kubectl("apply", "-f", "-", stdin=body)
    kubectl("delete", "-f", "-", stdin=body)
    assert api.find("configmaps", "a") is None
    assert api.find("secrets", "b") is None


# commands that create objects


def columns(kubectl: Kubectl, *arguments: str) -> dict[str, str]:
    """Return the only row of `kubectl get`, by column."""
    header, row = kubectl("get", *arguments).stdout.splitlines()
    starts = [header.index(name) for name in header.split("  ") if name.strip()]
    cuts = [slice(start, end) for start, end in zip(starts, [*starts[1:], None], strict=True)]
    return {header[cut].strip(): row[cut].strip() for cut in cuts}


def test_a_job(api: Api, kubectl: Kubectl) -> None:
    assert kubectl("create", "job", "once", "--image=x", "--", "true").stdout == "job.batch/once created\n"
    row = columns(kubectl, "job")
    assert (row["NAME"], row["COMPLETIONS"]) == ("once", "0/1")
    assert set(row) == {"NAME", "STATUS", "COMPLETIONS", "DURATION", "AGE"}
    made = succeeded(api.http.get(f"/apis/batch/v1/namespaces/{api.namespace}/jobs/once"))
    uid = made["metadata"]["uid"]
    assert made["spec"]["selector"] == {"matchLabels": {"batch.kubernetes.io/controller-uid": uid}}
    labels = {
        "batch.kubernetes.io/controller-uid": uid,
        "batch.kubernetes.io/job-name": "once",
        "controller-uid": uid,
        "job-name": "once",
    }
    assert made["spec"]["template"]["metadata"]["labels"] == labels
    assert made["metadata"]["labels"] == labels
    assert (made["spec"]["completionMode"], made["spec"]["suspend"]) == ("NonIndexed", False)
    kubectl("wait", "--for=create", "job/once", "--timeout=5s")
    kubectl("delete", "job", "once", "--cascade=foreground", "--timeout=50s")


def test_a_cron_job_and_a_job_of_it(kubectl: Kubectl) -> None:
    kubectl("create", "cronjob", "hourly", "--image=x", "--schedule=0 * * * *")
    row = columns(kubectl, "cronjob")
    assert (row["SCHEDULE"], row["TIMEZONE"], row["SUSPEND"], row["ACTIVE"]) == ("0 * * * *", "<none>", "False", "0")
    kubectl("create", "job", "now", "--from=cronjob/hourly")


def test_an_autoscaler(api: Api, kubectl: Kubectl) -> None:
    api.create("deployments", deployment("web", replicas=0))
    said = kubectl("autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu-percent=80").stdout
    assert said == "horizontalpodautoscaler.autoscaling/web autoscaled\n"
    row = columns(kubectl, "hpa")
    assert (row["REFERENCE"], row["MINPODS"], row["MAXPODS"]) == ("Deployment/web", "1", "3")
    assert row["TARGETS"] == "cpu: <unknown>/80%"


def test_an_ingress_a_budget_and_a_quota(kubectl: Kubectl) -> None:
    kubectl("create", "ingress", "web", "--class=any", "--rule=a.test/=web:80,tls=certificate")
    row = columns(kubectl, "ingress")
    assert (row["CLASS"], row["HOSTS"], row["PORTS"]) == ("any", "a.test", "80, 443")
    kubectl("create", "pdb", "web", "--min-available=1", "--selector=app=web")
    assert columns(kubectl, "pdb")["MIN AVAILABLE"] == "1"
    kubectl("create", "quota", "small", "--hard=pods=3,requests.cpu=2")
    assert "requests.cpu" in kubectl("get", "quota", "small", "-o", "jsonpath={.spec.hard}").stdout


# waiting and watching as current versions of kubectl do it


def test_wait_for_creation_and_deletion(api: Api, kubectl: Kubectl) -> None:
    api.create("configmaps", config_map("a"))
    assert kubectl("wait", "--for=create", "configmap/a", "--timeout=5s").stdout == "configmap/a condition met\n"
    kubectl("delete", "configmap", "a")
    kubectl("wait", "--for=delete", "configmap/a", "--timeout=5s")


@pytest.mark.parametrize("watch_list", ["true", "false"])
def test_get_and_watch(api: Api, run: Kubectl, watch_list: str) -> None:
    api.create("configmaps", config_map("a"))
    options = ["--watch", "--output-watch-events", "--request-timeout=2s", "--field-selector=metadata.name=a"]
    found = run("get", "configmap", *options, env={"KUBE_FEATURE_WatchListClient": watch_list})
    assert [line.split()[:2] for line in found.stdout.splitlines()] == [["EVENT", "NAME"], ["ADDED", "a"]]


@pytest.mark.parametrize("watch_list", ["true", "false"])
def test_waiting_with_lists_as_watches_or_without(api: Api, kubectl: Kubectl, watch_list: str) -> None:
    env = {"KUBE_FEATURE_WatchListClient": watch_list}
    api.create("deployments", deployment("web"))
    with pods_become_ready(api):
        kubectl("rollout", "status", "deployment/web", "--timeout=50s", env=env)
        kubectl("wait", "--for=condition=Available", "deployment/web", "--timeout=50s", env=env)
    kubectl("delete", "deployment", "web", "--timeout=50s", env=env)
    assert api.find("deployments", "web") is None


def test_unknown_fields_are_refused_by_default(kubectl: Kubectl, run: Kubectl) -> None:
    body = {**config_map("a"), "ghost": 1}
    refused = run("apply", "-f", "-", stdin=body)
    assert refused.returncode == 1
    assert 'strict decoding error: unknown field "ghost"' in refused.stderr
    warned = kubectl("apply", "--validate=warn", "-f", "-", stdin=body)
    assert 'Warning: unknown field "ghost"' in warned.stderr


def test_who_am_i(kubectl: Kubectl) -> None:
    assert "system:masters" in kubectl("auth", "whoami").stdout


def test_the_versions_of_client_and_server_fit(kubectl: Kubectl) -> None:
    assert "version skew" not in kubectl("version").stderr
