"""Where Redis is when Sentinels know it: how their URL is read, and how the master that they name is found.

The URL is the one that Celery takes, one address after another with `;` between them:

    sentinel://[user:password@]host[:26379][/database][?ssl_…];sentinel://host2[:26379]…

User, password, database and TLS are those of the master; it is enough that one address names them, and an error when
two differ. (Celery itself takes them from whichever address it is at, so `url` repeats them in each.) Sentinels may
have a user and a password of their own. Any `ssl_…` means TLS, to the master and to the Sentinels alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

import redis
from redis.sentinel import MasterNotFoundError, Sentinel

SCHEME = "sentinel"
PORT = 26379
ANSWER_SECONDS = 2.0
"""That one Sentinel may take to answer, or to be reached, before the next one is asked."""

TLS_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "ssl_cert_reqs": ("required", "optional", "none"),
    "ssl_check_hostname": ("true", "false"),
    "ssl_ca_certs": (),
    "ssl_certfile": (),
    "ssl_keyfile": (),
}
"""What may be said of TLS, in the words of redis-py and Celery, and the values where not any will do."""


def is_sentinel(url: str) -> bool:
    """Whether `url` is meant to lead to Sentinels."""
    return url.startswith(f"{SCHEME}:")


def addresses(url: str) -> list[str]:
    """Return the single addresses in a URL of Redis: several for Sentinels."""
    return [part.strip() for part in url.split(";") if part.strip()] if is_sentinel(url) else [url]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sentinels:
    """The way to a master that Sentinels name."""

    hosts: tuple[tuple[str, int], ...]
    """Of the Sentinels, with their ports."""
    master: str
    """The name by which they know it."""
    database: int = 0
    username: str = ""
    password: str = field(default="", repr=False)
    """Of the master and its replicas."""
    sentinel_username: str = ""
    sentinel_password: str = field(default="", repr=False)
    """Of the Sentinels, where they ask for one."""
    tls: Mapping[str, str | bool] = field(default_factory=dict)
    """Options of redis-py for TLS; none means plain connections."""

    @classmethod
    def parse(cls, url: str, master: str = "", username: str = "", password: str = "") -> Sentinels:
        """Return what `url` says; `username` and `password` are the Sentinels' own.

        Raises ValueError, which says what is wrong without quoting a secret.
        """
        if not all(address.startswith(f"{SCHEME}://") for address in addresses(url)):
            raise ValueError(f"every address must start with {SCHEME}://, and a semicolon in a password is written %3B")
        parts = [_split(address) for address in addresses(url)]
        options: dict[str, str | bool] = {}
        for part in parts:
            for name, value in _tls(part):
                if options.setdefault(name, value) != value:
                    raise ValueError(f"names two values of {name}: they must be the same in every address")
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
        """The URL for Celery, which wants everything but TLS in every address."""
        user = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}@"
        who = user if self.username or self.password else ""
        named = ((f"[{host}]" if ":" in host else host, port) for host, port in self.hosts)
        return ";".join(f"{SCHEME}://{who}{host}:{port}/{self.database}" for host, port in named)

    @property
    def own_options(self) -> dict[str, Any]:
        """How to connect to a Sentinel: arguments of a redis-py client. It is asked once, then the next one is."""
        who = {"username": self.sentinel_username, "password": self.sentinel_password}
        return {
            **{name: value for name, value in who.items() if value},
            **({"ssl": True, **self.tls} if self.tls else {}),
            "socket_timeout": ANSWER_SECONDS,
            "socket_connect_timeout": ANSWER_SECONDS,
            "retry": None,
        }

    def connect(self, **options: Any) -> redis.Redis:
        """Return a client of the master, whichever it is at the moment; `options` are those of its connections."""
        who = {"username": self.username, "password": self.password}
        lookup: Any = Lookup(self.hosts, sentinel_kwargs=self.own_options, **options)  # type: ignore[no-untyped-call]
        client: redis.Redis = lookup.master_for(
            self.master,
            db=self.database,
            **{name: value for name, value in who.items() if value},
            **({"ssl": True, **self.tls} if self.tls else {}),
        )
        return client


class Lookup(Sentinel):
    """redis-py's Sentinel, except that threads may share it, and that it says what each Sentinel said.

    (redis-py 8.1 swaps two elements of its list when it finds a master: two threads that do so at once can lose a
    Sentinel from the list for good.)
    """

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of the master. Raises MasterNotFoundError."""
        said = []
        asked = list(self.sentinels)
        for sentinel in asked:
            try:
                masters = masters_of(sentinel)
            except (redis.RedisError, OSError) as error:
                said.append(f"{where(sentinel)}: {error}")
                continue
            state = masters.get(service_name)
            if state is not None and state["is_master"] and not (state["is_sdown"] or state["is_odown"]):
                self.sentinels = [sentinel, *(other for other in asked if other is not sentinel)]
                return state["ip"], state["port"]
            known = ", ".join(sorted(masters)) or "none"
            said.append(f"{where(sentinel)}: " + ("it is down" if state else f"unknown; known: {known}"))
        raise MasterNotFoundError(f"no Sentinel leads to the master {service_name!r} ({'; '.join(said)})")


def masters_of(sentinel: redis.Redis) -> dict[str, dict[str, Any]]:
    """Return what one Sentinel says of every master that it watches, by name. Raises redis.RedisError, OSError."""
    told: Any = sentinel.sentinel_masters()
    return dict(told)


def where(client: redis.Redis) -> str:
    """Return host:port of a client."""
    options = client.connection_pool.connection_kwargs
    return f"{options['host']}:{options['port']}"


def _split(address: str) -> SplitResult:
    part = urlsplit(address)
    try:
        usable = bool(part.hostname) and part.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("must name a host in every address, and a port from 1 to 65535 where it names one")
    if not re.fullmatch(r"(/\d*)?", part.path):
        raise ValueError(
            "must end with the number of a database, as in …:26379/0, or before it; the name of the master is a "
            "setting of its own"
        )
    return part


def _tls(part: SplitResult) -> Iterable[tuple[str, str | bool]]:
    for name, given in parse_qsl(part.query, keep_blank_values=True):
        if name not in TLS_OPTIONS:
            raise ValueError(f"may have no options besides {', '.join(TLS_OPTIONS)}")
        value = given if not TLS_OPTIONS[name] else given.lower().removeprefix("cert_")
        if TLS_OPTIONS[name] and value not in TLS_OPTIONS[name]:
            raise ValueError(f"{name}={given!r} must be one of {', '.join(TLS_OPTIONS[name])}")
        yield name, value == "true" if name == "ssl_check_hostname" else value


def _same(what: str, values: Iterable[str | None]) -> str:
    """Return the one value that is given, empty when none is."""
    given = {value for value in values if value}
    if len(given) > 1:
        raise ValueError(f"names two {what}: they are the master's, and must be the same in every address")
    return given.pop() if given else ""
