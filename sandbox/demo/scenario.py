"""The steps of the demo, one function each: a step changes something with a real client, then checks the result.

The checks are those that a platform engineer would make by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.log.export import export_log
from engine.names import deployment_stream, lgp_stream
from sandbox.demo.prober import Prober
from sandbox.demo.world import StepFailed, World, eventually, expect, image

FIRST_SECRET = {"GREETING_SECRET": "demo-first-secret-7f3a9c", "OPENAI_API_KEY": "sk-demo-0123456789abcdef"}
SECOND_SECRET = {"GREETING_SECRET": "demo-second-secret-b81e24", "OPENAI_API_KEY": "sk-demo-0123456789abcdef"}

HELLO, SURVIVOR = "hello", "survivor"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: its key in the summary, its title on the screen, and the function that runs it."""

    name: str
    title: str
    run: Callable[[World, Progress], None]


def succeeded(done: subprocess.CompletedProcess[str], what: str) -> None:
    """Raise StepFailed with the output of a command unless the command exited with 0."""
    expect(done.returncode == 0, f"{what} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")


# --- 1, 2: a new deployment -----------------------------------------------------------------------------------------


def deploy(world: World, progress: Progress) -> None:
    done = world.deploy(HELLO, image("hello", 1), FIRST_SECRET)
    succeeded(done, "langgraph deploy")
    deployment = world.deployment(HELLO)
    revision = world.revision(deployment["id"], deployment["latest_revision_id"])
    expect(revision["status"] == "DEPLOYED", f"the revision's status is {revision['status']}, expected DEPLOYED")
    expect(deployment["active_revision_id"] == revision["id"], "the new revision is not the active one")
    eventually("the deployment is READY", 10, lambda: world.deployment(HELLO)["status"] == "READY")
    world.objects = len(world.objects_of(world.lgp(HELLO)))
    progress(
        f"langgraph deploy succeeded; deployment {HELLO!r} has {world.objects} objects in namespace "
        f"{world.stack.namespace!r} now, its LGP and pods included"
    )


def answer(world: World, progress: Progress) -> None:
    lgp, deployment = world.lgp(HELLO), world.deployment(HELLO)
    ok = world.agents.get(world.url(lgp, "/ok"))
    expect(ok.status_code == 200 and ok.json().get("ok") is True, f"GET /ok: {ok.status_code} {ok.text[:200]}")
    host = world.agents.get(world.url(lgp, "/info")).raise_for_status().json()["host"]
    expected = {
        "revision_id": deployment["latest_revision_id"],
        "project_id": deployment["id"],
        "tenant_id": world.stack.workspace,
    }
    actual = {key: host.get(key) for key in expected}
    expect(actual == expected, f"GET /info returned {actual}; the control plane has {expected}")
    output = world.ask(lgp)
    expect(output["answer"] == "hello, Ada", f"the graph answered {output['answer']!r}, expected 'hello, Ada'")
    expect(output["secret"]["present"], "the secret did not reach the Agent Server")
    refused = world.agents.post(
        world.url(lgp, "/runs/wait"), json={"assistant_id": "agent"}, headers={"X-Api-Key": "wrong"}
    )
    expect(
        refused.status_code in (401, 403),
        f"a request with a wrong API key was answered {refused.status_code}, expected 401 or 403",
    )
    traced = eventually(
        "a trace arrives in LangSmith",
        20,
        lambda: world.control_plane.get("/langsmith/projects").json().get(HELLO),
    )
    progress(f"POST {world.url(lgp, '/runs/wait')} answered {output['answer']!r}")
    progress(f"the Agent Server sent {traced} traced runs to the LangSmith project {HELLO!r}")


# --- 3: an update without a failed request ---------------------------------------------------------------------------


def update(world: World, progress: Progress) -> None:
    lgp, before = world.lgp(HELLO), world.deployment(HELLO)
    first = world.ask(lgp)
    with Prober(world.url(lgp, "/ok")) as prober:
        done = world.deploy(HELLO, image("hello2", 1), SECOND_SECRET)
        succeeded(done, "the second langgraph deploy")
        eventually("the old revision's pods are deleted", 20, lambda: pods_of(world, lgp) == 1)
    world.probes, world.probe_failures = prober.requests, prober.failures
    expect(prober.requests > 10, f"the prober made only {prober.requests} requests")
    expect(not prober.failures, f"{len(prober.failures)} of {prober.requests} requests failed: {prober.failures[:3]}")
    after, second = world.deployment(HELLO), world.ask(lgp)
    expect(after["active_revision_id"] != before["active_revision_id"], "there is no new active revision")
    expect(second["answer"] != first["answer"], f"the answer is still {second['answer']!r}")
    expect(second["secret"] != first["secret"], "the Agent Server still has the old secret")
    progress(
        f"the graph now answers {second['answer']!r}; {prober.requests} health requests during the update, none failed"
    )


def pods_of(world: World, lgp: str) -> int:
    """Return how many Agent Server pods an LGP has, including terminating pods."""
    return len(pod_images(world, lgp))


def pod_images(world: World, lgp: str) -> list[str]:
    """Return the image of each Agent Server pod of an LGP, including terminating pods; sorted."""
    listed = world.object("/api/v1/namespaces/{ns}/pods") or {"items": []}
    mine = [pod for pod in listed["items"] if pod["metadata"].get("labels", {}).get("app") == lgp]
    return sorted(pod["spec"]["containers"][0]["image"] for pod in mine)


# --- 4: revisions that fail -----------------------------------------------------------------------------------------


def fail(world: World, progress: Progress) -> None:
    lgp, serving = world.lgp(HELLO), world.deployment(HELLO)["active_revision_id"]
    served = pod_images(world, lgp)
    for app, reason, expected in (
        ("missing", "ImagePullBackOff", "sandbox.local/missing"),
        ("crash", "CrashLoopBackOff", "no weights found in /models"),
    ):
        done = world.deploy(HELLO, image(app, 1), SECOND_SECRET)
        expect(done.returncode != 0, f"langgraph deploy of image {app!r} succeeded, expected a failure")
        deployment = world.deployment(HELLO)
        status = world.revision_status(HELLO)
        expect(status == "DEPLOY_FAILED", f"the revision of image {app!r} is {status}, expected DEPLOY_FAILED")
        expect(deployment["active_revision_id"] == serving, "the active revision is no longer the serving one")
        failed = [r for r in world.deployment_events(deployment["id"]) if r.type == "RevisionFailed"][-1].data
        expect(
            failed["reason"] == reason, f"the reason is {failed['reason']!r}, expected {reason!r}: {failed['message']}"
        )
        expect(expected in failed["message"], f"{expected!r} is not in the message: {failed['message']}")
        expect("pod" in failed["message"].lower(), f"the message names no pod: {failed['message']}")
        expect(world.ask(lgp)["answer"] != "", "the earlier revision does not serve")
        eventually("only the earlier revision's pod is left", 20, lambda: pod_images(world, lgp) == served)
        progress(f"image {app!r}: DEPLOY_FAILED ({failed['reason']}); the earlier revision still serves")
        progress(f"  {explanation(failed['message'])}")


def explanation(message: str) -> str:
    """Return why a container failed, and the last line that the container printed, from a revision's failure message.

    The message begins with the names of the workload, the pod and the container, and may end with log lines.
    """
    head, _, output = message.strip().partition("\nlast log lines:\n")
    why = head.rpartition(", container ")[2].partition(": ")[2] or head
    lines = output.strip().splitlines()
    return f"{why}; last line of its output: {lines[-1]}" if lines else why


# --- 5: workers that die ---------------------------------------------------------------------------------------------


def crash(world: World, progress: Progress) -> None:
    results: list[subprocess.CompletedProcess[str]] = []
    client = threading.Thread(target=lambda: results.append(world.deploy(SURVIVOR, image("hello", 2), FIRST_SECRET)))
    client.start()
    deployment_id = eventually("the listener registers the deployment", 20, lambda: registered(world, SURVIVOR))
    eventually("the listener applies the secrets", 20, lambda: "SecretsApplied" in types(world, deployment_id))
    killed = [("listener", world.stack.kill("listener"))]
    lgp = world.lgp(SURVIVOR)
    stream = lgp_stream(world.stack.namespace, lgp)
    eventually("the LGP's first event is in the log", 30, lambda: world.events.version(stream) > 0)
    killed.append(("operator", world.stack.kill("operator")))
    expect("RevisionDeployed" not in types(world, deployment_id), "the revision was deployed before both workers died")
    client.join(90)
    expect(bool(results), "langgraph deploy did not end within 90 s")
    succeeded(results[0], "langgraph deploy during the crashes")
    deployed = [r for r in world.deployment_events(deployment_id) if r.type == "RevisionDeployed"]
    expect(len(deployed) == 1, f"the log has {len(deployed)} RevisionDeployed for the revision, expected 1")
    objects = world.objects_of(lgp)
    expect(len(objects) == len(set(objects)), f"objects exist twice: {objects}")
    for name in (f"Deployment {lgp}", f"Service {lgp}"):
        expect(objects.count(name) == 1, f"{name} exists {objects.count(name)} times, expected once")
    died = ", ".join(f"{name} (pid {pid})" for name, pid in killed)
    progress(
        f"killed {died} while deployment {SURVIVOR!r} was rolling out: it became DEPLOYED, and each of its "
        f"{len(objects)} objects exists once"
    )


def registered(world: World, name: str) -> str | None:
    """Return the id of a deployment whose stream has events, else None."""
    try:
        deployment_id: str = world.deployment(name)["id"]
    except StepFailed:
        return None
    return deployment_id if world.events.version(deployment_stream(deployment_id)) else None


def types(world: World, deployment_id: str) -> list[str]:
    return [record.type for record in world.deployment_events(deployment_id)]


# --- 6: drift --------------------------------------------------------------------------------------------------------


def drift(world: World, progress: Progress) -> None:
    lgp = world.lgp(SURVIVOR)
    deployment, service = (
        f"/apis/apps/v1/namespaces/{world.stack.namespace}/deployments/{lgp}",
        f"/api/v1/namespaces/{world.stack.namespace}/services/{lgp}",
    )
    uid = (world.object(deployment) or {})["metadata"]["uid"]
    before = len(drifts(world, lgp))
    world.kubernetes.delete(deployment).raise_for_status()
    eventually(
        "the operator creates the Deployment again",
        10,
        lambda: (found := world.object(deployment)) is not None and found["metadata"]["uid"] != uid,
    )
    port = (world.object(service) or {})["spec"]["ports"][0]
    edit = {"spec": {"ports": [{**port, "targetPort": 9999}]}}
    headers = {"Content-Type": "application/merge-patch+json"}
    world.kubernetes.patch(service, json=edit, headers=headers, params={"fieldManager": "somebody"}).raise_for_status()
    eventually(
        "the Service has its former target port",
        10,
        lambda: (world.object(service) or {})["spec"]["ports"][0]["targetPort"] == port["targetPort"],
    )
    found = drifts(world, lgp)[before:]
    expect(len(found) >= 2, f"the log has {len(found)} DriftDetected for two changes: {found}")
    eventually("the Agent Server answers again", 30, lambda: world.agents.get(world.url(lgp, "/ok")).status_code == 200)
    progress(f"deployment {SURVIVOR!r}: the operator restored both; DriftDetected: {', '.join(found)}")


def drifts(world: World, lgp: str) -> list[str]:
    """Return `<kind> <change>` of every DriftDetected in an LGP's stream."""
    records = world.lgp_events(lgp)
    return [f"{r.data['key']['kind']} {r.data['change']}" for r in records if r.type == "DriftDetected"]


# --- 7: deletion -----------------------------------------------------------------------------------------------------


def delete(world: World, progress: Progress) -> None:
    lgp, deployment_id = world.lgp(HELLO), world.deployment(HELLO)["id"]
    before = world.objects_of(lgp)
    expect(any(name.startswith("PersistentVolumeClaim") for name in before), f"no PersistentVolumeClaim in {before}")
    folder = world.stack.directory / "projects" / HELLO
    succeeded(world.langgraph("delete", deployment_id, "--force", folder=folder), "langgraph deploy delete")
    eventually("the control plane no longer has the deployment", 30, lambda: gone(world, deployment_id))
    try:
        eventually("all objects of the deployment are deleted", 20, lambda: not world.objects_of(lgp))
    except StepFailed as failure:
        raise StepFailed(f"{failure}; left: {world.objects_of(lgp)}") from None
    answered = world.agents.get(world.url(lgp, "/ok")).status_code
    expect(answered in (404, 503), f"the deployment's path answers {answered}, expected 404 or 503")
    progress(
        f"deployment {HELLO!r}: all {len(before)} objects are deleted, including the PersistentVolumeClaim "
        "and the objects that later updates added"
    )


def gone(world: World, deployment_id: str) -> bool:
    """Whether the control plane answers 404 for a deployment."""
    return world.control_plane.get(f"/v2/deployments/{deployment_id}").status_code == 404


# --- 8: the log ------------------------------------------------------------------------------------------------------


def replay(world: World, progress: Progress) -> None:
    environment = {**world.stack.environment(), "AGENTPLANE_LOG_FORMAT": "console", "NO_COLOR": "1", "COLUMNS": "150"}
    agentplane = [sys.executable, "-m", "cli.main"]
    timeline = subprocess.run(
        [*agentplane, "events", HELLO], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    succeeded(timeline, "agentplane events")
    progress(f"timeline of deployment {HELLO!r} only (`agentplane events {HELLO}`):")
    progress(timeline.stdout.rstrip())
    exported = world.stack.directory / "log.jsonl"
    exported.write_bytes(b"".join(export_log(world.events)))
    transcripts: list[bytes] = []
    for source in (["--live"], [str(exported)]):
        transcript = world.stack.directory / f"replay-{len(transcripts)}.jsonl"
        options = ["--transcript", str(transcript), "--through", str(head(exported)), "--json"]
        command = [*agentplane, "replay", *source, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        succeeded(done, f"agentplane replay {' '.join(source)}")
        transcripts.append(transcript.read_bytes())
    expect(transcripts[0] == transcripts[1], "the replays of the live log and of its export differ")
    result = json.loads(done.stdout)
    progress(
        f"replayed all {result['events']} events, once from Redis and once from an export, with the same result: "
        f"{result['checked']} acts and manifests agree with the log"
    )
    streams = world.events.streams()
    kinds = Counter(stream.partition("/")[0] for stream in streams)
    progress(
        f"{len(streams)} streams: one per deployment ({kinds['deployment']}), one per LGP ({kinds['lgp']}), "
        "one for the data plane"
    )
    found = [secret for secret in world.secrets if secret.encode() in exported.read_bytes()]
    expect(not found, f"{len(found)} secret values are in the exported log")
    progress(f"none of the {len(set(world.secrets))} secret values that the demo used is in the export")


def head(exported: Path) -> int:
    """Return the position of the last record of an export."""
    last = exported.read_bytes().splitlines()[-1]
    return int(json.loads(last)["position"])


STEPS = (
    Step("deploy", "langgraph deploy creates a deployment; its revision becomes DEPLOYED", deploy),
    Step("answer", "the Agent Server answers through the ingress", answer),
    Step("update", "an update to another image and secret, without a failed request", update),
    Step("fail", "two updates that fail: an image that cannot be pulled, an image that crashes", fail),
    Step("crash", "kill -9 of listener and operator during a rollout", crash),
    Step("drift", "a Deployment deleted and a Service edited by hand: the operator restores both", drift),
    Step("delete", "langgraph deploy delete leaves nothing behind", delete),
    Step("replay", "the event log: a timeline, an export, a replay", replay),
)
