"""The status of a Job: controllers other than the cluster's own may write it, so the API server validates it.

`spec.managedBy` keeps the Job controller of a real cluster away from the Jobs of these cases.
"""

from __future__ import annotations

import httpx
import pytest

from tests.conformance.client import PATCHES, Api, causes, refused, succeeded
from tests.conformance.objects import Object, container

NOON, LATER, EARLIER = "2026-01-01T12:00:00Z", "2026-01-01T12:00:05Z", "2026-01-01T11:59:59Z"


def path_of(api: Api, *name: str) -> str:
    return "/".join((f"/apis/batch/v1/namespaces/{api.namespace}/jobs", *name))


def make_job(api: Api, **spec: object) -> Object:
    template = {"spec": {"restartPolicy": "Never", "containers": [container()]}}
    spec = {"suspend": True, "managedBy": "example.com/tests", "template": template, **spec}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": spec}
    return succeeded(api.http.post(path_of(api), json=body))


def write(api: Api, status: Object) -> httpx.Response:
    """Merge `status` into the status of the Job; fields that `status` does not name stay."""
    path = path_of(api, "once", "status")
    return api.http.patch(path, json={"status": status}, headers={"Content-Type": PATCHES["merge"]})


def conditions(*true: str) -> list[Object]:
    return [{"type": kind, "status": "True", "lastTransitionTime": NOON} for kind in true]


DECIDED = {"startTime": NOON, "conditions": conditions("SuccessCriteriaMet")}
COMPLETE = {
    "startTime": NOON,
    "completionTime": LATER,
    "succeeded": 1,
    "conditions": conditions("SuccessCriteriaMet", "Complete"),
}
FAILED = {"startTime": NOON, "failed": 1, "conditions": conditions("FailureTarget", "Failed")}


def test_a_job_completes_in_two_steps(api: Api) -> None:
    make_job(api)
    succeeded(write(api, {"startTime": NOON, "active": 1, "ready": 1}))
    succeeded(write(api, {"active": 1, "ready": 0, "terminating": 1, "conditions": conditions("SuccessCriteriaMet")}))
    done = succeeded(write(api, {**COMPLETE, "active": 0, "terminating": 0}))
    assert [at["type"] for at in done["status"]["conditions"]] == ["SuccessCriteriaMet", "Complete"]
    assert done["status"]["completionTime"] == LATER


def test_a_job_fails_in_two_steps(api: Api) -> None:
    make_job(api)
    succeeded(write(api, {"startTime": NOON, "conditions": conditions("FailureTarget")}))
    done = succeeded(write(api, FAILED))
    assert [at["type"] for at in done["status"]["conditions"]] == ["FailureTarget", "Failed"]
    assert "completionTime" not in done["status"]


def test_both_steps_may_be_one_write(api: Api) -> None:
    make_job(api)
    assert succeeded(write(api, COMPLETE))["status"]["succeeded"] == 1


MISFITS: dict[str, tuple[Object, str, str]] = {
    "complete, undecided": ({**COMPLETE, "conditions": conditions("Complete")}, "conditions", "Invalid"),
    "failed, undecided": ({**FAILED, "conditions": conditions("Failed")}, "conditions", "Invalid"),
    "complete and failed": (
        {**COMPLETE, "conditions": conditions("SuccessCriteriaMet", "Complete", "FailureTarget", "Failed")},
        "conditions",
        "Invalid",
    ),
    "complete, decided to fail": (
        {**COMPLETE, "conditions": conditions("SuccessCriteriaMet", "Complete", "FailureTarget")},
        "conditions",
        "Invalid",
    ),
    "decided both": (
        {"startTime": NOON, "conditions": conditions("SuccessCriteriaMet", "FailureTarget")},
        "conditions",
        "Invalid",
    ),
    "complete, never started": ({**COMPLETE, "startTime": None}, "startTime", "Required"),
    "failed, never started": ({**FAILED, "startTime": None}, "startTime", "Required"),
    "complete, at no time": ({**COMPLETE, "completionTime": None}, "completionTime", "Required"),
    "completion time of a running job": ({"startTime": NOON, "completionTime": LATER}, "completionTime", "Invalid"),
    "completion time of a failed job": ({**FAILED, "completionTime": LATER}, "completionTime", "Invalid"),
    "complete before the start": ({**COMPLETE, "completionTime": EARLIER}, "completionTime", "Invalid"),
    "complete, with active pods": ({**COMPLETE, "active": 1}, "active", "Invalid"),
    "failed, with active pods": ({**FAILED, "active": 1}, "active", "Invalid"),
    "complete, with terminating pods": ({**COMPLETE, "terminating": 1}, "terminating", "Invalid"),
    "complete, with uncounted pods": (
        {**COMPLETE, "uncountedTerminatedPods": {"succeeded": ["a-pod"]}},
        "uncountedTerminatedPods",
        "Invalid",
    ),
    "more ready than active": ({"active": 1, "ready": 2}, "ready", "Invalid"),
    "ready without active": ({"ready": 1}, "ready", "Invalid"),
    "negative active": ({"active": -1}, "active", "Invalid"),
    "negative ready": ({"ready": -1}, "ready", "Invalid"),
    "negative terminating": ({"terminating": -1}, "terminating", "Invalid"),
    "negative succeeded": ({"succeeded": -1}, "succeeded", "Invalid"),
    "negative failed": ({"failed": -1}, "failed", "Invalid"),
    "indexes without an index": ({"completedIndexes": "0"}, "completedIndexes", "Invalid"),
    "failed indexes without a limit for each": ({"failedIndexes": "0"}, "failedIndexes", "Invalid"),
}


@pytest.mark.parametrize(("status", "field", "reason"), MISFITS.values(), ids=MISFITS)
def test_parts_that_do_not_fit_each_other(api: Api, status: Object, field: str, reason: str) -> None:
    made = make_job(api)
    found = refused(write(api, status), 422, "Invalid")
    assert causes(found) == {(f"status.{field}", f"FieldValue{reason}")}
    assert succeeded(api.http.get(path_of(api, "once")))["status"] == made["status"]


SUSPENDED = {"type": "Suspended", "status": "True", "lastTransitionTime": NOON}
LOST: dict[str, tuple[Object, Object, str, str]] = {
    "complete": (COMPLETE, {"conditions": [], "completionTime": None}, "conditions", "Invalid"),
    "failed": (FAILED, {"conditions": conditions("FailureTarget")}, "conditions", "Invalid"),
    "decided to succeed": (DECIDED, {"conditions": []}, "conditions", "Invalid"),
    "decided to fail": ({"conditions": conditions("FailureTarget")}, {"conditions": []}, "conditions", "Invalid"),
    "changes its mind": (DECIDED, {"conditions": conditions("FailureTarget")}, "conditions", "Invalid"),
    "another completion time": (COMPLETE, {"completionTime": "2026-01-01T12:00:06Z"}, "completionTime", "Invalid"),
    "active again": (COMPLETE, {"active": 1}, "active", "Invalid"),
    "start time of a finished job": (COMPLETE, {"startTime": None}, "startTime", "Required"),
    "fewer succeeded": ({"succeeded": 2}, {"succeeded": 1}, "succeeded", "Invalid"),
    "fewer failed": ({"failed": 2}, {"failed": 1}, "failed", "Invalid"),
}


@pytest.mark.parametrize(("before", "status", "field", "reason"), LOST.values(), ids=LOST)
def test_what_does_not_change_back(api: Api, before: Object, status: Object, field: str, reason: str) -> None:
    make_job(api)
    succeeded(write(api, before))
    found = refused(write(api, status), 422, "Invalid")
    assert causes(found) == {(f"status.{field}", f"FieldValue{reason}")}


@pytest.mark.parametrize("start", [None, EARLIER], ids=["removed", "moved"])
def test_a_start_time_changes_only_while_the_job_is_suspended(api: Api, start: str | None) -> None:
    make_job(api, suspend=False)
    succeeded(write(api, {"startTime": NOON}))
    found = refused(write(api, {"startTime": start}), 422, "Invalid")
    assert causes(found) == {("status.startTime", "FieldValueRequired")}

    patch = {"spec": {"suspend": True}}
    succeeded(api.http.patch(path_of(api, "once"), json=patch, headers={"Content-Type": PATCHES["merge"]}))
    assert succeeded(write(api, {"startTime": start}))["status"].get("startTime") == start


def test_a_job_that_resumes_starts_anew(api: Api) -> None:
    make_job(api, suspend=False)
    succeeded(write(api, {"startTime": NOON, "conditions": [SUSPENDED]}))
    resumed = {"startTime": LATER, "conditions": [{**SUSPENDED, "status": "False"}]}
    assert succeeded(write(api, resumed))["status"]["startTime"] == LATER


def test_a_job_of_no_completions_ends_without_a_start(api: Api) -> None:
    make_job(api, completions=0)
    assert "startTime" not in succeeded(write(api, {**COMPLETE, "startTime": None, "succeeded": 0}))["status"]


def test_a_status_that_a_change_of_the_spec_made_invalid_can_be_updated(api: Api) -> None:
    make_job(api, completions=0)
    succeeded(write(api, {**COMPLETE, "startTime": None, "succeeded": 0}))
    patch = {"spec": {"suspend": False}}
    succeeded(api.http.patch(path_of(api, "once"), json=patch, headers={"Content-Type": PATCHES["merge"]}))
    assert succeeded(write(api, {"failed": 1}))["status"]["failed"] == 1


def test_an_indexed_job_that_is_scaled_down_has_fewer_succeeded(api: Api) -> None:
    make_job(api, completionMode="Indexed", completions=2, parallelism=2)
    succeeded(write(api, {"succeeded": 2, "completedIndexes": "0,1"}))
    assert succeeded(write(api, {"succeeded": 1, "completedIndexes": "0"}))["status"]["succeeded"] == 1


def test_counters_of_a_finished_job_still_grow(api: Api) -> None:
    make_job(api)
    succeeded(write(api, COMPLETE))
    assert succeeded(write(api, {"failed": 1}))["status"]["failed"] == 1


def test_the_whole_status_may_be_put_and_applied(api: Api) -> None:
    made = make_job(api)
    wrong = {**COMPLETE, "conditions": conditions("Complete")}
    put = api.http.put(path_of(api, "once", "status"), json={**made, "status": wrong})
    assert causes(refused(put, 422, "Invalid")) == {("status.conditions", "FieldValueInvalid")}
    body = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "status": wrong}
    applied = api.http.patch(
        path_of(api, "once", "status"),
        json=body,
        headers={"Content-Type": PATCHES["apply"]},
        params={"fieldManager": "tester"},
    )
    assert causes(refused(applied, 422, "Invalid")) == {("status.conditions", "FieldValueInvalid")}


def test_a_text_that_is_not_a_time_is_a_bad_request(api: Api) -> None:
    made = make_job(api)
    put = api.http.put(path_of(api, "once", "status"), json={**made, "status": {"startTime": "noon"}})
    refused(put, 400, "BadRequest")
    assert causes(refused(write(api, {"startTime": "noon"}), 422, "Invalid")) == {("patch", "FieldValueInvalid")}
