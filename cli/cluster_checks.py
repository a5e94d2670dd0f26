"""Checks of the cluster: the kinds that are used, and per namespace permissions and the route.

Where the settings say which process they are of, only its rights are asked for, and what the operator needs beyond them
(kinds, the shared Ingress, the Gateway) is left to the operator's own doctor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

from cli.findings import Finding, fail, ok, skip, warn
from engine import bootstrap
from engine.errors import ObjectRefused
from engine.kubernetes.permissions import (
    HTTP_ROUTE,
    INGRESS,
    SCALED_OBJECT,
    VIRTUAL_SERVICE,
    Permission,
    needed,
    needed_at_ingress,
    together,
)
from engine.names import LGP_API_VERSION, LGP_KIND, SECRET_PROVIDER_CLASS, SHARED_INGRESS_ANNOTATION
from engine.ports import Cluster, Manifest, ObjectKey
from engine.settings import Settings, variable

OLDEST = (1, 30)
"""The oldest release of Kubernetes that is supported: major and minor version. k8s/chart/Chart.yaml says the same."""


def check_cluster(settings: Settings) -> Iterator[Finding]:
    """The API server, the kinds that are used, and per namespace permissions and the route."""
    cluster = bootstrap.open_cluster(settings)
    yield _version(cluster, cluster.host)
    if not cluster.served(LGP_API_VERSION, LGP_KIND):
        yield fail(
            "lgp resource",
            f"{cluster.host} does not serve {LGP_KIND} {LGP_API_VERSION}",
            "install it: kubectl apply -f k8s/crds (the chart: operator.createCRDs: true)",
        )
        return
    yield ok("lgp resource", f"{cluster.host} serves {LGP_KIND} {LGP_API_VERSION}")
    kinds = list(_kinds(cluster, settings))
    yield from kinds
    for namespace in settings.watch_namespaces:
        if not _exists(cluster, namespace):
            yield _no_namespace(cluster.host, namespace, "watch_namespaces")
            continue
        yield from _permissions(cluster, _of_this(settings, needed(settings)), namespace)
        yield from _claim(cluster, settings, namespace)
        yield from _ingress(cluster, settings, namespace)
    external_watches, there = settings.ingress_elsewhere, needed_at_ingress(settings)
    needs = _of_this(settings, {process: there.get(process, []) for process in needed(settings)})
    if external_watches and any(needs.values()):
        if _exists(cluster, external_watches):
            yield from _permissions(cluster, needs, external_watches)
        else:
            yield _no_namespace(cluster.host, external_watches, "ingress_namespace")
    yield from _gateway(cluster, settings)


def _of_this(settings: Settings, needs: dict[str, list[Permission]]) -> dict[str, list[Permission]]:
    """Return what this process needs; where nobody says which it is, what each of them does."""
    return {process: permissions for process, permissions in needs.items() if settings.may_be(process)}


def _version(cluster: Cluster, host: str) -> Finding:
    """Whether the API server is of a supported release."""
    oldest = ".".join(map(str, OLDEST))
    mend = f"see that the cluster is Kubernetes {oldest} or newer: kubectl version"
    try:
        told = cluster.version()
    except ObjectRefused as error:
        return warn("kubernetes", f"the version of {host} is unknown: {error}", mend)
    found = re.match(r"v?(\d+)\.(\d+)", told)
    if found is None:
        return warn("kubernetes", f"{host} tells no version of Kubernetes, but {told!r}", mend)
    if (int(found[1]), int(found[2])) < OLDEST:
        return fail(
            "kubernetes",
            f"{host} is Kubernetes {told}; supported: {oldest} and newer",
            f"upgrade the cluster to Kubernetes {oldest} or newer",
        )
    return ok("kubernetes", f"{host} is Kubernetes {told}")


def _no_namespace(host: str, namespace: str, setting: str) -> Finding:
    mend = f"kubectl create namespace {namespace}, or correct {variable(setting)}"
    return fail("namespace", f"{host} has no namespace {namespace}", mend)


def _kinds(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    """Kinds that only some installations have."""
    if not settings.operator_enabled or not settings.may_be("operator"):
        return
    wanted: list[tuple[tuple[str, str], str]] = []
    if settings.keda_enabled:
        wanted.append((SCALED_OBJECT, f"install KEDA, or set {variable('keda_enabled')}=false"))
    if settings.managed_secret_provider_classes:
        mend = (
            "install the Secrets Store CSI driver with its Azure provider, or set "
            f"{variable('managed_secret_provider_classes')}=false"
        )
        wanted.append((SECRET_PROVIDER_CLASS, mend))
    if settings.routing.kind == "gateway":
        wanted.append((HTTP_ROUTE, "install the Gateway API, or choose another route"))
    if settings.routing.kind == "istio":
        wanted.append((VIRTUAL_SERVICE, "install Istio, or choose another route"))
    for (api_version, kind), mend in wanted:
        if not cluster.served(api_version, kind):
            yield fail("kinds", f"the API server does not serve {kind} {api_version}", mend)


def _exists(cluster: Cluster, namespace: str) -> bool:
    """Whether a namespace exists, as far as we may know: an account of one namespace may not read namespaces."""
    try:
        key = ObjectKey(api_version="v1", kind="Namespace", namespace="", name=namespace)
        return cluster.get(key) is not None
    except ObjectRefused:
        return True


def _permissions(cluster: Cluster, needs: dict[str, list[Permission]], namespace: str) -> Iterator[Finding]:
    """What this account may do. Where each process has an account of its own, it is enough for one of them."""
    allowed = {
        (permission, verb): cluster.allowed(
            verb,
            permission.api_version,
            permission.kind,
            namespace,
            subresource=permission.subresource,
            name=permission.name,
        )
        for permission in together(needs.values())
        for verb in permission.verbs.split()
    }
    may = {(str(p), p.api_version, verb) for (p, verb), yes in allowed.items() if yes}
    lacks = {process: _lacking(permissions, may) for process, permissions in needs.items()}
    able = [process for process, missing in lacks.items() if not missing]
    unable = {process: missing for process, missing in lacks.items() if missing}
    if not unable:
        yield ok("permissions", f"namespace {namespace}: all that {', '.join(able)} need")
    elif able:
        told = "; ".join(f"the {process} would need {missing}" for process, missing in unable.items())
        yield warn(
            "permissions",
            f"namespace {namespace}: this account may do all that the {', '.join(able)} needs; {told}",
            "fine where each process has an account of its own, as with the chart: look from the pods of the others "
            "too; where one account serves all, add these verbs to its Role",
        )
    else:
        told = _lacking(together(needs.values()), may)
        yield fail(
            "permissions",
            f"namespace {namespace}: not allowed: {told}",
            f"add these verbs to the Role of this account in namespace {namespace} (the chart makes it: rbac.create)",
        )


def _lacking(permissions: list[Permission], may: set[tuple[str, str, str]]) -> str:
    """Return which of `permissions` are not among those allowed, for a person; empty when none is missing."""
    missing = {
        str(permission): verbs
        for permission in permissions
        if (verbs := [v for v in permission.verbs.split() if (str(permission), permission.api_version, v) not in may])
    }
    return ", ".join(f"{what} ({', '.join(verbs)})" for what, verbs in missing.items())


def _claim(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    """Which data plane the namespace belongs to."""
    leases = bootstrap.leases_of(settings, cluster)
    try:
        lease = leases.read(namespace)
    except ObjectRefused:
        return  # told by the permissions
    expired = lease.expired(datetime.now(UTC))
    if not lease.holder:
        yield ok("lease", f"namespace {namespace} is nobody's yet: the first worker leases it")
    elif lease.holder != leases.holder:
        dead = "its TTL has passed, so it seems dead" if expired else "it is alive"
        yield fail(
            "lease",
            f"namespace {namespace} is held by data plane {lease.holder!r}: {dead}",
            f"`agentplane leases take {namespace}` takes it over from a dead one"
            if expired
            else f"watch another namespace ({variable('watch_namespaces')}), or stop that data plane first",
        )
    elif expired:
        yield warn(
            "lease",
            f"namespace {namespace} is ours, but nobody has renewed the lease for {lease.ttl.total_seconds():.0f} s",
            "see that beat and the workers run",
        )
    else:
        yield ok("lease", f"namespace {namespace} is ours")


def _ingress(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    if settings.routing.kind != "ingress" or not settings.operator_enabled or not settings.may_be("operator"):
        return
    home = settings.ingress_namespace or namespace
    annotation = f'{SHARED_INGRESS_ANNOTATION}: "true"'
    try:
        found = sorted(map(_name, filter(_is_shared, cluster.list(*INGRESS, home))))
    except ObjectRefused as error:
        yield warn(
            "shared ingress", f"cannot be looked at: {error}", f"look with an account that may list Ingresses in {home}"
        )
        return
    if not found:
        yield fail(
            "shared ingress",
            f"namespace {home} has no Ingress annotated {annotation}",
            f"create one (the chart: ingress.create: true), or name its namespace in {variable('ingress_namespace')}",
        )
    elif len(found) > 1:
        yield warn(
            "shared ingress",
            f"namespace {home} has {len(found)} Ingresses annotated {annotation}: {', '.join(found)}; "
            f"{found[0]} is used",
            "take the annotation off all but one",
        )
    else:
        yield ok("shared ingress", f"{home}/{found[0]}")


def _is_shared(ingress: Manifest) -> bool:
    annotations = ingress["metadata"].get("annotations") or {}
    return annotations.get(SHARED_INGRESS_ANNOTATION) == "true"


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def _gateway(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    """The Gateway that routes refer to, for an account that may read it: the processes' own need not, and may not."""
    api_versions = {"gateway": HTTP_ROUTE[0], "istio": VIRTUAL_SERVICE[0]}
    kind = settings.routing.kind
    if kind not in api_versions or not settings.operator_enabled or not settings.may_be("operator"):
        return
    setting = "gateway" if kind == "gateway" else "istio_gateway"
    name, namespace = getattr(settings, f"{setting}_name"), getattr(settings, f"{setting}_namespace")
    for home in [namespace] if namespace else settings.watch_namespaces:
        key = ObjectKey(api_version=api_versions[kind], kind="Gateway", namespace=home, name=name)
        try:
            there = cluster.get(key) is not None
        except ObjectRefused:
            look = f"kubectl -n {home} get gateways"
            yield skip("gateway", f"this account may not read {home}/{name}, and need not; to see it: {look}")
            continue
        if there:
            yield ok("gateway", f"{home}/{name}")
        else:
            names = f"{variable(f'{setting}_name')} and {variable(f'{setting}_namespace')}"
            yield fail("gateway", f"there is no Gateway {home}/{name}", f"create it, or correct {names}")
