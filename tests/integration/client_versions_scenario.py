"""What the engine does with the Kubernetes API, in a process of its own: `python …scenario.py KUBECONFIG NAMESPACE`.

Prints one line of JSON. `test_client_versions` runs it with different versions of the kubernetes client on the path.
"""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path

import kubernetes

from engine.kubernetes.cluster import KubernetesCluster, key_of
from engine.ports import Manifest

MANAGER = "agentplane-client-versions"


def config_map(namespace: str, value: str) -> Manifest:
    metadata = {"name": "scenario", "namespace": namespace, "labels": {"scenario": "x"}}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"a": value}}


def run(kubeconfig: Path, namespace: str) -> dict[str, object]:
    """Apply, apply again, watch a change and the deletion; return the observed results by name."""
    cluster = KubernetesCluster.load(kubeconfig)
    first = cluster.apply(config_map(namespace, "1"), manager=MANAGER)
    again = cluster.apply(config_map(namespace, "1"), manager=MANAGER)
    watch = cluster.watch("v1", "ConfigMap", namespace, labels="scenario=x")
    listed = [event.type for event in takewhile(lambda event: event.type != "SYNCED", watch)]
    cluster.apply(config_map(namespace, "2"), manager=MANAGER)
    changed = next(watch)
    deleted = cluster.delete(key_of(config_map(namespace, "2")))
    gone = next(watch)
    cluster.close()
    return {
        "version": kubernetes.__version__,
        "created": [first.created, again.created],
        "changed": [first.changed, again.changed],
        "managers": [entry["manager"] for entry in first.manifest["metadata"]["managedFields"]],
        "listed": listed,
        "events": [changed.type, changed.object["data"]["a"], gone.type],
        "deleted": deleted,
        "left": KubernetesCluster.load(kubeconfig).get(key_of(config_map(namespace, "2"))),
    }


if __name__ == "__main__":
    print(json.dumps(run(Path(sys.argv[1]), sys.argv[2])))
