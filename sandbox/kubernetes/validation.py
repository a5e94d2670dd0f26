"""Validation of built-in kinds beyond their types, and their immutable fields.

It has only those rules of Kubernetes that apply to manifests of this project and its tests. Fields and reasons are
those of a real server; the messages may differ.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from sandbox.kubernetes.defaults import canonical_quantity
from sandbox.kubernetes.job_status import check_job_status
from sandbox.kubernetes.policies import BINDINGS, POLICIES, check_binding, check_policy
from sandbox.kubernetes.rules import check_specs
from sandbox.kubernetes.schema import QUANTITY, Schema
from sandbox.kubernetes.selectors import object_selector
from sandbox.kubernetes.status import Cause, Causes, disallowed, duplicate, required, unsupported, wrong

Object = dict[str, Any]

_LABEL_1123 = "must be a DNS label: lower case letters, digits and '-', as [a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = "must be a DNS subdomain: labels as [a-z0-9]([-a-z0-9]*[a-z0-9])? joined by '.'"
_LABEL_1035 = "must be a DNS label that starts with a letter, as [a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED = "must be a name of letters, digits, '-', '_' and '.', optionally behind a DNS subdomain and '/'"
_LABEL_VALUE = "must be empty, or letters, digits, '-', '_' and '.' between a letter or digit at each end"
_ENV_NAME = "a valid environment variable name must consist only of printable ASCII characters other than '='"
_DATA_KEY = "must be a file name of letters, digits, '-', '_' and '.', at most 253 characters"
_IS_LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?$").match
_IS_LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?$").match
_IS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$").match
_IS_PATH_NAME = re.compile(r"(?!\.\.?$)[^/%]+$").match
_IS_LABEL_NAME = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$").match
_IS_LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$").match
_IS_ENV_NAME = re.compile(r"[ -<>-~]+\Z").match
_IS_DATA_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}$").match
_IS_KIND = re.compile(r"(?i)[a-z]([-a-z0-9]*[a-z0-9])?$").match

_NAMES: dict[str, tuple[Callable[[str], Any], int, str]] = {
    "": (_IS_SUBDOMAIN, 253, _SUBDOMAIN),
    "namespaces": (_IS_LABEL_1123, 63, _LABEL_1123),
    "services": (_IS_LABEL_1035, 63, _LABEL_1035),
    **{
        f"{kind}.rbac.authorization.k8s.io": (_IS_PATH_NAME, 253, "may not contain '/' or '%'")
        for kind in ("roles", "clusterroles", "rolebindings", "clusterrolebindings")
    },
}


# metadata


def check_metadata(resource: str, metadata: Object, causes: Causes, custom: bool = False) -> None:
    """Check names, labels, annotations, owners, finalizers; `custom` resources may have unqualified finalizers."""
    matches, longest, words = _NAMES.get(resource, _NAMES[""])
    name = metadata["name"]
    if len(name) > longest:
        causes.append(wrong("metadata.name", name, f"must be no more than {longest} characters"))
    elif not matches(name):
        causes.append(wrong("metadata.name", name, words))
    check_labels(metadata.get("labels") or {}, "metadata.labels", causes)
    for key in metadata.get("annotations") or {}:
        _check_key(key, "metadata.annotations", causes)
    if sum(len(key) + len(value) for key, value in (metadata.get("annotations") or {}).items()) > 262144:
        causes.append(("FieldValueTooLong", "Too long: must have at most 262144 bytes", "metadata.annotations"))
    controllers = [at["name"] for at in metadata.get("ownerReferences") or () if at.get("controller")]
    if len(controllers) > 1:
        words = (
            f'Only one reference can have Controller set to true. Found "true" in references for {controllers[0]} and '
        )
        causes.append(wrong("metadata.ownerReferences", metadata["ownerReferences"], words + controllers[1]))
    for finalizer in metadata.get("finalizers") or ():
        _check_key(finalizer, "metadata.finalizers", causes)
        standard = custom or resource.endswith(".apiextensions.k8s.io")
        if not standard and "/" not in finalizer and finalizer not in ("orphan", "foregroundDeletion", "kubernetes"):
            words = "name is neither a standard finalizer name nor is it fully qualified"
            causes.append(wrong("metadata.finalizers", finalizer, words))


def _check_key(key: str, path: str, causes: Causes) -> None:
    prefix, slash, name = key.rpartition("/")
    if not _IS_LABEL_NAME(name) or (slash and not _IS_SUBDOMAIN(prefix)):
        causes.append(wrong(path, key, _QUALIFIED))


def check_labels(labels: Mapping[str, str], path: str, causes: Causes) -> None:
    for key, value in labels.items():
        _check_key(key, path, causes)
        if len(value) > 63:
            causes.append(wrong(path, value, "must be no more than 63 characters"))
        elif not _IS_LABEL_VALUE(value):
            causes.append(wrong(path, value, _LABEL_VALUE))


def check_quantities(schema: Schema, value: Any, path: str) -> str:
    """Return the path of the first malformed quantity, "" when there is none."""
    if isinstance(value, dict):
        for name, found in value.items():
            below = schema.child(name)
            at = f"{path}.{name}" if path else name
            if below is None:
                continue
            if below.model == QUANTITY:
                if canonical_quantity(str(found)) is None:
                    return at
            elif isinstance(found, dict | list) and (bad := check_quantities(below, found, at)):
                return bad
    elif isinstance(value, list) and schema.items is not None:
        for index, item in enumerate(value):
            if bad := check_quantities(schema.items, item, f"{path}[{index}]"):
                return bad
    return ""


# pods


def _pod_spec(spec: Object, path: str, claims: Iterable[Any] = ()) -> Iterator[Cause]:
    if not spec.get("containers"):
        yield required(f"{path}.containers")
    volumes = {*claims, *(volume.get("name") for volume in spec.get("volumes") or ())}
    yield from _unique(spec.get("volumes") or (), f"{path}.volumes", "name")
    names: list[str] = []
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or ()):
            at = f"{path}.{field}[{index}]"
            name = container.get("name", "")
            if not name:
                yield required(f"{at}.name")
            elif not _IS_LABEL_1123(name) or len(name) > 63:
                yield wrong(f"{at}.name", name, _LABEL_1123)
            if name in names:
                yield duplicate(f"{at}.name", name)
            names.append(name)
            yield from _container(container, at, volumes)
    for index, reference in enumerate(spec.get("tolerations") or ()):
        if reference.get("operator") == "Exists" and reference.get("value"):
            words = "value must be empty when `operator` is 'Exists'"
            yield wrong(f"{path}.tolerations[{index}].operator", reference["value"], words)


def _container(container: Object, at: str, volumes: set[Any]) -> Iterator[Cause]:
    if not container.get("image"):
        yield required(f"{at}.image")
    ports: list[str] = []
    for index, port in enumerate(container.get("ports") or ()):
        if "containerPort" not in port:
            yield required(f"{at}.ports[{index}].containerPort")
        elif not 0 < port["containerPort"] < 65536:
            yield wrong(
                f"{at}.ports[{index}].containerPort", port["containerPort"], "must be between 1 and 65535, inclusive"
            )
        name = port.get("name")
        if name and name in ports:
            yield duplicate(f"{at}.ports[{index}].name", name)
        ports.append(name)
    for index, variable in enumerate(container.get("env") or ()):
        name = variable.get("name", "")
        if not name:
            yield required(f"{at}.env[{index}].name")
        elif not _IS_ENV_NAME(name):
            yield wrong(f"{at}.env[{index}].name", name, _ENV_NAME)
        if variable.get("value") and variable.get("valueFrom"):
            yield wrong(f"{at}.env[{index}].valueFrom", "", "may not be specified when `value` is not empty")
    mounts: list[str] = []
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        if mount.get("name") not in volumes:
            yield ("FieldValueNotFound", f'Not found: "{mount.get("name")}"', f"{at}.volumeMounts[{index}].name")
        if not mount.get("mountPath"):
            yield required(f"{at}.volumeMounts[{index}].mountPath")
        elif mount["mountPath"] in mounts:
            yield wrong(f"{at}.volumeMounts[{index}].mountPath", mount["mountPath"], "must be unique")
        mounts.append(mount.get("mountPath", ""))
    resources = container.get("resources") or {}
    for name, request in (resources.get("requests") or {}).items():
        limit = (resources.get("limits") or {}).get(name)
        if limit is not None and amount(request) > amount(limit):
            yield wrong(f"{at}.resources.requests", request, f"must be less than or equal to {name} limit")


_SCALES = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Ki": 2**10,
           "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60}  # fmt: skip


def amount(quantity: Any) -> float:
    """Return the number of a quantity."""
    text = str(quantity)
    number = text.rstrip("".join("numkKMGTPEi"))
    return float(number) * _SCALES.get(text[len(number) :], 1)


def _unique(items: Any, path: str, key: str) -> Iterator[Cause]:
    seen: list[Any] = []
    for index, item in enumerate(items):
        value = item.get(key)
        if not value:
            yield required(f"{path}[{index}].{key}")
        elif value in seen:
            yield duplicate(f"{path}[{index}].{key}", value)
        seen.append(value)


def _pod(pod: Object) -> Iterator[Cause]:
    yield from _pod_spec(pod["spec"], "spec")


def _workload(workload: Object) -> Iterator[Cause]:
    spec = workload["spec"]
    if spec.get("replicas", 0) < 0:
        yield wrong("spec.replicas", spec["replicas"], "must be greater than or equal to 0")
    template = spec.get("template") or {}
    selector = spec.get("selector")
    if selector is None:
        yield required("spec.selector")
        yield wrong("spec.template.metadata.labels", None, "`selector` does not match template `labels`")
    elif not selector.get("matchLabels") and not selector.get("matchExpressions"):
        yield wrong("spec.selector", selector, "empty selector is invalid for deployment")
    elif not object_selector(selector)((template.get("metadata") or {}).get("labels") or {}):
        labels = (template.get("metadata") or {}).get("labels") or {}
        yield wrong("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
    causes: Causes = []
    check_labels((template.get("metadata") or {}).get("labels") or {}, "spec.template.labels", causes)
    yield from causes
    claims = [(claim.get("metadata") or {}).get("name") for claim in spec.get("volumeClaimTemplates") or ()]
    yield from _pod_spec(template.get("spec") or {}, "spec.template.spec", claims)
    policy = (template.get("spec") or {}).get("restartPolicy", "Always")
    if policy != "Always":
        yield ("FieldValueNotSupported", f'Unsupported value: "{policy}": supported values: "Always"',
               "spec.template.spec.restartPolicy")  # fmt: skip


def _deployment(deployment: Object) -> Iterator[Cause]:
    yield from _workload(deployment)
    spec = deployment["spec"]
    if spec["strategy"]["type"] not in ("Recreate", "RollingUpdate"):
        yield unsupported("spec.strategy", spec["strategy"], ("Recreate", "RollingUpdate"))
    rolling = spec["strategy"].get("rollingUpdate") or {}
    if rolling and all(str(rolling.get(name)) in ("0", "0%") for name in ("maxSurge", "maxUnavailable")):
        words = "may not be 0 when `maxSurge` is 0"
        yield wrong("spec.strategy.rollingUpdate.maxUnavailable", rolling["maxUnavailable"], words)
    if spec["strategy"]["type"] == "Recreate" and "rollingUpdate" in spec["strategy"]:
        yield disallowed("spec.strategy.rollingUpdate", "may not be specified when strategy `type` is 'Recreate'")
    if spec["progressDeadlineSeconds"] <= spec.get("minReadySeconds", 0):
        yield wrong(
            "spec.progressDeadlineSeconds", spec["progressDeadlineSeconds"], "must be greater than minReadySeconds"
        )


def _service(service: Object) -> Iterator[Cause]:
    spec = service["spec"]
    ports = spec.get("ports") or ()
    if not ports and spec.get("clusterIP") != "None" and spec["type"] != "ExternalName":
        yield required("spec.ports")
    seen: list[Any] = []
    names: list[str] = []
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        number = port.get("port", 0)
        if not 0 < number < 65536:
            yield wrong(f"{at}.port", number, "must be between 1 and 65535, inclusive")
        name = port.get("name", "")
        if len(ports) > 1 and not name:
            yield required(f"{at}.name")
        if name and name in names:
            yield duplicate(f"{at}.name", name)
        names.append(name)
        if (number, port["protocol"]) in seen:
            yield duplicate(at, {"port": number, "protocol": port["protocol"]})
        seen.append((number, port["protocol"]))


_SECRET_KEYS: dict[str, tuple[str, ...]] = {
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
    "kubernetes.io/dockerconfigjson": (".dockerconfigjson",),
    "kubernetes.io/dockercfg": (".dockercfg",),
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
}


def _secret(secret: Object) -> Iterator[Cause]:
    yield from _data(secret)
    data = secret.get("data") or {}
    for key in _SECRET_KEYS.get(secret["type"], ()):
        if key not in data:
            yield required(f"data[{key}]")
        elif key.startswith(".docker") and not _is_json(base64.b64decode(data[key])):
            yield wrong(f"data[{key}]", "<secret contents redacted>", "must be valid JSON")
    if secret["type"] == "kubernetes.io/basic-auth" and not data.keys() & {"username", "password"}:
        yield required("data[username]")


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _data(obj: Object) -> Iterator[Cause]:
    for key in obj.get("binaryData") or {}:
        if key in (obj.get("data") or {}):
            yield wrong(f"data[{key}]", key, "duplicate of key present in binaryData")
    for key in obj.get("data") or {}:
        if not _IS_DATA_KEY(key):
            yield wrong(f"data[{key}]", key, _DATA_KEY)


def illegal_base64(secret: Object) -> int | None:
    """Return the offset of the error in the first value that is not base64; None when all values are base64."""
    for value in (secret.get("data") or {}).values():
        try:
            base64.b64decode(value or "", validate=True)
        except (binascii.Error, ValueError):
            good = re.match(r"[A-Za-z0-9+/]*", value)
            return len(good[0]) if good else 0
    return None


def _ingress(ingress: Object) -> Iterator[Cause]:
    spec = ingress.get("spec") or {}
    if not spec.get("rules") and not spec.get("defaultBackend"):
        yield wrong("spec", [], "either `defaultBackend` or `rules` must be specified")
    for index, rule in enumerate(spec.get("rules") or ()):
        for number, path in enumerate((rule.get("http") or {}).get("paths") or ()):
            at = f"spec.rules[{index}].http.paths[{number}]"
            if not path.get("pathType"):
                yield required(f"{at}.pathType", "pathType must be specified")
            if path.get("pathType") != "ImplementationSpecific" and not path.get("path", "").startswith("/"):
                yield wrong(f"{at}.path", path.get("path", ""), "must be an absolute path")
            service = (path.get("backend") or {}).get("service")
            if service is not None and not service.get("name"):
                yield required(f"{at}.backend.service.name")


def _claim(claim: Object) -> Iterator[Cause]:
    spec = claim.get("spec") or {}
    if not spec.get("accessModes"):
        yield required("spec.accessModes", "at least 1 access mode is required")
    if "storage" not in ((spec.get("resources") or {}).get("requests") or {}):
        yield required("spec.resources[storage]")


def _autoscaler(autoscaler: Object) -> Iterator[Cause]:
    spec = autoscaler["spec"]
    if spec.get("maxReplicas", 0) < 1:
        yield wrong("spec.maxReplicas", spec.get("maxReplicas", 0), "must be greater than 0")
    elif spec["maxReplicas"] < spec["minReplicas"]:
        yield wrong("spec.maxReplicas", spec["maxReplicas"], "must be greater than or equal to `minReplicas`")


def _definition(definition: Object) -> Iterator[Cause]:
    spec = definition["spec"]
    names = spec.get("names") or {}
    expected = f"{names.get('plural', '')}.{spec.get('group', '')}"
    if definition["metadata"]["name"] != expected:
        yield wrong("metadata.name", definition["metadata"]["name"], 'must be spec.names.plural+"."+spec.group')
    versions = spec.get("versions") or []
    if sum(bool(version.get("storage")) for version in versions) != 1:
        yield wrong("spec.versions", versions, "must have exactly one version marked as storage version")
    for index, version in enumerate(versions):
        if "openAPIV3Schema" not in (version.get("schema") or {}):
            yield required(f"spec.versions[{index}].schema.openAPIV3Schema", "schemas are required")
        else:
            yield from _structural(
                version["schema"]["openAPIV3Schema"], f"spec.versions[{index}].schema.openAPIV3Schema"
            )
    if not _IS_KIND(names.get("kind", "")):
        yield wrong("spec.names.kind", names.get("kind", ""), _LABEL_1035)


def _structural(spec: Object, path: str, uncorrelatable: str = "") -> Iterator[Cause]:
    """Check that a schema is structural (all fields have types, arrays have items), and that its CEL rules compile.

    `uncorrelatable` is the path of the list above, if any, whose items cannot be matched with earlier items.
    """
    yield from check_specs(spec, path, uncorrelatable)
    free = spec.get("x-kubernetes-int-or-string") or spec.get("x-kubernetes-preserve-unknown-fields")
    if not spec.get("type") and not free:
        yield required(f"{path}.type", "must not be empty for specified object fields")
    if spec.get("type") == "array" and not isinstance(spec.get("items"), dict):
        yield required(f"{path}.items", "must be specified")
    for name, below in (spec.get("properties") or {}).items():
        yield from _structural(below, f"{path}.properties[{name}]", uncorrelatable)
    for name in ("items", "additionalProperties"):
        if isinstance(spec.get(name), dict):
            unmatched = name == "items" and spec.get("x-kubernetes-list-type") != "map"
            yield from _structural(spec[name], f"{path}.{name}", uncorrelatable or (path if unmatched else ""))


_FAMILIES = {"IPv4": 4, "IPv6": 6}


def _slice(found: Object) -> Iterator[Cause]:
    kind = found.get("addressType", "")
    if kind and kind not in (*_FAMILIES, "FQDN"):
        yield unsupported("addressType", kind, ("FQDN", *_FAMILIES))
    for index, endpoint in enumerate(found.get("endpoints") or ()):
        at = f"endpoints[{index}].addresses"
        if not endpoint.get("addresses"):
            yield required(at, "must contain at least 1 address")
        for number, text in enumerate(endpoint.get("addresses") or ()):
            if kind in _FAMILIES:
                yield from _address(text, kind, at, number)
    names: list[str] = []
    for index, port in enumerate(found.get("ports") or ()):
        name = port.get("name", "")
        if name in names:
            yield duplicate(f"ports[{index}].name", name)
        names.append(name)
        if name and not _IS_LABEL_1123(name):
            yield wrong(f"ports[{index}].name", name, _LABEL_1123)
        if port.get("protocol") not in ("SCTP", "TCP", "UDP"):
            yield unsupported(f"ports[{index}].protocol", port.get("protocol"), ("SCTP", "TCP", "UDP"))


def _address(text: str, kind: str, at: str, number: int) -> Iterator[Cause]:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        yield wrong(f"{at}[{number}]", text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")
        return
    if address.version != _FAMILIES[kind]:
        yield wrong(at, text, f"must be an {kind} address")
    elif address.is_loopback:
        yield wrong(f"{at}[{number}]", text, "may not be in the loopback range (127.0.0.0/8, ::1/128)")


_RULES: dict[str, Callable[[Object], Iterator[Cause]]] = {
    "pods": _pod,
    "deployments.apps": _deployment,
    "statefulsets.apps": _workload,
    "replicasets.apps": _workload,
    "daemonsets.apps": _workload,
    "services": _service,
    "secrets": _secret,
    "configmaps": _data,
    "ingresses.networking.k8s.io": _ingress,
    "persistentvolumeclaims": _claim,
    "horizontalpodautoscalers.autoscaling": _autoscaler,
    "endpointslices.discovery.k8s.io": _slice,
    "customresourcedefinitions.apiextensions.k8s.io": _definition,
    POLICIES: check_policy,
    BINDINGS: check_binding,
}


def check_built_in(resource: str, obj: Object, causes: Causes) -> None:
    """Add a cause for every violated rule of a built-in kind."""
    rule = _RULES.get(resource)
    if rule is not None:
        causes.extend(rule(obj))


_STATUS_RULES: dict[str, Callable[[Object, Object], Iterator[Cause]]] = {"jobs.batch": check_job_status}


def check_status(resource: str, old: Object, new: Object, causes: Causes) -> None:
    """Add a cause for every rule that a write of the status violates; `old` is the object before the write."""
    rule = _STATUS_RULES.get(resource)
    if rule is not None:
        causes.extend(rule(old, new))


# immutable fields

_IMMUTABLE: dict[str, tuple[str, ...]] = {
    "deployments.apps": ("spec.selector",),
    "replicasets.apps": ("spec.selector",),
    "daemonsets.apps": ("spec.selector",),
    "jobs.batch": ("spec.selector", "spec.template", "spec.completions"),
    "secrets": ("type",),
    "endpointslices.discovery.k8s.io": ("addressType",),
    "rolebindings.rbac.authorization.k8s.io": ("roleRef",),
    "clusterrolebindings.rbac.authorization.k8s.io": ("roleRef",),
    "storageclasses.storage.k8s.io": ("provisioner", "parameters"),
    "persistentvolumeclaims": ("spec.accessModes", "spec.selector", "spec.storageClassName", "spec.volumeMode"),
}
_STATEFUL_MAY_CHANGE = ("replicas", "template", "updateStrategy", "persistentVolumeClaimRetentionPolicy",
                        "minReadySeconds", "ordinals", "revisionHistoryLimit")  # fmt: skip
_POD_MAY_CHANGE = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


def _at(obj: Any, path: str) -> Any:
    for name in path.split("."):
        obj = obj.get(name) if isinstance(obj, dict) else None
    return obj


def _without(spec: Object, fields: tuple[str, ...]) -> Object:
    return {name: value for name, value in spec.items() if name not in fields}


def _pod_fixed(spec: Object) -> Object:
    fixed = _without(spec, _POD_MAY_CHANGE)
    for field in ("containers", "initContainers"):
        fixed[field] = [_without(container, ("image",)) for container in spec.get(field) or ()]
    return fixed


def check_change(resource: str, old: Object, new: Object, causes: Causes) -> None:
    """Add a cause for every change of an immutable field."""
    for path in _IMMUTABLE.get(resource, ()):
        before, after = _at(old, path), _at(new, path)
        if before != after and not (resource == "persistentvolumeclaims" and not before):
            causes.append(wrong(path, after, "field is immutable"))
    if resource == "statefulsets.apps" and _without(old["spec"], _STATEFUL_MAY_CHANGE) != _without(
        new["spec"], _STATEFUL_MAY_CHANGE
    ):
        words = "only 'replicas', 'template', 'updateStrategy' and the like of a StatefulSet's spec may be updated"
        causes.append(disallowed("spec", words))
    if resource == "pods" and _pod_fixed(old["spec"]) != _pod_fixed(new["spec"]):
        words = "only a pod's images, activeDeadlineSeconds and tolerations may be updated"
        causes.append(disallowed("spec", words))
    if resource == "services":
        before, after = old["spec"].get("clusterIP"), new["spec"].get("clusterIP")
        if before and after != before and "ExternalName" not in (old["spec"]["type"], new["spec"]["type"]):
            shown = wrong("spec.clusterIPs[0]", [after] if after else None, "may not change once set")
            causes.append(shown)
    if resource in ("secrets", "configmaps") and old.get("immutable"):
        if not new.get("immutable"):
            causes.append(disallowed("immutable", "field is immutable when `immutable` is set"))
        for field in ("data", "binaryData"):
            if old.get(field) != new.get(field):
                causes.append(disallowed(field, "field is immutable when `immutable` is set"))
