"""Watches: what arrives, in which order, from where it resumes, and how it ends."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.conformance.client import Api, refused, version
from tests.conformance.objects import Object, config_map, pod, widget


def seen(event: Object) -> tuple[str, str]:
    return event["type"], event["object"]["metadata"]["name"]


def start(api: Api, resource: str) -> str:
    """The version from which a watch sees everything that happens next."""
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
    """An object that begins to match is ADDED for this watcher, one that ceases to is DELETED."""
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


def test_versions_that_are_gone(api: Api, widgets: Object) -> None:
    """From a version older than what the server remembers a watch cannot resume: one ERROR event, 410 inside."""
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
