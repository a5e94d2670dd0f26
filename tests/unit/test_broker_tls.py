"""The broker's certificate is verified by default."""

from __future__ import annotations

import ssl

import pytest

from engine.settings import Settings
from workers.app import build


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("rediss://:password@redis.example:6380/0", "required"),
        ("rediss://:password@redis.example:6380/0?ssl_cert_reqs=none", ssl.CERT_NONE),
        ("redis://redis.example:6379/0", None),
    ],
)
def test_a_secure_url_means_a_verified_certificate(url: str, checked: object) -> None:
    settings = Settings.load(listener_enabled=False, operator_enabled=False, redis_url=url)
    tls = build(settings).connection().ssl

    assert (tls or {}).get("ssl_cert_reqs") == checked
