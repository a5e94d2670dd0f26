"""The node that the other tests of this folder use: it runs pods with account, volumes and grace period, and Jobs."""

from __future__ import annotations

from typing import Any

import pytest

from engine.ports import Manifest
from tests.installation.cluster import PODS, Cluster, Ending, Witness, ready, waiting

IMAGE = "sandbox.local/agentplane:checkout"

WHO = """
import os, sys
from pathlib import Path
from engine.kubernetes.cluster import KubernetesCluster
cluster = KubernetesCluster.load()
mine = os.environ["NAMESPACE"]
print("may list", [cluster.allowed("list", "v1", "Secret", where) for where in (mine, "kube-system")])
print("mounted", Path(os.environ["MESSAGE"]).read_text())
try:
    import pytest
except ModuleNotFoundError as error:
    print(error)
"""
AT_THE_SECOND_TIME = "test -e $SCRATCH/tried || { touch $SCRATCH/tried; exit 3; }"
STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
)


def pod(command: list[str], **spec: Any) -> Manifest:
    mounts = [{"name": "scratch", "mountPath": "/scratch"}, {"name": "message", "mountPath": "/etc/message"}]
    env = [
        {"name": "NAMESPACE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
        {"name": "MESSAGE", "value": "/etc/message/greeting"},
        {"name": "SCRATCH", "value": "/scratch"},
    ]
    return {
        "serviceAccountName": "reader",
        "containers": [{"name": "main", "image": IMAGE, "command": command, "env": env, "volumeMounts": mounts}],
        "volumes": [
            {"name": "scratch", "emptyDir": {}},
            {"name": "message", "secret": {"secretName": "message", "items": [{"key": "text", "path": "greeting"}]}},
        ],
        **spec,
    }


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """A namespace with a Secret, and an account that may list Secrets in that namespace."""
    name = cluster.namespace()
    rule = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}
    rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{name}"
    subject = {"kind": "ServiceAccount", "name": "reader", "namespace": name}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"}
    meta = {"metadata": {"name": "reader"}}
    for path, body in (
        (f"/api/v1/namespaces/{name}/serviceaccounts", meta),
        (f"{rbac}/roles", {**meta, "rules": [rule]}),
        (f"{rbac}/rolebindings", {**meta, "roleRef": role, "subjects": [subject]}),
        (f"/api/v1/namespaces/{name}/secrets", {"metadata": {"name": "message"}, "stringData": {"text": "hello"}}),
    ):
        cluster.http.post(path, json=body).raise_for_status()
    return name


def end_of(job: Manifest) -> str:
    """Return the terminal condition of a Job, Complete or Failed; an empty text if the Job has not ended.

    The Job controller writes SuccessCriteriaMet or FailureTarget earlier; these are not terminal.
    """
    kinds = {one["type"] for one in job["status"].get("conditions") or () if one["status"] == "True"}
    return next(iter(kinds & {"Complete", "Failed"}), "")


def test_jobs_run_to_their_end(cluster: Cluster, namespace: str) -> None:
    jobs = {
        "who": pod(["python", "-c", WHO], restartPolicy="Never"),
        "again": pod(["/bin/sh", "-c", AT_THE_SECOND_TIME], restartPolicy="OnFailure"),
        "fails": pod(["/bin/sh", "-c", "exit 3"], restartPolicy="Never"),
    }
    path = f"/apis/batch/v1/namespaces/{namespace}/jobs"
    for name, spec in jobs.items():
        limit = 3 if spec["restartPolicy"] == "OnFailure" else 0
        body = {"metadata": {"name": name}, "spec": {"backoffLimit": limit, "template": {"spec": spec}}}
        cluster.http.post(path, json=body).raise_for_status()

    def ends() -> dict[str, str]:
        """Return the terminal condition of every Job, as `end_of` does."""
        return {job["metadata"]["name"]: end_of(job) for job in cluster.listed(path, namespace)}

    waiting(lambda: all(ends().values()), "every Job ends")
    assert ends() == {"who": "Complete", "again": "Complete", "fails": "Failed"}, cluster.output(namespace)
    output = cluster.output(namespace, "who")
    assert "may list [True, False]" in output
    assert "mounted hello" in output
    assert "pytest is not in the image" in output


def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(cluster: Cluster, namespace: str) -> None:
    spec = pod(["python", "-c", STUBBORN], terminationGracePeriodSeconds=1)
    cluster.http.post(f"/api/v1/namespaces/{namespace}/pods", json={"metadata": {"name": "stubborn"}, "spec": spec})
    waiting(lambda: ready(cluster.pods(namespace)[0]), "the pod is ready")
    waiting(lambda: "up" in cluster.output(namespace, "stubborn"), "the program ignores SIGTERM")
    with Witness(cluster, namespace, [PODS]) as witness:
        cluster.http.delete(f"/api/v1/namespaces/{namespace}/pods/stubborn").raise_for_status()
        waiting(lambda: witness.ended("stubborn"), "the pod is gone")
    (last,) = witness.ended("stubborn")
    ending = Ending.of(last)
    assert (ending.code, ending.granted) == (137, 1)
    assert ending.seconds >= 1
