"""Namespace leases: one data plane holds a namespace."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from engine.errors import ClusterUnavailable, ObjectConflict, ObjectRefused
from engine.kubernetes.namespace_lease import (
    SHARED,
    LeaseRefused,
    NamespaceLease,
    NamespaceLeases,
    lease_key,
    lease_manifest,
    parse,
)
from engine.ports import Manifest, ObjectKey
from tests.support.clock import FakeClock

OURS, THEIRS = "a/1", "b/2"
TTL = timedelta(seconds=60)


class Leases:
    """A cluster that has only Leases, with resource versions."""

    def __init__(self) -> None:
        self.stored: dict[str, Manifest] = {}
        self.version = 0
        self.down: Exception | None = None
        self.reads = self.writes = 0

    def get(self, key: ObjectKey) -> Manifest | None:
        self._answer()
        self.reads += 1
        return self.stored.get(key.namespace)

    def create(self, manifest: Manifest) -> bool:
        self._answer()
        return manifest["metadata"]["namespace"] not in self.stored and self._store(manifest)

    def patch(self, key: ObjectKey, patch: Manifest, **_: Any) -> Manifest | None:
        self._answer()
        if patch["metadata"]["resourceVersion"] != self.stored[key.namespace]["metadata"]["resourceVersion"]:
            raise ObjectConflict("changed", status=409)
        old = self.stored[key.namespace]
        self._store({**old, "spec": {**old["spec"], **patch["spec"]}})
        return self.stored[key.namespace]

    def delete(self, key: ObjectKey, *, uid: str | None = None, **_: Any) -> bool:
        return self.stored.pop(key.namespace, None) is not None

    def _store(self, manifest: Manifest) -> bool:
        self.version += 1
        self.writes += 1
        metadata = {**manifest["metadata"], "resourceVersion": str(self.version), "uid": "u"}
        self.stored[metadata["namespace"]] = {**manifest, "metadata": metadata}
        return True

    def _answer(self) -> None:
        if self.down is not None:
            raise self.down


@pytest.fixture
def cluster() -> Leases:
    return Leases()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


def leases(cluster: Leases, clock: FakeClock, holder: str = OURS) -> NamespaceLeases:
    return NamespaceLeases(cluster, clock, holder, ["agents"], TTL)  # type: ignore[arg-type]


def test_the_first_data_plane_that_writes_leases_the_namespace(cluster: Leases, clock: FakeClock) -> None:
    assert leases(cluster, clock).other_holder("agents") is None
    assert leases(cluster, clock, THEIRS).other_holder("agents") == OURS

    spec = cluster.stored["agents"]["spec"]
    assert spec["holderIdentity"] == OURS
    assert spec["leaseDurationSeconds"] == 60
    assert spec["acquireTime"] == spec["renewTime"] == "2026-01-01T00:00:00.000000Z"


def test_a_lease_survives_a_restart_however_long_it_took(cluster: Leases, clock: FakeClock) -> None:
    leases(cluster, clock).other_holder("agents")
    clock.move(86_400)

    assert leases(cluster, clock).other_holder("agents") is None
    assert cluster.stored["agents"]["spec"]["leaseTransitions"] == 0


def test_a_lease_is_renewed_when_a_third_of_its_ttl_has_passed_and_not_before(
    cluster: Leases, clock: FakeClock
) -> None:
    ours = leases(cluster, clock)
    for _ in range(60):
        assert ours.other_holder("agents") is None
        clock.move(1)

    assert cluster.writes == 3
    assert cluster.reads == 3


def test_two_processes_renew_one_lease_between_them(cluster: Leases, clock: FakeClock) -> None:
    one, two = leases(cluster, clock), leases(cluster, clock)
    for _ in range(60):
        assert one.other_holder("agents") is two.other_holder("agents") is None
        clock.move(1)

    assert cluster.writes == 3


def test_a_process_that_only_reads_leases_nothing_and_asks_rarely(cluster: Leases, clock: FakeClock) -> None:
    looks = leases(cluster, clock)
    for _ in range(20):
        assert looks.seen_holder("agents") is None
        clock.move(1)
    assert (cluster.writes, cluster.reads) == (0, 1)

    leases(cluster, clock, THEIRS).other_holder("agents")
    assert looks.seen_holder("agents") == THEIRS
    cluster.stored.clear()
    clock.move(2)
    assert looks.seen_holder("agents") is None


def test_the_lease_of_a_dead_data_plane_is_not_taken_silently(cluster: Leases, clock: FakeClock) -> None:
    leases(cluster, clock, THEIRS).other_holder("agents")
    clock.move(86_400)

    assert leases(cluster, clock).other_holder("agents") == THEIRS


def test_a_lease_is_taken_by_command_once_its_ttl_has_passed(cluster: Leases, clock: FakeClock) -> None:
    theirs, ours = leases(cluster, clock, THEIRS), leases(cluster, clock)
    theirs.other_holder("agents")
    clock.move(59)

    with pytest.raises(LeaseRefused, match=r"held by 'b/2', which is alive.*Stop that data plane, and try again"):
        ours.take("agents")
    clock.move(1)

    assert ours.take("agents").holder == THEIRS
    assert ours.other_holder("agents") is None
    assert theirs.other_holder("agents") == OURS
    assert cluster.stored["agents"]["spec"]["leaseTransitions"] == 1


def test_a_holder_that_cannot_reach_the_cluster_trusts_its_lease_for_two_thirds_of_the_ttl(
    cluster: Leases, clock: FakeClock
) -> None:
    ours = leases(cluster, clock)
    ours.other_holder("agents")
    cluster.down = ClusterUnavailable("away")

    clock.move(39)
    assert ours.other_holder("agents") is None
    clock.move(1)
    with pytest.raises(ClusterUnavailable):
        ours.other_holder("agents")


def test_without_the_permission_to_lease_nothing_is_written(cluster: Leases, clock: FakeClock) -> None:
    cluster.down = ObjectRefused("leases is forbidden", status=403)

    with pytest.raises(ObjectRefused, match="forbidden"):
        leases(cluster, clock).other_holder("agents")


def test_of_two_data_planes_that_lease_at_once_one_holds_the_namespace(cluster: Leases, clock: FakeClock) -> None:
    ours, theirs = leases(cluster, clock), leases(cluster, clock, THEIRS)
    create = cluster.create

    def slower(manifest: Manifest) -> bool:
        cluster.create = create  # type: ignore[method-assign]
        assert theirs.other_holder("agents") is None
        return create(manifest)

    cluster.create = slower  # type: ignore[method-assign]

    assert ours.other_holder("agents") == THEIRS


def test_a_released_namespace_is_free_for_the_next(cluster: Leases, clock: FakeClock) -> None:
    ours, theirs = leases(cluster, clock), leases(cluster, clock, THEIRS)
    ours.other_holder("agents")

    assert theirs.release("agents") is False
    assert ours.release("agents") is True
    assert theirs.other_holder("agents") is None


def test_data_planes_that_share_keep_others_away_and_release_nothing_that_another_may_use(
    cluster: Leases, clock: FakeClock
) -> None:
    one, two = leases(cluster, clock, SHARED), leases(cluster, clock, SHARED)

    assert one.other_holder("agents") is two.other_holder("agents") is None
    assert leases(cluster, clock).other_holder("agents") == SHARED
    assert one.release("agents") is False


def test_a_namespace_that_is_not_watched_needs_no_lease(cluster: Leases, clock: FakeClock) -> None:
    assert leases(cluster, clock).other_holder("gateways") is None
    assert cluster.reads == 0


@pytest.mark.parametrize("spec", [None, {}, {"holderIdentity": None}, {"renewTime": "yesterday"}])
def test_a_lease_without_a_holder_is_free(spec: Any) -> None:
    lease = parse("agents", {"metadata": {"resourceVersion": "7"}, "spec": spec})

    assert lease == NamespaceLease(namespace="agents", resource_version="7")
    assert lease.expired(FakeClock().at)


def test_a_written_lease_reads_the_same() -> None:
    lease = parse("agents", lease_manifest(NamespaceLease(namespace="agents"), OURS, TTL, FakeClock().at))

    assert (lease.holder, lease.renewed, lease.ttl) == (OURS, FakeClock().at, TTL)
    assert lease_key("agents").name == "agentplane"
