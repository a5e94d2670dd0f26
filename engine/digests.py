"""Digests: of JSON values, and, under a key, of secret values.

The log has keyed digests of secret values, and nothing else of them: HMAC-SHA-256 under a key that HKDF (RFC 5869)
derives from the LangSmith API key. A person without that key cannot test guesses of a short secret against the log.
With another API key, all digests change, so every Secret is applied again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

import orjson

from engine.event import Json

SALT = b"agentplane/digest/v1"
PURPOSE = b"secret values in the event log"
LENGTH = 32
"""Hex digits of a keyed digest: 128 bits."""


def derive(secret: bytes) -> bytes:
    """Return the digest key that HKDF-SHA-256 (one block of output) derives from `secret`."""
    extracted = hmac.digest(SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, PURPOSE + b"\x01", hashlib.sha256)


def keyed_digest(secret: str) -> Callable[[bytes], str]:
    """Return the digest function under the key that is derived from `secret`."""
    key = derive(secret.encode())

    def digest(value: bytes) -> str:
        return hmac.digest(key, value, hashlib.sha256).hex()[:LENGTH]

    return digest


def canonical(value: Json) -> bytes:
    """Return `value` as canonical JSON (sorted keys, no spaces, UTF-8): the form for digests, snapshots and exports."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Json) -> str:
    """Return a short unkeyed digest of a JSON value that holds no secrets (SHA-256, 16 hex digits)."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]
