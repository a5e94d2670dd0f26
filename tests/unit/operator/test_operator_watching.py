"""The observation loop, and what the listener's observer adds to the log."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

from engine import names
from engine.errors import LogUnavailable
from engine.event import Event
from engine.kubernetes.fingerprint import Fingerprint, fingerprint
from engine.listener import events as listener
from engine.listener.config import ListenerConfig
from engine.listener.machine import ListenerMachine
from engine.listener.observation.observer import ListenerObserver
from engine.log.memory import MemoryLog
from engine.operator.observation.watches import watch_of_lgp_objects
from engine.ports import Manifest, WatchEvent, lgp_key
from engine.runtime.observation import LGPS, SECRETS
from engine.runtime.observation_loop import Appended, Changed, ObservationLoop
from tests.support.clock import FakeClock
from tests.support.cluster import FakeCluster
from tests.support.operator import NAME, NAMESPACE, STREAM, NoDispatcher, lgp_manifest, started

DEPLOYMENT = "33333333-3333-4333-8333-333333333333"
MINE = names.deployment_stream(DEPLOYMENT)
SECRET = f"{NAME}-env-1"
CONFIG = ListenerConfig(listener_id="l", workspace_id="w", namespaces=(NAMESPACE,), smith_url="http://smith")


class Listening:
    """A deployment with an applied LGP, observed by the listener's observer."""

    def __init__(self) -> None:
        self.clock = FakeClock(datetime(2026, 1, 1, tzinfo=UTC))
        self.cluster = FakeCluster()
        self.events = MemoryLog(self.clock)
        observer = ListenerObserver(ListenerMachine(CONFIG), self.cluster)
        self.loop = ObservationLoop([observer], self.events, NoDispatcher())
        manifest = lgp_manifest()
        manifest["metadata"]["labels"] = {names.DEPLOYMENT_LABEL: DEPLOYMENT}
        self.lgp = self.cluster.apply(manifest, manager=names.LISTENER_MANAGER).manifest
        self.secret = self.cluster.put(
            {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}}
        )
        self.append(
            listener.DeploymentRegistered(
                deployment_id=DEPLOYMENT, name="hello", workspace_id="w", namespace=NAMESPACE, lgp=NAME
            ),
            listener.RevisionRequested(
                revision_id="r1",
                image="i",
                resource_spec={},
                secret_names=(),
                secrets_digest="1",
                content_digest="c",
            ),
            listener.SecretsApplied(revision_id="r1", secret=SECRET, digest="1"),
            self.applied(fingerprint(self.lgp, names.LISTENER_MANAGER)),
        )
        self.see("ADDED", self.lgp)
        self.see("ADDED", self.secret)
        for watched in (LGPS, SECRETS):
            self.loop.take(Changed(watched, NAMESPACE, WatchEvent(type="SYNCED", object={})), self.now)

    @property
    def now(self) -> float:
        return self.clock.at.timestamp()

    def applied(self, print_: Fingerprint) -> Event:
        return listener.LgpApplied(revision_id="r1", manifest_digest="m", fingerprint=print_, created=True)

    def append(self, *events: Event) -> None:
        self.events.append(MINE, self.events.version(MINE), list(events), actor="test")
        self.loop.take(Appended(MINE), self.now)

    def see(self, kind: str, manifest: Manifest) -> None:
        watched = LGPS if manifest["kind"] == "LGP" else SECRETS
        self.loop.take(Changed(watched, NAMESPACE, WatchEvent(type=kind, object=copy.deepcopy(manifest))), self.now)

    def compared(self, seconds: float = 5.0) -> list[str]:
        """Let time pass; return the types of what the watcher appended meanwhile."""
        before = self.events.version(MINE)
        for _ in range(round(seconds / 0.25)):
            self.loop.compare_due(self.now)
            self.clock.move(0.25)
        return [record.type for record in self.events.read(MINE, before)]


def with_status(manifest: Manifest, **status: Any) -> Manifest:
    return {**manifest, "status": {"observedGeneration": 1, "conditions": [], **status}}


def test_an_lgp_as_it_was_applied_is_no_event() -> None:
    assert Listening().compared() == []


def test_a_status_is_reported_once() -> None:
    world = Listening()
    world.see("MODIFIED", with_status(world.lgp, deploymentStatus={"replicas": 1}))
    assert world.compared() == ["RolloutObserved"]

    world.see("MODIFIED", with_status(world.lgp, deploymentStatus={"replicas": 1}))
    assert world.compared() == []


def test_the_observed_deletion_of_an_lgp_is_certain() -> None:
    world = Listening()
    world.cluster.delete(lgp_key(NAMESPACE, NAME))
    world.see("DELETED", world.lgp)

    assert world.compared(0.5) == ["LgpGone"]


def test_an_lgp_that_a_watch_does_not_show_is_read_before_it_counts_as_gone() -> None:
    world = Listening()
    world.see("DELETED", {**world.lgp, "metadata": {**world.lgp["metadata"], "uid": "an earlier one"}})
    assert world.compared() == []

    world.cluster.delete(lgp_key(NAMESPACE, NAME))
    world.see("DELETED", {**world.lgp, "metadata": {**world.lgp["metadata"], "uid": "an earlier one"}})
    assert world.compared(0.5) == []
    assert world.compared() == ["LgpGone"]


def test_the_echo_of_our_own_write_is_no_drift() -> None:
    world = Listening()
    changed = world.cluster.apply(lgp_manifest("r2"), manager=names.LISTENER_MANAGER).manifest
    world.see("MODIFIED", changed)
    assert world.compared(0.5) == []

    world.append(world.applied(fingerprint(changed, names.LISTENER_MANAGER)))
    assert world.compared() == []


def test_unconfirmed_drift_is_held_while_the_stream_is_being_advanced() -> None:
    world = Listening()
    changed = world.cluster.apply(lgp_manifest("r2"), manager=names.LISTENER_MANAGER).manifest
    with world.events.lock(MINE, 60):
        world.see("MODIFIED", changed)
        assert world.compared() == []

    assert world.compared() == ["DriftDetected"]


def test_a_deleted_secret_is_drift() -> None:
    world = Listening()
    world.cluster.objects = {key: found for key, found in world.cluster.objects.items() if key.kind != "Secret"}
    labelled = {
        **world.secret,
        "metadata": {**world.secret["metadata"], "labels": {names.DEPLOYMENT_LABEL: DEPLOYMENT}},
    }
    world.see("DELETED", labelled)

    assert world.compared() == ["DriftDetected"]


# --- the core


def test_an_object_that_is_not_understood_stops_nothing() -> None:
    world = started()
    broken = {"metadata": {"name": "x"}, "kind": "Pod", "apiVersion": "v1"}
    pods = next(watched for watched in world.observer.watches() if watched.kind == "Pod")
    world.loop.take(Changed(pods, NAMESPACE, WatchEvent(type="ADDED", object=broken)), 0.0)
    world.cluster.put(lgp_manifest("r2"))
    world.run()

    assert world.condition("Available")["observedGeneration"] == 2


def test_a_log_that_is_away_loses_no_observation() -> None:
    world = started()
    append = world.events.append

    def away(*args: Any, **kwargs: Any) -> int:
        raise LogUnavailable("no Redis")

    world.events.append = away  # type: ignore[method-assign]
    world.cluster.put(lgp_manifest("r2"))
    try:
        world.watch()
    except LogUnavailable:
        world.events.append = append  # type: ignore[method-assign]
    world.loop.compare_everything(world.clock.at.timestamp())
    world.run()

    assert world.condition("Available")["observedGeneration"] == 2


def test_a_stream_of_a_newer_program_stops_alone() -> None:
    world = started()

    class FromTheFuture(Event):
        pass

    world.events.append(STREAM, world.events.version(STREAM), [FromTheFuture()], actor="later")
    other = "world-0123456789abcdef0123456789abcdef"
    world.cluster.put(lgp_manifest(name=other))
    world.cluster.put(lgp_manifest("r2"))
    world.run()

    assert world.condition("Available", other)["status"] == "True"
    assert world.types()[-1] == "FromTheFuture"


def test_two_watchers_append_an_observation_once() -> None:
    world = started()
    twin = ObservationLoop([world.observer], world.events, NoDispatcher())
    world.cluster.put(lgp_manifest("r2"))
    fold_first = twin._compare(STREAM, 0.0)
    world.watch()
    twin._compare(STREAM, 0.0)

    assert fold_first == 0
    assert world.types().count("LgpObserved") == 2


def test_an_object_that_lost_its_label_and_its_owner_is_edited_not_deleted() -> None:
    world = started()
    key = world.find("Deployment")
    # A watch with a label selector reports the object as deleted.
    gone = WatchEvent(type="DELETED", object=copy.deepcopy(world.cluster.objects[key]))
    world.cluster.edit(key)
    for field in ("labels", "ownerReferences"):
        del world.cluster.objects[key]["metadata"][field]
    world.loop.take(Changed(watch_of_lgp_objects("apps/v1", "Deployment"), NAMESPACE, gone), world.clock.at.timestamp())

    world.run()

    drifts = [record.data for record in world.events.read(STREAM) if record.type == "DriftDetected"]
    assert [(drift["key"]["name"], drift["change"]) for drift in drifts] == [(NAME, "edited")]
    assert world.cluster.objects[key]["metadata"]["labels"][names.LGP_LABEL] == NAME


def test_an_lgp_without_labels_is_drift_of_its_deployment() -> None:
    world = Listening()
    assert world.compared() == []
    bare = copy.deepcopy(world.lgp)
    bare["metadata"] |= {"labels": {}, "generation": bare["metadata"]["generation"] + 1}
    world.cluster.objects[lgp_key(NAMESPACE, NAME)] = bare

    world.see("MODIFIED", bare)

    assert world.compared() == ["DriftDetected"]
