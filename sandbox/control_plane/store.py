"""The control plane's storage: one SQLite file in which every resource is one complete JSON document.

A row holds the resource as the API returns it, and the columns that lists filter and sort by. Every write derives these
columns from the document. A page of a list is therefore one indexed query, and its documents are joined without
decoding. Lists are ordered by creation, newest first.

The server has one thread, so it uses one connection, and each request is one transaction. WAL with synchronous=NORMAL
survives a killed process; a power failure may lose the last few commits, which a sandbox accepts.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

Document = dict[str, Any]
Condition = tuple[str, Sequence[object]]
"""A condition of a WHERE clause, and the values of its question marks."""

LARGEST_OFFSET = 2**63 - 1

SCHEMA = """
CREATE TABLE IF NOT EXISTS listeners (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, workspace TEXT NOT NULL, compute_id TEXT NOT NULL,
  document TEXT NOT NULL, UNIQUE (workspace, compute_id));
CREATE TABLE IF NOT EXISTS deployments (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, workspace TEXT NOT NULL, name TEXT NOT NULL,
  status TEXT NOT NULL, listener_id TEXT, deployment_type TEXT, image_version TEXT, document TEXT NOT NULL,
  UNIQUE (workspace, name));
CREATE INDEX IF NOT EXISTS deployments_by_age ON deployments (workspace, seq);
CREATE INDEX IF NOT EXISTS deployments_by_listener ON deployments (listener_id, status);
CREATE TABLE IF NOT EXISTS revisions (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, status TEXT NOT NULL, document TEXT NOT NULL,
  deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE);
CREATE INDEX IF NOT EXISTS revisions_by_age ON revisions (deployment_id, seq);
CREATE TABLE IF NOT EXISTS reports (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, deployment_id TEXT NOT NULL REFERENCES deployments (id) ON DELETE CASCADE,
  revision_id TEXT, at TEXT NOT NULL, level TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, message TEXT);
CREATE INDEX IF NOT EXISTS reports_by_age ON reports (deployment_id, seq);
"""


def timestamp(after: str = "") -> str:
    """Return the current UTC time as the API writes it (microseconds), but at least one microsecond after `after`."""
    now = datetime.now(UTC)
    if after:
        now = max(now, datetime.fromisoformat(after) + timedelta(microseconds=1))
    return now.isoformat(timespec="microseconds").replace("+00:00", "Z")


def image_version(image_uri: str) -> str | None:
    """Return the tag of an image reference, or None; the API shows the tag as `image_version` and filters by it."""
    _, colon, tag = image_uri.partition("@")[0].rpartition("/")[2].partition(":")
    return tag if colon else None


class Store:
    """JSON documents by id and in pages. Call methods that write inside `transaction()`."""

    def __init__(self, file: Path | str) -> None:
        if str(file) != ":memory:":
            Path(file).touch(mode=0o600)  # the file holds secrets; SQLite gives its WAL files the same mode
        # One thread opens the connection and the server's thread uses it, never both at the same time.
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "foreign_keys=ON", "busy_timeout=5000"):
            self._connection.execute(f"PRAGMA {pragma}")
        self._connection.executescript(SCHEMA)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit all writes of the block, or none when an exception leaves the block."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def page(self, table: str, where: Sequence[Condition], limit: int, offset: int) -> list[str]:
        """Return the JSON documents of one page that fulfil all conditions, newest first."""
        clause = " AND ".join(condition for condition, _ in where) or "1"
        values = [value for _, values in where for value in values]
        rows = self._connection.execute(
            f"SELECT document FROM {table} WHERE {clause} ORDER BY seq DESC LIMIT ? OFFSET ?",
            [*values, limit, min(offset, LARGEST_OFFSET)],
        )
        return [row["document"] for row in rows]

    def first(self, table: str, *where: Condition) -> Document | None:
        """Return the newest document that fulfils all conditions, or None."""
        found = self.page(table, where, 1, 0)
        return json.loads(found[0]) if found else None

    def deployment(self, workspace: str, deployment_id: str) -> Document | None:
        return self.first("deployments", ("id = ?", [deployment_id]), ("workspace = ?", [workspace]))

    def revision(self, deployment_id: str, revision_id: str) -> Document | None:
        return self.first("revisions", ("id = ?", [revision_id]), ("deployment_id = ?", [deployment_id]))

    def listener(self, workspace: str, listener_id: str) -> Document | None:
        return self.first("listeners", ("id = ?", [listener_id]), ("workspace = ?", [workspace]))

    def listeners(self, workspace: str, most: int = 100) -> list[Document]:
        return [json.loads(text) for text in self.page("listeners", [("workspace = ?", [workspace])], most, 0)]

    def older(self, revision_id: str, than: str) -> bool:
        """Whether the revision `revision_id` was created before the revision `than`."""
        order = "SELECT (SELECT seq FROM revisions WHERE id = ?) < (SELECT seq FROM revisions WHERE id = ?)"
        return bool(self._connection.execute(order, [revision_id, than]).fetchone()[0])

    def save_deployment(self, document: Document) -> None:
        """Insert or replace. Raises sqlite3.IntegrityError when the workspace has another deployment of that name."""
        config = document["source_config"]
        self._save(
            "deployments",
            document,
            workspace=document["tenant_id"],
            name=document["name"],
            status=document["status"],
            listener_id=config["listener_id"],
            deployment_type=config["deployment_type"],
            image_version=document["image_version"],
        )

    def save_revision(self, deployment_id: str, document: Document) -> None:
        self._save("revisions", document, deployment_id=deployment_id, status=document["status"])

    def save_listener(self, workspace: str, document: Document) -> None:
        """Insert or replace. Raises sqlite3.IntegrityError when the workspace has another one of that compute id."""
        self._save("listeners", document, workspace=workspace, compute_id=document["compute_id"])

    def delete(self, table: str, resource_id: str) -> None:
        """Delete a resource, and the revisions and reports of a deployment."""
        self._connection.execute(f"DELETE FROM {table} WHERE id = ?", [resource_id])

    def delete_abandoned(self, listener_id: str) -> None:
        """Delete the deployments that wait for deletion by this listener, which no longer exists."""
        self._connection.execute(
            "DELETE FROM deployments WHERE listener_id = ? AND status = 'AWAITING_DELETE'", [listener_id]
        )

    def record(self, deployment_id: str, revision_id: str | None, *, level: str, status: str,
               reason: str | None, message: str | None) -> None:  # fmt: skip
        """Store a report, unless it equals the last report of the same revision (or of the deployment itself)."""
        last = self._connection.execute(
            "SELECT status, reason, message FROM reports WHERE deployment_id = ? AND revision_id IS ? "
            "ORDER BY seq DESC LIMIT 1",
            [deployment_id, revision_id],
        ).fetchone()
        if last is None or tuple(last) != (status, reason, message):
            self._connection.execute(
                "INSERT INTO reports (deployment_id, revision_id, at, level, status, reason, message) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [deployment_id, revision_id, timestamp(), level, status, reason, message],
            )

    def reports(self, where: Sequence[Condition], *, limit: int, newest_first: bool) -> list[dict[str, Any]]:
        """Return at most `limit` reports that fulfil all conditions, as rows of the table."""
        rows = self._connection.execute(
            f"SELECT * FROM reports WHERE {' AND '.join(condition for condition, _ in where)} "
            f"ORDER BY seq {'DESC' if newest_first else 'ASC'} LIMIT ?",
            [*(value for _, values in where for value in values), limit],
        )
        return [dict(row) for row in rows]

    def _save(self, table: str, document: Document, **columns: object) -> None:
        row = {"id": document["id"], **columns, "document": json.dumps(document, allow_nan=False)}
        self._connection.execute(
            f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))}) "
            f"ON CONFLICT (id) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in row if name != 'id')}",
            list(row.values()),
        )
