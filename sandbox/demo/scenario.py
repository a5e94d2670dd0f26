"""The story of the demo, one function a step: each does something with a real client, and then checks what a platform
engineer would check by hand.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from engine.log.transfer import export_log
from engine.names import deployment_stream, lgp_stream
from sandbox.demo.prober import Prober
from sandbox.demo.world import StepFailed, World, eventually, expect, image

FIRST_SECRET = {"GREETING_SECRET": "demo-first-secret-7f3a9c", "OPENAI_API_KEY": "sk-demo-0123456789abcdef"}
SECOND_SECRET = {"GREETING_SECRET": "demo-second-secret-b81e24", "OPENAI_API_KEY": "sk-demo-0123456789abcdef"}

HELLO, SURVIVOR = "hello", "survivor"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: what it shows, and how."""

    name: str
    title: str
    run: Callable[[World, Progress], None]


def succeeded(done: subprocess.CompletedProcess[str], what: str) -> None:
    expect(done.returncode == 0, f"{what} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")


# --- 1, 2: a deployment comes up -------------------------------------------------------------------------------------


def deploy(world: World, progress: Progress) -> None:
    done = world.deploy(HELLO, image("hello", 1), FIRST_SECRET)
    succeeded(done, "langgraph deploy")
    deployment = world.deployment(HELLO)
    revision = world.revision(deployment["id"], deployment["latest_revision_id"])
    expect(revision["status"] == "DEPLOYED", f"the control plane says {revision['status']}, not DEPLOYED")
    expect(deployment["active_revision_id"] == revision["id"], "the new revision is not the active one")
    eventually("the deployment is READY", 10, lambda: world.deployment(HELLO)["status"] == "READY")
    world.objects = len(world.objects_of(world.lgp(HELLO)))
    progress(f"langgraph deploy: succeeded; {world.objects} objects in namespace {world.stack.namespace}")


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
    seen = {key: host.get(key) for key in expected}
    expect(seen == expected, f"/info says {seen}, the control plane {expected}")
    said = world.ask(lgp)
    expect(said["answer"] == "hello, Ada", f"the graph said {said['answer']!r}")
    expect(said["secret"]["present"], "the secret did not reach the Agent Server")
    refused = world.agents.post(
        world.url(lgp, "/runs/wait"), json={"assistant_id": "agent"}, headers={"X-Api-Key": "wrong"}
    )
    expect(refused.status_code in (401, 403), f"a wrong API key was answered {refused.status_code}")
    traced = eventually(
        "a trace arrived in LangSmith",
        20,
        lambda: world.control_plane.get("/langsmith/projects").json().get(HELLO),
    )
    progress(f"{world.url(lgp, '/runs/wait')} → {said['answer']!r}; {traced} runs traced to project {HELLO!r}")


# --- 3: an update without a failed request ---------------------------------------------------------------------------


def update(world: World, progress: Progress) -> None:
    lgp, before = world.lgp(HELLO), world.deployment(HELLO)
    first = world.ask(lgp)
    with Prober(world.url(lgp, "/ok")) as prober:
        done = world.deploy(HELLO, image("hello2", 1), SECOND_SECRET)
        succeeded(done, "the second langgraph deploy")
        eventually("the old revision's pods are gone", 20, lambda: pods_of(world, lgp) == 1)
    world.probes, world.probe_failures = prober.requests, prober.failures
    expect(prober.requests > 10, f"the prober made {prober.requests} requests only")
    expect(not prober.failures, f"{len(prober.failures)} of {prober.requests} probes failed: {prober.failures[:3]}")
    after, second = world.deployment(HELLO), world.ask(lgp)
    expect(after["active_revision_id"] != before["active_revision_id"], "there is no new active revision")
    expect(second["answer"] != first["answer"], f"the answer is still {second['answer']!r}")
    expect(second["secret"] != first["secret"], "the Agent Server still has the old secret")
    progress(f"new answer {second['answer']!r}; {prober.requests} probes, none failed")


def pods_of(world: World, lgp: str) -> int:
    """Return how many pods serve the API of an LGP, those on their way out included."""
    return len(pod_images(world, lgp))


def pod_images(world: World, lgp: str) -> list[str]:
    """Return the images of these pods."""
    listed = world.object("/api/v1/namespaces/{ns}/pods") or {"items": []}
    mine = [pod for pod in listed["items"] if pod["metadata"].get("labels", {}).get("app") == lgp]
    return sorted(pod["spec"]["containers"][0]["image"] for pod in mine)


# --- 4: revisions that cannot come up --------------------------------------------------------------------------------


def fail(world: World, progress: Progress) -> None:
    lgp, serving = world.lgp(HELLO), world.deployment(HELLO)["active_revision_id"]
    served = pod_images(world, lgp)
    for app, reason, told in (
        ("missing", "ImagePullBackOff", "sandbox.local/missing"),
        ("crash", "CrashLoopBackOff", "no weights found in /models"),
    ):
        done = world.deploy(HELLO, image(app, 1), SECOND_SECRET)
        expect(done.returncode != 0, f"langgraph deploy of {app} succeeded")
        deployment = world.deployment(HELLO)
        status = world.revision_status(HELLO)
        expect(status == "DEPLOY_FAILED", f"the revision of {app} is {status}")
        expect(deployment["active_revision_id"] == serving, "the active revision is no longer the serving one")
        failed = [r for r in world.deployment_events(deployment["id"]) if r.type == "RevisionFailed"][-1].data
        expect(failed["reason"] == reason, f"the reason is {failed['reason']!r}: {failed['message']}")
        expect(told in failed["message"], f"{told!r} is not in the message: {failed['message']}")
        expect("pod" in failed["message"].lower(), f"the object is not named: {failed['message']}")
        expect(world.ask(lgp)["answer"] != "", "the earlier revision does not serve")
        eventually("only the earlier revision's pod is left", 20, lambda: pod_images(world, lgp) == served)
        progress(f"{app}: DEPLOY_FAILED, {failed['reason']}: {first_line(failed['message'])}")


def first_line(text: str, width: int = 110) -> str:
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= width else f"{line[: width - 1]}…"


# --- 5: workers that die ---------------------------------------------------------------------------------------------


def crash(world: World, progress: Progress) -> None:
    results: list[subprocess.CompletedProcess[str]] = []
    client = threading.Thread(target=lambda: results.append(world.deploy(SURVIVOR, image("hello", 2), FIRST_SECRET)))
    client.start()
    deployment_id = eventually("the deployment was seen", 20, lambda: registered(world, SURVIVOR))
    eventually("its revision is on its way", 20, lambda: "SecretsApplied" in types(world, deployment_id))
    killed = [("listener", world.stack.kill("listener"))]
    lgp = world.lgp(SURVIVOR)
    stream = lgp_stream(world.stack.namespace, lgp)
    eventually("the operator saw the LGP", 30, lambda: world.events.version(stream) > 0)
    killed.append(("operator", world.stack.kill("operator")))
    expect("RevisionDeployed" not in types(world, deployment_id), "the deployment was over before the workers died")
    client.join(90)
    expect(bool(results), "langgraph deploy did not end")
    succeeded(results[0], "langgraph deploy during the crashes")
    created = [r for r in world.deployment_events(deployment_id) if r.type == "RevisionDeployed"]
    expect(len(created) == 1, f"the revision was deployed {len(created)} times")
    objects = world.objects_of(lgp)
    expect(len(objects) == len(set(objects)), f"objects exist twice: {objects}")
    for name in (f"Deployment {lgp}", f"Service {lgp}"):
        expect(objects.count(name) == 1, f"{name} exists {objects.count(name)} times")
    died = ", ".join(f"{name} (pid {pid})" for name, pid in killed)
    progress(f"killed {died} in mid-deployment: DEPLOYED all the same, {len(objects)} objects, each once")


def registered(world: World, name: str) -> str | None:
    """Return the id of a deployment once the event log knows it."""
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
        "the Deployment is back",
        10,
        lambda: (found := world.object(deployment)) is not None and found["metadata"]["uid"] != uid,
    )
    port = (world.object(service) or {})["spec"]["ports"][0]
    edit = {"spec": {"ports": [{**port, "targetPort": 9999}]}}
    headers = {"Content-Type": "application/merge-patch+json"}
    world.kubernetes.patch(service, json=edit, headers=headers, params={"fieldManager": "somebody"}).raise_for_status()
    eventually(
        "the Service is as it was",
        10,
        lambda: (world.object(service) or {})["spec"]["ports"][0]["targetPort"] == port["targetPort"],
    )
    found = drifts(world, lgp)[before:]
    expect(len(found) >= 2, f"the log has {len(found)} DriftDetected for two changes: {found}")
    eventually("it serves again", 30, lambda: world.agents.get(world.url(lgp, "/ok")).status_code == 200)
    progress(f"a deleted Deployment and an edited Service are back; DriftDetected: {', '.join(found)}")


def drifts(world: World, lgp: str) -> list[str]:
    """Return what drifted of an LGP so far."""
    records = world.lgp_events(lgp)
    return [f"{r.data['key']['kind']} {r.data['change']}" for r in records if r.type == "DriftDetected"]


# --- 7: deletion -----------------------------------------------------------------------------------------------------


def delete(world: World, progress: Progress) -> None:
    lgp, deployment_id = world.lgp(HELLO), world.deployment(HELLO)["id"]
    before = world.objects_of(lgp)
    expect(any(name.startswith("PersistentVolumeClaim") for name in before), f"no volume claim among {before}")
    folder = world.stack.directory / "projects" / HELLO
    succeeded(world.langgraph("delete", deployment_id, "--force", folder=folder), "langgraph deploy delete")
    eventually("the control plane has forgotten it", 30, lambda: gone(world, deployment_id))
    try:
        eventually("nothing is left in the cluster", 20, lambda: not world.objects_of(lgp))
    except StepFailed as failure:
        raise StepFailed(f"{failure}: {world.objects_of(lgp)}") from None
    expect(world.agents.get(world.url(lgp, "/ok")).status_code in (404, 503), "its path is still served")
    progress(f"{len(before)} objects, volume claim included: none is left")


def gone(world: World, deployment_id: str) -> bool:
    return world.control_plane.get(f"/v2/deployments/{deployment_id}").status_code == 404


# --- 8: the log ------------------------------------------------------------------------------------------------------


def remember(world: World, progress: Progress) -> None:
    environment = {**world.stack.environment(), "AGENTPLANE_LOG_FORMAT": "console", "NO_COLOR": "1", "COLUMNS": "150"}
    agentplane = [sys.executable, "-m", "cli.main"]
    timeline = subprocess.run(
        [*agentplane, "events", HELLO], env=environment, capture_output=True, text=True, timeout=30, check=False
    )
    succeeded(timeline, "agentplane events")
    progress(timeline.stdout.rstrip())
    exported = world.stack.directory / "log.jsonl"
    exported.write_bytes(b"".join(export_log(world.events)))
    transcripts: list[bytes] = []
    for source in (["--live"], [str(exported)]):
        transcript = world.stack.directory / f"replay-{len(transcripts)}.jsonl"
        command = [*agentplane, "replay", *source, "--transcript", str(transcript), "--through", str(head(exported))]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        succeeded(done, f"agentplane replay {' '.join(source)}")
        transcripts.append(transcript.read_bytes())
    expect(transcripts[0] == transcripts[1], "the live log and its export replay differently")
    progress(first_line(done.stdout, 150))
    found = [secret for secret in world.secrets if secret.encode() in exported.read_bytes()]
    expect(not found, f"{len(found)} secret values are in the exported log")


def head(exported: Path) -> int:
    """Return the position of the last record of an export."""
    last = exported.read_bytes().splitlines()[-1]
    return int(json.loads(last)["position"])


STEPS = (
    Step("deploy", "langgraph deploy creates a deployment, and it is DEPLOYED", deploy),
    Step("answer", "the Agent Server answers through the ingress", answer),
    Step("update", "a new image and secret, without a failed request", update),
    Step("fail", "an image that cannot be pulled, one that crashes", fail),
    Step("crash", "kill -9 of listener and operator in mid-deployment", crash),
    Step("drift", "a Deployment deleted and a Service edited by hand", drift),
    Step("delete", "langgraph deploy delete leaves nothing", delete),
    Step("replay", "the log: a timeline, an export, a replay", remember),
)
