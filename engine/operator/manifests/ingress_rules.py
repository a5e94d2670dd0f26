"""Paths in the rules of the shared Ingress: which Ingress is shared, and its rules with and without a path.

The shared Ingress belongs to another owner. The operator adds and removes its own paths (`routes.ingress_path` says
which one an LGP needs), and keeps everything else, order included. `engine/operator/shared_ingress.py` reads and writes
the Ingress.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine import names
from engine.ports import JsonObject, Manifest


def is_shared_ingress(ingress: Manifest) -> bool:
    """Whether an Ingress is the shared one, by its annotation: the operator manages paths on that one only."""
    annotations: Mapping[str, str] = ingress["metadata"].get("annotations") or {}
    return annotations.get(names.SHARED_INGRESS_ANNOTATION) == "true"


def with_path(ingress: Manifest, path: str, service: str, port: int, *, host: str = "") -> Manifest:
    """Return `ingress` with `path` leading to `service`; equal to `ingress` when the path does so already.

    The path stays in its place in a rule for `host` (for an empty `host`, a rule without a host), or is added to the
    end of the first such rule. In rules for other hosts the path is removed if it leads to `service`, since an LGP has
    one path. If it leads elsewhere it stays: another data plane may have an LGP of the same name under another host.
    """
    entry = {
        "path": path,
        "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": port}}},
    }
    rules = _rules(ingress)
    places = [index for index, rule in enumerate(rules) if rule.get("host", "") == host]
    taken = [index for index in places if any(one.get("path") == path for one in _paths(rules[index]))]
    place = next(iter((*taken, *places)), None)
    rules = [
        rule if index == place else _rule_without(rule, path, "" if index in places else service)
        for index, rule in enumerate(rules)
    ]
    if place is None:
        rules.append({**({"host": host} if host else {}), "http": {"paths": [entry]}})
    else:
        rules[place] = _rule_with(rules[place], entry)
    return {**ingress, "spec": {**(ingress.get("spec") or {}), "rules": rules}}


def without_path(ingress: Manifest, path: str, service: str = "") -> Manifest:
    """Return `ingress` without `path`, under every host; equal to `ingress` when the path is not there.

    With a `service`, the path is removed only where it leads to that Service. A rule that loses its last path stays,
    without paths, as it was before the first path was added: an Ingress must have a rule.
    """
    rules = [_rule_without(rule, path, service) for rule in _rules(ingress)]
    if rules == _rules(ingress):
        return ingress
    return {**ingress, "spec": {**ingress["spec"], "rules": rules}}


def _rules(ingress: Manifest) -> list[JsonObject]:
    return list((ingress.get("spec") or {}).get("rules") or ())


def _paths(rule: JsonObject) -> list[JsonObject]:
    return list((rule.get("http") or {}).get("paths") or ())


def _rule_with(rule: JsonObject, entry: JsonObject) -> JsonObject:
    paths = _paths(rule)
    places = [index for index, one in enumerate(paths) if one.get("path") == entry["path"]]
    if places:
        paths = [entry if index == places[0] else one for index, one in enumerate(paths) if index not in places[1:]]
    else:
        paths.append(entry)
    return {**rule, "http": {**(rule.get("http") or {}), "paths": paths}}


def _rule_without(rule: JsonObject, path: str, service: str) -> JsonObject:
    paths = _paths(rule)
    kept = [one for one in paths if one.get("path") != path or service not in ("", _service_of(one))]
    if kept == paths:
        return rule
    bare = {key: value for key, value in rule.items() if key != "http"}
    return {**rule, "http": {**rule["http"], "paths": kept}} if kept else bare


def _service_of(path: JsonObject) -> str:
    service: JsonObject = (path.get("backend") or {}).get("service") or {}
    return str(service.get("name", ""))
