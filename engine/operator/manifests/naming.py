"""The names of an LGP's objects, and the selectors that find these objects.

An LGP of our listener has a name that fits every kind of object (`engine/names.py`). The name of another client's LGP
may be too long for a Service, or contain dots. The objects of such an LGP get a shortened name that ends in a hash of
the LGP's name, so that it is the same every time.
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
    """The names of the objects of an LGP."""

    server: str
    """Name of the API servers' Deployment, of its Service and of its route."""
    queue: str
    database: str
    redis: str


def object_names(lgp: Lgp, config: OperatorConfig) -> ObjectNames:
    """Return the names of the objects of `lgp`; adopted objects keep their names.

    A database with `legacyName` gets its suffix from the configuration. The resource definition does not say how an
    earlier operator named its objects, and a wrong guess would start an empty database beside the full one.
    """
    base = lgp.adopted.name_prefix or base_name(lgp.name)
    suffix = config.legacy_database_suffix if lgp.spec.database.legacy_name else "db"
    database = lgp.adopted.database.name if lgp.adopted.database else f"{base}-{suffix}"
    return ObjectNames(server=base, queue=f"{base}-queue", database=database, redis=f"{base}-redis")


def external_name(lgp: Lgp) -> str:
    """Return the name of the Service that stands for `lgp` in another namespace; unique over all namespaces."""
    digest = hashlib.sha256(lgp.stream.encode()).hexdigest()[:_LONGER_HASH]
    return f"{base_name(lgp.name)}-{digest}"


def base_name(lgp_name: str) -> str:
    """Return the common prefix of all object names of an LGP: a DNS label of at most LONGEST_LGP_NAME characters."""
    if len(lgp_name) <= names.LONGEST_LGP_NAME and names.is_object_name(lgp_name):
        return lgp_name
    digest = hashlib.sha256(lgp_name.encode()).hexdigest()[:_HASH]
    stem = re.sub(r"[^a-z0-9]+", "-", lgp_name.lower()).strip("-")
    stem = stem if stem[:1].isalpha() else f"lgp-{stem}"
    return f"{stem[: names.LONGEST_LGP_NAME - _HASH - 1].strip('-')}-{digest}"


def service_account_name(lgp: Lgp) -> str:
    """Return the name of the managed ServiceAccount of `lgp`, as the resource definition says: `<LGP>-sa`."""
    fits = len(lgp.name) + len(_ACCOUNT_SUFFIX) <= _LONGEST_OBJECT_NAME
    return f"{lgp.name if fits else base_name(lgp.name)}{_ACCOUNT_SUFFIX}"


def label_value(lgp_name: str) -> str:
    """Return the value of LGP_LABEL for an LGP: its name, shortened where it is too long for a label value."""
    return lgp_name if len(lgp_name) <= _LONGEST_LABEL_VALUE else base_name(lgp_name)


def object_selector(lgp_name: str) -> str:
    """Return the label selector that finds every object of an LGP, pods and PersistentVolumeClaims included."""
    return f"{names.LGP_LABEL}={label_value(lgp_name)}"


def away_selector(lgp_namespace: str, lgp_name: str) -> str:
    """Return the label selector that finds the objects of an LGP in namespaces other than its own."""
    return f"{object_selector(lgp_name)},{names.LGP_NAMESPACE_LABEL}={lgp_namespace}"
