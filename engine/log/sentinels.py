"""Redis behind Sentinels: how a URL of Sentinels is parsed, and how their master is found.

The URL is that of Celery, the addresses of the Sentinels separated by `;`:

    sentinel://[user:password@]host[:26379][/database][?ssl_…];sentinel://host2[:26379]…

User, password, database and TLS are those of the master. One address must have them; two addresses must not differ.
(Celery uses those of the address that it connects to, so `url` repeats them in each.) Sentinels may have a user and a
password of their own. Any `ssl_…` option means TLS, to the master and to the Sentinels.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import redis
from redis.sentinel import MasterNotFoundError, Sentinel

from engine.event import Json, JsonObject

Options: TypeAlias = JsonObject
"""Arguments of a redis-py client."""

SCHEME = "sentinel"
PORT = 26379
ANSWER_SECONDS = 2.0
"""Connect and read timeout of one Sentinel, seconds; then the next Sentinel is asked."""

TLS_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
}
"""Options for TLS, named as in redis-py and Celery → the allowed values (empty: any)."""


def is_sentinel(url: str) -> bool:
    """Whether `url` is a URL of Sentinels."""
    return url.startswith(f"{SCHEME}:")


def addresses(url: str) -> list[str]:
    """Return the addresses in a URL of Redis; a URL of Sentinels may have several."""
    return [part.strip() for part in url.split(";") if part.strip()] if is_sentinel(url) else [url]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """How to connect to a master through Sentinels."""

    hosts: tuple[tuple[str, int], ...]
    """Host and port of each Sentinel."""
    master: str
    """Name of the master in the Sentinels' configuration."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    """Password of the master and its replicas."""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    """Password of the Sentinels themselves; empty for none."""
    tls: Mapping[str, str | bool] = field(default_factory=dict)
    """Options of redis-py for TLS; empty for plain connections."""

    @classmethod
    def parse(cls, url: str, master: str = "", username: str = "", password: str = "") -> Sentinels:
        """Return the Sentinels in `url`; `username` and `password` are those of the Sentinels themselves.

        Raises ValueError, whose message contains no secret.
        """
        if not all(address.startswith(f"{SCHEME}://") for address in addresses(url)):
            raise ValueError(f"every address must start with {SCHEME}://; write a semicolon in a password as %3B")
        parts = [_split(address) for address in addresses(url)]
        options: dict[str, str | bool] = {}
        for part in parts:
            for name, value in _tls(part):
                if options.setdefault(name, value) != value:
                    raise ValueError(f"has two values of {name}; the value must be the same in every address")
        if options:
            options.setdefault("ssl_cert_reqs", "required")
        return cls(
            hosts=tuple(dict.fromkeys((part.hostname or "", part.port or PORT) for part in parts)),
            master=master,
            database=int(_same("databases", (part.path.strip("/") for part in parts)) or 0),
            username=unquote(_same("users", (part.username for part in parts))),
            password=unquote(_same("passwords", (part.password for part in parts))),
            sentinel_username=username,
            sentinel_password=password,
            tls=options,
        )

    @property
    def url(self) -> str:
        """The URL for Celery, which needs everything except TLS in every address."""
        user = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        credentials = user if self.username or self.password else ""
        named = ((f"[{host}]" if ":" in host else host, port) for host, port in self.hosts)
        return ";".join(f"{SCHEME}://{credentials}{host}:{port}/{self.database}" for host, port in named)

    @property
    def own_options(self) -> Options:
        """The arguments of a redis-py client of one Sentinel. Each Sentinel is asked once, without a retry."""
        credentials = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {
            **{name: value for name, value in credentials.items() if value},
            **({"ssl": True, **self.tls} if self.tls else {}),
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": ANSWER_SECONDS,
            "retry": None,
        }

    def connect(self, **options: Json) -> redis.Redis:
        """Return a client of the current master; `options` are arguments of its connections."""
        credentials = {"username": self.username, "password": self.password}
        lookup: Json = Lookup(self.hosts, sentinel_kwargs=self.own_options, **options)  # type: ignore[no-untyped-call]
        client: redis.Redis = lookup.master_for(
            self.master,
            db=self.database,
            **{name: value for name, value in credentials.items() if value},
            **({"ssl": True, **self.tls} if self.tls else {}),
        )
        return client


class Lookup(Sentinel):
    """redis-py's Sentinel, but threads can share it, and its error has the answer of each Sentinel.

    (redis-py 8.1 swaps two elements of its list when it finds a master. Two threads that do this at once can lose a
    Sentinel from the list.)
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the master. Raises MasterNotFoundError."""
        answers = []
        asked = list(self.sentinels)
        for sentinel in asked:
            try:
                masters = masters_of(sentinel)
            except (redis.RedisError, OSError) as error:
                answers.append(f"{where(sentinel)}: {error}")
                continue
            state = masters.get(service_name)
            if state is not None and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
                self.sentinels = [sentinel, *(other for other in asked if other is not sentinel)]
                return state["ip"], state["port"]
            known = ", ".join(sorted(masters)) or "none"
            answers.append(f"{where(sentinel)}: " + ("it is down" if state else f"unknown; known: {known}"))
        raise MasterNotFoundError(f"no Sentinel leads to the master {service_name!r} ({'; '.join(answers)})")


def masters_of(sentinel: redis.Redis) -> dict[str, JsonObject]:
    """Return the state of every master that one Sentinel watches, by name. Raises redis.RedisError, OSError."""
    masters: Json = sentinel.sentinel_masters()
    return dict(masters)


def where(client: redis.Redis) -> str:
    """Return host:port of a client's server."""
    options = client.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}"


def _split(address: str) -> SplitResult:
    part = urlsplit(address)
    try:
        usable = bool(part.hostname) and part.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must name a host in every address; a port must be from 1 to 65535")
    if not re.fullmatch(r"(/\d*)?", part.path):
        raise ValueError(
            "must end with the port or with the number of a database, for example :26379/0; the name of the master is "
            "a setting of its own"
        )
    return part


def _tls(part: SplitResult) -> Iterable[tuple[str, str | bool]]:
    for name, given in parse_qsl(part.query, keep_blank_values=True):
        if name not in TLS_OPTIONS:
            raise ValueError(f"may only have the options {', '.join(TLS_OPTIONS)}")
        value = given if not TLS_OPTIONS[name] else given.lower().removeprefix("cert_")
        if TLS_OPTIONS[name] and value not in TLS_OPTIONS[name]:
            raise ValueError(f"{name}={given!r} must be one of {', '.join(TLS_OPTIONS[name])}")
        yield name, value == "true" if name == "ssl_check_hostname" else value


def _same(what: str, values: Iterable[str | None]) -> str:
    """Return the one value that is given; empty if there is none."""
    given = {value for value in values if value}
    if len(given) > 1:
        raise ValueError(f"has two {what}; they are those of the master, and must be the same in every address")
    return given.pop() if given else ""
