"""Keeping secret values out of texts that others wrote: crash logs, the API server's error messages.

Every known value is replaced by `***`. Values shorter than SHORTEST characters are not: replacing each "1" or "no"
would leave nothing to read, and so short a value is no secret; nor is a switch (WORDS). Of a value that is a URL its
password is replaced too, since a database's error message may name it alone; of a value with several lines each line
is, since a log is cut into lines.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from engine.ports import Manifest

SHORTEST = 4
"""Characters that a value must have to be replaced."""
WORDS = frozenset({"true", "false", "null", "none"})
"""Values, in lower case, that say nothing by themselves."""
MASK = "***"


def scrub(text: str, values: Iterable[str]) -> str:
    """Return `text` with every one of the secret `values` replaced."""
    parts = {part for value in values for part in _parts(value)}
    for part in sorted(parts, key=len, reverse=True):
        text = text.replace(part, MASK)
    return text


def _parts(value: str) -> Iterator[str]:
    candidates = [value, value.strip(), *value.splitlines()]
    try:
        password = urlsplit(value).password
    except ValueError:
        password = None
    if password:
        candidates += [password, unquote(password)]
    return (one for one in candidates if len(one) >= SHORTEST and one.lower() not in WORDS)


def hidden_values(original: Any, redacted: Any) -> Iterator[str]:
    """Yield the strings of a JSON value that its redacted form does not show."""
    if original == redacted:
        return
    if isinstance(original, Mapping):
        other = redacted if isinstance(redacted, Mapping) else {}
        for key, item in original.items():
            yield from hidden_values(item, other.get(key))
    elif isinstance(original, list):
        paired = redacted if isinstance(redacted, list) and len(redacted) == len(original) else [None] * len(original)
        for item, counterpart in zip(original, paired, strict=True):
            yield from hidden_values(item, counterpart)
    elif isinstance(original, str):
        yield original


def secret_values(secret: Manifest) -> Iterator[str]:
    """Yield the values of a Secret as a process would see them; binary ones are left out."""
    for encoded in (secret.get("data") or {}).values():
        try:
            yield base64.b64decode(encoded).decode()
        except (binascii.Error, UnicodeDecodeError):
            continue
    yield from (secret.get("stringData") or {}).values()


def secret_names(pod_spec: Manifest) -> set[str]:
    """Return the names of the Secrets whose values a pod can see: environment and volumes."""
    names: set[str] = set()
    for container in [*pod_spec.get("initContainers", []), *pod_spec.get("containers", [])]:
        for entry in container.get("env") or []:
            names.add(((entry.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name", ""))
        for source in container.get("envFrom") or []:
            names.add((source.get("secretRef") or {}).get("name", ""))
    for volume in pod_spec.get("volumes") or []:
        names.add((volume.get("secret") or {}).get("secretName", ""))
        for source in (volume.get("projected") or {}).get("sources") or []:
            names.add((source.get("secret") or {}).get("name", ""))
    return names - {""}
