"""Request bodies in Kubernetes' protobuf encoding, for the few kinds that kubectl's typed commands create.

`kubectl create namespace|configmap|secret|serviceaccount|deployment|job|ingress|quota…`, `autoscale`, `auth can-i`
and `kubectl delete` send protobuf without asking whether the server supports it. They all accept JSON answers. A body
with a field that is not in the tables is refused with 415; no field is dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from sandbox.kubernetes.status import ApiError

Object = dict[str, Any]

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"

# Message → fields as number:name:type. `*`: the field is repeated. `-`: the field is ignored, because the server sets
# status and times itself. A field without a name is inlined: in JSON, its fields belong to the message.
_MESSAGES = {
    "ObjectMeta": "1:name:text 2:generateName:text 3:namespace:text 4:selfLink:text 5:uid:text 6:resourceVersion:text "
    "7:generation:int 8:creationTimestamp:- 9:deletionTimestamp:- 10:deletionGracePeriodSeconds:- 11:labels:map "
    "12:annotations:map 13:ownerReferences:*OwnerReference 14:finalizers:*text 17:managedFields:-",
    "OwnerReference": "1:kind:text 3:name:text 4:uid:text 5:apiVersion:text 6:controller:bool "
    "7:blockOwnerDeletion:bool",
    "LocalObjectReference": "1:name:text",
    "ObjectReference": "1:kind:text 2:namespace:text 3:name:text 4:uid:text 5:apiVersion:text 6:resourceVersion:text "
    "7:fieldPath:text",
    "LabelSelector": "1:matchLabels:map",
    "Namespace": "1:metadata:ObjectMeta 2:spec:NamespaceSpec 3:status:-",
    "NamespaceSpec": "1:finalizers:*text",
    "ConfigMap": "1:metadata:ObjectMeta 2:data:map 3:binaryData:bytesmap 4:immutable:bool",
    "Secret": "1:metadata:ObjectMeta 2:data:bytesmap 3:type:text 4:stringData:map 5:immutable:bool",
    "ServiceAccount": "1:metadata:ObjectMeta 2:secrets:*ObjectReference 3:imagePullSecrets:*LocalObjectReference "
    "4:automountServiceAccountToken:bool",
    "Deployment": "1:metadata:ObjectMeta 2:spec:DeploymentSpec 3:status:-",
    "DeploymentSpec": "1:replicas:count 2:selector:LabelSelector 3:template:PodTemplateSpec "
    "4:strategy:DeploymentStrategy 5:minReadySeconds:int 6:revisionHistoryLimit:count 7:paused:bool "
    "9:progressDeadlineSeconds:int",
    "DeploymentStrategy": "1:type:text",
    "PodTemplateSpec": "1:metadata:ObjectMeta 2:spec:PodSpec",
    "PodSpec": "2:containers:*Container 3:restartPolicy:text 4:terminationGracePeriodSeconds:count 6:dnsPolicy:text "
    "7:nodeSelector:map 8:serviceAccountName:text 9:serviceAccount:text 10:nodeName:text 11:hostNetwork:bool "
    "12:hostPID:bool 13:hostIPC:bool 15:imagePullSecrets:*LocalObjectReference 16:hostname:text 17:subdomain:text "
    "19:schedulerName:text 24:priorityClassName:text",
    "Container": "1:name:text 2:image:text 3:command:*text 4:args:*text 5:workingDir:text 6:ports:*ContainerPort "
    "8:resources:ResourceRequirements 13:terminationMessagePath:text 14:imagePullPolicy:text 16:stdin:bool "
    "17:stdinOnce:bool 18:tty:bool 20:terminationMessagePolicy:text",
    "ContainerPort": "1:name:text 2:hostPort:int 3:containerPort:int 4:protocol:text 5:hostIP:text",
    "ResourceRequirements": "",
    "Service": "1:metadata:ObjectMeta 2:spec:ServiceSpec 3:status:-",
    "ServiceSpec": "1:ports:*ServicePort 2:selector:map 3:clusterIP:text 4:type:text 5:externalIPs:*text "
    "7:sessionAffinity:text 8:loadBalancerIP:text 10:externalName:text 11:externalTrafficPolicy:text "
    "12:healthCheckNodePort:int 13:publishNotReadyAddresses:bool 17:ipFamilyPolicy:text 18:clusterIPs:*text "
    "19:ipFamilies:*text",
    "ServicePort": "1:name:text 2:protocol:text 3:port:int 4:targetPort:intorstring 5:nodePort:int 6:appProtocol:text",
    "Role": "1:metadata:ObjectMeta 2:rules:*PolicyRule",
    "ClusterRole": "1:metadata:ObjectMeta 2:rules:*PolicyRule",
    "PolicyRule": "1:verbs:*text 2:apiGroups:*text 3:resources:*text 4:resourceNames:*text 5:nonResourceURLs:*text",
    "RoleBinding": "1:metadata:ObjectMeta 2:subjects:*Subject 3:roleRef:RoleRef",
    "ClusterRoleBinding": "1:metadata:ObjectMeta 2:subjects:*Subject 3:roleRef:RoleRef",
    "Subject": "1:kind:text 2:apiGroup:text 3:name:text 4:namespace:text",
    "RoleRef": "1:apiGroup:text 2:kind:text 3:name:text",
    "DeleteOptions": "1:gracePeriodSeconds:count 2:preconditions:Preconditions 3:orphanDependents:bool "
    "4:propagationPolicy:text 5:dryRun:*text",
    "Preconditions": "1:uid:text 2:resourceVersion:text",
    "SelfSubjectAccessReview": "1:metadata:ObjectMeta 2:spec:AccessReviewSpec 3:status:-",
    "AccessReviewSpec": "1:resourceAttributes:ResourceAttributes 2:nonResourceAttributes:NonResourceAttributes",
    "ResourceAttributes": "1:namespace:text 2:verb:text 3:group:text 4:version:text 5:resource:text 6:subresource:text "
    "7:name:text",
    "NonResourceAttributes": "1:path:text 2:verb:text",
    "SelfSubjectRulesReview": "1:metadata:ObjectMeta 2:spec:RulesReviewSpec 3:status:-",
    "RulesReviewSpec": "1:namespace:text",
    "Job": "1:metadata:ObjectMeta 2:spec:JobSpec 3:status:-",
    "JobSpec": "1:parallelism:count 2:completions:count 3:activeDeadlineSeconds:count 4:selector:LabelSelector "
    "5:manualSelector:bool 6:template:PodTemplateSpec 7:backoffLimit:count 8:ttlSecondsAfterFinished:count "
    "9:completionMode:text 10:suspend:bool 12:backoffLimitPerIndex:count 13:maxFailedIndexes:count "
    "14:podReplacementPolicy:text 15:managedBy:text",
    "CronJob": "1:metadata:ObjectMeta 2:spec:CronJobSpec 3:status:-",
    "CronJobSpec": "1:schedule:text 2:startingDeadlineSeconds:count 3:concurrencyPolicy:text 4:suspend:bool "
    "5:jobTemplate:JobTemplateSpec 6:successfulJobsHistoryLimit:count 7:failedJobsHistoryLimit:count 8:timeZone:text",
    "JobTemplateSpec": "1:metadata:ObjectMeta 2:spec:JobSpec",
    "Ingress": "1:metadata:ObjectMeta 2:spec:IngressSpec 3:status:-",
    "IngressSpec": "1:defaultBackend:IngressBackend 2:tls:*IngressTLS 3:rules:*IngressRule 4:ingressClassName:text",
    "IngressTLS": "1:hosts:*text 2:secretName:text",
    "IngressRule": "1:host:text 2::IngressRuleValue",
    "IngressRuleValue": "1:http:HTTPIngressRuleValue",
    "HTTPIngressRuleValue": "1:paths:*HTTPIngressPath",
    "HTTPIngressPath": "1:path:text 2:backend:IngressBackend 3:pathType:text",
    "IngressBackend": "4:service:IngressServiceBackend",
    "IngressServiceBackend": "1:name:text 2:port:ServiceBackendPort",
    "ServiceBackendPort": "1:name:text 2:number:int",
    "ResourceQuota": "1:metadata:ObjectMeta 2:spec:ResourceQuotaSpec 3:status:-",
    "ResourceQuotaSpec": "1:hard:quantitymap 2:scopes:*text",
    "PodDisruptionBudget": "1:metadata:ObjectMeta 2:spec:PodDisruptionBudgetSpec 3:status:-",
    "PodDisruptionBudgetSpec": "1:minAvailable:intorstring 2:selector:LabelSelector 3:maxUnavailable:intorstring "
    "4:unhealthyPodEvictionPolicy:text",
    "PriorityClass": "1:metadata:ObjectMeta 2:value:int 3:globalDefault:bool 4:description:text "
    "5:preemptionPolicy:text",
    "HorizontalPodAutoscaler": "1:metadata:ObjectMeta 2:spec:HorizontalPodAutoscalerSpec 3:status:-",
    "HorizontalPodAutoscalerSpec": "1:scaleTargetRef:CrossVersionObjectReference 2:minReplicas:count "
    "3:maxReplicas:int 4:metrics:*MetricSpec",
    "CrossVersionObjectReference": "1:kind:text 2:name:text 3:apiVersion:text",
    "MetricSpec": "1:type:text 4:resource:ResourceMetricSource",
    "ResourceMetricSource": "1:name:text 2:target:MetricTarget",
    "MetricTarget": "1:type:text 2:value:quantity 3:averageValue:quantity 4:averageUtilization:count",
    "SelfSubjectReview": "1:metadata:ObjectMeta 2:status:-",
}


@cache
def _fields(message: str) -> dict[int, tuple[str, str, bool]]:
    fields = {}
    for entry in _MESSAGES[message].split():
        number, name, kind = entry.split(":")
        fields[int(number)] = (name, kind.lstrip("*"), kind.startswith("*"))
    return fields


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value if value < 1 << 63 else value - (1 << 64)), at
        shift += 7


def _wire(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, integer or bytes) for every field of a message."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 0:
            value: Any
            value, at = _varint(data, at)
        elif tag & 7 == 2:
            length, at = _varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"wire type {tag & 7}")
        yield tag >> 3, value


def _entry(data: bytes) -> tuple[str, bytes]:
    pair = dict(_wire(data))
    return pair.get(1, b"").decode(), pair.get(2, b"")


def _int_or_string(data: bytes) -> int | str:
    parts = dict(_wire(data))
    text: str = parts.get(3, b"").decode()
    number: int = parts.get(2, 0)
    return text if parts.get(1, 0) == 1 else number


def _quantity(data: bytes) -> str:
    text: bytes = dict(_wire(data)).get(1, b"")
    return text.decode()


_OF_MAPS: dict[str, Callable[[bytes], str]] = {
    "map": bytes.decode,
    "bytesmap": lambda content: base64.b64encode(content).decode(),
    "quantitymap": _quantity,
}
_SCALARS: dict[str, Callable[[Any], Any]] = {
    "quantity": _quantity,
    "text": bytes.decode,
    "int": int,
    "count": int,
    "bool": bool,
    "intorstring": _int_or_string,
}


def _decode(message: str, data: bytes) -> Object:
    decoded: Object = {}
    fields = _fields(message)
    for number, value in _wire(data):
        if number not in fields:
            if value:
                raise _unreadable(f"{message} has a field {number} that the sandbox cannot read in protobuf")
            continue
        name, kind, repeated = fields[number]
        if kind == "-":
            continue
        if kind in _OF_MAPS:
            key, content = _entry(value)
            decoded.setdefault(name, {})[key] = _OF_MAPS[kind](content)
            continue
        found = _SCALARS[kind](value) if kind in _SCALARS else _decode(kind, value)
        if not name:
            decoded |= found
        elif repeated:
            decoded.setdefault(name, []).append(found)
        elif kind == "count" or found not in ("", 0, False):
            decoded[name] = found
    return decoded


def _unreadable(why: str) -> ApiError:
    words = f"{why}; send it as JSON or YAML instead, e.g. with --dry-run=client -o yaml | kubectl apply -f -"
    return ApiError(415, "UnsupportedMediaType", words)


def decode(body: bytes) -> Object:
    """Decode an object from its protobuf envelope. Raises ApiError 415 for kinds and fields not in the tables."""
    if not body.startswith(_MAGIC):
        raise _unreadable("the body is not in Kubernetes' protobuf encoding")
    try:
        envelope = dict(_wire(body[len(_MAGIC) :]))
        identity = dict(_wire(envelope[1]))
        api_version, kind = identity[1].decode(), identity[2].decode()
        if kind not in _MESSAGES:
            raise _unreadable(f"the sandbox does not read {kind} in protobuf")
        return {"apiVersion": api_version, "kind": kind, **_decode(kind, envelope.get(2, b""))}
    except (IndexError, KeyError, ValueError, AttributeError, TypeError) as error:
        raise _unreadable(f"the protobuf body is broken: {error!r}") from error
