"""The fields of an LGP's spec that the operator does not read, by path and without their values.

A newer listener may have written them. The operator ignores such fields and names them in the LGP's status.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from engine.operator.lgp.model import LgpSpec, Part, fields_of

MOST_UNKNOWN = 20
"""Paths that are named; one more entry, `…`, says that there are others."""
LONGEST_PATH = 120
"""Characters of a path; the rest is cut off."""


def unknown_fields(spec: object) -> tuple[str, ...]:
    """Return the paths of the fields of `spec` that the model does not have.

    Fields that Kubernetes validates itself (containers, volumes) are not inspected. Never raises on odd shapes.
    """
    found = dict.fromkeys(path[:LONGEST_PATH] for path in _unknown(LgpSpec, spec, "spec"))
    return tuple(islice(found, MOST_UNKNOWN)) + (("…",) if len(found) > MOST_UNKNOWN else ())


def _unknown(part: type[Part], value: object, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from _unknown(part, item, f"{path}[]")
    if not isinstance(value, Mapping):
        return
    known = fields_of(part)
    for name, item in value.items():
        if name not in known:
            yield f"{path}.{name}"
        elif (inner := known[name]) is not None:
            yield from _unknown(inner, item, f"{path}.{name}")
