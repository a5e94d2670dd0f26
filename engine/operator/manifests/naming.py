"""What the objects of an LGP are called, and how they are found again.

An LGP of our listener has a name that fits everywhere (engine/names.py). Somebody else's may be longer than a Service
may be, or hold dots: its objects get a shortened name that ends in a hash of the whole, the same at every time.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from engine import names
from engine.operator.config import OperatorConfig
from engine.operator.lgp import Lgp

_LONGEST_LABEL_VALUE = 63
_HASH = 8
_LONGER_HASH = 12
_LONGEST_OBJECT_NAME = 253
_ACCOUNT_SUFFIX = "-sa"


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectNames:
    """What the objects of an LGP are called."""

    server: str
    """API server Deployment, its Service and its route."""
    queue: str
    database: str
    redis: str


def object_names(lgp: Lgp, config: OperatorConfig) -> ObjectNames:
    """Return the names of the objects of `lgp`: those that are there already, where it was taken over.

    A database with `legacyName` gets the suffix from the configuration: what an earlier operator called its objects
    is no part of the resource definition, and a wrong guess would start an empty database beside the full one.
    """
    base = lgp.adopted.name_prefix or base_name(lgp.name)
    suffix = config.legacy_database_suffix if lgp.spec.database.legacy_name else "db"
    database = lgp.adopted.database.name if lgp.adopted.database else f"{base}-{suffix}"
    return ObjectNames(server=base, queue=f"{base}-queue", database=database, redis=f"{base}-redis")


def external_name(lgp: Lgp) -> str:
    """Return what the Service of `lgp` in another namespace is called: not as that of any LGP of any namespace."""
    digest = hashlib.sha256(lgp.stream.encode()).hexdigest()[:_LONGER_HASH]
    return f"{base_name(lgp.name)}-{digest}"


def base_name(lgp_name: str) -> str:
    """Return the name that those of all objects begin with: a DNS label of at most LONGEST_LGP_NAME characters."""
    if len(lgp_name) <= names.LONGEST_LGP_NAME and names.is_object_name(lgp_name):
        return lgp_name
    digest = hashlib.sha256(lgp_name.encode()).hexdigest()[:_HASH]
    stem = re.sub(r"[^a-z0-9]+", "-", lgp_name.lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"lgp-{stem}"
    return f"{stem[: names.LONGEST_LGP_NAME - _HASH - 1].strip('-')}-{digest}"


def service_account_name(lgp: Lgp) -> str:
    """Return what the managed ServiceAccount of `lgp` is called, as the resource definition says: `<LGP>-sa`."""
    fits = len(lgp.name) + len(_ACCOUNT_SUFFIX) <= _LONGEST_OBJECT_NAME
    return f"{lgp.name if fits else base_name(lgp.name)}{_ACCOUNT_SUFFIX}"


def label_value(lgp_name: str) -> str:
    """Return the value of LGP_LABEL for an LGP: its name, or the shortened one where that is no label value."""
    return lgp_name if len(lgp_name) <= _LONGEST_LABEL_VALUE else base_name(lgp_name)


def object_selector(lgp_name: str) -> str:
    """Return the label selector that finds every object of an LGP, pods and volume claims included."""
    return f"{names.LGP_LABEL}={label_value(lgp_name)}"


def away_selector(lgp_namespace: str, lgp_name: str) -> str:
    """Return the label selector that finds the objects of an LGP in other namespaces than its own."""
    return f"{object_selector(lgp_name)},{names.LGP_NAMESPACE_LABEL}={lgp_namespace}"
