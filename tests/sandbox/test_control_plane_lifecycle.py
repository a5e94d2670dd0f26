"""The life cycle tables of the control plane. Pure."""

from __future__ import annotations

import pytest

from sandbox.control_plane.lifecycle import DEPLOYMENT_NEXT, FINAL, REVISION_NEXT, STAGES, may_follow, severity


@pytest.mark.parametrize("status", sorted(REVISION_NEXT))
def test_every_revision_status_may_be_repeated(status: str) -> None:
    assert may_follow(REVISION_NEXT, status, status)


@pytest.mark.parametrize("status", sorted(FINAL))
def test_nothing_follows_a_final_status(status: str) -> None:
    assert not any(may_follow(REVISION_NEXT, status, other) for other in REVISION_NEXT if other != status)


@pytest.mark.parametrize(("place", "stage"), list(enumerate(STAGES)))
def test_stages_go_forward_only(place: int, stage: str) -> None:
    assert all(may_follow(REVISION_NEXT, stage, later) for later in STAGES[place:])
    assert not any(may_follow(REVISION_NEXT, stage, earlier) for earlier in STAGES[:place])


def test_no_way_leads_from_a_revision_status_back_to_itself() -> None:
    """UNKNOWN is excluded: it is not a stage."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for following in REVISION_NEXT[todo.pop()] - seen - {"UNKNOWN"}:
                seen.add(following)
                todo.append(following)
        return seen

    assert all(status not in reachable(status) for status in REVISION_NEXT)
    assert set(REVISION_NEXT) - {"CREATING", "UNKNOWN"} == reachable("CREATING")


def test_a_deployment_is_gone_only_after_it_was_to_be_deleted() -> None:
    assert [status for status in DEPLOYMENT_NEXT if may_follow(DEPLOYMENT_NEXT, status, "DELETED")] == [
        "AWAITING_DELETE"
    ]
    assert not any("AWAITING_DELETE" in following for following in DEPLOYMENT_NEXT.values())
    assert not any("AWAITING_DATABASE" in following for following in DEPLOYMENT_NEXT.values())


@pytest.mark.parametrize(
    ("status", "level"), [("DEPLOY_FAILED", "ERROR"), ("SKIPPED", "WARNING"), ("DEPLOYED", "INFO")]
)
def test_severity(status: str, level: str) -> None:
    assert severity(status) == level
