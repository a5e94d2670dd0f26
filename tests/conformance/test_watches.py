"""Watches: events and their order, resumption, and the end of a watch."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.client import Api, refused, version
from tests.conformance.objects import Object, config_map, pod, widget


def seen(event: Object) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def start(api: Api, resource: str) -> str:
    """Return the version from which a watch gets all following events."""
    listed: str = api.list(resource)["metadata"]["resourceVersion"]
    return listed


def test_changes_arrive_in_order(api: Api) -> None:
    with api.watch("configmaps", resourceVersion=start(api, "configmaps")) as events:
        made = api.create("configmaps", config_map("a"))
        patched = api.patch("configmaps", "a", {"metadata": {"labels": {"x": "1"}}})
        api.delete("configmaps", "a")
        first, second, third = next(events), next(events), next(events)
    assert [first["type"], second["type"], third["type"]] == ["ADDED", "MODIFIED", "DELETED"]
    assert first["object"] == made
    assert second["object"] == patched
    assert third["object"]["metadata"]["labels"] == {"x": "1"}
    assert int(version(third["object"])) > int(version(patched))


def test_objects_in_events_say_what_they_are(api: Api) -> None:
    with api.watch("configmaps", resourceVersion=start(api, "configmaps")) as events:
        api.create("configmaps", config_map("a"))
        event = next(events)
    assert (event["object"]["apiVersion"], event["object"]["kind"]) == ("v1", "ConfigMap")


@pytest.mark.parametrize("since", [None, "0"])
def test_without_a_version_present_objects_come_first(api: Api, since: str | None) -> None:
    api.create("configmaps", config_map("a"))
    api.create("configmaps", config_map("b"))
    with api.watch("configmaps", resourceVersion=since) as events:
        present = {seen(next(events)), seen(next(events))}
        api.create("configmaps", config_map("c"))
        assert seen(next(events)) == ("ADDED", "c")
    assert present == {("ADDED", "a"), ("ADDED", "b")}


def test_resuming_misses_nothing_and_repeats_nothing(api: Api) -> None:
    with api.watch("configmaps", resourceVersion=start(api, "configmaps")) as events:
        api.create("configmaps", config_map("a"))
        last = version(next(events)["object"])
    api.create("configmaps", config_map("b"))
    api.delete("configmaps", "a")
    with api.watch("configmaps", resourceVersion=last) as events:
        assert [seen(next(events)), seen(next(events))] == [("ADDED", "b"), ("DELETED", "a")]


def test_label_selector_transitions(api: Api) -> None:
    """For a watch with a selector, an object that starts to match is ADDED, one that ceases to match DELETED."""
    api.create("pods", pod("a"))
    with api.watch("pods", resourceVersion=start(api, "pods"), labelSelector="team=x") as events:
        api.patch("pods", "a", {"metadata": {"labels": {"team": "x"}}})
        api.patch("pods", "a", {"metadata": {"labels": {"other": "1"}}})
        api.patch("pods", "a", {"metadata": {"labels": {"team": "y"}}})
        api.patch("pods", "a", {"metadata": {"labels": {"other": "2"}}})
        api.create("pods", pod("end", labels={"team": "x"}))
        arrived = [seen(next(events)) for _ in range(4)]
    assert arrived == [("ADDED", "a"), ("MODIFIED", "a"), ("DELETED", "a"), ("ADDED", "end")]


def test_field_selector_of_one_object(api: Api) -> None:
    with api.watch("pods", resourceVersion=start(api, "pods"), fieldSelector="metadata.name=b") as events:
        api.create("pods", pod("a"))
        api.create("pods", pod("b"))
        assert seen(next(events)) == ("ADDED", "b")


def test_field_selector_transitions(api: Api) -> None:
    since = start(api, "pods")
    with api.watch("pods", resourceVersion=since, fieldSelector="status.phase=Running") as events:
        api.create("pods", pod("a"))
        api.patch("pods", "a", {"status": {"phase": "Running"}}, sub="status")
        api.patch("pods", "a", {"status": {"phase": "Failed"}}, sub="status")
        assert [seen(next(events)), seen(next(events))] == [("ADDED", "a"), ("DELETED", "a")]


def test_other_namespaces_stay_out(api: Api) -> None:
    with api.watch("configmaps", resourceVersion=start(api, "configmaps")) as events:
        api.create("configmaps", config_map(f"elsewhere-{api.namespace}"), namespace="default")
        api.create("configmaps", config_map("here"))
        assert seen(next(events)) == ("ADDED", "here")


def test_all_namespaces(api: Api) -> None:
    since = start(api, "configmaps")
    selector = f"run={api.namespace}"
    with api.watch("configmaps", namespace="", resourceVersion=since, labelSelector=selector) as events:
        labels = {"run": api.namespace}
        api.create("configmaps", config_map(f"one-{api.namespace}", labels=labels), namespace="default")
        api.create("configmaps", config_map("two", labels=labels))
        assert [seen(next(events)), seen(next(events))] == [
            ("ADDED", f"one-{api.namespace}"),
            ("ADDED", "two"),
        ]


def test_custom_resources(api: Api, widgets: Object) -> None:
    with api.watch("widgets", resourceVersion=start(api, "widgets")) as events:
        api.create("widgets", widget("a"))
        api.delete("widgets", "a")
        assert [seen(next(events)), seen(next(events))] == [("ADDED", "a"), ("DELETED", "a")]


def test_no_event_for_a_write_that_changed_nothing(api: Api) -> None:
    api.create("pods", pod("a", labels={"x": "1"}))
    with api.watch("pods", resourceVersion=start(api, "pods")) as events:
        api.patch("pods", "a", {"metadata": {"labels": {"x": "1"}}})
        api.create("pods", pod("b"))
        assert seen(next(events)) == ("ADDED", "b")


def test_a_watch_ends_at_its_timeout(api: Api) -> None:
    begun = time.monotonic()
    with api.watch("pods", timeoutSeconds=1) as events:
        assert list(events) == []
    assert 0.9 <= time.monotonic() - begun < 10


def test_bookmarks(api: Api) -> None:
    """A watch that asked for them gets one shortly before it ends: a version to resume from, nothing else.

    The real server sends one only when something happened to that kind since the watch began, and may miss the
    moment, hence the second attempt.
    """
    bookmark: Object | None = None
    for attempt in range(3):
        since = start(api, "pods")
        options: dict[str, Any] = {"resourceVersion": since, "allowWatchBookmarks": True, "timeoutSeconds": 4 + attempt}
        with api.watch("pods", **options) as events:
            made = api.create("pods", pod(f"a{attempt}"))
            assert seen(next(events)) == ("ADDED", f"a{attempt}")
            bookmark = next((event for event in events if event["type"] == "BOOKMARK"), None)
        if bookmark:
            break
    assert bookmark is not None
    assert bookmark["object"]["kind"] == "Pod"
    assert int(version(bookmark["object"])) >= int(version(made))
    assert "name" not in bookmark["object"]["metadata"]


# lists as a watch

INITIAL: dict[str, Any] = {"sendInitialEvents": True, "resourceVersionMatch": "NotOlderThan"}
LISTING: dict[str, Any] = {**INITIAL, "allowWatchBookmarks": True}


@pytest.mark.parametrize("since", [None, "0", "1"])
def test_initial_events_end_with_a_bookmark(api: Api, since: str | None) -> None:
    api.create("configmaps", config_map("a"))
    last = api.create("configmaps", config_map("b"))
    with api.watch("configmaps", resourceVersion=since, **LISTING) as events:
        present = [next(events), next(events)]
        bookmark = next(events)
        api.create("configmaps", config_map("c"))
        change = next(event for event in events if event["type"] != "BOOKMARK")
    assert [seen(event) for event in present] == [("ADDED", "a"), ("ADDED", "b")]
    assert bookmark["type"] == "BOOKMARK"
    assert bookmark["object"]["kind"] == "ConfigMap"
    metadata = bookmark["object"]["metadata"]
    assert metadata["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert set(metadata) == {"annotations", "resourceVersion"}
    assert int(metadata["resourceVersion"]) >= int(version(last))
    assert seen(change) == ("ADDED", "c")


def test_initial_events_without_objects_end_with_a_bookmark_too(api: Api, widgets: Object) -> None:
    with api.watch("widgets", **LISTING) as events:
        bookmark = next(events)
    assert bookmark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_watch_resumes_from_the_end_of_the_initial_events(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    with api.watch("configmaps", **LISTING) as events:
        bookmark = next(event for event in events if event["type"] == "BOOKMARK")
    api.create("configmaps", config_map("b"))
    with api.watch("configmaps", resourceVersion=version(bookmark["object"])) as events:
        assert seen(next(events)) == ("ADDED", "b")


def test_initial_events_are_selected(api: Api) -> None:
    api.create("configmaps", config_map("a", labels={"x": "1"}))
    api.create("configmaps", config_map("b"))
    with api.watch("configmaps", labelSelector="x=1", **LISTING) as events:
        assert seen(next(events)) == ("ADDED", "a")
        assert next(events)["type"] == "BOOKMARK"


def test_without_bookmarks_nothing_marks_the_end(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    with api.watch("configmaps", timeoutSeconds=1, **INITIAL) as events:
        assert [seen(event) for event in events] == [("ADDED", "a")]


def test_initial_events_may_be_left_out(api: Api) -> None:
    api.create("configmaps", config_map("a"))
    with api.watch("configmaps", **{**INITIAL, "sendInitialEvents": False}) as events:
        api.create("configmaps", config_map("b"))
        assert seen(next(events)) == ("ADDED", "b")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"watch": True, "sendInitialEvents": True},
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            {"watch": True, "sendInitialEvents": False},
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ),
        (
            {"watch": True, "resourceVersionMatch": "NotOlderThan"},
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
        (
            {"watch": True, "sendInitialEvents": True, "resourceVersionMatch": "Exact"},
            'resourceVersionMatch: Unsupported value: "Exact": supported values: "NotOlderThan"',
        ),
        ({"watch": True, **LISTING, "continue": "x"}, "resourceVersionMatch is forbidden when continue is provided"),
        ({"sendInitialEvents": True}, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        (
            {"resourceVersionMatch": "NotOlderThan"},
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            {"resourceVersionMatch": "Exact", "resourceVersion": "0"},
            'resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
        ),
        (
            {"resourceVersionMatch": "About", "resourceVersion": "1"},
            'Unsupported value: "About": supported values: "Exact", "NotOlderThan", ""',
        ),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_options_that_do_not_go_together(api: Api, options: dict[str, Any], words: str) -> None:
    status = refused(api.send("GET", "configmaps", timeoutSeconds=1, **options), 422, "Invalid")
    assert status["message"].startswith('ListOptions.meta.k8s.io "" is invalid: ')
    assert words in status["message"]


def test_initial_events_of_a_version_that_is_still_to_come(api: Api) -> None:
    with api.watch("configmaps", resourceVersion="99999999", **LISTING) as events:
        event = next(events)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 504)
    assert "Too large resource version: 99999999" in event["object"]["message"]


def test_expired_versions(api: Api, widgets: Object) -> None:
    """A watch from a version before the server's history gets one ERROR event with 410."""
    api.create("widgets", widget("a"))
    with api.watch("widgets", resourceVersion="1") as events:
        event = next(events)
    assert event["type"] == "ERROR"
    assert event["object"]["kind"] == "Status"
    assert event["object"]["code"] == 410
    assert event["object"]["reason"] in ("Expired", "Gone")


def test_versions_that_are_nonsense(api: Api) -> None:
    response = api.send("GET", "pods", watch=True, resourceVersion="soon", timeoutSeconds=1)
    assert response.status_code >= 400
    assert "soon" in response.json()["message"]


def test_broken_selectors_are_refused_at_once(api: Api) -> None:
    refused(api.send("GET", "pods", watch=True, labelSelector="a in", timeoutSeconds=1), 400, "BadRequest")


def test_a_deletion_with_finalizers_is_a_modification_first(api: Api) -> None:
    api.create("pods", pod("a", finalizers=["example.dev/hold"]))
    with api.watch("pods", resourceVersion=start(api, "pods")) as events:
        api.delete("pods", "a")
        assert seen(marked := next(events)) == ("MODIFIED", "a")
        api.patch("pods", "a", {"metadata": {"finalizers": None}})
        gone = next(events)
        while gone["type"] == "MODIFIED":  # the removal of the finalizer may show as a change of its own
            gone = next(events)
    assert marked["object"]["metadata"]["deletionTimestamp"]
    assert seen(gone) == ("DELETED", "a")
