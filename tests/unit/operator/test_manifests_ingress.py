"""The path of an Agent Server on the shared Ingress, which belongs to another owner."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from engine.operator.manifests import is_shared_ingress, with_path, without_path


def path(path: str, service: str = "web", port: int = 80) -> dict[str, Any]:
    backend = {"service": {"name": service, "port": {"number": port}}}
    return {"path": path, "pathType": "Prefix", "backend": backend}


def ingress(*rules: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "Ingress",
        "metadata": {"name": "shared", "namespace": "team", "annotations": {"lgp-operator.io/shared-ingress": "true"}},
        "spec": {"ingressClassName": "nginx", "rules": list(rules)},
    }


def test_the_shared_ingress_is_known_by_its_annotation() -> None:
    assert is_shared_ingress(ingress())
    assert not is_shared_ingress({"metadata": {"name": "shared"}})


def test_a_path_goes_to_the_end_of_its_hosts_rule() -> None:
    before = ingress({"host": "h", "http": {"paths": [path("/"), path("/other")]}}, {"host": "x"})
    after = with_path(before, "/lgp/a", "a", 8000, host="h")
    assert after["spec"]["rules"] == [
        {"host": "h", "http": {"paths": [path("/"), path("/other"), path("/lgp/a", "a", 8000)]}},
        {"host": "x"},
    ]
    assert after["spec"]["ingressClassName"] == "nginx"


def test_a_host_without_a_rule_gets_one() -> None:
    after = with_path(ingress({"host": "x"}), "/lgp/a", "a", 8000, host="h")
    assert after["spec"]["rules"] == [{"host": "x"}, {"host": "h", "http": {"paths": [path("/lgp/a", "a", 8000)]}}]


def test_a_changed_backend_is_replaced_where_it_is() -> None:
    before = ingress({"host": "h", "http": {"paths": [path("/lgp/a", "old"), path("/")]}})
    after = with_path(before, "/lgp/a", "a", 8000, host="h")
    assert after["spec"]["rules"] == [{"host": "h", "http": {"paths": [path("/lgp/a", "a", 8000), path("/")]}}]


def test_a_changed_hostname_moves_the_path() -> None:
    before = with_path(ingress({"host": "old"}), "/lgp/a", "a", 8000, host="old")
    after = with_path(before, "/lgp/a", "a", 8000, host="new")
    assert after["spec"]["rules"] == [{"host": "old"}, {"host": "new", "http": {"paths": [path("/lgp/a", "a", 8000)]}}]


def test_the_same_path_of_another_data_plane_stays_under_its_own_host() -> None:
    before = ingress({"host": "theirs", "http": {"paths": [path("/lgp/a", "a-theirs")]}}, {"host": "ours"})
    after = with_path(before, "/lgp/a", "a-ours", 8000, host="ours")
    assert after["spec"]["rules"][0] == before["spec"]["rules"][0]
    assert without_path(after, "/lgp/a", "a-ours") == before


def test_an_ingress_without_any_rule() -> None:
    bare = {"metadata": {"name": "shared"}, "spec": {"defaultBackend": {"service": {"name": "web"}}}}
    after = with_path(bare, "/lgp/a", "a", 8000)
    assert after["spec"]["rules"] == [{"http": {"paths": [path("/lgp/a", "a", 8000)]}}]


def test_the_last_path_leaves_the_rule() -> None:
    before = with_path(ingress({"host": "h"}), "/lgp/a", "a", 8000, host="h")
    assert without_path(before, "/lgp/a") == ingress({"host": "h"})


given_paths = st.sampled_from(["/", "/x", "/lgp/a", "/lgp/ab", "/lgp/c"])
paths = st.lists(st.builds(path, given_paths, st.sampled_from(["web", "a"])), max_size=4)
hosts = st.sampled_from(["", "h", "other"])
rules = st.lists(
    st.tuples(hosts, paths).map(
        lambda it: {**({"host": it[0]} if it[0] else {}), **({"http": {"paths": it[1]}} if it[1] else {})}
    ),
    max_size=4,
)


@given(rules, hosts)
def test_adding_twice_is_adding_once_and_the_rest_stays(given_rules: list[dict[str, Any]], host: str) -> None:
    before = ingress(*given_rules)
    kept = deepcopy(before)
    once = with_path(before, "/lgp/a", "a", 8000, host=host)
    assert before == kept, "the argument is not changed"
    assert with_path(once, "/lgp/a", "a", 8000, host=host) == once
    assert others(once) == others(before)
    ours = [one for rule in once["spec"]["rules"] for one in all_paths(rule) if is_ours(rule, one, host)]
    assert ours == [path("/lgp/a", "a", 8000)]


@given(rules, hosts)
def test_removing_takes_our_path_alone(given_rules: list[dict[str, Any]], host: str) -> None:
    added = with_path(ingress(*given_rules), "/lgp/a", "a", 8000, host=host)
    removed = without_path(added, "/lgp/a")
    assert "/lgp/a" not in [one["path"] for rule in removed["spec"]["rules"] for one in all_paths(rule)]
    assert others(removed) == others(ingress(*given_rules))
    assert without_path(removed, "/lgp/a") == removed


def is_ours(rule: dict[str, Any], one: dict[str, Any], host: str) -> bool:
    """Our path: under our host, or leading to our Service."""
    leads_to_us = one["backend"]["service"]["name"] == "a"
    return bool(one["path"] == "/lgp/a" and (leads_to_us or rule.get("host", "") == host))


def all_paths(rule: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = rule.get("http", {}).get("paths", [])
    return found


def others(one: dict[str, Any]) -> list[tuple[str, str]]:
    """The paths of others, in their order."""
    places = [(rule.get("host", ""), it["path"]) for rule in one["spec"]["rules"] for it in all_paths(rule)]
    return [place for place in places if place[1] != "/lgp/a"]
