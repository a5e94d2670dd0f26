"""Defaults that depend on other fields; the tables of `kinds` have the fixed ones.

Also the canonical form of quantities: the API server stores `1024Mi` as `1Gi` and `0.5` as `500m`. Controllers that
compare an applied object with the stored one must expect this.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from decimal import ROUND_CEILING, Decimal
from functools import lru_cache
from typing import Any

from sandbox.kubernetes.schema import QUANTITY, Schema

Object = dict[str, Any]

_QUANTITY = re.compile(r"^([+-]?(?:\d+\.?\d*|\.\d+))(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E|[eE][+-]?\d+)?$")
_BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {
    suffix: Decimal(10) ** (3 * power)
    for power, suffix in enumerate(("n", "u", "m", "", "k", "M", "G", "T", "P", "E"), start=-3)
}


@lru_cache(4096)
def canonical_quantity(text: str) -> str | None:
    """Return the stored form of a quantity; None for text that is not a quantity."""
    match = _QUANTITY.match(text)
    if match is None:
        return None
    number, suffix = Decimal(match[1]), match[2] or ""
    if suffix in _BINARY:
        value = number * _BINARY[suffix]
        if value == value.to_integral_value():
            for unit in ("Ei", "Pi", "Ti", "Gi", "Mi", "Ki"):
                if value and value % _BINARY[unit] == 0:
                    return f"{value / _BINARY[unit]:f}".partition(".")[0] + unit
        return _decimal_form(value)
    if suffix[:1] in ("e", "E") and len(suffix) > 1:
        return f"{match[1]}{suffix.lower()}"
    return _decimal_form(number * _DECIMAL[suffix])


def _decimal_form(value: Decimal) -> str:
    value = (value / _DECIMAL["n"]).to_integral_value(ROUND_CEILING) * _DECIMAL["n"]
    for unit in ("E", "P", "T", "G", "M", "k", "", "m", "u", "n"):
        scaled = value / _DECIMAL[unit]
        if value == 0 or scaled == scaled.to_integral_value():
            return "0" if value == 0 else f"{scaled.to_integral_value():f}{unit}"
    raise AssertionError(value)


def canonicalise(schema: Schema, value: Any) -> None:
    """Replace every quantity of a built-in object by its canonical form, in place."""
    if isinstance(value, dict):
        for name, found in value.items():
            below = schema.child(name)
            if below is None:
                continue
            if below.model == QUANTITY:
                value[name] = canonical_quantity(str(found)) or found
            elif isinstance(found, dict | list):
                canonicalise(below, found)
    elif isinstance(value, list) and schema.items is not None:
        for item in value:
            canonicalise(schema.items, item)


# pods


def containers(spec: Object) -> Iterator[Object]:
    yield from spec.get("initContainers") or ()
    yield from spec.get("containers") or ()


def _pod_spec(spec: Object) -> None:
    for container in containers(spec):
        if "imagePullPolicy" not in container:
            _, _, tag = container.get("image", "").rpartition("/")[2].partition(":")
            by_digest = "@" in container.get("image", "")
            container["imagePullPolicy"] = "Always" if not by_digest and tag in ("", "latest") else "IfNotPresent"
        if spec.get("hostNetwork"):
            for port in container.get("ports", ()):
                port.setdefault("hostPort", port["containerPort"])
    for volume in spec.get("volumes") or ():
        if volume.keys() == {"name"}:
            volume["emptyDir"] = {}
    if spec.get("serviceAccountName"):
        spec["serviceAccount"] = spec["serviceAccountName"]
    elif spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"]


def _pod(pod: Object) -> None:
    _pod_spec(pod["spec"])
    for name, value in (("enableServiceLinks", True), ("priority", 0), ("preemptionPolicy", "PreemptLowerPriority")):
        pod["spec"].setdefault(name, value)
    for container in containers(pod["spec"]):
        for name, amount in container["resources"].get("limits", {}).items():
            container["resources"].setdefault("requests", {}).setdefault(name, amount)
    status = pod.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _quality(pod["spec"]))


def _quality(spec: Object) -> str:
    resources = [container.get("resources", {}) for container in containers(spec)]
    if not any(at.get("limits") or at.get("requests") for at in resources):
        return "BestEffort"
    if all({"cpu", "memory"} <= at.get("limits", {}).keys() and at["limits"] == at.get("requests") for at in resources):
        return "Guaranteed"
    return "Burstable"


def _template(workload: Object) -> None:
    template = workload["spec"].get("template")
    if template and "spec" in template:
        _pod_spec(template["spec"])


def _deployment(deployment: Object) -> None:
    _template(deployment)
    strategy = deployment["spec"]["strategy"]
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")


def _stateful_set(stateful: Object) -> None:
    _template(stateful)
    strategy = stateful["spec"]["updateStrategy"]
    if strategy["type"] == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {}).setdefault("partition", 0)
    for claim in stateful["spec"].get("volumeClaimTemplates") or ():
        claim.setdefault("apiVersion", "v1")
        claim.setdefault("kind", "PersistentVolumeClaim")
        claim.setdefault("status", {}).setdefault("phase", "Pending")
    stateful.setdefault("status", {}).setdefault("replicas", 0)


def _replica_set(replica_set: Object) -> None:
    _template(replica_set)
    replica_set.setdefault("status", {}).setdefault("replicas", 0)


def _daemon_set(daemon_set: Object) -> None:
    _template(daemon_set)
    strategy = daemon_set["spec"]["updateStrategy"]
    if strategy["type"] == "RollingUpdate":
        rolling = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", 0)
        rolling.setdefault("maxUnavailable", 1)


def _job(job: Object) -> None:
    spec = job["spec"]
    if "completions" not in spec and "parallelism" not in spec:
        spec["completions"] = 1
    for name, value in _JOB_SPEC.items():
        spec.setdefault(name, value)
    template = spec.setdefault("template", {})
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    if not spec.get("manualSelector") and "uid" in job["metadata"] and _JOB_UID not in labels:
        uid, name = job["metadata"]["uid"], job["metadata"]["name"]
        labels |= {_JOB_UID: uid, "controller-uid": uid, _JOB_NAME: name, "job-name": name}
        spec.setdefault("selector", {"matchLabels": {_JOB_UID: uid}})
    if labels and not job["metadata"].get("labels"):
        job["metadata"]["labels"] = dict(labels)
    _template(job)


_JOB_SPEC = {"parallelism": 1, "backoffLimit": 6, "completionMode": "NonIndexed", "suspend": False,
             "manualSelector": False, "podReplacementPolicy": "TerminatingOrFailed"}  # fmt: skip
"""Defaults of a Job; the job template of a CronJob does not get them."""
_JOB_UID, _JOB_NAME = "batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"


def _service(service: Object) -> None:
    spec = service["spec"]
    for port in spec.get("ports") or ():
        port.setdefault("targetPort", port.get("port"))
    if spec["sessionAffinity"] == "ClientIP":
        spec.setdefault("sessionAffinityConfig", {"clientIP": {"timeoutSeconds": 10800}})
    if spec["type"] in ("NodePort", "LoadBalancer"):
        spec.setdefault("externalTrafficPolicy", "Cluster")
    else:
        spec.pop("externalTrafficPolicy", None)
        for port in spec.get("ports") or ():
            port.pop("nodePort", None)
    if spec["type"] != "ExternalName":
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")
    service.setdefault("status", {}).setdefault("loadBalancer", {})


def _secret(secret: Object) -> None:
    for name, text in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()


def _namespace(namespace: Object) -> None:
    namespace["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    namespace.setdefault("status", {}).setdefault("phase", "Active")


def _ingress(ingress: Object) -> None:
    ingress.setdefault("status", {}).setdefault("loadBalancer", {})


def _claim(claim: Object) -> None:
    claim.setdefault("status", {}).setdefault("phase", "Pending")


def _autoscaler(autoscaler: Object) -> None:
    cpu = {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}}
    autoscaler["spec"].setdefault("metrics", [cpu])
    autoscaler.setdefault("status", {}).setdefault("desiredReplicas", 0)


def _network_policy(policy: Object) -> None:
    types = ["Ingress", "Egress"] if policy["spec"].get("egress") else ["Ingress"]
    policy["spec"].setdefault("policyTypes", types)


def _binding(binding: Object) -> None:
    binding.setdefault("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")
    for subject in binding.get("subjects") or ():
        if subject.get("kind") in ("User", "Group"):
            subject.setdefault("apiGroup", "rbac.authorization.k8s.io")


def _definition(definition: Object) -> None:
    spec = definition["spec"]
    names = spec.get("names", {})
    if "kind" in names:
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})


_COMPUTED: dict[str, Callable[[Object], None]] = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "statefulsets.apps": _stateful_set,
    "replicasets.apps": _replica_set,
    "daemonsets.apps": _daemon_set,
    "jobs.batch": _job,
    "services": _service,
    "secrets": _secret,
    "namespaces": _namespace,
    "ingresses.networking.k8s.io": _ingress,
    "persistentvolumeclaims": _claim,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "networkpolicies.networking.k8s.io": _network_policy,
    "rolebindings.rbac.authorization.k8s.io": _binding,
    "clusterrolebindings.rbac.authorization.k8s.io": _binding,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
}

_NEEDED_SPEC = {"pods", "deployments.apps", "statefulsets.apps", "replicasets.apps", "daemonsets.apps", "jobs.batch",
                "services", "horizontalpodautoscalers.autoscaling",
                "customresourcedefinitions.apiextensions.k8s.io"}  # fmt: skip


def needs_spec(resource: str) -> bool:
    return resource in _NEEDED_SPEC


def compute(resource: str, obj: Object) -> None:
    """Set the defaults that depend on other fields of `obj`, in place, after the fixed defaults."""
    computed = _COMPUTED.get(resource)
    if computed is not None:
        computed(obj)
