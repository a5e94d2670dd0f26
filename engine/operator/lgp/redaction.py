"""The redacted form of an LGP's spec, which is the only one that the log may hold.

Any user of the cluster may write an LGP, and may write secrets into it as literals. `redact_spec` replaces with a keyed
digest

- the `value` of every environment variable that is not in PUBLIC_VARIABLES (server, init containers, sidecars);
- every element of `command` and `args` of init containers and sidecars, and of the commands in their probes and
  lifecycle hooks: a flag may carry a token;
- the `value` of HTTP headers in those probes and hooks;
- the values of the parameters of a SecretProviderClass;
- every value that has not the shape that the resource definition gives it.

`redact_spec` drops fields that the operator does not read; `unknown_fields` names them. It keeps names, images,
resources, volumes, labels and annotations: each client that may read pods may read these. Metadata of the LGP, with
kubectl's copy of the last applied manifest, is no part of the spec and must not be logged either.

A redacted spec has the same shape as its original, so manifests made from it have the same objects, names and fields:
replay compares those. Digests of manifests must be taken of redacted ones too, for an unkeyed digest of a short secret
can be guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from engine.digests import canonical
from engine.operator.lgp.model import LgpSpec, Part, fields_of
from engine.ports import JsonObject

PUBLIC_VARIABLES = frozenset(
    {
        "LANGCHAIN_ENDPOINT",
        "LANGCHAIN_PROJECT",
        "LANGCHAIN_TRACING",
        "LANGCHAIN_TRACING_V2",
        "LANGGRAPH_AUTH_TYPE",
        "LANGSMITH_AUTH_ENDPOINT",
        "LANGSMITH_AUTH_VERIFY_TENANT_ID",
        "LANGSMITH_DEPLOYMENT_NAME",
        "LANGSMITH_ENDPOINT",
        "LANGSMITH_HOST_PROJECT_ID",
        "LANGSMITH_HOST_PROJECT_NAME",
        "LANGSMITH_HOST_REVISION_ID",
        "LANGSMITH_LANGGRAPH_API_REVISION",
        "LANGSMITH_PROJECT",
        "LANGSMITH_TENANT_ID",
        "LANGSMITH_TRACING",
        "LANGSMITH_TRACING_V2",
        "LOG_COLOR",
        "LOG_JSON",
        "LOG_LEVEL",
        "MOUNT_PREFIX",
        "N_JOBS_PER_WORKER",
        "PORT",
    }
)
"""Variables of the platform that the log may hold with their literal values: ids, names, endpoints and switches."""

REDACTED = "redacted:"
"""Before each digest, so that a person sees that a value was replaced."""


def redact_spec(spec: JsonObject, digest: Callable[[bytes], str]) -> JsonObject:
    """Return `spec` as the log may hold it; `digest` is keyed (`Ports.digest`). Never raises on odd shapes."""
    redaction = _Redaction(digest)
    kept = _known(LgpSpec, spec)
    if "serverSpec" in kept:
        kept["serverSpec"] = redaction.server(kept["serverSpec"])
    if "managedResources" in kept:
        kept["managedResources"] = redaction.managed(kept["managedResources"])
    return kept


class _Redaction:
    """Redacts the parts of a spec with one keyed digest. Each method takes a value of any shape."""

    def __init__(self, digest: Callable[[bytes], str]) -> None:
        self._digest = digest

    def server(self, server: object) -> object:
        if not isinstance(server, Mapping):
            return self.hide(server)
        kept = dict(server)
        if "env" in kept:
            kept["env"] = self._each(kept["env"], self.variable)
        for field in ("initContainers", "sidecars"):
            if field in kept:
                kept[field] = self._each(kept[field], self.container)
        return kept

    def managed(self, managed: object) -> object:
        if not isinstance(managed, Mapping):
            return self.hide(managed)
        kept = dict(managed)
        for field in ("serviceAccount", "secretProviderClass"):
            value = kept.get(field)
            if isinstance(value, Mapping):
                kept[field] = self.parameters(value)
            elif value is not None:
                kept[field] = self.hide(value)
        return kept

    def parameters(self, part: Mapping[str, object]) -> dict[str, object]:
        """Redact the values of the parameters of a SecretProviderClass."""
        given = part.get("parameters")
        if given is None:
            return dict(part)
        each = {name: self.hide(value) for name, value in given.items()} if isinstance(given, Mapping) else None
        return {**part, "parameters": self.hide(given) if each is None else each}

    def container(self, container: object) -> object:
        if not isinstance(container, Mapping):
            return self.hide(container)
        parts: dict[str, Callable[[object], object]] = {
            "env": lambda env: self._each(env, self.variable),
            "command": self.words,
            "args": self.words,
            **dict.fromkeys(("livenessProbe", "readinessProbe", "startupProbe", "lifecycle"), self.hook),
        }
        return {name: parts[name](value) if name in parts else value for name, value in container.items()}

    def variable(self, variable: object) -> object:
        if not isinstance(variable, Mapping) or not isinstance(variable.get("name"), str):
            return self.hide(variable)
        value = variable.get("value")
        if value in (None, "") or (variable["name"] in PUBLIC_VARIABLES and _is_harmless(value)):
            return dict(variable)
        return {**variable, "value": self.hide(value)}

    def words(self, words: object) -> object:
        """Redact every word of a command line."""
        return self._each(words, self.hide)

    def hook(self, hook: object) -> object:
        """Redact commands and header values at any depth of a probe or a lifecycle hook."""
        match hook:
            case Mapping() if isinstance(hook.get("name"), str) and "value" in hook:
                return {**hook, "value": self.hide(hook["value"])}
            case Mapping():
                return {key: self.words(value) if key == "command" else self.hook(value) for key, value in hook.items()}
            case list():
                return [self.hook(item) for item in hook]
            case _:
                return hook

    def hide(self, value: object) -> str:
        return REDACTED + self._digest(value.encode() if isinstance(value, str) else canonical(value))

    def _each(self, items: object, redact_one: Callable[[object], object]) -> object:
        return [redact_one(item) for item in items] if isinstance(items, list) else self.hide(items)


def _known(part: type[Part], value: Mapping[str, object]) -> JsonObject:
    """Return a copy of `value` without the fields that the operator does not read, at any depth."""
    known = fields_of(part)
    return {name: _known_below(known[name], item) for name, item in value.items() if name in known}


def _known_below(part: type[Part] | None, value: object) -> object:
    if part is None:
        return value
    if isinstance(value, list):
        return [_known_below(part, item) for item in value]
    return _known(part, value) if isinstance(value, Mapping) else value


def _is_harmless(value: object) -> bool:
    """Whether the value of a public variable is free of a password: an endpoint with user information is not."""
    return isinstance(value, str) and "@" not in value
