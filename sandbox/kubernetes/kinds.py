"""The built-in kinds and the special properties of their fields: tables, and the compiler that makes schemas of them.

Names, types and required fields of built-in kinds come from the typed models of the kubernetes client. The tables here
add what these models lack: merge keys of lists, atomic maps, defaults.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from kubernetes import client as models

from sandbox.kubernetes import schema as schemas
from sandbox.kubernetes.schema import NOTHING, Schema
from sandbox.kubernetes.status import qualified, unsupported

# Columns: group, plural, model, short names, flags. Flags: n namespaced, s status subresource, c scale subresource,
# g metadata.generation counts spec changes, a shown by `kubectl get all`.
_ROWS = """
-                            namespaces                Namespace                ns      s
-                            nodes                     Node                     no      s
-                            pods                      Pod                      po      nsa
-                            services                  Service                  svc     nsa
-                            secrets                   Secret                   -       n
-                            configmaps                ConfigMap                cm      n
-                            serviceaccounts           ServiceAccount           sa      n
-                            endpoints                 Endpoints                ep      n
-                            events                    CoreV1Event              ev      n
-                            persistentvolumeclaims    PersistentVolumeClaim    pvc     ns
-                            persistentvolumes         PersistentVolume         pv      s
-                            resourcequotas            ResourceQuota            quota   ns
-                            limitranges               LimitRange               limits  n
-                            podtemplates              PodTemplate              -       n
apps                         deployments               Deployment               deploy  nscga
apps                         replicasets               ReplicaSet               rs      nscga
apps                         statefulsets              StatefulSet              sts     nscga
apps                         daemonsets                DaemonSet                ds      nsga
apps                         controllerrevisions       ControllerRevision       -       n
batch                        jobs                      Job                      -       nsga
batch                        cronjobs                  CronJob                  cj      nsga
networking.k8s.io            ingresses                 Ingress                  ing     nsg
networking.k8s.io            ingressclasses            IngressClass             -       g
networking.k8s.io            networkpolicies           NetworkPolicy            netpol  ng
rbac.authorization.k8s.io    roles                     Role                     -       n
rbac.authorization.k8s.io    rolebindings              RoleBinding              -       n
rbac.authorization.k8s.io    clusterroles              ClusterRole              -       -
rbac.authorization.k8s.io    clusterrolebindings       ClusterRoleBinding       -       -
coordination.k8s.io          leases                    Lease                    -       n
autoscaling                  horizontalpodautoscalers  V2HorizontalPodAutoscaler hpa    nsa
policy                       poddisruptionbudgets      PodDisruptionBudget      pdb     nsg
scheduling.k8s.io            priorityclasses           PriorityClass            pc      g
storage.k8s.io               storageclasses            StorageClass             sc      -
discovery.k8s.io             endpointslices            EndpointSlice            -       ng
admissionregistration.k8s.io validatingwebhookconfigurations ValidatingWebhookConfiguration - g
admissionregistration.k8s.io mutatingwebhookconfigurations MutatingWebhookConfiguration - g
admissionregistration.k8s.io validatingadmissionpolicies ValidatingAdmissionPolicy  -       sg
admissionregistration.k8s.io validatingadmissionpolicybindings ValidatingAdmissionPolicyBinding - g
apiextensions.k8s.io         customresourcedefinitions CustomResourceDefinition crd,crds sg
"""

# Lists of objects: server-side apply keys; the first is also the strategic merge key.
_LISTS = {
    "ObjectMeta.ownerReferences": "uid",
    "PodSpec.containers": "name",
    "PodSpec.initContainers": "name",
    "PodSpec.ephemeralContainers": "name",
    "PodSpec.volumes": "name",
    "PodSpec.imagePullSecrets": "name",
    "PodSpec.hostAliases": "ip",
    "PodSpec.topologySpreadConstraints": "topologyKey whenUnsatisfiable",
    "PodSpec.schedulingGates": "name",
    "PodSpec.resourceClaims": "name",
    "Container.env": "name",
    "Container.ports": "containerPort protocol",
    "Container.volumeMounts": "mountPath",
    "Container.volumeDevices": "devicePath",
    "EphemeralContainer.env": "name",
    "EphemeralContainer.volumeMounts": "mountPath",
    "PodStatus.conditions": "type",
    "PodStatus.podIPs": "ip",
    "ServiceSpec.ports": "port protocol",
    "ServiceStatus.conditions": "type",
    "ServiceAccount.secrets": "name",
    "DeploymentStatus.conditions": "type",
    "ReplicaSetStatus.conditions": "type",
    "StatefulSetStatus.conditions": "type",
    "DaemonSetStatus.conditions": "type",
    "JobStatus.conditions": "type",
    "NamespaceStatus.conditions": "type",
    "NodeStatus.conditions": "type",
    "NodeStatus.addresses": "type",
    "PersistentVolumeClaimStatus.conditions": "type",
    "HorizontalPodAutoscalerStatus.conditions": "type",
    "PodDisruptionBudgetStatus.conditions": "type",
    "CustomResourceDefinitionStatus.conditions": "type",
    "ValidatingWebhookConfiguration.webhooks": "name",
    "MutatingWebhookConfiguration.webhooks": "name",
    "ValidatingAdmissionPolicySpec.matchConditions": "name",
    "ValidatingAdmissionPolicySpec.variables": "name",
}
_SETS = {"ObjectMeta.finalizers", "NodeSpec.podCIDRs", "ValidatingAdmissionPolicyBindingSpec.validationActions"}
_ATOMIC_FIELDS = {"PodSpec.nodeSelector", "ServiceSpec.selector"}
_ATOMIC_MODELS = {
    "LabelSelector", "LocalObjectReference", "TypedLocalObjectReference", "ObjectReference", "OwnerReference",
    "SecretKeySelector", "ConfigMapKeySelector", "ObjectFieldSelector", "ResourceFieldSelector", "NodeSelector",
    "NodeSelectorTerm", "RoleRef", "Subject", "ScopeSelector", "SecretReference", "IngressClassParametersReference",
}  # fmt: skip
_INT_OR_STRING = {"targetPort", "maxSurge", "maxUnavailable", "minAvailable", "HTTPGetAction.port",
                  "TCPSocketAction.port", "NetworkPolicyPort.port"}  # fmt: skip
_QUANTITIES = {
    "ResourceRequirements.limits", "ResourceRequirements.requests", "VolumeResourceRequirements.limits",
    "VolumeResourceRequirements.requests", "EmptyDirVolumeSource.sizeLimit", "ResourceFieldSelector.divisor",
    "MetricTarget.averageValue", "MetricTarget.value", "MetricValueStatus.averageValue", "MetricValueStatus.value",
    "PersistentVolumeSpec.capacity", "PersistentVolumeClaimStatus.capacity", "NodeStatus.capacity",
    "NodeStatus.allocatable", "ResourceQuotaSpec.hard", "ResourceQuotaStatus.hard", "ResourceQuotaStatus.used",
}  # fmt: skip
# Optional scalars that are not pointers in Go: a zero value is not stored.
_ZERO_IS_ABSENT = {
    "hostNetwork", "hostPID", "hostIPC", "stdin", "stdinOnce", "tty", "readOnly", "hostPort", "paused",
    "minReadySeconds", "initialDelaySeconds", "publishNotReadyAddresses", "nodePort", "unschedulable",
    "readyReplicas", "updatedReplicas", "availableReplicas", "unavailableReplicas", "currentReplicas",
    "fullyLabeledReplicas", "DeploymentStatus.replicas",
}  # fmt: skip
_POINTERS_TO_TEXT = {"PersistentVolumeClaimSpec.storageClassName", "HostPathVolumeSource.type", "PolicyRule.apiGroups"}

_DEFAULTS: dict[str, dict[str, Any]] = {
    "PodSpec": {"restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "schedulerName": "default-scheduler",
                "terminationGracePeriodSeconds": 30, "securityContext": {}},
    "Container": {"resources": {}, "terminationMessagePath": "/dev/termination-log",
                  "terminationMessagePolicy": "File"},
    "ContainerPort": {"protocol": "TCP"},
    "Probe": {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
    "HTTPGetAction": {"path": "/", "scheme": "HTTP"},
    "ObjectFieldSelector": {"apiVersion": "v1"},
    "SecretVolumeSource": {"defaultMode": 420},
    "ConfigMapVolumeSource": {"defaultMode": 420},
    "ProjectedVolumeSource": {"defaultMode": 420},
    "DownwardAPIVolumeSource": {"defaultMode": 420},
    "HostPathVolumeSource": {"type": ""},
    "ServiceAccountTokenProjection": {"expirationSeconds": 3600},
    "DeploymentSpec": {"replicas": 1, "strategy": {}, "revisionHistoryLimit": 10, "progressDeadlineSeconds": 600},
    "DeploymentStrategy": {"type": "RollingUpdate"},
    "RollingUpdateDeployment": {"maxSurge": "25%", "maxUnavailable": "25%"},
    "ReplicaSetSpec": {"replicas": 1},
    "StatefulSetSpec": {"replicas": 1, "podManagementPolicy": "OrderedReady", "revisionHistoryLimit": 10,
                        "updateStrategy": {}},
    "StatefulSetUpdateStrategy": {"type": "RollingUpdate"},
    "RollingUpdateStatefulSetStrategy": {"partition": 0},
    "DaemonSetSpec": {"revisionHistoryLimit": 10, "updateStrategy": {}},
    "DaemonSetUpdateStrategy": {"type": "RollingUpdate"},
    "CronJobSpec": {"concurrencyPolicy": "Allow", "suspend": False, "successfulJobsHistoryLimit": 3,
                    "failedJobsHistoryLimit": 1},
    "ServiceSpec": {"type": "ClusterIP", "sessionAffinity": "None"},
    "ServicePort": {"protocol": "TCP"},
    "Secret": {"type": "Opaque"},
    "PersistentVolumeClaimSpec": {"volumeMode": "Filesystem"},
    "PersistentVolumeSpec": {"volumeMode": "Filesystem", "persistentVolumeReclaimPolicy": "Retain"},
    "HorizontalPodAutoscalerSpec": {"minReplicas": 1},
    "StorageClass": {"reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"},
    "NetworkPolicyPort": {"protocol": "TCP"},
    "PriorityClass": {"preemptionPolicy": "PreemptLowerPriority"},
    "EndpointPort": {"protocol": "TCP"},
    "ValidatingAdmissionPolicySpec": {"failurePolicy": "Fail"},
    "MatchResources": {"matchPolicy": "Equivalent", "namespaceSelector": {}, "objectSelector": {}},
    "NamedRuleWithOperations": {"scope": "*"},
}  # fmt: skip

_ENUMS = {
    "PodSpec.restartPolicy": ("Always", "Never", "OnFailure"),
    "PodSpec.dnsPolicy": ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"),
    "Container.imagePullPolicy": ("Always", "IfNotPresent", "Never"),
    "Container.terminationMessagePolicy": ("File", "FallbackToLogsOnError"),
    "ContainerPort.protocol": ("SCTP", "TCP", "UDP"),
    "ServicePort.protocol": ("SCTP", "TCP", "UDP"),
    "ServiceSpec.type": ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort"),
    "ServiceSpec.sessionAffinity": ("ClientIP", "None"),
    "StatefulSetSpec.podManagementPolicy": ("OrderedReady", "Parallel"),
    "StatefulSetUpdateStrategy.type": ("RollingUpdate", "OnDelete"),
    "HTTPIngressPath.pathType": ("Exact", "ImplementationSpecific", "Prefix"),
    "HTTPGetAction.scheme": ("HTTP", "HTTPS"),
    "Toleration.operator": ("Equal", "Exists"),
    "Toleration.effect": ("NoSchedule", "PreferNoSchedule", "NoExecute"),
    "CustomResourceDefinitionSpec.scope": ("Cluster", "Namespaced"),
}
_NOT_REQUIRED = {"PodSpec.containers", "CustomResourceDefinitionStatus.storedVersions", "DeploymentSpec.template",
                 "CustomResourceDefinitionNames.singular", "EventSource.component", "Endpoint.addresses"}  # fmt: skip


def _model(name: str) -> Any:
    return getattr(models, name)


@cache
def model_schema(name: str) -> Schema:
    """Return the compiled schema of a client model, e.g. `V1Deployment`."""
    short = re.sub(r"^(Core|Rbac|Apiextensions|Admissionregistration|Discovery)?V\d", "", name)
    schema = Schema(type="object", built_in=True, model=name, atomic=short in _ATOMIC_MODELS)
    _INCOMPLETE[name] = schema
    model = _model(name)
    defaults = _DEFAULTS.get(short, {})
    for attribute, kind in model.openapi_types.items():
        field = model.attribute_map[attribute]
        schema.properties[field] = _field(f"{short}.{field}", field, kind, defaults.get(field, NOTHING))
    schema.required = tuple(
        model.attribute_map[attribute]
        for attribute, info in model.model_fields.items()
        if attribute in model.attribute_map
        and info.is_required()
        and f"{short}.{model.attribute_map[attribute]}" not in _NOT_REQUIRED
        and not short.endswith("Status")
    )
    return schema


_INCOMPLETE: dict[str, Schema] = {}
"""Schemas by model, including those under construction: JSONSchemaProps contains itself."""

_SCALARS = {"str": "string", "int": "integer", "bool": "boolean", "float": "number", "bytes": "string",
            "datetime": "string"}  # fmt: skip


def _field(place: str, name: str, kind: str, default: Any) -> Schema:
    """Return the schema of one field. Models share nodes, so a field with a default of its own gets a copy."""
    if place in _QUANTITIES and kind in ("str", "object"):
        return Schema(int_or_string=True, model=schemas.QUANTITY, has_defaults=False)
    if kind.startswith("Dict[str, "):
        values = _field(place, "", kind[10:-1], NOTHING)
        return Schema(type="object", values=values, built_in=True, atomic=place in _ATOMIC_FIELDS)
    if kind.startswith("List["):
        items = _field(place, "", kind[5:-1], NOTHING)
        keys = tuple(_LISTS.get(place, "").split())
        merging = keys or place in _SETS
        return Schema(
            type="array", items=items, keys=keys, merge_key=keys[0] if keys else "", is_set=place in _SETS,
            atomic=not merging, built_in=True,
        )  # fmt: skip
    if kind == "object":
        mixed = name in _INT_OR_STRING or place in _INT_OR_STRING
        return Schema(int_or_string=True, default=default) if mixed else replace(schemas.ANYTHING)
    if kind in _SCALARS:
        checks: list[schemas.Check] = []
        if place in _ENUMS:
            choices = _ENUMS[place]
            checks.append(lambda value, path: None if value in choices else unsupported(path, value, choices))
        if kind == "datetime":
            checks.append(schemas.time_check)
        source = {"bytes": {"format": "byte"}, "datetime": {"format": "date-time"}}.get(kind, {})
        model = schemas.KEPT_EMPTY if place in _POINTERS_TO_TEXT else ""
        if name in _ZERO_IS_ABSENT or place in _ZERO_IS_ABSENT:
            model = schemas.DROPPED_ZERO
        leaf = Schema(_SCALARS[kind], default=default, built_in=True, checks=tuple(checks), source=source, model=model)
        leaf.has_defaults = default is not NOTHING
        return leaf
    below = _INCOMPLETE.get(kind) or model_schema(kind)
    return replace(below, default=default) if default is not NOTHING else below


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind in one served version."""

    group: str
    version: str
    plural: str
    kind: str
    schema: Schema
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    """Whether there is a status subresource."""
    scale: dict[str, str] | None = None
    """Paths of spec replicas, status replicas and label selector; None without a scale subresource."""
    counts_generation: bool = True
    custom: bool = False
    storage_version: str = ""
    columns: tuple[dict[str, Any], ...] = ()
    """additionalPrinterColumns of a CRD."""
    list_kind: str = ""
    deprecation: str = ""
    """The warning of every answer, if this version is deprecated."""

    @property
    def resource(self) -> str:
        return qualified(self.group, self.plural)

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def stored_api_version(self) -> str:
        version = self.storage_version or self.version
        return f"{self.group}/{version}" if self.group else version


_DEPRECATED = {"endpoints": "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
_SCALE = {
    "specReplicasPath": ".spec.replicas",
    "statusReplicasPath": ".status.replicas",
    "labelSelectorPath": ".spec.selector",
}


def _built_in() -> Iterator[Kind]:
    for row in _ROWS.strip().splitlines():
        group, plural, model, short, flags = row.split()
        kind = re.sub(r"^(CoreV1|V2)", "", model)
        version = "v2" if model.startswith("V2") else "v1"
        name = model if model.startswith(("CoreV1", "V2")) else f"V1{model}"
        yield Kind(
            group="" if group == "-" else group,
            version=version,
            plural=plural,
            kind=kind,
            schema=model_schema(name),
            namespaced="n" in flags,
            singular=kind.lower(),
            short_names=() if short == "-" else tuple(short.split(",")),
            categories=("all",) if "a" in flags else (),
            status="s" in flags,
            scale=_SCALE if "c" in flags else None,
            counts_generation="g" in flags,
            deprecation=_DEPRECATED.get(plural, ""),
        )


class Kinds:
    """All served kinds; CRDs add and remove kinds."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, str], Kind] = {}
        self._stored: dict[str, Kind] = {}
        for kind in _built_in():
            self.add(kind)

    def add(self, *versions: Kind) -> None:
        """Serve a kind in these versions, one of which is the storage version."""
        for kind in versions:
            self._served[kind.group, kind.version, kind.plural] = kind
            if kind.api_version == kind.stored_api_version or kind.resource not in self._stored:
                self._stored[kind.resource] = kind

    def remove(self, resource: str) -> None:
        self._stored.pop(resource, None)
        for key in [key for key, kind in self._served.items() if kind.resource == resource]:
            del self._served[key]

    def served(self, group: str, version: str, plural: str) -> Kind | None:
        return self._served.get((group, version, plural))

    def stored(self, resource: str) -> Kind:
        """Return the storage version of a resource, e.g. `deployments.apps`. Raises KeyError."""
        return self._stored[resource]

    def named(self, api_version: str, kind: str) -> Kind | None:
        """Return a kind by apiVersion and kind, as in an owner reference; if need be, another version of the group."""
        group = api_version.rpartition("/")[0]
        found = [at for at in self._served.values() if at.kind == kind and at.group == group]
        return next((at for at in found if at.api_version == api_version), found[0] if found else None)

    def __iter__(self) -> Iterator[Kind]:
        return iter(list(self._served.values()))

    def resources(self) -> Iterator[Kind]:
        """Iterate over the storage versions, one Kind per resource."""
        return iter(list(self._stored.values()))


def object_meta() -> Schema:
    return model_schema("V1ObjectMeta")
