"""The event log in Redis (6.2 or newer), on Redis Streams.

Theory of operation. Every key starts with the hash tag `{prefix}`. So the log of an installation is in one slot of a
Redis Cluster, and several installations can share one Redis:

    {prefix}:stream:<name>     the events of a stream; entry id `<version>-0`; one field, e: event id, position,
                               microseconds and the rest of the envelope (JSON), separated by spaces (one field reads
                               fastest)
    {prefix}:all               the log of everything; entry id `<position>-0`; fields s and v: stream and version
    {prefix}:versions          hash: stream → version; also the list of all streams
    {prefix}:position          counter
    {prefix}:dirty             sorted set: stream by the microseconds at which it became dirty, or was last swept
    {prefix}:work-tokens       hash: stream → its work token; `:work-token` is the counter
    {prefix}:due               sorted set: stream by the microseconds of its timer
    {prefix}:lock:<name>       `<fence>:<token>`, with an expiry
    {prefix}:fence             counter
    {prefix}:present:<name>    empty, with an expiry: a process of that name is alive
    {prefix}:snapshots         hash: stream → snapshot; `:snapshot-heads`: stream → its version and fingerprint
    {prefix}:trimmed           hash: stream → version of the last event that was trimmed

The log of everything holds pointers instead of copies: half the memory, half the append-only file, and one source of
truth. The events of one stream within a page of pointers are consecutive, so a page is read with one pipelined XRANGE
per stream.

Connections have timeouts. The client repeats a failed command a few times with backoff, long enough for a restart of
Redis. A repeated script recognises what its first run did: an append by its event ids, a lock by its token. What still
fails raises LogUnavailable. With Sentinels, each new connection asks them for the master, so a repeated command reaches
the new master after a failover.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from itertools import islice
from typing import Any, TypeAlias

import orjson
import redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.commands.core import Script
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import SentinelConnectionPool

from engine.errors import ConcurrencyConflict, ImportRefused, LockHeld, LockLost, LogUnavailable, TrimRefused
from engine.event import Event, JsonObject, Record
from engine.log import scripts
from engine.log.contract import Lock, Snapshot
from engine.log.envelope import from_micros, new_id, to_micros
from engine.log.sentinels import Sentinels
from engine.ports import Clock

Reply: TypeAlias = Any
"""A reply of Redis, as redis-py decodes it."""
Execute: TypeAlias = Callable[..., Reply]

PASSING = (
    ConnectionError,
    TimeoutError,
    BusyLoadingError,
    ReadOnlyError,
    ClusterDownError,
    TryAgainError,
    NoScriptError,
)
"""Errors that may pass. (A missing script is loaded; after a failover it may be missing again, on the new master.)"""
ANSWERED = (AuthenticationError, BusyLoadingError)
"""Connection errors of redis-py that a server answered with."""
PASSING_REPLIES = re.compile(r"(MISCONF|NOREPLICAS|UNBLOCKED|MASTERDOWN|OOM)\b|.* -(READONLY|MISCONF|NOREPLICAS|OOM)\b")
"""Error replies that pass when the server is repaired or replaced. The word is at the start of the reply; before
Redis 7,
the reply of a script has the word after the script's name and line."""

PIPELINE = 200
"""Number of commands in one round trip."""
TRIM_AT_ONCE = 500
"""Events that one run of the TRIM script deletes, so that no run blocks Redis for long."""
OUTAGE_SECONDS = 0.5
"""Seconds that `tail` waits after an outage before it tries again."""


def connect(where: str | Sentinels, *, timeout: float = 5.0, attempts: int = 6) -> redis.Redis:
    """Return a client of the Redis at `where` (a URL, or Sentinels) that rides out a restart of Redis.

    `timeout` is the seconds for a command and for a connection attempt. A failed command is repeated up to `attempts`
    times, with jittered backoff of about three seconds in total.
    """
    options: JsonObject = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "socket_keepalive": True,
        "health_check_interval": 15,
        "protocol": 3,
        "retry": Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), attempts),
        "retry_on_error": [BusyLoadingError, ReadOnlyError, ClusterDownError, TryAgainError],
    }
    return where.connect(**options) if isinstance(where, Sentinels) else redis.Redis.from_url(where, **options)


class RedisLock:
    """The lock of one stream of a RedisLog, while it is held."""

    def __init__(self, events: RedisLog, stream: str, value: str, ttl: float) -> None:
        self.stream = stream
        self.token = value
        """The value of the lock's key: fence and token."""
        self.fence = int(value.partition(":")[0])
        self._events = events
        self._ttl = ttl

    def keep(self) -> None:
        self._events.keep(self, self._ttl)


class RedisLog:
    """An EventLog in Redis. Threads can share it, and forked processes if the fork comes before the first use.

    `clock` and `new_id` are for tests. Without a clock, the time is that of the Redis server, the same for all workers.
    """

    def __init__(
        self,
        client: redis.Redis,
        prefix: str,
        *,
        clock: Clock | None = None,
        new_id: Callable[[], str] = new_id,
    ) -> None:
        if not prefix or set(prefix) & set("{}"):
            raise ValueError(f"key prefix {prefix!r} must not be empty, and must not contain braces: it is a hash tag")
        self._redis = client
        self._prefix = prefix
        self._clock = clock
        self._new_id = new_id
        self._execute: Execute = client.execute_command
        self._scripts: dict[str, Script] = {
            name: client.register_script(text) for name, text in scripts.SCRIPTS.items()
        }

    @classmethod
    def from_url(
        cls,
        where: str | Sentinels,
        prefix: str,
        *,
        timeout: float = 5.0,
        attempts: int = 6,
        clock: Clock | None = None,
    ) -> RedisLog:
        """Return the log with `prefix` in the Redis at `where` (see `connect`). Nothing is sent yet."""
        return cls(connect(where, timeout=timeout, attempts=attempts), prefix, clock=clock)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        self._redis.close()

    # --- talking to Redis

    def _key(self, *parts: str) -> str:
        return ":".join(("{" + self._prefix + "}", *parts))

    def _keys(self, *names: str) -> list[str]:
        return [self._key(name) for name in names]

    def _stream_key(self, stream: str) -> str:
        return self._key("stream", stream)

    def _lock_key(self, stream: str) -> str:
        return self._key("lock", stream)

    def _now(self) -> str:
        """The time that a script takes; empty: the time of the server."""
        return "" if self._clock is None else str(to_micros(self._clock.now()))

    def _run(self, name: str, keys: Sequence[str], *arguments: str | bytes | int) -> Reply:
        with self._translated():
            return self._scripts[name](keys=keys, args=arguments)

    def _call(self, *command: str | bytes | int) -> Reply:
        with self._translated():
            return self._execute(*command)

    def _pipelined(self, commands: Iterable[Sequence[str]]) -> Iterator[Reply]:
        remaining = iter(commands)
        while batch := list(islice(remaining, PIPELINE)):
            with self._translated(), self._redis.pipeline(transaction=False) as pipeline:
                queue: Execute = pipeline.execute_command
                for command in batch:
                    queue(*command)
                replies = pipeline.execute()
            yield from replies

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Raise LogUnavailable for what redis-py raises when the server is unreachable or not working."""
        try:
            yield
        except (*PASSING, OutOfMemoryError) as error:
            raise LogUnavailable(self._unavailable(error)) from error
        except ResponseError as error:
            if not PASSING_REPLIES.match(str(error)):
                raise
            # A master that became a replica still answers; a new connection reaches the new master.
            self._redis.connection_pool.disconnect(inuse_connections=False)
            raise LogUnavailable(self._unavailable(error)) from error
        except RedisError as error:
            raise LogUnavailable(f"{self._where()} cannot serve the event log: {error!r}") from error

    def _unavailable(self, error: RedisError) -> str:
        """Return what keeps Redis from serving the log, without passwords."""
        if isinstance(error, (ConnectionError, TimeoutError)) and not isinstance(error, ANSWERED):
            return f"Cannot reach {self._where()} ({_cause(error)})"
        return f"{self._where()} cannot serve the event log: {error}"

    def _where(self) -> str:
        pool = self._redis.connection_pool
        if isinstance(pool, SentinelConnectionPool):
            return f"the Redis master {pool.service_name!r}"
        options = pool.connection_kwargs
        if "path" in options:
            return f"Redis at {options['path']}"
        return f"Redis at {options.get('host', 'localhost')}:{options.get('port', 6379)}"

    # --- events

    def append(
        self,
        stream: str,
        expected_version: int,
        events: Sequence[Event],
        *,
        actor: str,
        cause: str | None = None,
        lock: Lock | None = None,
    ) -> int:
        if not events:
            return expected_version
        envelopes: list[str | bytes] = []
        for event in events:
            envelopes += (self._new_id(), _envelope(event.type, event.schema_version, actor, cause, _data(event)))
        word, *rest = self._run(
            "APPEND",
            [
                self._stream_key(stream),
                *self._keys("all", "versions", "position", "dirty", "work-tokens", "work-token"),
                self._lock_key(stream),
            ],
            stream,
            expected_version,
            lock.token if lock else "",
            self._now(),
            *envelopes,
        )
        match word:
            case b"ok":
                return int(rest[0])
            case b"conflict":
                raise ConcurrencyConflict(stream, expected_version, int(rest[0]))
        raise _lost(stream)

    def read(self, stream: str, after: int = 0) -> list[Record]:
        return _records(stream, self._call("XRANGE", self._stream_key(stream), f"{after + 1}-0", "+"))

    def read_many(self, after: Mapping[str, int]) -> dict[str, list[Record]]:
        commands = (("XRANGE", self._stream_key(stream), f"{version + 1}-0", "+") for stream, version in after.items())
        replies = zip(after, self._pipelined(commands), strict=True)
        return {stream: _records(stream, entries) for stream, entries in replies}

    def read_all(self, after_position: int = 0, limit: int = 1000) -> list[Record]:
        start = after_position
        while True:
            pointers = self._call("XRANGE", self._key("all"), f"{start + 1}-0", "+", "COUNT", limit)
            records = self._follow(pointers)
            if records or not pointers:
                return records
            start = _number(pointers[-1][0])  # all of these events were trimmed meanwhile

    def _follow(self, pointers: Sequence[Reply]) -> list[Record]:
        """Return the records of `pointers`, which are entries of the log of everything."""
        versions: dict[str, list[int]] = defaultdict(list)
        for _, fields in pointers:
            versions[fields[b"s"].decode()].append(int(fields[b"v"]))
        commands = (
            ("XRANGE", self._stream_key(stream), f"{wanted[0]}-0", f"{wanted[-1]}-0")
            for stream, wanted in versions.items()
        )
        replies = zip(versions, self._pipelined(commands), strict=True)
        records = [record for stream, entries in replies for record in _records(stream, entries)]
        return sorted(records, key=lambda record: record.position)

    def tail(
        self, after_position: int | None = None, block: float = 1.0, until: Callable[[], bool] | None = None
    ) -> Iterator[Record]:
        position = self.head() if after_position is None else after_position
        return self._tail(position, block, until)

    def _tail(self, position: int, block: float, until: Callable[[], bool] | None) -> Iterator[Record]:
        checked = False
        while until is None or not until():
            try:
                if not checked:
                    # A Redis that lost its last second continues from an earlier position.
                    position, checked = min(position, self.head()), True
                pointers = self._wait(position, block)
                records = self._follow(pointers)
            except LogUnavailable:
                checked = False
                time.sleep(min(block, OUTAGE_SECONDS))
                continue
            if pointers:
                position = _number(pointers[-1][0])
            else:
                checked = False
            yield from records

    def _wait(self, position: int, block: float) -> Sequence[Reply]:
        """Return pointers after `position`; wait at most `block` seconds, and at most half of the socket's timeout."""
        timeout = self._redis.connection_pool.connection_kwargs.get("socket_timeout") or block
        milliseconds = max(1, round(min(block, timeout / 2) * 1000))
        answer = self._call("XREAD", "COUNT", 1000, "BLOCK", milliseconds, "STREAMS", self._key("all"), f"{position}-0")
        if not answer:
            return []
        [(batch,)] = answer.values()  # RESP3 wraps the entries of each stream once more
        return list(batch)

    def head(self) -> int:
        return int(self._call("GET", self._key("position")) or 0)

    def history(self) -> str:
        return str(self._call("INFO", "replication").get("master_replid", ""))

    def version(self, stream: str) -> int:
        return int(self._call("HGET", self._key("versions"), stream) or 0)

    def versions(self, prefix: str = "") -> dict[str, int]:
        versions = self._call("HGETALL", self._key("versions"))
        start = prefix.encode()
        return {name.decode(): int(version) for name, version in versions.items() if name.startswith(start)}

    def streams(self, prefix: str = "") -> list[str]:
        return sorted(self.versions(prefix))

    # --- locks

    @contextmanager
    def lock(self, stream: str, ttl: float) -> Iterator[Lock]:
        key = self._lock_key(stream)
        value = self._run("LOCK", [key, self._key("fence")], secrets.token_hex(16), _milliseconds(ttl))
        if not value:
            raise LockHeld(f"another worker holds the lock of {stream}")
        lock = RedisLock(self, stream, value.decode(), ttl)
        try:
            yield lock
        finally:
            with suppress(LogUnavailable):  # the lock expires by itself
                self._run("RELEASE", [key], lock.token)

    def keep(self, lock: Lock, ttl: float) -> None:
        """Verify that `lock` is held, and extend it to `ttl` seconds from now. Raises LockLost."""
        if not self._run("KEEP", [self._lock_key(lock.stream)], lock.token, _milliseconds(ttl)):
            raise _lost(lock.stream)

    def locked(self, stream: str) -> bool:
        return bool(self._call("EXISTS", self._lock_key(stream)))

    # --- presence

    def announce(self, name: str, ttl: float) -> None:
        self._call("SET", self._key("present", name), "", "PX", _milliseconds(ttl))

    def announced(self, name: str) -> bool:
        return bool(self._call("EXISTS", self._key("present", name)))

    # --- outbox and timers

    def mark_dirty(self, stream: str) -> None:
        self._run("MARK_DIRTY", self._keys("dirty", "work-tokens", "work-token"), stream, self._now())

    def work_token(self, stream: str) -> int:
        return int(self._call("HGET", self._key("work-tokens"), stream) or 0)

    def acknowledge(
        self,
        stream: str,
        version: int,
        *,
        work_token: int | None = None,
        last: str | None = None,
        until: datetime | None = None,
        lock: Lock | None = None,
    ) -> bool:
        answer = self._run(
            "ACKNOWLEDGE",
            [*self._keys("versions", "dirty", "work-tokens", "due"), self._lock_key(stream), self._stream_key(stream)],
            stream,
            version,
            "" if work_token is None else work_token,
            "" if until is None else to_micros(until),
            lock.token if lock else "",
            last or "",
        )
        if answer == b"lost":
            raise _lost(stream)
        return bool(answer == b"clean")

    def take_dirty(self, older_than: float, limit: int = 1000) -> list[str]:
        return _names(self._run("TAKE_DIRTY", self._keys("dirty"), round(older_than * 1e6), limit, self._now()))

    def dirty(self) -> list[str]:
        return _names(self._call("ZRANGE", self._key("dirty"), 0, -1))

    def schedule(self, stream: str, at: datetime) -> None:
        self._call("ZADD", self._key("due"), to_micros(at), stream)

    def unschedule(self, stream: str) -> None:
        self._call("ZREM", self._key("due"), stream)

    def take_due(self, now: datetime, limit: int = 1000) -> list[str]:
        keys = self._keys("due", "dirty", "work-tokens", "work-token")
        return _names(self._run("TAKE_DUE", keys, to_micros(now), limit, self._now()))

    def due(self) -> list[tuple[str, datetime]]:
        timers = self._call("ZRANGE", self._key("due"), 0, -1, "WITHSCORES")
        return [(stream.decode(), from_micros(int(at))) for stream, at in timers]

    # --- snapshots and retention

    def save_snapshot(self, snapshot: Snapshot) -> None:
        self._run(
            "SAVE_SNAPSHOT",
            self._keys("versions", "snapshots", "snapshot-heads", "trimmed"),
            snapshot.stream,
            snapshot.version,
            snapshot.fingerprint,
            _packed(snapshot),
        )

    def load_snapshot(self, stream: str) -> Snapshot | None:
        packed = self._call("HGET", self._key("snapshots"), stream)
        if packed is None:
            return None
        version, fingerprint, state = packed.split(b"\n", 2)
        return Snapshot(stream=stream, version=int(version), fingerprint=fingerprint.decode(), state=state)

    def drop_snapshots(self) -> int:
        return int(self._run("DROP_SNAPSHOTS", self._keys("snapshots", "snapshot-heads", "trimmed")))

    def trimmed(self) -> dict[str, int]:
        trimmed = self._call("HGETALL", self._key("trimmed"))
        return {name.decode(): int(version) for name, version in trimmed.items()}

    def trim(self, stream: str, through: int) -> int:
        keys = [self._stream_key(stream), *self._keys("all", "snapshot-heads", "trimmed", "versions")]
        trimmed = 0
        while True:
            word, number = self._run("TRIM", keys, stream, through, TRIM_AT_ONCE)
            if word == b"refused":
                raise TrimRefused(_needed(stream, through, int(number)))
            trimmed += int(number)
            if number < TRIM_AT_ONCE:
                return trimmed

    def forget(self, stream: str, version: int) -> int:
        names = ("all", "versions", "dirty", "work-tokens", "due", "snapshots", "snapshot-heads", "trimmed")
        keys = [self._stream_key(stream), *self._keys(*names), self._lock_key(stream)]
        word, number = self._run("FORGET", keys, stream, version)
        if word == b"refused":
            raise TrimRefused(f"stream {stream} is dirty, locked, or at version {int(number)} instead of {version}")
        return int(number)

    # --- import

    def restore(self, records: Sequence[Record]) -> None:
        if not records:
            return
        arguments: list[str | bytes | int] = [self._now()]
        for record in records:
            envelope = _envelope(record.type, record.schema_version, record.actor, record.cause, record.data)
            micros = to_micros(record.at)
            arguments += (record.stream, record.version, record.position, micros, record.id, envelope)
        keys = self._keys("all", "versions", "position", "dirty", "work-tokens", "work-token")
        word, *rest = self._run("RESTORE", keys + [self._stream_key(record.stream) for record in records], *arguments)
        if word != b"ok":
            number, actual = rest
            record = records[number - 1]
            raise ImportRefused(
                f"{record.stream} version {record.version}, position {record.position}, cannot follow "
                f"{word.decode()} {actual}"
            )

    def restore_trimmed(self, snapshot: Snapshot, through: int) -> None:
        done = self._run(
            "RESTORE_TRIMMED",
            self._keys("versions", "trimmed", "snapshots", "snapshot-heads", "dirty", "work-tokens", "work-token"),
            snapshot.stream,
            through,
            snapshot.version,
            snapshot.fingerprint,
            _packed(snapshot),
            self._now(),
        )
        if not done:
            raise ImportRefused(f"stream {snapshot.stream} exists; a trimmed stream cannot replace it")


def _cause(error: RedisError) -> str:
    """Return why there is no connection: in the words of the operating system, or of redis-py."""
    cause = error.__cause__ or error.__context__
    reason = isinstance(cause, OSError) and cause.strerror
    return reason[0].lower() + reason[1:] if reason else str(error).rstrip(".")


def _lost(stream: str) -> LockLost:
    return LockLost(f"the lock of {stream} expired, or another worker holds it")


def _needed(stream: str, through: int, last: int) -> str:
    return f"stream {stream} can be trimmed up to version {last} (snapshot, last event), not up to {through}"


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _data(event: Event) -> JsonObject:
    return event.model_dump(mode="json")


def _envelope(type_: str, schema_version: int, actor: str, cause: str | None, data: JsonObject) -> bytes:
    return orjson.dumps([type_, schema_version, actor, cause, data])


def _records(stream: str, entries: Sequence[Reply]) -> list[Record]:
    """Decode entries of a stream."""
    records = []
    for place, fields in entries:
        event_id, position, micros, envelope = fields[b"e"].split(b" ", 3)
        type_, schema_version, actor, cause, data = orjson.loads(envelope)
        records.append(
            Record(
                id=event_id.decode(),
                stream=stream,
                version=_number(place),
                position=int(position),
                type=type_,
                schema_version=schema_version,
                at=from_micros(int(micros)),
                actor=actor,
                cause=cause,
                data=data,
            )
        )
    return records


def _number(place: bytes) -> int:
    """Return the version or position in an entry id."""
    return int(place.partition(b"-")[0])


def _names(names: Iterable[bytes]) -> list[str]:
    return [name.decode() for name in names]


def _packed(snapshot: Snapshot) -> bytes:
    return b"\n".join((str(snapshot.version).encode(), snapshot.fingerprint.encode(), snapshot.state))
