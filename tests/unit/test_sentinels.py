"""The URL of Sentinels: parsed in the same way for the event log and for Celery, and never shown with passwords."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
from redis.sentinel import SentinelManagedSSLConnection

from engine.errors import SettingsError
from engine.log.redis import connect
from engine.log.sentinels import Sentinels
from engine.settings import Settings
from workers.app import build

THREE = "sentinel://:open%3Bsesame@s1.example:26380/2;sentinel://s2.example;sentinel://[fd00::3]:26379"
SECURE = "sentinel://s1.example/0?ssl_cert_reqs=required&ssl_ca_certs=/etc/ca.crt;sentinel://s2.example"


def settings(url: str = THREE, **more: Any) -> Settings:
    given = {"redis_sentinel_master": "main", **more}
    return Settings.load(
        listener_enabled=False, operator_enabled=False, redis_url=url, listener_id=UUID(int=1), **given
    )


def test_several_addresses_lead_to_one_master() -> None:
    found = Sentinels.parse(THREE, "main")

    assert found.hosts == (("s1.example", 26380), ("s2.example", 26379), ("fd00::3", 26379))
    assert (found.database, found.username, found.password) == (2, "", "open;sesame")
    assert found.tls == {}


def test_celery_finds_everything_in_each_address() -> None:
    broker = build(settings(THREE, redis_sentinel_password="hush-hush")).connection()

    for url in [None, *broker.alt]:
        if url is not None:
            broker.switch(url)
        assert (broker.transport_cls, broker.password, broker.virtual_host) == ("sentinel", "open;sesame", "2")
    assert [address.partition("@")[2] for address in broker.alt] == [
        "s1.example:26380/2",
        "s2.example:26379/2",
        "[fd00::3]:26379/2",
    ]
    assert broker.transport_options["master_name"] == "main"
    assert broker.transport_options["sentinel_kwargs"]["password"] == "hush-hush"
    assert broker.transport_options["global_keyprefix"] == "agentplane:"


def test_tls_is_for_the_master_and_the_sentinels() -> None:
    where = Sentinels.parse(SECURE, "main")
    expected = {"ssl": True, "ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.crt"}

    pool: Any = connect(where).connection_pool
    assert issubclass(pool.connection_class, SentinelManagedSSLConnection)
    assert expected.items() - {("ssl", True)} <= pool.connection_kwargs.items()
    assert expected.items() <= where.own_options.items()


def test_tls_verifies_unless_told_otherwise() -> None:
    assert Sentinels.parse("sentinel://s?ssl_ca_certs=/ca").tls["ssl_cert_reqs"] == "required"
    assert Sentinels.parse("sentinel://s?ssl_cert_reqs=CERT_NONE&ssl_check_hostname=False").tls == {
        "ssl_cert_reqs": "none",
        "ssl_check_hostname": False,
    }


def test_the_broker_uses_the_same_tls() -> None:
    broker = build(settings(SECURE)).connection()

    assert broker.ssl == {"ssl_cert_reqs": "required", "ssl_ca_certs": "/etc/ca.crt"}


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sentinel://:open@s1;redis://s2:6379/0", "every address must start with sentinel://"),
        ("sentinel://:op;en@s1:26379/0", "write a semicolon in a password as %3B"),
        ("sentinel://:open@s1;sentinel://:sesame@s2", "has two passwords"),
        ("sentinel://a:open@s1;sentinel://b:open@s2", "has two users"),
        ("sentinel://:open@s1/0;sentinel://s2/1", "has two databases"),
        ("sentinel://:open@s1:26379/main", "the name of the master is a setting of its own"),
        ("sentinel://:open@", "must name a host in every address"),
        ("sentinel://:open@s1:99999", "a port must be from 1 to 65535"),
        ("sentinel://s1?password=open", "may only have the options ssl_cert_reqs"),
        ("sentinel://s1?ssl_cert_reqs=maybe", "must be one of required, optional, none"),
        ("sentinel://s1?ssl_ca_certs=/a;sentinel://s2?ssl_ca_certs=/b", "has two values of ssl_ca_certs"),
    ],
)
def test_a_mistake_in_the_url_is_named_without_a_password(url: str, words: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings(url)

    assert str(error.value).startswith("AGENTPLANE_REDIS_URL")
    assert words in str(error.value)
    assert "sentinel://:password@host:26379/0;sentinel://host2:26379" in str(error.value)  # an example
    assert not {"open", "sesame", "op;en"} & set(str(error.value).replace("@", ":").split(":"))


def test_the_name_of_the_master_is_needed() -> None:
    with pytest.raises(SettingsError, match="AGENTPLANE_REDIS_SENTINEL_MASTER is not set; set it to the name"):
        settings(redis_sentinel_master="")


@pytest.mark.parametrize("name", ["redis_sentinel_master", "redis_sentinel_username", "redis_sentinel_password"])
def test_a_setting_of_sentinels_without_sentinels_is_refused(name: str) -> None:
    with pytest.raises(SettingsError) as error:
        settings("redis://redis.example:6379/0", **{"redis_sentinel_master": "", name: "open-sesame"})

    assert f"AGENTPLANE_{name.upper()} is set, but AGENTPLANE_REDIS_URL does not start with sentinel://" in str(
        error.value
    )
    assert "open-sesame" not in str(error.value)


def test_no_password_of_any_address_is_ever_shown() -> None:
    url = "sentinel://user:p%40ss-word@s1.example:26379/0;sentinel://user:p%40ss-word@s2.example:26379/0"
    held = settings(url, redis_sentinel_username="watch", redis_sentinel_password="hush-hush")
    app = build(held, "listener")
    shown = "\n".join(
        [
            repr(held),
            str(held),
            str(held.describe()),
            held.model_dump_json(),
            repr(held.redis),
            repr(connect(held.redis).connection_pool),
            app.conf.humanize(with_defaults=True),
            json.dumps(app.conf.table(with_defaults=True, censored=True), default=str),  # `celery inspect conf`
            app.connection().as_uri(),
            repr(app.connection()),
        ]
    )

    for secret in ("p%40ss-word", "p@ss-word", "hush-hush"):
        assert secret not in shown
        assert secret in held.secrets()  # so that log lines are scrubbed of it
    assert held.redis_display == "sentinel://user:***@s1.example:26379/0;sentinel://user:***@s2.example:26379/0"
