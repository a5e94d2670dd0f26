"""Checks of the cluster: version and kinds; per namespace permissions, the lease and the shared Ingress; the Gateway.

Where the settings name a process, only the permissions of that process are checked. What only the operator needs
(optional kinds, the shared Ingress, the Gateway) is then checked in the operator's pod alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from cli.doctor.finding import Finding, fail, ok, skip, warn
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
    """Yield what there is to say of the API server, its kinds and every watched namespace."""
    cluster = bootstrap.open_cluster(settings)
    yield _version(cluster, cluster.host)
    if not cluster.served(LGP_API_VERSION, LGP_KIND):
        yield fail(
            "lgp resource",
            f"{cluster.host} does not serve {LGP_KIND} {LGP_API_VERSION}",
            "install it: `kubectl apply -f k8s/crds` (with the chart: operator.createCRDs: true)",
        )
        return
    yield ok("lgp resource", f"{cluster.host} serves {LGP_KIND} {LGP_API_VERSION}")
    yield from _kinds(cluster, settings)
    for namespace in settings.watch_namespaces:
        if not _exists(cluster, namespace):
            yield _no_namespace(cluster.host, namespace, "watch_namespaces")
            continue
        yield from _permissions(cluster, _of_this_process(settings, needed(settings)), namespace)
        yield from _lease(cluster, settings, namespace)
        yield from _ingress(cluster, settings, namespace)
    elsewhere, there = settings.ingress_elsewhere, needed_at_ingress(settings)
    needs = _of_this_process(settings, {process: there.get(process, []) for process in needed(settings)})
    if elsewhere and any(needs.values()):
        if _exists(cluster, elsewhere):
            yield from _permissions(cluster, needs, elsewhere)
        else:
            yield _no_namespace(cluster.host, elsewhere, "ingress_namespace")
    yield from _gateway(cluster, settings)


def _of_this_process(settings: Settings, needs: dict[str, list[Permission]]) -> dict[str, list[Permission]]:
    """Return the permissions that this process needs; where the settings name none, those of every process."""
    return {process: permissions for process, permissions in needs.items() if settings.may_be(process)}


def _version(cluster: Cluster, host: str) -> Finding:
    """Return whether the API server is of a supported release."""
    oldest = ".".join(map(str, OLDEST))
    fix = f"check that the cluster is Kubernetes {oldest} or newer: `kubectl version`"
    try:
        version = cluster.version()
    except ObjectRefused as error:
        return warn("kubernetes", f"the version of {host} is unknown: {error}", fix)
    found = re.match(r"v?(\d+)\.(\d+)", version)
    if found is None:
        return warn("kubernetes", f"{host} reports {version!r}, which is not a version of Kubernetes", fix)
    if (int(found[1]), int(found[2])) < OLDEST:
        return fail(
            "kubernetes",
            f"{host} is Kubernetes {version}; supported are {oldest} and newer",
            f"upgrade the cluster to Kubernetes {oldest} or newer",
        )
    return ok("kubernetes", f"{host} is Kubernetes {version}")


def _no_namespace(host: str, namespace: str, setting: str) -> Finding:
    fix = f"`kubectl create namespace {namespace}`, or correct {variable(setting)}"
    return fail("namespace", f"{host} has no namespace {namespace}", fix)


def _kinds(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    """Yield a failure for each kind that these settings need and the API server does not serve."""
    if not settings.operator_enabled or not settings.may_be("operator"):
        return
    kinds: list[tuple[tuple[str, str], str]] = []
    if settings.keda_enabled:
        kinds.append((SCALED_OBJECT, f"install KEDA, or set {variable('keda_enabled')}=false"))
    if settings.managed_secret_provider_classes:
        fix = (
            "install the Secrets Store CSI driver with its Azure provider, or set "
            f"{variable('managed_secret_provider_classes')}=false"
        )
        kinds.append((SECRET_PROVIDER_CLASS, fix))
    if settings.routing.kind == "gateway":
        kinds.append((HTTP_ROUTE, "install the Gateway API, or choose another kind of route"))
    if settings.routing.kind == "istio":
        kinds.append((VIRTUAL_SERVICE, "install Istio, or choose another kind of route"))
    for (api_version, kind), fix in kinds:
        if not cluster.served(api_version, kind):
            yield fail("kinds", f"the API server does not serve {kind} {api_version}", fix)


def _exists(cluster: Cluster, namespace: str) -> bool:
    """Return whether a namespace exists; True also where this account may not read namespaces."""
    try:
        key = ObjectKey(api_version="v1", kind="Namespace", namespace="", name=namespace)
        return cluster.get(key) is not None
    except ObjectRefused:
        return True


def _permissions(cluster: Cluster, needs: dict[str, list[Permission]], namespace: str) -> Iterator[Finding]:
    """Yield whether this account may do what the processes need.

    It is a warning, not a failure, if the account is enough for one process: each may have an account of its own.
    """
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
        yield ok("permissions", f"namespace {namespace}: this account may do all that {_names(able)}")
    elif able:
        lacking = "; ".join(f"the {process} would need {missing}" for process, missing in unable.items())
        yield warn(
            "permissions",
            f"namespace {namespace}: this account may do all that {_names(able)}; {lacking}",
            "if each process has an account of its own, as with the chart, run the doctor in the pods of the others "
            "too; if one account serves all processes, add these verbs to its Role",
        )
    else:
        yield fail(
            "permissions",
            f"namespace {namespace}: not allowed: {_lacking(together(needs.values()), may)}",
            f"add these verbs to the Role of this account in namespace {namespace} (the chart makes the Role: "
            "rbac.create)",
        )


def _names(processes: Sequence[str]) -> str:
    *others, last = processes
    return f"{', '.join(others)} and {last} need" if others else f"the {last} needs"


def _lacking(permissions: list[Permission], may: set[tuple[str, str, str]]) -> str:
    """Return which of `permissions` are not among those allowed, for a person; empty when none is missing."""
    missing = {
        str(permission): verbs
        for permission in permissions
        if (verbs := [v for v in permission.verbs.split() if (str(permission), permission.api_version, v) not in may])
    }
    return ", ".join(f"{what} ({', '.join(verbs)})" for what, verbs in missing.items())


def _lease(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    """Yield which data plane holds the lease on a namespace."""
    leases = bootstrap.leases_of(settings, cluster)
    try:
        lease = leases.read(namespace)
    except ObjectRefused:
        return  # the check of the permissions says so
    expired = lease.expired(datetime.now(UTC))
    if not lease.holder:
        yield ok("lease", f"no data plane holds namespace {namespace} yet: the first worker takes the lease")
    elif lease.holder != leases.holder:
        state = "whose lease has expired" if expired else "which is alive"
        yield fail(
            "lease",
            f"namespace {namespace} is held by data plane {lease.holder!r}, {state}",
            f"if that data plane is gone, take the lease: `agentplane leases take {namespace}`"
            if expired
            else f"watch another namespace ({variable('watch_namespaces')}), or stop that data plane first",
        )
    elif expired:
        ttl = f"{lease.ttl.total_seconds():.0f} s"
        yield warn(
            "lease",
            f"this data plane holds namespace {namespace}, but has not renewed its lease for more than {ttl}",
            "check that beat and the workers run",
        )
    else:
        yield ok("lease", f"this data plane holds namespace {namespace}")


def _ingress(cluster: Cluster, settings: Settings, namespace: str) -> Iterator[Finding]:
    """Yield which shared Ingress leads to the Agent Servers of a namespace."""
    if settings.routing.kind != "ingress" or not settings.operator_enabled or not settings.may_be("operator"):
        return
    home = settings.ingress_namespace or namespace
    annotation = f'{SHARED_INGRESS_ANNOTATION}: "true"'
    try:
        found = sorted(map(_name, filter(_is_shared, cluster.list(*INGRESS, home))))
    except ObjectRefused as error:
        yield warn(
            "shared ingress",
            f"cannot list the Ingresses of namespace {home}: {error}",
            f"run the doctor with an account that may list Ingresses in namespace {home}",
        )
        return
    if not found:
        yield fail(
            "shared ingress",
            f"namespace {home} has no Ingress annotated {annotation}",
            f"create one (with the chart: ingress.create: true), or set {variable('ingress_namespace')} to the "
            "namespace that has one",
        )
    elif len(found) > 1:
        yield warn(
            "shared ingress",
            f"namespace {home} has {len(found)} Ingresses annotated {annotation}: {', '.join(found)}; "
            f"the operator uses {found[0]}",
            "remove the annotation from all but one",
        )
    else:
        yield ok("shared ingress", f"{home}/{found[0]}")


def _is_shared(ingress: Manifest) -> bool:
    annotations = ingress["metadata"].get("annotations") or {}
    return annotations.get(SHARED_INGRESS_ANNOTATION) == "true"


def _name(manifest: Manifest) -> str:
    return str(manifest["metadata"]["name"])


def _gateway(cluster: Cluster, settings: Settings) -> Iterator[Finding]:
    """Yield whether the Gateway that routes refer to exists. The processes need no permission to read it."""
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
            command = f"kubectl -n {home} get gateways"
            yield skip("gateway", f"this account may not read {home}/{name}, and need not; to check it: `{command}`")
            continue
        if there:
            yield ok("gateway", f"{home}/{name}")
        else:
            names = f"{variable(f'{setting}_name')} and {variable(f'{setting}_namespace')}"
            yield fail("gateway", f"there is no Gateway {home}/{name}", f"create it, or correct {names}")
