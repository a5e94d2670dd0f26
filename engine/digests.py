"""The keyed digest of secret values: the only trace of them that may reach the log.

HMAC-SHA-256 under a key that HKDF (RFC 5869) derives from the LangSmith API key. Without that key nobody can test
guesses of a short secret against the log; with another one, every digest is new, and so every Secret is applied
again.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import orjson

SALT = b"agentplane/digest/v1"
PURPOSE = b"secret values in the event log"
LENGTH = 32
"""Hex digits of a digest: 128 bits."""


def derive(secret: bytes) -> bytes:
    """Return the digest key of an installation (HKDF-SHA-256, one block of output)."""
    extracted = hmac.digest(SALT, secret, hashlib.sha256)
    return hmac.digest(extracted, PURPOSE + b"\x01", hashlib.sha256)


def keyed_digest(secret: str) -> Callable[[bytes], str]:
    """Return the digest function under the key that is derived from `secret`."""
    key = derive(secret.encode())

    def digest(value: bytes) -> str:
        return hmac.digest(key, value, hashlib.sha256).hex()[:LENGTH]

    return digest


def canonical(value: Any) -> bytes:
    """Return `value` as canonical JSON: sorted keys, no spaces, UTF-8. The one codec for digests and snapshots."""
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def digest(value: Any) -> str:
    """Return a short unkeyed digest of a JSON value that holds no secrets (SHA-256, 16 hex digits)."""
    return hashlib.sha256(canonical(value)).hexdigest()[:16]
