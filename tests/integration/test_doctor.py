"""The doctor against real peers: an installation without problems, and each problem with a fix for the user."""

from __future__ import annotations

import http.server
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis

from cli.doctor import workers
from cli.doctor.finding import Finding, Level
from cli.doctor.run import examine
from engine import bootstrap
from engine.kubernetes.permissions import needed, together
from engine.settings import PREFIX, Settings
from sandbox.control_plane.server import ControlPlane, seed
from sandbox.ports import free_port
from sandbox.redis import RedisServer
from tests.support.api_servers import ApiServer
from tests.support.faulty_server import of_version
from tests.support.notes import notes
from tests.support.operator_stack import install_crd, shared_ingress
from tests.support.service_accounts import account, elsewhere, rules, with_token

KEY = "lsv2_doctor_key"
WORKSPACE = "6e1a7a6e-0000-4000-8000-00000000d0c7"

Set = Callable[..., None]

ON_EMBEDDED = pytest.mark.parametrize("api_server", ["embedded"], indirect=True, scope="session")
"""For what has nothing to do with the cluster."""
ON_REAL = pytest.mark.parametrize("api_server", ["real"], indirect=True, scope="session")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the wait for workers that do not run."""
    monkeypatch.setattr(workers, "PING_SECONDS", 0.05)


@pytest.fixture(scope="module")
def control_plane() -> Iterator[ControlPlane]:
    with ControlPlane({KEY: WORKSPACE}) as plane:
        yield plane


@pytest.fixture
def listener(control_plane: ControlPlane, namespace: str) -> str:
    return str(seed(control_plane.store, WORKSPACE, f"compute-{namespace}", [namespace])["id"])


@pytest.fixture
def ingress(http: httpx.Client, api_server: ApiServer, namespace: str) -> None:
    """Make the API server serve LGPs, and give the namespace a shared Ingress."""
    install_crd(api_server)
    add_ingress(http, namespace, "shared")


def add_ingress(http: httpx.Client, namespace: str, name: str) -> None:
    manifest = shared_ingress(namespace)
    manifest["metadata"]["name"] = name
    manifest["spec"] = {"defaultBackend": {"service": {"name": "none", "port": {"number": 80}}}}
    http.post(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses", json=manifest).raise_for_status()


@pytest.fixture
def settings(
    monkeypatch: pytest.MonkeyPatch,
    api_server: ApiServer,
    redis_url: str,
    control_plane: ControlPlane,
    listener: str,
    namespace: str,
    ingress: None,
) -> Set:
    """Set the environment of a working installation. Return a function that changes settings; None unsets a setting."""

    def change(**changed: str | None) -> None:
        for name, value in changed.items():
            variable = f"{PREFIX}{name.upper()}"
            monkeypatch.delenv(variable, raising=False)
            if value is not None:
                monkeypatch.setenv(variable, value)

    change(
        langsmith_api_key=KEY,
        workspace_id=WORKSPACE,
        listener_id=listener,
        host_backend_url=control_plane.url,
        smith_backend_url=f"{control_plane.url}/langsmith",
        watch_namespaces=namespace,
        redis_url=redis_url,
        kubeconfig=str(api_server.kubeconfig),
        ingress_hostname=f"127.0.0.1:{control_plane.port}",
        ingress_tls_enabled="false",
        connect_timeout_seconds="1",
        request_timeout_seconds="5",
    )
    return change


def findings_of(subject: str, level: Level | None = None) -> list[Finding]:
    return [f for f in examine() if f.subject == subject and level in (None, f.level)]


def the_one(subject: str, level: Level) -> Finding:
    """Return the only finding of the subject; its level must be `level`."""
    found = findings_of(subject)
    assert [finding.level for finding in found] == [level], found
    return found[0]


def the_one_of(findings: list[Finding], text: str) -> Finding:
    """Return the only finding whose text names `text`."""
    (found,) = [finding for finding in findings if text in finding.detail]
    return found


def test_all_is_well(settings: Set) -> None:
    findings = list(examine())

    assert [f for f in findings if f.level is Level.FAIL] == []
    assert [f for f in findings if f.level is Level.WARN and f.subject != "workers"] == []
    subjects = {f.subject for f in findings if f.level is Level.OK}
    assert subjects >= {
        "settings", "redis", "redis persistence", "redis memory", "control plane", "listener", "langsmith",
        "kubernetes", "lgp resource", "permissions", "shared ingress", "hostname",
    }  # fmt: skip


def test_workers_that_are_not_there(settings: Set) -> None:
    found = findings_of("workers")

    assert [(f.level, f.detail.split()[1]) for f in found] == [(Level.WARN, "listener"), (Level.WARN, "operator")]


def test_timers_that_are_overdue(settings: Set, prefix: str) -> None:
    settings(prefix=prefix)
    log = bootstrap.open_log(Settings.load())
    log.append("lgp/agents/app", 0, notes("there"), actor="test")
    log.acknowledge("lgp/agents/app", 1, until=datetime.now(UTC) - timedelta(minutes=5))
    log.close()

    assert "1 timer is overdue" in the_one("sweeps", Level.WARN).detail


def test_no_secret_is_in_a_finding(settings: Set) -> None:
    assert KEY not in repr(list(examine()))


# --- each process


CLUSTER = {"kubernetes", "lgp resource", "permissions", "lease"}
ALONE: dict[str, set[str]] = {
    "beat": set(),
    "flower": set(),
    "listener": CLUSTER | {"control plane", "listener", "langsmith", "hostname"},
    "operator": CLUSTER | {"shared ingress"},
    "watcher": CLUSTER,
}
"""Process → what its doctor looks at, beyond settings, Redis and workers."""


@ON_EMBEDDED
class TestProcesses:
    @pytest.mark.parametrize("process", ALONE)
    def test_each_is_asked_for_what_it_needs_alone(self, settings: Set, process: str) -> None:
        settings(process=process)

        findings = [finding for finding in examine() if finding.subject != "workers"]

        assert {finding.level for finding in findings} == {Level.OK}
        always = {"settings", "redis", "redis persistence", "redis memory"}
        assert {finding.subject for finding in findings} - always == ALONE[process]
        assert f"checking what the {process} process needs" in findings[0].detail

    @pytest.mark.parametrize("process", ["beat", "flower"])
    def test_those_without_an_account_need_no_kubernetes(self, settings: Set, process: str, tmp_path: Path) -> None:
        (tmp_path / "kubeconfig").write_text("{}")
        settings(process=process, kubeconfig=str(tmp_path / "kubeconfig"))

        assert [f for f in examine() if f.level not in (Level.OK, Level.SKIP) and f.subject != "workers"] == []

    def test_a_pod_without_a_health_check_does_not_miss_the_hostname(self, settings: Set) -> None:
        settings(process="listener", ingress_hostname=f"127.0.0.1:{free_port()}", health_check_enabled="false")

        assert "the health check is off" in the_one("hostname", Level.SKIP).detail


# --- our own NetworkPolicy


@ON_EMBEDDED
class TestNetworkPolicy:
    def test_it_is_named_where_it_may_be_the_cause(self, settings: Set, api_server: ApiServer, tmp_path: Path) -> None:
        closed = free_port()
        settings(
            network_policy="agents-processes",
            host_backend_url=f"http://127.0.0.1:{closed}",
            smith_backend_url=f"http://127.0.0.1:{closed}/langsmith",
            ingress_hostname=f"127.0.0.1:{closed}",
            redis_url=f"redis://127.0.0.1:{closed}/0",
            kubeconfig=str(elsewhere(api_server.kubeconfig, f"https://127.0.0.1:{closed}", tmp_path)),
        )

        found = {finding.subject: finding.detail for finding in examine()}

        assert found["network policy"] == "NetworkPolicy agents-processes limits the connections of this process"
        named = {
            subject: detail.partition("the NetworkPolicy agents-processes may forbid it: networkPolicy.")[2]
            for subject, detail in found.items()
            if "may forbid it" in detail
        }
        assert named == {
            "redis": "extraPorts in the chart's values",
            "control plane": "extraPorts in the chart's values",
            "langsmith": "extraPorts in the chart's values",
            "cluster": "apiServerPorts in the chart's values",
            "hostname": "gatewayTo and gatewayPorts in the chart's values",
        }

    def test_it_is_not_blamed_for_what_it_does_not_do(self, settings: Set) -> None:
        settings(network_policy="agents-processes", langsmith_api_key="lsv2_wrong")

        assert "may forbid" not in the_one("control plane", Level.FAIL).detail


# --- settings


@ON_EMBEDDED
class TestSettings:
    def test_missing_ones_are_named_each_on_a_line(self, settings: Set) -> None:
        settings(listener_id=None, workspace_id=None)

        found = findings_of("settings", Level.FAIL)
        details = [f.detail for f in found]

        assert len(details) == 2
        assert details[0] == "AGENTPLANE_WORKSPACE_ID is not set"
        assert found[0].fix.startswith("set it to the id of the LangSmith workspace")
        assert details[1].startswith("AGENTPLANE_LISTENER_ID is not set")

    def test_a_misspelt_one_names_its_neighbour(self, settings: Set) -> None:
        settings(ingres_hostname="agents.example.com")

        (finding,) = findings_of("settings", Level.WARN)

        assert "AGENTPLANE_INGRES_HOSTNAME" in finding.detail
        assert finding.fix == "rename it to AGENTPLANE_INGRESS_HOSTNAME"

    def test_a_template_that_is_no_yaml(self, settings: Set, tmp_path: Path) -> None:
        (tmp_path / "deployment.yaml").write_text("a: [")
        settings(template_deployment=str(tmp_path / "deployment.yaml"))

        assert "is not YAML" in findings_of("settings", Level.FAIL)[0].detail

    def test_an_operator_alone_needs_no_control_plane(self, settings: Set) -> None:
        settings(listener_enabled="false", listener_id=None, host_backend_url=None, smith_backend_url=None)

        findings = list(examine())

        assert [f for f in findings if f.level is Level.FAIL] == []
        assert not [f for f in findings if f.subject in ("control plane", "listener", "langsmith")]


# --- Redis


@pytest.fixture
def other_redis() -> Iterator[redis.Redis]:
    """Return a Redis for this test alone; the test may change its settings."""
    with RedisServer() as server:
        yield redis.Redis.from_url(server.url)


def url_of(client: redis.Redis) -> str:
    where = client.connection_pool.connection_kwargs
    return f"redis://{where['host']}:{where['port']}/0"


@ON_EMBEDDED
class TestRedis:
    def test_down(self, settings: Set) -> None:
        settings(redis_url=f"redis://:hunter2@127.0.0.1:{free_port()}/0")

        finding = the_one("redis", Level.FAIL)

        assert "Connection refused" in finding.detail
        assert "hunter2" not in repr(finding)
        assert finding.fix == "start Redis, or correct AGENTPLANE_REDIS_URL"

    def test_a_wrong_password(self, settings: Set, other_redis: redis.Redis) -> None:
        other_redis.config_set("requirepass", "right")
        settings(redis_url=url_of(other_redis).replace("//", "//:wrong@"))

        finding = the_one("redis", Level.FAIL)

        assert "password" in finding.detail.lower()
        assert "wrong@" not in repr(finding)

    def test_evicting_and_forgetful(self, settings: Set, other_redis: redis.Redis) -> None:
        other_redis.config_set("maxmemory-policy", "allkeys-lru")
        other_redis.config_set("appendonly", "no")
        settings(redis_url=url_of(other_redis))

        assert "allkeys-lru" in the_one("redis memory", Level.FAIL).detail
        assert "noeviction" in the_one("redis memory", Level.FAIL).fix
        assert "appendonly yes" in the_one("redis persistence", Level.WARN).fix

    def test_nearly_full(self, settings: Set, other_redis: redis.Redis) -> None:
        used: Any = other_redis.info("memory")
        other_redis.config_set("maxmemory", int(used["used_memory"] * 1.05))
        settings(redis_url=url_of(other_redis))

        assert "of maxmemory is in use" in the_one("redis memory", Level.WARN).detail

    def test_a_replica(self, settings: Set, other_redis: redis.Redis) -> None:
        other_redis.replicaof("127.0.0.1", free_port())
        settings(redis_url=url_of(other_redis))

        assert "read-only replica" in the_one("redis", Level.FAIL).detail

    def test_too_old(self, settings: Set, monkeypatch: pytest.MonkeyPatch) -> None:
        info = redis.Redis.info
        monkeypatch.setattr(redis.Redis, "info", lambda self: {**info(self), "redis_version": "6.0.16"})

        finding = the_one("redis", Level.FAIL)

        assert "6.0.16" in finding.detail
        assert "6.2 or newer" in finding.fix


# --- control plane


class Stranger(http.server.BaseHTTPRequestHandler):
    """A web server that is no control plane: it answers every request with 404 and HTML."""

    def do_GET(self) -> None:
        body = b"<html>nginx</html>"
        self.send_response(404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@contextmanager
def without_listeners(status: int, detail: str) -> Iterator[str]:
    """Serve a self-hosted control plane below /api-host: it lists deployments, and answers `status` for a listener."""

    class Answers(Stranger):
        def do_GET(self) -> None:
            listed = self.path.startswith("/api-host/v2/deployments")
            body = b'{"resources": []}' if listed else json.dumps({"detail": detail}).encode()
            self.send_response(200 if listed else status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/api-host"
        server.shutdown()


@ON_EMBEDDED
class TestControlPlane:
    def test_nothing_at_its_url(self, settings: Set) -> None:
        settings(host_backend_url=f"http://127.0.0.1:{free_port()}")

        assert "AGENTPLANE_HOST_BACKEND_URL" in the_one("control plane", Level.FAIL).fix
        assert the_one("listener", Level.SKIP).detail == "not checked, because the check of the control plane failed"

    def test_another_server_at_both_urls(self, settings: Set, stranger: str) -> None:
        settings(host_backend_url=stranger, smith_backend_url=stranger)

        finding = the_one("control plane", Level.FAIL)
        assert "404" in finding.detail
        assert "AGENTPLANE_HOST_BACKEND_URL" in finding.fix
        smith = the_one("langsmith", Level.WARN)
        assert "HTTP 404, which is not the answer of a LangSmith API" in smith.detail
        assert "AGENTPLANE_SMITH_BACKEND_URL" in smith.fix

    def test_a_wrong_key(self, settings: Set) -> None:
        settings(langsmith_api_key="lsv2_wrong")

        finding = the_one("control plane", Level.FAIL)

        assert "AGENTPLANE_LANGSMITH_API_KEY" in finding.fix
        assert "lsv2_wrong" not in repr(finding)

    def test_a_wrong_workspace(self, settings: Set) -> None:
        settings(workspace_id=str(uuid.uuid4()))

        assert "AGENTPLANE_WORKSPACE_ID" in the_one("control plane", Level.FAIL).fix

    def test_an_unknown_listener(self, settings: Set) -> None:
        unknown = str(uuid.uuid4())
        settings(listener_id=unknown)

        finding = the_one("listener", Level.FAIL)

        assert f"knows no listener {unknown}" in finding.detail
        assert "AGENTPLANE_LISTENER_ID" in finding.detail

    @pytest.mark.parametrize(
        ("status", "detail"), [(403, "Forbidden"), (404, "Not Found"), (405, "Method Not Allowed")]
    )
    def test_a_self_hosted_one_that_refuses_listeners(self, settings: Set, status: int, detail: str) -> None:
        with without_listeners(status, detail) as url:
            settings(host_backend_url=url)

            finding = the_one("listener", Level.FAIL)

        assert "enable_lgp_listeners_page for the organization" in finding.fix
        assert "langgraph_remote_reconciler_enabled for the workspace" in finding.fix

    def test_a_self_hosted_one_that_fails_names_no_switches(self, settings: Set) -> None:
        with without_listeners(503, "try again") as url:
            settings(host_backend_url=url)

            findings = list(examine())

        (failure,) = [f for f in findings if f.level is Level.FAIL and f.subject in ("control plane", "listener")]
        assert "503" in failure.detail
        assert "enable_lgp_listeners_page" not in failure.fix

    def test_namespaces_that_differ(self, settings: Set, namespace: str, http: httpx.Client) -> None:
        http.post("/api/v1/namespaces", json={"metadata": {"name": f"{namespace}-2"}}).raise_for_status()
        settings(watch_namespaces=f"{namespace}-2")

        finding = the_one("listener", Level.FAIL)

        assert f"[{namespace}]" in finding.detail
        assert f"AGENTPLANE_WATCH_NAMESPACES is [{namespace}-2]" in finding.detail


# --- cluster


def test_an_api_server_that_is_not_there(settings: Set, api_server: ApiServer, tmp_path: Path) -> None:
    settings(kubeconfig=str(elsewhere(api_server.kubeconfig, f"https://127.0.0.1:{free_port()}", tmp_path)))

    assert "no answer" in the_one("cluster", Level.FAIL).detail


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ("v1.29.14-gke.100", Level.FAIL, "is Kubernetes v1.29.14-gke.100; supported are 1.30 and newer"),
        ("v1.9.0", Level.FAIL, "is Kubernetes v1.9.0; supported are 1.30 and newer"),
        ("v1.30.0", Level.OK, "is Kubernetes v1.30.0"),
        ("v1.34.4+k3s1", Level.OK, "is Kubernetes v1.34.4+k3s1"),
        ("v2.0.0", Level.OK, "is Kubernetes v2.0.0"),
        ("", Level.WARN, "which is not a version of Kubernetes"),
    ],
)
@ON_EMBEDDED
def test_the_version_of_the_api_server(
    settings: Set, api_server: ApiServer, http: httpx.Client, tmp_path: Path, version: str, level: Level, text: str
) -> None:
    with of_version(http, version) as url:
        settings(kubeconfig=str(elsewhere(api_server.kubeconfig, url, tmp_path)))
        findings = list(examine())

    (finding,) = [found for found in findings if found.subject == "kubernetes"]
    assert (finding.level, text in finding.detail) == (level, True), finding
    if level is not Level.OK:
        assert "Kubernetes 1.30 or newer" in finding.fix
    assert "lgp resource" in {found.subject for found in findings if found.level is Level.OK}, (
        "the doctor must go on with the other checks"
    )


def test_a_namespace_that_does_not_exist(settings: Set, namespace: str) -> None:
    settings(watch_namespaces=f"{namespace}-typo")

    finding = the_one("namespace", Level.FAIL)

    assert f"has no namespace {namespace}-typo" in finding.detail
    assert f"kubectl create namespace {namespace}-typo" in finding.fix


def test_no_shared_ingress(settings: Set, namespace: str, http: httpx.Client) -> None:
    http.delete(f"/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/shared").raise_for_status()

    finding = the_one("shared ingress", Level.FAIL)

    assert f'namespace {namespace} has no Ingress annotated lgp-operator.io/shared-ingress: "true"' in finding.detail
    assert "ingress.create: true" in finding.fix


def test_a_shared_ingress_elsewhere(settings: Set, namespace: str, http: httpx.Client) -> None:
    elsewhere = f"{namespace}-edge"
    settings(ingress_namespace=elsewhere)
    missing = the_one_of(findings_of("namespace", Level.FAIL), elsewhere)
    assert "AGENTPLANE_INGRESS_NAMESPACE" in missing.fix

    http.post("/api/v1/namespaces", json={"metadata": {"name": elsewhere}}).raise_for_status()
    add_ingress(http, elsewhere, "theirs")
    assert the_one("shared ingress", Level.OK).detail == f"{elsewhere}/theirs"
    assert the_one_of(findings_of("permissions"), elsewhere).level is Level.OK


def test_two_shared_ingresses(settings: Set, namespace: str, http: httpx.Client) -> None:
    add_ingress(http, namespace, "another")

    assert "another, shared; the operator uses another" in the_one("shared ingress", Level.WARN).detail


def test_a_csi_driver_that_is_not_installed(settings: Set) -> None:
    settings(managed_secret_provider_classes="true")

    (finding,) = findings_of("kinds", Level.FAIL)

    assert finding.detail == "the API server does not serve SecretProviderClass secrets-store.csi.x-k8s.io/v1"
    assert "install the Secrets Store CSI driver" in finding.fix
    assert "AGENTPLANE_MANAGED_SECRET_PROVIDER_CLASSES=false" in finding.fix


def test_a_gateway_api_that_is_not_installed(settings: Set) -> None:
    settings(gateway_enabled="true", gateway_name="edge", gateway_hostname="127.0.0.1:1", keda_enabled="true")

    details = [finding.detail for finding in findings_of("kinds", Level.FAIL)]

    assert details == [
        "the API server does not serve ScaledObject keda.sh/v1alpha1",
        "the API server does not serve HTTPRoute gateway.networking.k8s.io/v1",
    ]
    assert "there is no Gateway" in findings_of("gateway")[0].detail


def test_no_lgp_resource(settings: Set, tmp_path: Path, stranger: str, api_server: ApiServer) -> None:
    """A web server that answers 404 stands for an API server without the LGP resource."""
    settings(kubeconfig=str(elsewhere(api_server.kubeconfig, stranger, tmp_path)))

    assert "is unknown" in the_one("kubernetes", Level.WARN).detail
    finding = the_one("lgp resource", Level.FAIL)

    assert "does not serve LGP apps.langchain.ai/v1alpha1" in finding.detail
    assert "kubectl apply -f k8s/crds" in finding.fix


@ON_REAL
class TestPermissions:
    """These tests need real RBAC: the embedded API server allows every request."""

    def test_a_role_that_allows_all_that_is_needed(
        self, settings: Set, api_server: ApiServer, http: httpx.Client, namespace: str, tmp_path: Path
    ) -> None:
        allowed = rules(together(needed(Settings.load()).values()))
        settings(kubeconfig=str(account(api_server.kubeconfig, http, namespace, allowed, tmp_path)))

        assert the_one("permissions", Level.OK)
        assert [f for f in examine() if f.level is Level.FAIL] == []

    def test_a_role_that_allows_too_little(
        self, settings: Set, api_server: ApiServer, http: httpx.Client, namespace: str, tmp_path: Path
    ) -> None:
        allowed = [rule for rule in rules(together(needed(Settings.load()).values())) if rule["resources"] != ["pods"]]
        for rule in allowed:
            rule["verbs"] = [verb for verb in rule["verbs"] if rule["resources"] != ["secrets"] or verb != "delete"]
        settings(kubeconfig=str(account(api_server.kubeconfig, http, namespace, allowed, tmp_path)))

        finding = the_one("permissions", Level.FAIL)

        assert finding.detail == (f"namespace {namespace}: not allowed: Secret (delete), Pod (list, watch)")
        assert f"the Role of this account in namespace {namespace}" in finding.fix

    def test_an_account_of_one_process_alone(
        self, settings: Set, api_server: ApiServer, http: httpx.Client, namespace: str, tmp_path: Path
    ) -> None:
        """The chart's notes run the doctor like this, in the listener's pod."""
        allowed = rules(needed(Settings.load())["listener"])
        settings(kubeconfig=str(account(api_server.kubeconfig, http, namespace, allowed, tmp_path)))

        finding = the_one("permissions", Level.WARN)

        assert "this account may do all that the listener needs; the operator would need" in finding.detail
        assert [f for f in examine() if f.level is Level.FAIL] == []

    def test_nothing_beside_an_ingress_elsewhere(
        self, settings: Set, api_server: ApiServer, http: httpx.Client, namespace: str, tmp_path: Path
    ) -> None:
        elsewhere = f"{namespace}-edge"
        http.post("/api/v1/namespaces", json={"metadata": {"name": elsewhere}}).raise_for_status()
        settings(ingress_namespace=elsewhere)
        allowed = rules(together(needed(Settings.load()).values()))
        settings(kubeconfig=str(account(api_server.kubeconfig, http, namespace, allowed, tmp_path)))

        finding = the_one_of(findings_of("permissions"), elsewhere)

        assert finding.level is Level.WARN
        assert "operator would need Service (get, list, create, patch, delete), Ingress (list, patch)" in finding.detail
        assert "watcher would need Service (get, list, watch), Ingress (list, watch)" in finding.detail

    def test_no_permission_at_all(
        self, settings: Set, api_server: ApiServer, http: httpx.Client, namespace: str, tmp_path: Path
    ) -> None:
        settings(kubeconfig=str(account(api_server.kubeconfig, http, namespace, [], tmp_path)))

        assert "LGP/status (patch)" in the_one("permissions", Level.FAIL).detail
        assert "list" in the_one("shared ingress", Level.WARN).fix

    def test_an_unknown_token(self, settings: Set, api_server: ApiServer, tmp_path: Path) -> None:
        settings(kubeconfig=str(with_token(api_server.kubeconfig, "nobody", tmp_path)))

        assert "401" in the_one("cluster", Level.FAIL).detail or "Unauthorized" in findings_of("cluster")[0].detail

    def test_the_operator_needs_no_more_where_it_is_alone(self, settings: Set) -> None:
        settings(listener_enabled="false", digest_key="x")

        needs = needed(Settings.load())
        kinds = {(p.kind, p.subresource): p.verbs for p in together(needs.values())}

        assert needs.keys() == {"operator", "watcher"}
        assert kinds["LGP", ""] == "get list watch"
        assert kinds["Ingress", ""] == "list patch watch"


# --- the hostname


@ON_EMBEDDED
class TestHostname:
    def test_unreachable(self, settings: Set) -> None:
        settings(ingress_hostname=f"127.0.0.1:{free_port()}")

        finding = the_one("hostname", Level.WARN)

        assert "no answer" in finding.detail
        assert "AGENTPLANE_HEALTH_CHECK_ADDRESS" in finding.fix
        assert "AGENTPLANE_HEALTH_CHECK_ENABLED=false" in finding.fix

    def test_an_unknown_name(self, settings: Set) -> None:
        settings(ingress_hostname="agents.invalid")

        assert the_one("hostname", Level.WARN)

    def test_reached_through_an_address_inside_the_cluster(self, settings: Set, control_plane: ControlPlane) -> None:
        settings(ingress_hostname="agents.invalid", health_check_address=f"127.0.0.1:{control_plane.port}")

        assert f"through 127.0.0.1:{control_plane.port}" in the_one("hostname", Level.OK).detail

    def test_none(self, settings: Set) -> None:
        settings(ingress_hostname=None, health_check_enabled="false")

        assert the_one("hostname", Level.WARN).fix == "set AGENTPLANE_INGRESS_HOSTNAME"
