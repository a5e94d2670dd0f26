"""Prove that each right that the chart grants is needed: remove one right, and see what stops working.

`Stage` installs the chart once per layout. For each right, a test takes these steps:

1. Rewrite the Role without the verb on the resource.
2. Run the part of the engine that needs the right, in the test's own thread, with the token of the component's account.
3. Check that the API server refuses exactly this right, a report says what to grant, and the result is missing.
4. Restore the Role, and check that the retry of the refused act succeeds.

The API server also runs the admission plugin OwnerReferencesPermissionEnforcement, as OpenShift does. Only this plugin
needs the right on `lgps/finalizers`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Protocol

import httpx
import orjson
import yaml

from engine import bootstrap, names
from engine.bootstrap import Engine
from engine.event import Event
from engine.kubernetes.kinds import PLURALS, group_of, version_path
from engine.kubernetes.namespace_lease import LEASE_API_VERSION, LEASE_NAME, NamespaceLease, lease_manifest
from engine.kubernetes.permissions import (
    AUTOSCALER,
    HTTP_ROUTE,
    INGRESS_API_VERSION,
    SCALED_OBJECT,
    VIRTUAL_SERVICE,
)
from engine.log.memory import MemoryLog
from engine.names import (
    BUDGET,
    LGP_API_VERSION,
    SECRET_PROVIDER_CLASS,
    SERVICE_ACCOUNT,
    lgp_stream,
)
from engine.operator.manifests import is_shared_ingress
from engine.operator.observation.lgp import observe_lgp
from engine.ports import Manifest
from engine.queries import deployments
from tests.chart.rendering import NEEDED, RELEASE, Values, at, chart, helm, layered, objects, settings_of
from tests.support.api_servers import ApiServer
from tests.support.clock import LeapingClock
from tests.support.eventually import eventually
from tests.support.granted import Account, ControlPlane, Healthy, granted
from tests.support.namespaces import make_namespace
from tests.support.operator_stack import Kubelet, lgp_manifest, shared_ingress

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
"""Plural of each resource that a Role names → its API version."""

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
"""Accounts of the release; `leases` is the account of the Job that releases the namespace leases."""

FRONT = "in the namespace of the Ingress"


class Right(NamedTuple):
    """A verb on a resource (`plural` or `plural/subresource`), granted to one component."""

    component: str
    verb: str
    resource: str
    where: str = ""
    """Where the Role is: empty for the watched namespace, or FRONT."""

    @property
    def plural(self) -> str:
        return self.resource.partition("/")[0]


def define(http: httpx.Client, api_version: str, kind: str) -> None:
    """Make the API server serve a kind with a schema that accepts any fields."""
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


REFUSAL = re.compile(r'cannot (\w+) resource "([^"]+)" in API group "([^"]*)" in the namespace "([^"]+)"')

OWNER_REFUSED = "cannot set blockOwnerDeletion"

UNREASONED = re.compile(r'([^ .]+)[^ ]* "[^"]+" is forbidden:\s*$')
"""The message, without verb and reason, with which the API server refuses an apply to an object that does not exist."""


class Stage:
    """The installed release of one layout, the accounts of its components, and an administrator's client."""

    def __init__(self, server: ApiServer, layout: str) -> None:
        self.namespace = make_namespace(server)
        self.front = make_namespace(server) if layout == "ingress elsewhere" else self.namespace
        self.http = server.http()
        whole = layered(values_of(layout, self.front), at("operator.createCRDs", False))
        with helm.Config(kubeconfig_path=server.kubeconfig, namespace=self.namespace) as config:
            release = config.install(
                chart(), RELEASE, whole
            )  # never uninstalled: the API server ends with the test run
        if self.front != self.namespace:
            self.make(shared_ingress(self.front))
        self.settings = settings_of([one for one in yaml.safe_load_all(release["manifest"]) if one])
        for manifest in objects(whole, namespace=self.namespace):
            if manifest["metadata"]["name"] == f"{RELEASE}-leases" and manifest["kind"] != "Job":
                self.make(manifest)  # objects of a hook that Helm makes only on uninstall
        self.kubelet = Kubelet(server, self.namespace)  # not started: tests call its `_report` themselves
        self.accounts = {name: Account(server, self.namespace, f"{RELEASE}-{name}") for name in COMPONENTS}

    def close(self) -> None:
        for account in self.accounts.values():
            account.close()
        self.kubelet._http.close()
        self.http.close()

    def engine(self, component: str, events: MemoryLog | None = None, **peers: Any) -> Engine:
        """Return the engine of a newly started process; its log is in memory, and its clock can be moved forward."""
        clock = LeapingClock()
        log = events or MemoryLog(clock)
        peers.setdefault("control_plane", ControlPlane(self.namespace))
        account = self.accounts[component]
        engine = bootstrap.build(self.settings, events=log, cluster=account, health=Healthy(), **peers)
        return replace(engine, ports=replace(engine.ports, clock=clock))

    # requests of the administrator

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
        """Return an object of the watched namespace, or None if it does not exist or is being deleted."""
        answer = self.http.get(self.path(resource, name))
        there = answer.status_code == 200 and "deletionTimestamp" not in answer.json()["metadata"]
        return dict(answer.json()) if there else None

    def list(self, resource: str, labels: str = "", where: str = "") -> list[Manifest]:
        """Return the objects of a kind that are not being deleted."""
        found = self.http.get(self.path(resource, where=where), params={"labelSelector": labels}).raise_for_status()
        there = [one for one in found.json()["items"] if "deletionTimestamp" not in one["metadata"]]
        return [{**one, "apiVersion": API_VERSIONS[resource], "kind": KINDS[resource]} for one in there]

    def of(self, lgp: str, resource: str, where: str = "") -> Sequence[Manifest]:
        """Return the objects of one kind that carry the label of an LGP."""
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
        """Make our namespace lease `age` old, or delete it if `age` is None."""
        self.http.delete(self.path("leases", LEASE_NAME))
        if age is not None:
            ttl = timedelta(seconds=self.settings.lease_seconds)
            now = datetime.now(UTC) - age
            self.make(lease_manifest(NamespaceLease(namespace=self.namespace), self.settings.data_plane, ttl, now))

    # rights

    @contextmanager
    def without(self, right: Right) -> Iterator[Callable[[], None]]:
        """Remove a right from its Role; yields a function that restores the Role."""
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
        """Return the rights that the API server refused to a component since `without` removed one."""
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


class Piece(Protocol):
    """A piece of work that needs a right, prepared up to the point where the right is needed."""

    def run(self, fix: Callable[[], None]) -> None:
        """Work until the refused request waits for its retry, call `fix`, and continue."""
        ...

    def done(self) -> bool:
        """Whether the result exists that the right is needed for."""
        ...

    def reports(self) -> list[str]:
        """Return what a person can read: the type of an event or the message of a log line, then the error text."""
        ...


@dataclass(kw_only=True)
class Work:
    """A piece of work that advances one stream of the listener or the operator."""

    stage: Stage
    engine: Engine
    stream: str
    is_done: Callable[[], bool] = lambda: False

    def append(self, *events: Event) -> None:
        """Append events as the watcher does."""
        log = self.engine.events
        log.append(self.stream, log.version(self.stream), events, actor="watcher")

    def advance(self) -> None:
        self.engine.advance(self.stream)

    def until(self, done: Callable[[], bool]) -> Work:
        return replace(self, is_done=done)

    def run(self, fix: Callable[[], None]) -> None:
        self.advance()
        fix()
        log, clock = self.engine.events, self.engine.ports.clock
        assert isinstance(log, MemoryLog)
        assert isinstance(clock, LeapingClock)
        for _ in range(10):
            if self.done():
                return
            due = dict(log.due()).get(self.stream)
            assert due is not None, f"no retry is planned: {self.reports()}"
            clock.leap(due)
            assert self.stream in log.take_due(clock.now())
            self.advance()

    def done(self) -> bool:
        return self.is_done()

    def reports(self) -> list[str]:
        records = self.engine.events.read(self.stream)
        events = [f"{r.type} {r.data.get('reason', '')} {r.data.get('message', '')}" for r in records]
        (summary,) = deployments(self.engine.events, deleted=True)
        return [*events, f"status {summary.reason}"]


LIGHT: Manifest = {"database": {"enabled": False}, "redis": {"enabled": False}}

WITH_DATABASE: Manifest = {"redis": {"enabled": False}}

DOUBLED: Manifest = {**LIGHT, "serverSpec": {"replicas": 2}}

OWN_NAME = "NAME-OF-THE-LGP"
"""Placeholder in a spec; `posted` replaces it with the name of the LGP."""

OWN_PROVIDER: Manifest = {"name": OWN_NAME, "provider": "azure", "parameters": {"keyvaultName": "vault"}}

OWN_ACCOUNT: Manifest = {**LIGHT, "managedResources": {"serviceAccount": {}}}

OWN_CLASS: Manifest = {**LIGHT, "managedResources": {"secretProviderClass": OWN_PROVIDER}}

SCALED: Manifest = {**LIGHT, "autoscaling": {"enabled": True, "minReplicas": 1, "maxReplicas": 2}}


def posted(stage: Stage, spec: Manifest) -> tuple[Work, str]:
    """Create an LGP as a person does, and append its `LgpObserved`; return the work on its stream and its name."""
    name = f"by-hand-{uuid.uuid4().hex[:8]}"
    spec = orjson.loads(orjson.dumps(spec).replace(OWN_NAME.encode(), name.encode()))
    stage.make(lgp_manifest(stage.namespace, name, **spec))
    live = stage.get("lgps", name)
    assert live is not None
    work = Work(stage=stage, engine=stage.engine("operator"), stream=lgp_stream(stage.namespace, name))
    work.append(observe_lgp(live, work.engine.ports.digest))
    return work, name


def with_lease(piece: Callable[[Stage], Piece], age: timedelta | None) -> Callable[[Stage], Piece]:
    """Prepare a piece of work in a namespace whose lease is `age` old, or that has no lease if `age` is None."""

    def scene(stage: Stage) -> Piece:
        found = piece(stage)
        stage.lease(age)
        return found

    return scene


@dataclass(frozen=True, kw_only=True)
class Line:
    """What a right is needed for."""

    stops: str
    """What stops working without the right."""
    shown: Callable[[Stage], Piece]
    """Prepares the piece of work that stops."""
    reported_as: str
    """How the report of the refusal begins: the type of an event, or the message of a log line."""
    layout: str = "ingress"


LONG_AGO = timedelta(hours=1)


def leases(component: str, piece: Callable[[Stage], Piece], reported_as: str) -> dict[Right, Line]:
    """Return the rights on namespace leases.

    A component reads the lease before it acts in a namespace. Either component may be the first to write the lease.
    """
    nothing = "nothing is done in the namespace, because its holder is unknown"
    return {
        Right(component, "get", "leases"): Line(
            stops=nothing, shown=with_lease(piece, timedelta()), reported_as=reported_as
        ),
        Right(component, "create", "leases"): Line(
            stops="a namespace without a lease is never leased, and nothing is done in it",
            shown=with_lease(piece, None),
            reported_as=reported_as,
        ),
        Right(component, "patch", "leases"): Line(
            stops="the lease is not renewed; once it has expired, nothing is done in the namespace",
            shown=with_lease(piece, LONG_AGO),
            reported_as=reported_as,
        ),
    }


def assert_needed(right: Right, line: Line, stages: Callable[[str], Stage]) -> None:
    """Fail unless the work of `line` stops without `right`, reports the refusal, and succeeds after the fix."""
    stage = stages(line.layout)
    piece = line.shown(stage)
    fixes = []

    with stage.without(right) as restore_role:

        def fix() -> None:
            assert not piece.done(), f"works without {name_of(right)}, but the table says: {line.stops}"
            assert stage.refused(right.component) == {right}
            words = (
                OWNER_REFUSED
                if right.resource == "lgps/finalizers"
                else f'cannot {right.verb} resource "{right.resource}"'
            )
            reports = [text for text in piece.reports() if words in text and "grant the account" in text]
            assert any(text.startswith(line.reported_as) for text in reports), f"no report: {piece.reports()}"
            assert not isinstance(piece, Work) or any(text.startswith("status") for text in reports), piece.reports()
            restore_role()
            fixes.append(right)

        piece.run(fix)

    assert fixes
    assert piece.done(), f"not done after the retry: {piece.reports()}"


def rights_of(component: str) -> set[Right]:
    """Return every right that the chart grants to a component in any layout."""
    found = {
        Right(component, verb, resource, where): group
        for layout in LAYOUTS
        for where, suffix in (("", ""), (FRONT, "-default"))
        for verb, group, resource in granted(objects(values_of(layout, "front")), f"{component}{suffix}")
    }
    assert {right: group_of(API_VERSIONS[right.plural]) for right in found} == found
    return set(found)


def name_of(right: Right) -> str:
    return " ".join(right).strip()
