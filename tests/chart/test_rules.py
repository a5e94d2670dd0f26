"""What stops working without each right that the chart grants, shown with its own accounts on a real API server.

The chart is installed once per layout. For each right its Role is written without that verb on that resource, and the
piece of the engine that needs it runs in the test's own thread, with the component's own token: the API server refuses
exactly that, the log says what to do, and something is not there. Then the Role is put back, and what was refused is
tried again when its time comes, and works.

This API server also checks who may be named as an owner, as OpenShift's does: `lgps/finalizers` is for that alone.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import httpx
import orjson
import pytest
import yaml
from structlog.testing import capture_logs

from engine import bootstrap, names
from engine.bootstrap import Engine
from engine.errors import ClusterError, ClusterUnavailable
from engine.event import Event
from engine.kubernetes.cluster import KubernetesCluster
from engine.kubernetes.kinds import PLURALS, group_of, version_path
from engine.kubernetes.namespace_lease import LEASE_API_VERSION, LEASE_NAME, NamespaceLease, lease_manifest
from engine.kubernetes.permissions import (
    APPLIED,
    AUTOSCALER,
    HTTP_ROUTE,
    INGRESS_API_VERSION,
    SCALED_OBJECT,
    VIRTUAL_SERVICE,
)
from engine.listener.events import RolloutObserved
from engine.log.memory import MemoryLog
from engine.names import (
    BUDGET,
    LGP_API_VERSION,
    SECRET_PROVIDER_CLASS,
    SERVICE_ACCOUNT,
    deployment_stream,
    lgp_name,
    lgp_stream,
)
from engine.operator.events import DriftDetected, LgpObserved, LgpRemoved, WorkloadObserved, WorkloadStatus
from engine.operator.manifests import is_shared_ingress, without_path
from engine.operator.observation.lgp import observe_lgp
from engine.operator.observation.watches import BUDGETS, EXTERNAL_SERVICES, INGRESSES, watch_of_lgp_objects
from engine.ports import Manifest, WatchEvent
from engine.queries import deployments
from engine.runtime.observation import LGPS, SECRETS, Watch
from engine.runtime.observation_loop import Appended, Changed
from tests.chart.rendering import NEEDED, RELEASE, Values, at, chart, helm, layered, objects, settings_of
from tests.support import service_accounts
from tests.support.api_servers import ApiServer, running_real
from tests.support.clock import LeapingClock
from tests.support.eventually import eventually
from tests.support.granted import Account, ControlPlane, Healthy, granted
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import Kubelet, install_crd, lgp_manifest, shared_ingress
from workers.watcher import watch

PATIENCE = 60.0
"""Seconds for what must come; a loaded machine is slow."""

API_VERSIONS = {
    "deployments": "apps/v1",
    "horizontalpodautoscalers": AUTOSCALER[0],
    "httproutes": HTTP_ROUTE[0],
    "ingresses": INGRESS_API_VERSION,
    "leases": LEASE_API_VERSION,
    "lgps": LGP_API_VERSION,
    "persistentvolumeclaims": "v1",
    "poddisruptionbudgets": BUDGET[0],
    "pods": "v1",
    "replicasets": "apps/v1",
    "scaledobjects": SCALED_OBJECT[0],
    "secretproviderclasses": SECRET_PROVIDER_CLASS[0],
    "secrets": "v1",
    "serviceaccounts": SERVICE_ACCOUNT[0],
    "services": "v1",
    "statefulsets": "apps/v1",
    "virtualservices": VIRTUAL_SERVICE[0],
}
"""Of every resource that a Role names."""
KINDS = {plural: kind for kind, plural in PLURALS.items()}

LAYOUTS: dict[str, Values] = {
    "ingress": at("operator.kedaEnabled", False),
    "gateway and KEDA": {
        "ingress": {"enabled": False},
        "gateway": {"enabled": True, "name": "front", "namespace": "gateways", "hostname": "agents.example.com"},
        "operator": {
            "kedaEnabled": True,
            "managedResources": {"serviceAccounts": True, "secretProviderClasses": True},
        },
    },
    "istio": {
        "ingress": {"enabled": False},
        "istioGateway": {"enabled": True, "name": "front", "hostname": "agents.example.com"},
        "operator": {"kedaEnabled": False, "podDisruptionBudgets": False},
    },
    "ingress elsewhere": {"ingress": {"create": False}, "operator": {"kedaEnabled": False}},
}


def values_of(layout: str, front: str) -> Values:
    """Return the values of a layout whose Ingress is in namespace `front`, if it is elsewhere."""
    elsewhere = at("ingress.namespace", front) if layout == "ingress elsewhere" else {}
    return layered(NEEDED, LAYOUTS[layout], elsewhere)


COMPONENTS = ("listener", "operator", "watcher", "leases")
"""The last is the account of the Job that gives the leases back."""


FRONT = "in the namespace of the Ingress"


class Right(NamedTuple):
    """A verb on a resource, with its subresource."""

    component: str
    verb: str
    resource: str
    where: str = ""
    """Empty: in the watched namespace; or FRONT."""

    @property
    def plural(self) -> str:
        return self.resource.partition("/")[0]


# --- the cluster


def define(http: httpx.Client, api_version: str, kind: str) -> None:
    """Make the API server serve a kind, as far as these tests need it."""
    group, _, version = api_version.partition("/")
    plural = PLURALS[kind]
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"{plural}.{group}",
            "annotations": {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/gateway-api/pull/2466"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural, "singular": kind.lower(), "listKind": f"{kind}List"},
            "versions": [{"name": version, "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }
    http.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=definition).raise_for_status()
    eventually(lambda: http.get(f"/apis/{api_version}/{plural}").status_code == 200, f"{kind} is served")


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """A real API server that checks owner references, with every definition that a layout may need."""
    plugins = ["OwnerReferencesPermissionEnforcement"]
    with running_real(tmp_path_factory.mktemp("strict"), admission_plugins=plugins) as server:
        install_crd(server)  # before anything has an owner: the check learns of new kinds twice a minute only
        with server.http() as http:
            for api_version, kind in (HTTP_ROUTE, VIRTUAL_SERVICE, SCALED_OBJECT, SECRET_PROVIDER_CLASS):
                define(http, api_version, kind)
        yield server


REFUSAL = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)" in the namespace "([^"]+)"')
OWNER_REFUSED = "cannot set blockOwnerDeletion"
UNREASONED = re.compile(r'([^ .]+)[^ ]* "[^"]+" is forbidden:\s*$')
"""All that is said of an apply where there is nothing to patch yet."""


class Stage:
    """The release of one layout, with the accounts of its components and the administrator's requests."""

    def __init__(self, server: ApiServer, layout: str) -> None:
        self.namespace = make_namespace(server)
        self.front = make_namespace(server) if layout == "ingress elsewhere" else self.namespace
        self.http = server.http()
        whole = layered(values_of(layout, self.front), at("operator.createCRDs", False))
        with helm.Config(kubeconfig_path=server.kubeconfig, namespace=self.namespace) as config:
            release = config.install(chart(), RELEASE, whole)  # it goes with the server
        if self.front != self.namespace:
            self.make(shared_ingress(self.front))
        self.settings = settings_of([one for one in yaml.safe_load_all(release["manifest"]) if one])
        for manifest in objects(whole, namespace=self.namespace):
            if manifest["metadata"]["name"] == f"{RELEASE}-leases" and manifest["kind"] != "Job":
                self.make(manifest)  # of a hook, which would only run when the release goes
        self.kubelet = Kubelet(server, self.namespace)  # not started: it reports what it is told to
        self.accounts = {name: Account(server, self.namespace, f"{RELEASE}-{name}") for name in COMPONENTS}

    def close(self) -> None:
        for account in self.accounts.values():
            account.close()
        self.kubelet._http.close()
        self.http.close()

    def engine(self, component: str, events: MemoryLog | None = None, **peers: Any) -> Engine:
        """Return the engine of a process that has just started, over a log in memory whose clock may leap."""
        clock = LeapingClock()
        log = events or MemoryLog(clock)
        peers.setdefault("control_plane", ControlPlane(self.namespace))
        account = self.accounts[component]
        engine = bootstrap.build(self.settings, events=log, cluster=account, health=Healthy(), **peers)
        return replace(engine, ports=replace(engine.ports, clock=clock))

    # what the administrator does

    def space(self, where: str) -> str:
        return self.front if where else self.namespace

    def path(self, resource: str, name: str = "", where: str = "") -> str:
        api_version = API_VERSIONS[resource].replace("autoscaling/v2", "autoscaling/v1")
        whole = f"{version_path(api_version)}/namespaces/{self.space(where)}/{resource}"
        return f"{whole}/{name}" if name else whole

    def make(self, manifest: Manifest) -> None:
        namespace = manifest["metadata"]["namespace"]
        path = f"{version_path(manifest['apiVersion'])}/namespaces/{namespace}/{PLURALS[manifest['kind']]}"
        self.http.post(path, json=manifest).raise_for_status()

    def get(self, resource: str, name: str) -> Manifest | None:
        """Return the object of the watched namespace, unless it is gone, or going."""
        answer = self.http.get(self.path(resource, name))
        there = answer.status_code == 200 and "deletionTimestamp" not in answer.json()["metadata"]
        return dict(answer.json()) if there else None

    def list(self, resource: str, labels: str = "", where: str = "") -> list[Manifest]:
        """Return the objects that are not going."""
        found = self.http.get(self.path(resource, where=where), params={"labelSelector": labels}).raise_for_status()
        there = [one for one in found.json()["items"] if "deletionTimestamp" not in one["metadata"]]
        return [{**one, "apiVersion": API_VERSIONS[resource], "kind": KINDS[resource]} for one in there]

    def of(self, lgp: str, resource: str, where: str = "") -> Sequence[Manifest]:
        """Return the objects of an LGP."""
        return self.list(resource, f"{names.LGP_LABEL}={lgp}", where)

    def delete(self, manifest: Manifest) -> None:
        where = FRONT if manifest["metadata"]["namespace"] != self.namespace else ""
        name = manifest["metadata"]["name"]
        self.http.delete(self.path(PLURALS[manifest["kind"]], name, where)).raise_for_status()

    def shared_ingress(self) -> Manifest:
        (found,) = (one for one in self.list("ingresses", where=FRONT) if is_shared_ingress(one))
        return dict(found)

    def leads_to(self, lgp: str) -> bool:
        """Whether the shared Ingress has the path of an LGP."""
        return f'/lgp/{lgp}"' in orjson.dumps(self.shared_ingress()).decode()

    def merge(self, path: str, patch: Manifest) -> None:
        merge = {"Content-Type": "application/merge-patch+json"}
        self.http.patch(path, json=patch, headers=merge).raise_for_status()

    def lease(self, age: timedelta | None) -> None:
        """Let our lease be so old, or (None) not there."""
        self.http.delete(self.path("leases", LEASE_NAME))
        if age is not None:
            term = timedelta(seconds=self.settings.lease_seconds)
            now = datetime.now(UTC) - age
            self.make(lease_manifest(NamespaceLease(namespace=self.namespace), self.settings.data_plane, term, now))

    # rights

    @contextmanager
    def without(self, right: Right) -> Iterator[Callable[[], None]]:
        """Take a right away; yields what puts it back."""
        name = f"{RELEASE}-{right.component}" + (f"-{self.namespace}" if right.where else "")
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{self.space(right.where)}/roles/{name}"
        role = self.http.get(path).raise_for_status().json()
        del role["metadata"]["resourceVersion"]

        def write(rules: Sequence[Manifest], allowed: bool) -> None:
            self.http.put(path, json={**role, "rules": rules}).raise_for_status()
            eventually(lambda: self.may(right) is allowed, f"{right}: {allowed}")

        write(list(less(role["rules"], right)), False)
        self.accounts[right.component].refused.clear()
        try:
            yield lambda: write(role["rules"], True)
        finally:
            write(role["rules"], True)

    def may(self, right: Right) -> bool:
        plural, _, subresource = right.resource.partition("/")
        name = LEASE_NAME if plural == "leases" and right.verb != "create" else ""
        return self.accounts[right.component].allowed(
            right.verb,
            API_VERSIONS[plural],
            KINDS[plural],
            self.space(right.where),
            subresource=subresource,
            name=name,
        )

    def refused(self, component: str) -> set[Right]:
        """What the API server refused to a component since a right of it was taken away."""
        return {self._refused(component, text) for text in self.accounts[component].refused}

    def _refused(self, component: str, text: str) -> Right:
        where = FRONT if f"/namespaces/{self.front}/" in text and self.front != self.namespace else ""
        if OWNER_REFUSED in text:
            return Right(component, "update", "lgps/finalizers", where)
        if (unsaid := UNREASONED.search(text)) is not None:
            return Right(component, "create", unsaid[1], where)
        found = REFUSAL.search(text)
        assert found is not None, text
        verb, resource, group, namespace = found.groups()
        right = Right(component, verb, resource, where)
        assert (group, namespace) == (group_of(API_VERSIONS[right.plural]), self.space(where)), text
        return right


def less(rules: Sequence[Manifest], right: Right) -> Iterator[Manifest]:
    """Yield the rules without one verb on one resource."""
    for rule in rules:
        for resource in rule["resources"]:
            verbs = [verb for verb in rule["verbs"] if (verb, resource) != (right.verb, right.resource)]
            if verbs:
                yield {**rule, "resources": [resource], "verbs": verbs}


# --- the pieces of the engine


class Piece(Protocol):
    """A piece of the engine that needs a right, brought to the point where it does."""

    def run(self, mend: Callable[[], None]) -> None:
        """Work; call `mend` when what was refused is waited for, and go on then."""
        ...

    def done(self) -> bool:
        """Whether that came about for which the right is."""
        ...

    def told(self) -> list[str]:
        """What a person is told: type of the event, or words of the log line, then the text."""
        ...


@dataclass(kw_only=True)
class Work:
    """A stream of the listener or the operator."""

    stage: Stage
    engine: Engine
    stream: str
    is_done: Callable[[], bool] = lambda: False

    def append(self, *events: Event) -> None:
        """As the watcher would."""
        log = self.engine.events
        log.append(self.stream, log.version(self.stream), events, actor="watcher")

    def advance(self) -> None:
        self.engine.advance(self.stream)

    def until(self, done: Callable[[], bool]) -> Work:
        return replace(self, is_done=done)

    def run(self, mend: Callable[[], None]) -> None:
        self.advance()
        mend()
        log, clock = self.engine.events, self.engine.ports.clock
        assert isinstance(log, MemoryLog)
        assert isinstance(clock, LeapingClock)
        for _ in range(10):
            if self.done():
                return
            due = dict(log.due()).get(self.stream)
            assert due is not None, f"never tried again: {self.told()}"
            clock.leap(due)
            assert self.stream in log.take_due(clock.now())
            self.advance()

    def done(self) -> bool:
        return self.is_done()

    def told(self) -> list[str]:
        records = self.engine.events.read(self.stream)
        events = [f"{r.type} {r.data.get('reason', '')} {r.data.get('message', '')}" for r in records]
        (view,) = deployments(self.engine.events, deleted=True)
        return [*events, f"status {view.reason}"]


# the listener


def asked(stage: Stage, name: str = "hello") -> tuple[Work, ControlPlane, str]:
    """A deployment that the control plane has just made; with the name of its LGP."""
    control_plane = ControlPlane(stage.namespace)
    control_plane.watched = stage.settings.watch_namespaces
    engine = stage.engine("listener", control_plane=control_plane)
    deployment = str(uuid.uuid4())
    work = Work(stage=stage, engine=engine, stream=deployment_stream(deployment))
    ask(work, control_plane, 1, name)
    return work, control_plane, lgp_name(name, deployment)


def ask(work: Work, control_plane: ControlPlane, number: int, name: str = "hello") -> None:
    control_plane.ask(f"{number}0000000-0000-4000-8000-000000000000", str(number), f"sk-{number}")
    assert control_plane.resource is not None
    control_plane.resource |= {"id": work.stream.removeprefix("deployment/"), "name": name}
    assert work.engine.poll().changed == [work.stream]


def rolled_out(work: Work, lgp: str) -> None:
    """Let the LGP be rolled out, as the watcher tells it."""
    live = work.stage.get("lgps", lgp)
    assert live is not None
    generation = live["metadata"]["generation"]
    work.append(RolloutObserved(generation=generation, available=True, progressing=False, database_ready=True))


def first_lgp(stage: Stage, name: str = "hello") -> Piece:
    work, _, lgp = asked(stage, name)
    return work.until(lambda: stage.get("lgps", lgp) is not None)


def first_secret(stage: Stage) -> Piece:
    work, _, _ = asked(stage)
    return work.until(lambda: len(secrets_of(work)) == 1)


def secrets_of(work: Work) -> list[Manifest]:
    return work.stage.list("secrets", f"{names.DEPLOYMENT_LABEL}={work.stream.removeprefix('deployment/')}")


def earlier_secret(stage: Stage) -> Piece:
    """A second revision that is about to be deployed; that of the first has another Secret."""
    work, control_plane, lgp = asked(stage)
    for number in (1, 2):
        if number > 1:
            ask(work, control_plane, number)
        work.advance()
        rolled_out(work, lgp)
    assert len(secrets_of(work)) == 2
    return work.until(lambda: len(secrets_of(work)) == 1)


def deletion(stage: Stage) -> Piece:
    work, control_plane, lgp = asked(stage)
    work.advance()
    assert stage.get("lgps", lgp) is not None
    assert control_plane.resource is not None
    control_plane.resource["status"] = "AWAITING_DELETE"
    work.engine.poll()
    return work.until(lambda: stage.get("lgps", lgp) is None)


# the operator

LIGHT: Manifest = {"database": {"enabled": False}, "redis": {"enabled": False}}
WITH_DATABASE: Manifest = {"redis": {"enabled": False}}
DOUBLED: Manifest = {**LIGHT, "serverSpec": {"replicas": 2}}
OWN_NAME = "NAME-OF-THE-LGP"
"""Stands for the name of the LGP in its spec."""
OWN_PROVIDER: Manifest = {"name": OWN_NAME, "provider": "azure", "parameters": {"keyvaultName": "vault"}}
OWN_ACCOUNT: Manifest = {**LIGHT, "managedResources": {"serviceAccount": {}}}
OWN_CLASS: Manifest = {**LIGHT, "managedResources": {"secretProviderClass": OWN_PROVIDER}}
SCALED: Manifest = {**LIGHT, "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}}


def posted(stage: Stage, spec: Manifest) -> tuple[Work, str]:
    """An LGP that somebody wrote, which the watcher has just seen; with its name."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    spec = orjson.loads(orjson.dumps(spec).replace(OWN_NAME.encode(), name.encode()))
    stage.make(lgp_manifest(stage.namespace, name, **spec))
    live = stage.get("lgps", name)
    assert live is not None
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    work.append(observe_lgp(live, work.engine.ports.digest))
    return work, name


def makes(stage: Stage, resource: str, suffix: str = "", spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An LGP whose object of this kind is to be made. Its name ends in `suffix`; elsewhere in anything."""
    work, name = posted(stage, spec)
    return work.until(
        lambda: bool(stage.of(name, resource, where) if where else stage.get(resource, f"{name}{suffix}"))
    )


def status(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: bool((stage.get("lgps", name) or {}).get("status")))


def password(stage: Stage) -> Piece:
    """A password that was there before, so that its Secret does not go with the LGP yet."""
    work, name = posted(stage, WITH_DATABASE)
    metadata = {"name": f"{name}-db", "namespace": stage.namespace}
    values = {"POSTGRES_PASSWORD": "kept"}
    stage.make({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": values})
    return work.until(lambda: bool(stage.of(name, "secrets")))


def path(stage: Stage) -> Piece:
    work, name = posted(stage, LIGHT)
    return work.until(lambda: stage.leads_to(name))


def leftover(stage: Stage, resource: str, spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An LGP that is gone, and one object of it that is not: it lost its owner, or never had one."""
    name = f"gone-{uuid.uuid4().hex[:8]}"
    labels = {names.LGP_LABEL: name, **({names.LGP_NAMESPACE_LABEL: stage.namespace} if where else {})}
    metadata = {"name": f"{name}-left", "namespace": stage.space(where), "labels": labels}
    api_version = API_VERSIONS[resource].replace("autoscaling/v2", "autoscaling/v1")
    left = {"apiVersion": api_version, "kind": KINDS[resource], "metadata": metadata}
    stage.make({**left, "spec": spec_of(resource, labels)})
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    lgp = lgp_manifest(stage.namespace, name, **spec)
    lgp["metadata"] |= {"uid": str(uuid.uuid4()), "generation": 1}
    work.append(observe_lgp(lgp, work.engine.ports.digest), LgpRemoved())
    return work.until(lambda: not stage.of(name, resource, where))


def spec_of(resource: str, labels: Manifest) -> Manifest:
    """The least that an object may say."""
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    workload = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}
    specs: dict[str, Manifest] = {
        "deployments": workload,
        "statefulsets": {**workload, "serviceName": "s"},
        "services": {"ports": [{"port": 80}]},
        "persistentvolumeclaims": {
            "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}},
        },
        "horizontalpodautoscalers": {"scaleTargetRef": target, "maxReplicas": 2},
        "poddisruptionbudgets": {"maxUnavailable": 1, "selector": {"matchLabels": labels}},
    }
    return specs.get(resource, {})


# the watcher


class Turn:
    """Takes the place of what the watcher waits on: what others do meanwhile is done in its waits."""

    def __init__(self, ended: Callable[[], bool], waits: Callable[[], None]) -> None:
        self._ended, self._waits = ended, waits

    def is_set(self) -> bool:
        return bool(failing(self._ended))

    def wait(self, seconds: float) -> None:
        failing(self._waits)


def failing(do: Callable[[], Any]) -> Any:
    """Do something of the test whose errors the watcher must not survive, as it does its own."""
    try:
        return do()
    except Exception as error:
        pytest.fail(f"{type(error).__name__}: {error}")


@dataclass(kw_only=True)
class Lookout:
    """The watcher: it follows the kinds of `beside`, then `watched`, and judges what it saw."""

    stage: Stage
    events: MemoryLog
    stream: str
    watched: Watch
    happens: Callable[[Lookout], None]
    is_done: Callable[[], bool]
    beside: tuple[Watch, ...] = (LGPS,)
    where: str = ""
    """Of `watched`; FRONT, or in the watched namespace."""
    later: bool = False
    """What happens does so when `watched` is known whole: only the stream of changes can tell of it."""

    def __post_init__(self) -> None:
        self.watcher = watch(self.stage.engine("watcher", self.events))
        self._now = time.monotonic()
        self._lines: list[Any] = []
        self._mend: Callable[[], None] | None = None

    def run(self, mend: Callable[[], None]) -> None:
        self._mend = mend
        if not self.later:
            self.happens(self)
        http = self.stage.accounts["watcher"]._http
        closed = http.closed
        with capture_logs() as self._lines:
            try:
                for watched in (*self.beside, self.watched):
                    self._follow(watched)
            finally:
                http.closed = closed
            self._judge()
            if self._mend is not None:  # nobody had to wait, so it was the look that confirms what is suspected
                self._meanwhile()
                self._now += 60
                self._judge()

    def done(self) -> bool:
        return self.is_done()

    def told(self) -> list[str]:
        return [f"{line['event']} {line.get('error', '')}" for line in self._lines]

    def see(self, watched: Watch, manifests: Sequence[Manifest]) -> None:
        """Take in what another watch tells."""
        for manifest in manifests:
            event = WatchEvent(type="MODIFIED", object=manifest)
            self.watcher.loop.take(Changed(watched, self.stage.namespace, event), self._now)

    def _follow(self, watched: Watch) -> None:
        deadline = time.monotonic() + PATIENCE
        seen: list[str] = []

        def ended() -> bool:
            before = len(seen)
            while not self.watcher._queue.empty():
                message = self.watcher._queue.get()
                assert isinstance(message, Changed)
                self.watcher.loop.take(message, self._now)
                seen.append(message.event.type)
            if "SYNCED" not in seen or not self.later or watched != self.watched:
                return "SYNCED" in seen
            if "SYNCED" not in seen[:before]:
                self.happens(self)
                return False
            self._judge()
            return self.done()

        def late() -> bool:
            assert time.monotonic() < deadline, f"{watched} tells nothing of it"
            return False

        self.watcher._stop = Turn(ended, self._meanwhile)  # type: ignore[assignment]
        self.stage.accounts["watcher"]._http.closed = Turn(late, self._meanwhile)  # type: ignore[assignment]
        self.watcher._follow(watched, self.stage.space(self.where if watched == self.watched else ""))

    def _meanwhile(self) -> None:
        self._judge()
        mend, self._mend = self._mend, None
        assert mend is not None, f"it waits although nothing is refused: {self.told()}"
        mend()

    def _judge(self) -> None:
        """Judge what is due within a few seconds, which is longer than a suspicion is held."""
        loop, until = self.watcher.loop, self._now + 10
        loop.take(Appended(self.stream), self._now)
        while (due := loop.next_due()) is not None and due <= until:
            loop.compare_due(due)


def looks(work: Work, watched: Watch, verb: str, done: Callable[[Event], bool], **options: Any) -> Lookout:
    """A watcher beside the operator of `work`, on the same log."""
    log, stream = work.engine.events, work.stream
    assert isinstance(log, MemoryLog)
    registry = work.engine.machine_of(stream).events
    return Lookout(
        stage=work.stage,
        events=log,
        stream=stream,
        watched=watched,
        is_done=lambda: any(done(registry.decode(record)) for record in log.read(stream)),
        later=verb == "watch",
        **options,
    )


def drift(stage: Stage, verb: str, resource: str, suffix: str = "", spec: Manifest = LIGHT, where: str = "") -> Piece:
    """An object of an LGP that somebody deletes."""
    work, name = posted(stage, spec)
    work.advance()
    kind = KINDS[resource]
    (live,) = (one for one in stage.of(name, resource, where) if where or one["metadata"]["name"] == f"{name}{suffix}")
    special = {
        "secrets": SECRETS,
        "poddisruptionbudgets": BUDGETS,
        **({"services": EXTERNAL_SERVICES} if where else {}),
    }
    return looks(
        work,
        special.get(resource, watch_of_lgp_objects(API_VERSIONS[resource], kind)),
        verb,
        lambda event: isinstance(event, DriftDetected) and (event.key.kind, event.change) == (kind, "deleted"),
        happens=lambda _: stage.delete(live),
        where=where,
    )


def path_drift(stage: Stage, verb: str, where: str = "") -> Piece:
    """A path on the shared Ingress that somebody takes away."""
    work, name = posted(stage, LIGHT)
    work.advance()
    assert stage.leads_to(name)

    def happens(_: Lookout) -> None:
        ingress = stage.shared_ingress()
        rules = without_path(ingress, f"/lgp/{name}")["spec"]["rules"]
        stage.merge(stage.path("ingresses", ingress["metadata"]["name"], FRONT), {"spec": {"rules": rules}})

    return looks(work, INGRESSES, verb, lambda event: isinstance(event, DriftDetected), happens=happens, where=where)


def somebodys_lgp(stage: Stage, verb: str) -> Piece:
    """An LGP that somebody writes."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    return looks(
        work,
        LGPS,
        verb,
        lambda event: isinstance(event, LgpObserved),
        beside=(),
        happens=lambda _: stage.make(lgp_manifest(stage.namespace, name, **LIGHT)),
    )


def vanished_lgp(stage: Stage) -> Piece:
    """An LGP that went while the watcher was away."""
    work, name = posted(stage, LIGHT)
    return looks(
        work,
        LGPS,
        "get",
        lambda event: isinstance(event, LgpRemoved),
        beside=(),
        happens=lambda _: stage.delete(lgp_manifest(stage.namespace, name)),
    )


DEPLOYMENTS, REPLICA_SETS, PODS = (
    watch_of_lgp_objects(*kind) for kind in (("apps/v1", "Deployment"), ("apps/v1", "ReplicaSet"), ("v1", "Pod"))
)


def rollout(stage: Stage, verb: str, watched: Watch, done: Callable[[WorkloadStatus], bool]) -> Piece:
    """A workload whose image cannot be pulled."""
    work, name = posted(stage, {**LIGHT, "serverSpec": {"image": "registry.example/hello:missing"}})
    others = {"replicasets": REPLICA_SETS, "pods": PODS, "deployments": DEPLOYMENTS}
    others = {resource: one for resource, one in others.items() if one != watched}

    def happens(lookout: Lookout) -> None:
        work.advance()
        eventually(lambda: bool(stage.of(name, "pods")), "controllers make a pod")
        eventually(
            lambda: all("observedGeneration" in one["status"] for one in stage.of(name, "deployments")), "and say so"
        )
        for pod in stage.of(name, "pods"):
            stage.kubelet._report(pod)
        if lookout.later:
            for resource, other in others.items():
                lookout.see(other, stage.of(name, resource))

    return looks(
        work,
        watched,
        verb,
        lambda event: isinstance(event, WorkloadObserved) and done(event.workload),
        beside=(LGPS, *others.values()),
        happens=happens,
    )


# the Job that gives leases back


@dataclass
class Release:
    """`agentplane leases release`."""

    stage: Stage

    def __post_init__(self) -> None:
        self.stage.lease(timedelta())
        self._lines: list[str] = []

    def run(self, mend: Callable[[], None]) -> None:
        with pytest.raises(ClusterError) as refused:
            self._release()
        self._lines = [f"error {refused.value}"]
        mend()
        self._release()

    def _release(self) -> None:
        bootstrap.leases_of(self.stage.settings, self.stage.accounts["leases"]).release(self.stage.namespace)

    def done(self) -> bool:
        return self.stage.get("leases", LEASE_NAME) is None

    def told(self) -> list[str]:
        return self._lines


def claimed(piece: Callable[[Stage], Piece], age: timedelta | None) -> Callable[[Stage], Piece]:
    """The first piece of work in a namespace whose lease is so old, or (None) is nobody's."""

    def scene(stage: Stage) -> Piece:
        found = piece(stage)
        stage.lease(age)
        return found

    return scene


# --- the table


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a right is for."""

    stops: str
    """What stops working without it."""
    shown: Callable[[Stage], Piece]
    told: str
    """Where a person reads of it: the type of an event, or what a log line begins with."""
    layout: str = "ingress"


LONG_AGO = timedelta(hours=1)


def leases(component: str, piece: Callable[[Stage], Piece], told: str) -> dict[Right, Line]:
    """The lease is read before anything is done in a namespace; whoever comes first writes it."""
    nothing = "nothing is done in the namespace, for nobody knows whose it is"
    return {
        Right(component, "get", "leases"): Line(stops=nothing, shown=claimed(piece, timedelta()), told=told),
        Right(component, "create", "leases"): Line(
            stops="a namespace that is nobody's is never claimed, and nothing done in it",
            shown=claimed(piece, None),
            told=told,
        ),
        Right(component, "patch", "leases"): Line(
            stops="a lease is not renewed; when it is old, nothing is done in the namespace any more",
            shown=claimed(piece, LONG_AGO),
            told=told,
        ),
    }


def made(
    resource: str, what: str, suffix: str = "", spec: Manifest = LIGHT, layout: str = "ingress", where: str = ""
) -> dict[Right, Line]:
    """An apply reads, then patches, and creates what is not there; leftovers are listed and deleted."""
    applied = Line(
        stops=f"an LGP gets no {what}",
        shown=partial(makes, resource=resource, suffix=suffix, spec=spec, where=where),
        told="ObjectRejected",
        layout=layout,
    )
    left = Line(
        stops=f"the {what} of an LGP outlives it",
        shown=partial(leftover, resource=resource, spec=spec, where=where),
        told="ActRefused",
        layout=layout,
    )
    lines = {"get": applied, "list": left, "create": applied, "patch": applied, "delete": left}
    return {Right("operator", verb, resource, where): lines[verb] for verb in APPLIED.split()}


def seen(
    resource: str, what: str, suffix: str = "", spec: Manifest = LIGHT, layout: str = "ingress", where: str = ""
) -> dict[Right, Line]:
    """Who watches lists first, and looks once more at what is suspected to have drifted."""
    return watched(
        resource,
        {
            "list": f"a {what} that was deleted while the watcher was away does not come back",
            "watch": f"that a {what} was deleted is only noticed by listing all of them again, seconds later",
            "get": f"a {what} that is missing is suspected, never confirmed, and does not come back",
        },
        lambda verb: partial(drift, verb=verb, resource=resource, suffix=suffix, spec=spec, where=where),
        layout,
        where,
    )


WATCHER_SAYS = {"list": "watch failed", "watch": "watch interrupted", "get": "comparison refused"}


def watched(
    resource: str,
    stops: dict[str, str],
    shown: Callable[[str], Callable[[Stage], Piece]],
    layout: str = "ingress",
    where: str = "",
) -> dict[Right, Line]:
    return {
        Right("watcher", verb, resource, where): Line(
            stops=words, shown=shown(verb), told=WATCHER_SAYS[verb], layout=layout
        )
        for verb, words in stops.items()
    }


NO_PATH = Line(stops="an Agent Server cannot be reached from outside", shown=path, told="ObjectRejected")
PATH_LOST = {
    "list": "a path that was taken from the shared Ingress does not come back",
    "watch": "that a path was taken is only noticed by listing again, seconds later",
}

TABLE: dict[Right, Line] = {
    # listener
    **leases("listener", first_secret, "ActRefused"),
    Right("listener", "get", "lgps"): Line(stops="a deployment gets no LGP", shown=first_lgp, told="LgpRejected"),
    Right("listener", "create", "lgps"): Line(stops="a deployment gets no LGP", shown=first_lgp, told="LgpRejected"),
    Right("listener", "patch", "lgps"): Line(stops="a deployment gets no LGP", shown=first_lgp, told="LgpRejected"),
    Right("listener", "list", "lgps"): Line(
        stops="a deployment of a long name gets no LGP, for another listener may have called it otherwise",
        shown=partial(first_lgp, name=f"a-name-that-{'very-' * 10}often-does-not-fit"),
        told="LgpRejected",
    ),
    Right("listener", "delete", "lgps"): Line(
        stops="a deployment that is deleted on the control plane keeps running", shown=deletion, told="ActRefused"
    ),
    **{
        Right("listener", verb, "secrets"): Line(
            stops="a deployment gets neither its secrets nor an LGP", shown=first_secret, told="LgpRejected"
        )
        for verb in ("get", "create", "patch")
    },
    **{
        Right("listener", verb, "secrets"): Line(
            stops="the Secrets of earlier revisions stay in the cluster", shown=earlier_secret, told="ActRefused"
        )
        for verb in ("list", "delete")
    },
    # operator
    **leases("operator", partial(makes, resource="deployments"), "ActRefused"),
    Right("operator", "get", "lgps"): Line(
        stops="nothing is made of an LGP", shown=partial(makes, resource="deployments"), told="ActRefused"
    ),
    Right("operator", "patch", "lgps/status"): Line(
        stops="nobody learns how an LGP is, and no revision is ever deployed", shown=status, told="ActRefused"
    ),
    Right("operator", "update", "lgps/finalizers"): Line(
        stops="no object can have its LGP as owner, so none is made",
        shown=partial(makes, resource="deployments"),
        told="ObjectRejected",
    ),
    **made("deployments", "Agent Server"),
    Right("operator", "get", "deployments"): Line(
        stops="nothing is made of an LGP, for something may be there to be taken over",
        shown=partial(makes, resource="deployments"),
        told="ActRefused",
    ),
    **made("statefulsets", "database", "-db", WITH_DATABASE),
    **made("services", "Service"),
    **made("secrets", "password", "-db", WITH_DATABASE),
    Right("operator", "patch", "secrets"): Line(
        stops="a password that was there before is not told to be the LGP's, and outlives it",
        shown=password,
        told="ObjectRejected",
    ),
    **{
        Right("operator", verb, "persistentvolumeclaims"): Line(
            stops="the volume of a database outlives its LGP",
            shown=partial(leftover, resource="persistentvolumeclaims", spec=WITH_DATABASE),
            told="ActRefused",
        )
        for verb in ("list", "delete")
    },
    **made("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **made("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **made("poddisruptionbudgets", "budget of evictions", spec=DOUBLED),
    **made("serviceaccounts", "account of its own", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **made("secretproviderclasses", "class of secrets", spec=OWN_CLASS, layout="gateway and KEDA"),
    **{Right("operator", verb, "ingresses"): NO_PATH for verb in ("list", "patch")},
    **{
        Right("operator", verb, "ingresses", FRONT): replace(NO_PATH, layout="ingress elsewhere")
        for verb in ("list", "patch")
    },
    **made("services", "Service beside the Ingress", layout="ingress elsewhere", where=FRONT),
    **made("httproutes", "route", layout="gateway and KEDA"),
    **made("virtualservices", "route", layout="istio"),
    # watcher
    Right("watcher", "get", "leases"): Line(
        stops="nothing in the namespace is seen, for nobody knows whose it is",
        shown=claimed(partial(somebodys_lgp, verb="list"), timedelta()),
        told="watch failed",
    ),
    **watched(
        "lgps",
        {
            "list": "no LGP is known",
            "watch": "an LGP that is made is only noticed by listing all of them again, seconds later",
            "get": "an LGP that went while the watcher was away is kept in mind, and what is left of it in the cluster",
        },
        lambda verb: vanished_lgp if verb == "get" else partial(somebodys_lgp, verb=verb),
    ),
    **seen("secrets", "password", "-db", WITH_DATABASE),
    **seen("deployments", "Agent Server"),
    **seen("statefulsets", "database", "-db", WITH_DATABASE),
    **seen("services", "Service"),
    **seen("horizontalpodautoscalers", "autoscaler", spec=SCALED),
    **seen("scaledobjects", "autoscaler", spec=SCALED, layout="gateway and KEDA"),
    **seen("poddisruptionbudgets", "budget of evictions", spec=DOUBLED),
    **seen("serviceaccounts", "account", "-sa", OWN_ACCOUNT, "gateway and KEDA"),
    **seen("secretproviderclasses", "class of secrets", spec=OWN_CLASS, layout="gateway and KEDA"),
    **seen("httproutes", "route", layout="gateway and KEDA"),
    **seen("virtualservices", "route", layout="istio"),
    **watched(
        "replicasets",
        {
            "list": "how a rollout goes is not known, so no revision is ever deployed",
            "watch": "which pods are of the newest revision is only noticed by listing again, seconds later",
        },
        lambda verb: partial(rollout, verb=verb, watched=REPLICA_SETS, done=lambda workload: bool(workload.template)),
    ),
    **watched(
        "pods",
        {
            "list": "how a rollout goes is not known, so no revision is ever deployed, or fails",
            "watch": "why a pod does not come up is only noticed by listing again, seconds later",
        },
        lambda verb: partial(rollout, verb=verb, watched=PODS, done=lambda workload: workload.failure is not None),
    ),
    **watched("ingresses", PATH_LOST, lambda verb: partial(path_drift, verb=verb)),
    **watched(
        "ingresses",
        PATH_LOST,
        lambda verb: partial(path_drift, verb=verb, where=FRONT),
        "ingress elsewhere",
        FRONT,
    ),
    **seen("services", "Service beside the Ingress", layout="ingress elsewhere", where=FRONT),
    # the Job after `helm uninstall`
    **{
        Right("leases", verb, "leases"): Line(
            stops="a namespace stays claimed by a data plane that is gone", shown=Release, told="error"
        )
        for verb in ("get", "delete")
    },
}


# --- the tests


@pytest.fixture(scope="module")
def stages(strict: ApiServer) -> Iterator[Callable[[str], Stage]]:
    """Gives the release of a layout, installed when it is first asked for."""
    found: dict[str, Stage] = {}

    def stage(layout: str) -> Stage:
        if layout not in found:
            found[layout] = Stage(strict, layout)
        return found[layout]

    yield stage
    for one in found.values():
        one.close()


@pytest.mark.parametrize("right", TABLE, ids=lambda right: " ".join(right).strip())
def test_what_stops_without(right: Right, stages: Callable[[str], Stage]) -> None:
    line = TABLE[right]
    stage = stages(line.layout)
    piece = line.shown(stage)
    mended = []

    with stage.without(right) as put_back:

        def mend() -> None:
            assert not piece.done(), f"it works without it, although {line.stops}"
            assert stage.refused(right.component) == {right}
            words = (
                OWNER_REFUSED
                if right.resource == "lgps/finalizers"
                else f'cannot {right.verb} resource "{right.resource}"'
            )
            told = [text for text in piece.told() if words in text and "grant the account" in text]
            assert any(text.startswith(line.told) for text in told), f"nobody is told: {piece.told()}"
            assert not isinstance(piece, Work) or any(text.startswith("status") for text in told), piece.told()
            put_back()
            mended.append(right)

        piece.run(mend)

    assert mended
    assert piece.done(), f"it was not tried again: {piece.told()}"


def test_every_right_of_every_layout_is_in_the_table() -> None:
    found = {
        Right(component, verb, resource, where): group
        for layout in LAYOUTS
        for where, suffix in (("", ""), (FRONT, "-default"))
        for component in COMPONENTS
        for verb, group, resource in granted(objects(values_of(layout, "front")), f"{component}{suffix}")
    }

    assert found.keys() == TABLE.keys()
    assert {right: group_of(API_VERSIONS[right.plural]) for right in found} == found


def test_a_kind_that_the_api_server_does_not_know_as_owner_yet_is_waited_for(strict: ApiServer, tmp_path: Path) -> None:
    """An account that may set the finalizers of every kind, as administrators may, is not asked for the kind."""
    namespace = make_namespace(strict)
    services = {"apiGroups": [""], "resources": ["services"], "verbs": ["get", "create", "patch"]}
    with strict.http() as http:
        cluster = KubernetesCluster.load(
            service_accounts.account(strict.kubeconfig, http, namespace, [services], tmp_path)
        )
    owner = {"apiVersion": "example.com/v1", "kind": "New", "name": "x", "uid": str(uuid.uuid4())}
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "x",
            "namespace": namespace,
            "ownerReferences": [{**owner, "blockOwnerDeletion": True, "controller": True}],
        },
        "spec": {"ports": [{"port": 80, "protocol": "TCP"}]},
    }

    with pytest.raises(ClusterUnavailable, match="will know that kind in less than a minute"):
        cluster.apply(service, manager="somebody")
    cluster.close()
