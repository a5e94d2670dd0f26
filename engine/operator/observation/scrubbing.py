"""Secret values taken out of texts that containers, kubelets and controllers wrote, before the log may hold the texts.

What is scrubbed, and from where:

- the last log lines of a crashed container (`status.containerStatuses[].lastState.terminated.message`): `scrub_log`;
- messages of the pod's status (why a container waits, why a pod cannot be scheduled), of a workload's conditions (a
  passed deadline, pods that cannot be made) and of an autoscaler: `scrub_message`;
- the API server's message about a rejected object, which may quote the object: `scrub`, called by
  `engine/operator/perform.py`.

The secret values are the literals of the LGP's spec that its redacted form hides (`hidden_values`), and the values of
the Secrets that the pod refers to (`secret_names`, `secret_values`), read at the time. A log is withheld as a whole
when one of these sources cannot be read.

Every secret value is replaced by `***`. Values shorter than SHORTEST characters are not: replacing each "1" or "no"
would leave nothing to read, and so short a value is no secret. The WORDS that switch an option (true, false, null,
none) are not replaced either. Of a value that is a URL the password is replaced too, since a database's error message
may name the password alone. Of a value with several lines each line is replaced, since a log is cut into lines.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

from engine.errors import ObjectRefused
from engine.ports import JsonObject, Manifest

SHORTEST = 4
"""Characters that a value must have to be replaced."""
WORDS = frozenset({"true", "false", "null", "none"})
"""Values, in lower case, that say nothing by themselves."""
MASK = "***"


class Scrubber:
    """Takes secret values out of the texts about one LGP."""

    def __init__(
        self, read_secret: Callable[[str], Manifest | None], literals: Iterable[str], *, lgp_exists: bool
    ) -> None:
        """`read_secret` returns the Secret of that name in the LGP's namespace, None when it does not exist, and may
        raise ObjectRefused. `literals` are the secret values in the LGP's own spec, known while `lgp_exists`.
        """
        self._read_secret = read_secret
        self._literals = tuple(literals)
        self._lgp_exists = lgp_exists

    def scrub_message(self, text: str, secrets: Collection[str] = ()) -> str:
        """Return a message without secret values; `secrets` are the names of the Secrets that its pod refers to."""
        if not text:
            return ""
        values, _ = self._values(secrets)
        return scrub(text, values)

    def scrub_log(self, text: str, secrets: Collection[str]) -> str:
        """Return a container's own output without secret values, or a note in its place where these are unknown."""
        if not text:
            return ""
        values, unread = self._values(secrets)
        if unread:
            return f"(withheld: Secret {', '.join(unread)} cannot be read, so its values cannot be taken out)"
        if not self._lgp_exists:
            return "(withheld: the LGP is not there, so its values cannot be taken out)"
        return scrub(text, values)

    def _values(self, secrets: Collection[str]) -> tuple[list[str], list[str]]:
        """Return all known secret values, and the names of the Secrets that cannot be read."""
        values, unread = list(self._literals), []
        for name in sorted(secrets):
            try:
                secret = self._read_secret(name)
            except ObjectRefused:
                secret = None
            if secret is None:
                unread.append(name)
            else:
                values += secret_values(secret)
        return values, unread


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


def hidden_values(original: object, redacted: object) -> Iterator[str]:
    """Yield the strings of a JSON value that the redacted form of that value does not show."""
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


def secret_names(pod_spec: JsonObject) -> set[str]:
    """Return the names of the Secrets whose values a pod can see: environment and volumes."""
    names: set[str] = set()
    for container in [*pod_spec.get("initContainers", []), *pod_spec.get("containers", [])]:
        for variable in container.get("env") or []:
            names.add(((variable.get("valueFrom") or {}).get("secretKeyRef") or {}).get("name", ""))
        for source in container.get("envFrom") or []:
            names.add((source.get("secretRef") or {}).get("name", ""))
    for volume in pod_spec.get("volumes") or []:
        names.add((volume.get("secret") or {}).get("secretName", ""))
        for source in (volume.get("projected") or {}).get("sources") or []:
            names.add((source.get("secret") or {}).get("name", ""))
    return names - {""}
