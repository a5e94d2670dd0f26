"""The four templates of base objects, YAML with `${name}` variables: the chart's values `operator.templates.*`.

Variables are filled in after the YAML is parsed, so no value can change the structure: an LGP named `on` stays a
string, and an image reference with a newline in it stays one scalar. A variable that is a whole plain scalar
(`replicas: ${replicas}`) keeps its type. Inside a longer scalar, or between quotes, a variable is text. Kubernetes' own
`$(NAME)` and a shell's `$NAME` stay as they are, and `$${x}` stands for the text `${x}`.

The defaults are our own, and match what users' values files expect: container `api-server` on port 8000 with probes on
`/ok`, Postgres with pgvector on port 5432 with the volume claim `postgres-data`, Redis on port 6379. The defaults leave
out `persistentVolumeClaimRetentionPolicy`, because the operator itself deletes the PersistentVolumeClaims of a removed
LGP, by label. A template may have it.

An Agent Server closes its socket as soon as it gets the signal to stop, while proxies still send requests to it. So the
default has a pod sleep for some seconds first. An image without `sleep` stops at once, as it would without the hook.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import yaml

from engine.errors import SettingsError
from engine.ports import Manifest

VARIABLES: Mapping[str, frozenset[str]] = {
    "deployment": frozenset({"name", "namespace", "replicas", "image"}),
    "service": frozenset({"name", "namespace"}),
    "db": frozenset(
        {
            "service_name",
            "replicas",
            "max_connections",
            "secret_name",
            "postgres_user",
            "postgres_db",
            "cpu",
            "memory_mb",
            "cpu_limit",
            "memory_limit",
            "storage_gi",
        }
    ),
    "redis": frozenset({"service_name"}),
}
"""Template → variables that it may use."""

KINDS: Mapping[str, tuple[str, str]] = {
    "deployment": ("apps/v1", "Deployment"),
    "service": ("v1", "Service"),
    "db": ("apps/v1", "StatefulSet"),
    "redis": ("apps/v1", "Deployment"),
}
"""Template → apiVersion and kind that it must have."""

DEPLOYMENT = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${name}
  namespace: ${namespace}
spec:
  replicas: ${replicas}
  selector:
    matchLabels: {app: "${name}"}
  template:
    metadata:
      labels: {app: "${name}"}
    spec:
      enableServiceLinks: false
      containers:
        - name: api-server
          image: ${image}
          ports:
            - {name: api-server, containerPort: 8000, protocol: TCP}
          readinessProbe:
            httpGet: {path: /ok, port: 8000}
            periodSeconds: 5
            timeoutSeconds: 5
            failureThreshold: 18
          livenessProbe:
            httpGet: {path: /ok, port: 8000}
            periodSeconds: 15
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle:
            preStop:
              exec: {command: [sleep, "5"]}
"""

SERVICE = """\
apiVersion: v1
kind: Service
metadata:
  name: ${name}
  namespace: ${namespace}
spec:
  type: ClusterIP
  selector: {app: "${name}"}
  ports:
    - {name: api-server, port: 8000, targetPort: 8000, protocol: TCP}
"""

DB = """\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: ${service_name}
spec:
  serviceName: ${service_name}
  replicas: ${replicas}
  selector:
    matchLabels: {app: "${service_name}"}
  template:
    metadata:
      labels: {app: "${service_name}"}
    spec:
      enableServiceLinks: false
      containers:
        - name: postgres
          image: pgvector/pgvector:pg15
          command: [docker-entrypoint.sh]
          args: [postgres, -c, "max_connections=${max_connections}"]
          ports:
            - {containerPort: 5432, protocol: TCP}
          env:
            - {name: POSTGRES_USER, value: "${postgres_user}"}
            - {name: POSTGRES_DB, value: "${postgres_db}"}
            - name: POSTGRES_PASSWORD
              valueFrom:
                secretKeyRef: {name: "${secret_name}", key: POSTGRES_PASSWORD}
            - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
          resources:
            requests: {cpu: "${cpu}", memory: "${memory_mb}Mi"}
            limits: {cpu: "${cpu_limit}", memory: "${memory_limit}Mi"}
          volumeMounts:
            - {name: postgres-data, mountPath: /var/lib/postgresql/data}
  volumeClaimTemplates:
    - metadata: {name: postgres-data}
      spec:
        accessModes: [ReadWriteOnce]
        resources:
          requests: {storage: "${storage_gi}Gi"}
"""

REDIS = """\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: ${service_name}
spec:
  replicas: 1
  selector:
    matchLabels: {app: "${service_name}"}
  template:
    metadata:
      labels: {app: "${service_name}"}
    spec:
      enableServiceLinks: false
      containers:
        - name: redis
          image: redis:6
          ports:
            - {containerPort: 6379, protocol: TCP}
          readinessProbe:
            tcpSocket: {port: 6379}
            initialDelaySeconds: 10
            periodSeconds: 5
          livenessProbe:
            exec: {command: [redis-cli, ping]}
            initialDelaySeconds: 30
            periodSeconds: 10
          resources:
            requests: {cpu: "1", memory: 2048Mi}
            limits: {cpu: "1", memory: 2048Mi}
"""

# Private-use characters mark a variable while the YAML is parsed; no template has a reason to contain them.
_OPEN, _CLOSE = "\ue000", "\ue001"
_PLACEHOLDER = re.compile(r"\$\$\{|\$\{([^}]*)\}")
_MARKED = re.compile(f"{_OPEN}([a-z_]+){_CLOSE}")
_NAMES: Mapping[type, str] = {dict: "mapping", list: "list"}
"""Type of a YAML value → its name in messages."""


@dataclass(frozen=True, slots=True)
class _Variable:
    """A plain scalar that is one variable, and keeps the variable's type."""

    name: str


@dataclass(frozen=True, slots=True)
class _Text:
    """A scalar that contains variables, and is always text."""

    marked: str


class _Loader(yaml.SafeLoader):
    """Reads YAML as Kubernetes does: without dates."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("!variable", re.compile(f"{_OPEN}[a-z_]+{_CLOSE}$"), [_OPEN])
_Loader.add_constructor("!variable", lambda _, node: _Variable(node.value[1:-1]))
_Loader.add_constructor(
    "tag:yaml.org,2002:str", lambda _, node: _Text(node.value) if _OPEN in node.value else node.value
)


def fill(template: str, text: str, values: Mapping[str, str | int]) -> Manifest:
    """Return a new object: the `text` of the template of that name (`deployment`, …), filled in with `values`.

    Raises SettingsError as `check` does.
    """
    return _fill_object(_read(template, text), values)


def check(template: str, text: str) -> None:
    """Raise SettingsError unless `text` is YAML of the template's kind that uses known variables only."""
    _read(template, text)


@lru_cache(maxsize=64)
def _read(template: str, text: str) -> Manifest:
    setting = f"operator.templates.{template}"
    try:
        tree: object = yaml.load(_mark(setting, text, VARIABLES[template]), Loader=_Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"{setting} is not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise SettingsError(f"{setting} must be one Kubernetes object, but it is {type(tree).__name__}")
    found = (tree.get("apiVersion"), tree.get("kind"))
    if found != KINDS[template]:
        raise SettingsError(f"{setting} must be {' '.join(KINDS[template])}, but it is {found[0]} {found[1]}")
    _check_json(setting, tree)
    _check_shape(setting, template, tree)
    return tree


def _mark(setting: str, text: str, known: frozenset[str]) -> str:
    if _OPEN in text or _CLOSE in text:
        raise SettingsError(f"{setting} contains the characters U+E000 or U+E001; remove them")

    def mark(match: re.Match[str]) -> str:
        name = match[1]
        if name is None:
            return "${"
        if name not in known:
            raise SettingsError(
                f"{setting} uses the unknown variable ${{{name}}}; the variables are {', '.join(sorted(known))}. "
                f"Write $${{{name}}} for the text itself"
            )
        return f"{_OPEN}{name}{_CLOSE}"

    return _PLACEHOLDER.sub(mark, text)


def _check_json(setting: str, node: object) -> None:
    match node:
        case dict():
            for key, value in node.items():
                _check_json(setting, key)
                _check_json(setting, value)
        case list():
            for value in node:
                _check_json(setting, value)
        case None | bool() | int() | float() | str() | _Variable() | _Text():
            pass
        case _:
            raise SettingsError(f"{setting} contains {node!r}, which is no JSON value")


def _check_shape(setting: str, template: str, tree: Manifest) -> None:
    """Raise SettingsError unless the template has the fields that `manifests.overlay` needs."""
    needed: tuple[tuple[tuple[str, ...], type], ...] = (
        ((("spec", "ports"), list), (("spec", "selector"), dict))
        if template == "service"
        else (
            (("spec", "selector", "matchLabels"), dict),
            (("spec", "template", "metadata", "labels"), dict),
            (("spec", "template", "spec", "containers"), list),
        )
    )
    for path, kind in needed:
        node: object = tree
        for key in path:
            node = node.get(key) if isinstance(node, dict) else None
        if not isinstance(node, kind) or not node:
            raise SettingsError(f"{setting}: {'.'.join(path)} must be a {_NAMES[kind]} that is not empty")


def _fill_object(tree: Manifest, values: Mapping[str, str | int]) -> Manifest:
    return {str(_fill(key, values)): _fill(value, values) for key, value in tree.items()}


def _fill(node: object, values: Mapping[str, str | int]) -> object:
    match node:
        case dict():
            return _fill_object(node, values)
        case list():
            return [_fill(value, values) for value in node]
        case _Variable(name):
            return values[name]
        case _Text(marked):
            return _MARKED.sub(lambda match: str(values[match[1]]), marked)
        case _:
            return node
