"""Tables for `kubectl get`: objects as rows of a `Table`; the columns are data.

A cell is a JSONPath, as in additionalPrinterColumns, or a function of the object if a JSONPath is not enough.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sandbox.kubernetes.kinds import Kind
from sandbox.kubernetes.selectors import selector_text

Object = dict[str, Any]
Cell = Callable[[Object], Any]

# The subset of JSONPath that printer columns use: .a.b, ['a'], [0], [*], [?(@.type=="Ready")]

_STEP = re.compile(
    r"""\.?\[\?\(@\.([\w.]+)\s*==\s*["']([^"']*)["']\)\]|\.?\[(\*|\d+)\]|\.?\[['"]([^'"]+)['"]\]|\.((?:\\\.|[^.\[\]])+)"""
)


@lru_cache(1024)
def _steps(path: str) -> tuple[tuple[str, ...], ...]:
    text = path.strip("{}")
    return tuple(match.groups("") for match in _STEP.finditer(text if text.startswith((".", "[")) else f".{text}"))


def find_all(obj: Any, path: str) -> list[Any]:
    """Return all values at a JSONPath; an empty list when there is none."""
    found = [obj]
    for where, equals, index, quoted, plain in _steps(path):
        if where:
            lists = [value for value in found if isinstance(value, list)]
            found = [item for items in lists for item in items if _first(item, f".{where}") == equals]
        elif index == "*":
            found = [item for value in found for item in (value.values() if isinstance(value, dict) else value)]
        elif index:
            found = [value[int(index)] for value in found if isinstance(value, list) and len(value) > int(index)]
        else:
            name = quoted or plain.replace("\\.", ".")
            found = [value[name] for value in found if isinstance(value, dict) and value.get(name) is not None]
    return found


def _first(obj: Any, path: str) -> Any:
    return next(iter(find_all(obj, path)), None)


def age(timestamp: str | None) -> str:
    """Return the time since `timestamp` as kubectl abbreviates it: `3d4h`, `5m10s`, …"""
    if not timestamp:
        return "<unknown>"
    return _duration(
        int((datetime.now(UTC) - datetime.fromisoformat(timestamp.replace("Z", "+00:00"))).total_seconds())
    )


def _duration(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{max(seconds, 0)}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    return f"{days}d{hours % 24}h" if days < 8 and hours % 24 else f"{days}d"


# cells


def path(text: str, default: Any = "<none>") -> Cell:
    def cell(obj: Object) -> Any:
        found = _first(obj, text)
        return default if found is None else found

    return cell


def joined(text: str, default: str = "<none>") -> Cell:
    return lambda obj: ",".join(map(str, find_all(obj, text))) or default


def _name(obj: Object) -> Any:
    return obj["metadata"]["name"]


def _age(obj: Object) -> str:
    return age(obj["metadata"].get("creationTimestamp"))


def _ratio(done: str, of: str) -> Cell:
    return lambda obj: f"{_first(obj, done) or 0}/{_first(obj, of) or 0}"


def _selector(obj: Object) -> str:
    return selector_text(obj["spec"].get("selector") or {}) or "<none>"


def _map_selector(obj: Object) -> str:
    return ",".join(f"{key}={value}" for key, value in (obj["spec"].get("selector") or {}).items()) or "<none>"


def _count(field: str) -> Cell:
    return lambda obj: len(obj.get(field) or ())


def _pod_ready(pod: Object) -> str:
    statuses = pod.get("status", {}).get("containerStatuses") or ()
    return f"{sum(bool(at.get('ready')) for at in statuses)}/{len(pod['spec']['containers'])}"


def _pod_status(pod: Object) -> str:
    status = pod.get("status", {})
    reason: str = status.get("reason") or status.get("phase", "Unknown")
    for at in status.get("initContainerStatuses") or ():
        state = at.get("state", {})
        if why := (state.get("waiting") or {}).get("reason"):
            return "Terminating" if "deletionTimestamp" in pod["metadata"] else f"Init:{why}"
    for at in reversed(status.get("containerStatuses") or ()):
        state = at.get("state", {})
        why = (state.get("waiting") or state.get("terminated") or {}).get("reason")
        reason = why or reason
    return "Terminating" if "deletionTimestamp" in pod["metadata"] else reason


def _restarts(pod: Object) -> int:
    return sum(at.get("restartCount", 0) for at in pod.get("status", {}).get("containerStatuses") or ())


def _service_ports(service: Object) -> str:
    shown = [
        f"{port['port']}{':' + str(port['nodePort']) if 'nodePort' in port else ''}/{port.get('protocol', 'TCP')}"
        for port in service["spec"].get("ports") or ()
    ]
    return ",".join(shown) or "<none>"


def _service_outside(service: Object) -> str:
    spec = service["spec"]
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName"))
    balancer = joined(".status.loadBalancer.ingress[*].ip", "")(service)
    return str(balancer or ("<pending>" if spec.get("type") == "LoadBalancer" else "<none>"))


def _node_status(node: Object) -> str:
    ready = _first(node, '.status.conditions[?(@.type=="Ready")].status')
    return ("Ready" if ready == "True" else "NotReady") + (
        ",SchedulingDisabled" if node["spec"].get("unschedulable") else ""
    )


def _event_object(event: Object) -> str:
    involved = event.get("involvedObject", {})
    return f"{involved.get('kind', '').lower()}/{involved.get('name', '')}"


def _event_last(event: Object) -> str:
    return age(event.get("lastTimestamp") or event.get("eventTime") or event["metadata"].get("creationTimestamp"))


def _ingress_hosts(ingress: Object) -> str:
    return ",".join(rule.get("host", "*") for rule in ingress["spec"].get("rules") or ()) or "*"


def _hpa_reference(hpa: Object) -> str:
    target = hpa["spec"].get("scaleTargetRef", {})
    return f"{target.get('kind')}/{target.get('name')}"


def _hpa_targets(hpa: Object) -> str:
    shown = []
    for metric in hpa["spec"].get("metrics") or ():
        target = (metric.get("resource") or {}).get("target") or {}
        if "averageUtilization" in target:
            shown.append(f"{metric['resource']['name']}: {_hpa_current(hpa, metric)}/{target['averageUtilization']}%")
        else:
            shown.append("<unknown>")
    return ", ".join(shown) or "<none>"


def _hpa_current(hpa: Object, metric: Object) -> str:
    for found in (hpa.get("status") or {}).get("currentMetrics") or ():
        current = (found.get("resource") or {}).get("current") or {}
        if (found.get("resource") or {}).get("name") == metric["resource"]["name"] and "averageUtilization" in current:
            return f"{current['averageUtilization']}%"
    return "<unknown>"


_JOB_STATES = ("Complete", "Failed", "", "Suspended", "FailureTarget", "SuccessCriteriaMet")
"""Conditions in order of precedence; the empty one stands for a deletion."""


def _job_status(job: Object) -> str:
    true = {at["type"] for at in (job.get("status") or {}).get("conditions") or () if at["status"] == "True"}
    if "deletionTimestamp" in job["metadata"]:
        true.add("")
    return next((name or "Terminating" for name in _JOB_STATES if name in true), "Running")


def _job_completions(job: Object) -> str:
    done, spec = (job.get("status") or {}).get("succeeded", 0), job["spec"]
    if "completions" in spec:
        return f"{done}/{spec['completions']}"
    return f"{done}/1 of {spec['parallelism']}" if spec.get("parallelism", 0) > 1 else f"{done}/1"


def _job_duration(job: Object) -> str:
    status = job.get("status") or {}
    if "startTime" not in status:
        return ""
    if "completionTime" not in status:
        return age(status["startTime"])
    begun, ended = (datetime.fromisoformat(status[name].replace("Z", "+00:00")) for name in _JOB_TIMES)
    return _duration(int((ended - begun).total_seconds()))


_JOB_TIMES = ("startTime", "completionTime")


def _since(obj: Object, field: str) -> str:
    found = (obj.get("status") or {}).get(field)
    return age(found) if found else "<none>"


def _quota(limits: bool) -> Cell:
    def cell(quota: Object) -> str:
        hard, used = ((quota.get("status") or {}).get(name) or {} for name in ("hard", "used"))
        names = [name for name in sorted(hard) if name.startswith("limits.") == limits]
        return ", ".join(f"{name}: {used.get(name, 0)}/{hard[name]}" for name in names)

    return cell


def _role(binding: Object) -> str:
    return f"{binding['roleRef'].get('kind')}/{binding['roleRef'].get('name')}"


Column = tuple[str, str, int, Cell]
"""Name, type, priority (1: shown only with -o wide), cell."""

NAME: Column = ("Name", "string", 0, _name)
AGE: Column = ("Age", "string", 0, _age)
_TEMPLATE: tuple[Column, ...] = (
    ("Containers", "string", 1, joined(".spec.template.spec.containers[*].name")),
    ("Images", "string", 1, joined(".spec.template.spec.containers[*].image")),
)

_COLUMNS: dict[str, Sequence[Column]] = {
    "pods": (
        NAME,
        ("Ready", "string", 0, _pod_ready),
        ("Status", "string", 0, _pod_status),
        ("Restarts", "string", 0, _restarts),
        AGE,
        ("IP", "string", 1, path(".status.podIP")),
        ("Node", "string", 1, path(".spec.nodeName")),
        ("Nominated Node", "string", 1, path(".status.nominatedNodeName")),
        ("Readiness Gates", "string", 1, joined(".spec.readinessGates[*].conditionType")),
    ),
    "deployments.apps": (
        NAME,
        ("Ready", "string", 0, _ratio(".status.readyReplicas", ".spec.replicas")),
        ("Up-to-date", "string", 0, path(".status.updatedReplicas", 0)),
        ("Available", "string", 0, path(".status.availableReplicas", 0)),
        AGE,
        *_TEMPLATE,
        ("Selector", "string", 1, _selector),
    ),
    "replicasets.apps": (
        NAME,
        ("Desired", "integer", 0, path(".spec.replicas", 0)),
        ("Current", "integer", 0, path(".status.replicas", 0)),
        ("Ready", "integer", 0, path(".status.readyReplicas", 0)),
        AGE,
        *_TEMPLATE,
        ("Selector", "string", 1, _selector),
    ),
    "statefulsets.apps": (
        NAME,
        ("Ready", "string", 0, _ratio(".status.readyReplicas", ".spec.replicas")),
        AGE,
        *_TEMPLATE,
    ),
    "services": (
        NAME,
        ("Type", "string", 0, path(".spec.type")),
        ("Cluster-IP", "string", 0, path(".spec.clusterIP")),
        ("External-IP", "string", 0, _service_outside),
        ("Port(s)", "string", 0, _service_ports),
        AGE,
        ("Selector", "string", 1, _map_selector),
    ),
    "ingresses.networking.k8s.io": (
        NAME,
        ("Class", "string", 0, path(".spec.ingressClassName")),
        ("Hosts", "string", 0, _ingress_hosts),
        ("Address", "string", 0, joined(".status.loadBalancer.ingress[*].ip", "")),
        ("Ports", "string", 0, lambda ingress: "80, 443" if ingress["spec"].get("tls") else "80"),
        AGE,
    ),
    "secrets": (NAME, ("Type", "string", 0, path(".type")), ("Data", "string", 0, _count("data")), AGE),
    "configmaps": (NAME, ("Data", "string", 0, _count("data")), AGE),
    "serviceaccounts": (NAME, ("Secrets", "string", 0, _count("secrets")), AGE),
    "namespaces": (NAME, ("Status", "string", 0, path(".status.phase")), AGE),
    "nodes": (
        NAME,
        ("Status", "string", 0, _node_status),
        ("Roles", "string", 0, lambda node: "<none>"),
        AGE,
        ("Version", "string", 0, path(".status.nodeInfo.kubeletVersion", "")),
        ("Internal-IP", "string", 1, path('.status.addresses[?(@.type=="InternalIP")].address')),
        ("OS-Image", "string", 1, path(".status.nodeInfo.osImage", "<unknown>")),
    ),
    "persistentvolumeclaims": (
        NAME,
        ("Status", "string", 0, path(".status.phase")),
        ("Volume", "string", 0, path(".spec.volumeName", "")),
        ("Capacity", "string", 0, path(".status.capacity.storage", "")),
        ("Access Modes", "string", 0, joined(".status.accessModes[*]", "")),
        ("StorageClass", "string", 0, path(".spec.storageClassName", "")),
        AGE,
        ("VolumeMode", "string", 1, path(".spec.volumeMode")),
    ),
    "events": (
        ("Last Seen", "string", 0, _event_last),
        ("Type", "string", 0, path(".type", "")),
        ("Reason", "string", 0, path(".reason", "")),
        ("Object", "string", 0, _event_object),
        ("Source", "string", 1, path(".source.component", "")),
        ("Message", "string", 0, path(".message", "")),
        ("Count", "string", 1, path(".count", 1)),
        ("Name", "string", 1, _name),
    ),
    "leases.coordination.k8s.io": (NAME, ("Holder", "string", 0, path(".spec.holderIdentity", "")), AGE),
    "jobs.batch": (
        NAME,
        ("Status", "string", 0, _job_status),
        ("Completions", "string", 0, _job_completions),
        ("Duration", "string", 0, _job_duration),
        AGE,
        *_TEMPLATE,
    ),
    "cronjobs.batch": (
        NAME,
        ("Schedule", "string", 0, path(".spec.schedule")),
        ("Timezone", "string", 0, path(".spec.timeZone")),
        ("Suspend", "string", 0, lambda cron: str(bool(cron["spec"].get("suspend")))),
        ("Active", "integer", 0, lambda cron: len((cron.get("status") or {}).get("active") or ())),
        ("Last Schedule", "string", 0, lambda cron: _since(cron, "lastScheduleTime")),
        AGE,
    ),
    "resourcequotas": (
        NAME,
        ("Request", "string", 0, _quota(limits=False)),
        ("Limit", "string", 0, _quota(limits=True)),
        AGE,
    ),
    "priorityclasses.scheduling.k8s.io": (
        NAME,
        ("Value", "integer", 0, path(".value", 0)),
        ("Global-Default", "boolean", 0, lambda found: bool(found.get("globalDefault"))),
        AGE,
        ("PreemptionPolicy", "string", 0, path(".preemptionPolicy")),
    ),
    "networkpolicies.networking.k8s.io": (
        NAME,
        (
            "Pod-Selector",
            "string",
            0,
            lambda policy: selector_text(policy["spec"].get("podSelector") or {}) or "<none>",
        ),
        AGE,
    ),
    "horizontalpodautoscalers.autoscaling": (
        NAME,
        ("Reference", "string", 0, _hpa_reference),
        ("Targets", "string", 0, _hpa_targets),
        ("MinPods", "string", 0, path(".spec.minReplicas", 1)),
        ("MaxPods", "string", 0, path(".spec.maxReplicas")),
        ("Replicas", "string", 0, path(".status.currentReplicas", 0)),
        AGE,
    ),
    "poddisruptionbudgets.policy": (
        NAME,
        ("Min Available", "string", 0, path(".spec.minAvailable", "N/A")),
        ("Max Unavailable", "string", 0, path(".spec.maxUnavailable", "N/A")),
        ("Allowed Disruptions", "integer", 0, path(".status.disruptionsAllowed", 0)),
        AGE,
    ),
    "rolebindings.rbac.authorization.k8s.io": (NAME, ("Role", "string", 0, _role), AGE),
    "clusterrolebindings.rbac.authorization.k8s.io": (NAME, ("Role", "string", 0, _role), AGE),
    "customresourcedefinitions.apiextensions.k8s.io": (
        NAME,
        ("Created At", "date", 0, path(".metadata.creationTimestamp")),
    ),
}


def _custom(kind: Kind) -> Sequence[Column]:
    columns: list[Column] = [NAME]
    for column in kind.columns:
        text, sort = column["jsonPath"], column["type"]

        def cell(obj: Object, text: str = text, sort: str = sort) -> Any:
            found = find_all(obj, text)
            if sort == "date":
                return age(found[0]) if found else None
            value = found[0] if len(found) == 1 else (",".join(map(str, found)) if found else None)
            return value if value is None or sort != "string" or isinstance(value, str) else _text(value)

        columns.append((column["name"], sort, column.get("priority", 0), cell))
    return columns if kind.columns else [NAME, AGE]


def _text(value: Any) -> str:
    import orjson

    return orjson.dumps(value).decode()


def table(kind: Kind, objects: Iterable[Object], metadata: Object, include: str, headed: bool = True) -> Object:
    """Return a `meta.k8s.io/v1` Table. `include` is the object of each row: None, Metadata or Object."""
    columns = _custom(kind) if kind.custom else _COLUMNS.get(kind.resource, (NAME, AGE))
    definitions = [
        {
            "name": name,
            "type": sort,
            "format": "name" if name == "Name" else "",
            "description": "",
            "priority": priority,
        }
        for name, sort, priority, _ in columns
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions if headed else [],
        "rows": [
            {"cells": [cell(obj) for _, _, _, cell in columns], "object": row_object(obj, include)} for obj in objects
        ],
    }


def row_object(obj: Object, include: str) -> Object | None:
    if include == "None":
        return None
    if include == "Object":
        return obj
    return partial(obj)


def partial(obj: Object) -> Object:
    """Return the PartialObjectMetadata of an object."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
