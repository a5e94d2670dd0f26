"""The StatefulSet controller: Pods with ordinals and PersistentVolumeClaims, created, replaced and deleted in order.

Every pod template is stored as a ControllerRevision. `status.updateRevision` names the newest one,
`status.currentRevision` the one before, until every Pod has the newest. A reconciliation does only what the order
allows and then waits for the next event. With OrderedReady, it creates one Pod at a time, after all Pods with lower
ordinals are ready.
"""

from __future__ import annotations

from typing import Any

import orjson

from sandbox.kubernetes.controllers import pods
from sandbox.kubernetes.controllers.manager import Manager, adopt, controller_reference
from sandbox.kubernetes.store import Object, Stored

FIELD_MANAGER = "statefulset-controller"
POD_NAME = "statefulset.kubernetes.io/pod-name"
REVISION = "controller-revision-hash"


class StatefulSetController:
    resource = "statefulsets.apps"

    def __init__(self, manager: Manager) -> None:
        self._manager = manager
        self._registry = manager.registry

    def reconcile(self, stored: Stored) -> float | None:
        stateful_set = stored.copy()
        if pods.is_deleting(stateful_set):
            return None
        adopt(self._manager, stateful_set, "pods", FIELD_MANAGER)
        update = self._ensure_revision(stateful_set)
        current = (stateful_set.get("status") or {}).get("currentRevision") or update
        self._own_claims(stateful_set)
        self._step(stateful_set, current, update)
        self._report(stateful_set, current, update)
        return None

    # revisions

    def _ensure_revision(self, stateful_set: Object) -> str:
        """Make the ControllerRevision of the current template the newest, and return its name."""
        metadata, template = stateful_set["metadata"], stateful_set["spec"]["template"]
        suffix = pods.template_hash(template)
        name = f"{metadata['name']}-{suffix}"
        known = self._manager.controlled(stateful_set, "controllerrevisions.apps")
        newest = max((item.object["revision"] for item in known), default=0)
        found = next((item for item in known if item.name == name), None)
        if found is None:
            labels = {**(template.get("metadata", {}).get("labels") or {}), REVISION: suffix}
            body = {
                "metadata": {
                    "name": name,
                    "namespace": metadata["namespace"],
                    "labels": labels,
                    "ownerReferences": [controller_reference(stateful_set)],
                },
                "data": {"spec": {"template": {**_copy(template), "$patch": "replace"}}},
                "revision": newest + 1,
            }
            self._registry.create("controllerrevisions.apps", body, manager=FIELD_MANAGER)
        elif found.object["revision"] != newest:  # the StatefulSet has an earlier template again
            again = found.copy()
            again["revision"] = newest + 1
            self._registry.update("controllerrevisions.apps", again, manager=FIELD_MANAGER)
        return name

    def _template(self, stateful_set: Object, revision: str) -> Object:
        """Return the pod template of a revision; the current one when the revision does not exist."""
        for stored in self._manager.controlled(stateful_set, "controllerrevisions.apps"):
            if stored.name == revision:
                template: Object = stored.copy()["data"]["spec"]["template"]
                template.pop("$patch", None)
                return template
        return _copy(stateful_set["spec"]["template"])

    # pods

    def _pods(self, stateful_set: Object) -> dict[int, Object]:
        """Return the Pods of a StatefulSet by ordinal."""
        found: dict[int, Object] = {}
        prefix = f"{stateful_set['metadata']['name']}-"
        for stored in self._manager.controlled(stateful_set, "pods"):
            ordinal = stored.name.removeprefix(prefix)
            if ordinal.isdigit():
                found[int(ordinal)] = stored.object
        return found

    def _step(self, stateful_set: Object, current: str, update: str) -> None:
        spec, existing = stateful_set["spec"], self._pods(stateful_set)
        desired = range(spec["replicas"])
        in_order = spec.get("podManagementPolicy") != "Parallel"
        for ordinal in desired:
            pod = existing.get(ordinal)
            if pod is not None and pods.is_over(pod) and not pods.is_deleting(pod):
                self._delete_pod(pod)
                return
            if pod is None:
                self._create_pod(stateful_set, ordinal, self._revision_of(stateful_set, ordinal, current, update))
            if in_order and not _is_healthy(pod):
                return  # Pods with higher ordinals must wait
        surplus = sorted((ordinal for ordinal in existing if ordinal not in desired), reverse=True)
        for ordinal in surplus:
            if not pods.is_deleting(existing[ordinal]):
                self._scale_down(stateful_set, ordinal, existing[ordinal])
            if in_order:
                return
        self._update_pods(stateful_set, existing, update)

    def _update_pods(self, stateful_set: Object, existing: dict[int, Object], update: str) -> None:
        """Replace the Pod with the highest ordinal that has an old template, if all Pods after it are healthy."""
        strategy = stateful_set["spec"]["updateStrategy"]
        if strategy["type"] != "RollingUpdate":
            return
        first = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        for ordinal in range(stateful_set["spec"]["replicas"] - 1, first - 1, -1):
            pod = existing.get(ordinal)
            if pod is None or pods.is_deleting(pod):
                return
            if _revision_name(stateful_set, pod) != update:
                self._delete_pod(pod)
                return
            if not _is_healthy(pod):
                return

    def _revision_of(self, stateful_set: Object, ordinal: int, current: str, update: str) -> str:
        """Return the revision of a new Pod: below the partition it is the one before the update."""
        strategy = stateful_set["spec"]["updateStrategy"]
        if strategy["type"] != "RollingUpdate":
            return update
        partition = (strategy.get("rollingUpdate") or {}).get("partition", 0)
        return current if ordinal < partition else update

    def _create_pod(self, stateful_set: Object, ordinal: int, revision: str) -> None:
        metadata, spec = stateful_set["metadata"], stateful_set["spec"]
        name = f"{metadata['name']}-{ordinal}"
        claims = {item["metadata"]["name"]: item for item in spec.get("volumeClaimTemplates") or ()}
        for claim in claims.values():
            self._ensure_claim(stateful_set, claim, name)
        pod = pods.from_template(stateful_set, self._template(stateful_set, revision), name=name)
        suffix = revision.removeprefix(f"{metadata['name']}-")
        pod["metadata"].setdefault("labels", {}).update({POD_NAME: name, REVISION: suffix})
        pod["spec"]["hostname"] = name
        if spec.get("serviceName"):
            pod["spec"]["subdomain"] = spec["serviceName"]
        others = [item for item in pod["spec"].get("volumes") or () if item["name"] not in claims]
        mounted = [{"name": claim, "persistentVolumeClaim": {"claimName": f"{claim}-{name}"}} for claim in claims]
        if others or mounted:
            pod["spec"]["volumes"] = others + mounted
        self._registry.create("pods", pod, manager=FIELD_MANAGER)

    def _delete_pod(self, pod: Object) -> None:
        self._registry.delete("pods", pod["metadata"]["namespace"], pod["metadata"]["name"])

    # PersistentVolumeClaims

    def _ensure_claim(self, stateful_set: Object, template: Object, pod: str) -> None:
        namespace, name = stateful_set["metadata"]["namespace"], f"{template['metadata']['name']}-{pod}"
        if self._registry.store.get("persistentvolumeclaims", namespace, name):
            return
        claim = _copy(template)
        labels = {**(claim["metadata"].get("labels") or {})}
        labels |= stateful_set["spec"]["selector"].get("matchLabels") or {}
        claim["metadata"] |= {"name": name, "namespace": namespace, "labels": labels}
        claim.pop("status", None)
        self._registry.create("persistentvolumeclaims", claim, manager=FIELD_MANAGER)

    def _claims(self, stateful_set: Object, pod: str) -> list[Object]:
        namespace = stateful_set["metadata"]["namespace"]
        found = [
            self._registry.store.get("persistentvolumeclaims", namespace, f"{item['metadata']['name']}-{pod}")
            for item in stateful_set["spec"].get("volumeClaimTemplates") or ()
        ]
        return [stored.copy() for stored in found if stored is not None]

    def _own_claims(self, stateful_set: Object) -> None:
        """Make the StatefulSet the owner of its claims if its retention policy deletes them with it (whenDeleted)."""
        policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        metadata = stateful_set["metadata"]
        for ordinal in range(stateful_set["spec"]["replicas"]):
            for claim in self._claims(stateful_set, f"{metadata['name']}-{ordinal}"):
                self._set_owner(claim, stateful_set, policy.get("whenDeleted") == "Delete")

    def _scale_down(self, stateful_set: Object, ordinal: int, pod: Object) -> None:
        policy = stateful_set["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
        if policy.get("whenScaled") == "Delete":
            for claim in self._claims(stateful_set, pod["metadata"]["name"]):
                self._set_owner(claim, stateful_set, False)
                fresh = self._registry.get(
                    "persistentvolumeclaims", claim["metadata"]["namespace"], claim["metadata"]["name"]
                )
                self._set_owner(fresh, pod, True)
        self._delete_pod(pod)

    def _set_owner(self, claim: Object, owner: Object, owned: bool) -> None:
        """Add or remove an owner of a claim. It is not the controller: it only decides when the claim is deleted."""
        references: list[Object] = claim["metadata"].get("ownerReferences") or []
        uid = owner["metadata"]["uid"]
        if owned == any(item["uid"] == uid for item in references):
            return
        others = [item for item in references if item["uid"] != uid]
        metadata = owner["metadata"]
        reference = {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": metadata["name"],
            "uid": uid,
        }
        claim["metadata"]["ownerReferences"] = [*others, *([reference] if owned else [])]
        self._registry.update("persistentvolumeclaims", claim, manager=FIELD_MANAGER)

    # status

    def _report(self, stateful_set: Object, current: str, update: str) -> None:
        spec, old = stateful_set["spec"], stateful_set.get("status") or {}
        self._own_claims(stateful_set)
        existing = [pod for pod in self._pods(stateful_set).values() if not pods.is_over(pod)]
        alive = [pod for pod in existing if not pods.is_deleting(pod)]
        revisions = [_revision_name(stateful_set, pod) for pod in alive]
        ready = sum(pods.is_ready(pod) for pod in existing)
        updated = revisions.count(update)
        if updated == len(existing) == ready == spec["replicas"]:
            current = update
        counted: dict[str, Any] = {
            "replicas": len(existing),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "currentReplicas": revisions.count(current),
            "updatedReplicas": updated,
            "observedGeneration": stateful_set["metadata"]["generation"],
            "currentRevision": current,
            "updateRevision": update,
        }
        kept = ("replicas", "availableReplicas")
        status = {key: value for key, value in counted.items() if value or key in kept}
        status["collisionCount"] = 0
        if status != old:
            stateful_set["status"] = status
            self._registry.update(self.resource, stateful_set, subresource="status", manager=FIELD_MANAGER)


def _is_healthy(pod: Object | None) -> bool:
    return pod is not None and not pods.is_deleting(pod) and pods.is_ready(pod)


def _revision_name(stateful_set: Object, pod: Object) -> str:
    return f"{stateful_set['metadata']['name']}-{(pod['metadata'].get('labels') or {}).get(REVISION, '')}"


def _copy(obj: Object) -> Object:
    fresh: Object = orjson.loads(orjson.dumps(obj))
    return fresh
