"""The HTML page of one deployment: `langgraph deploy` prints its address after `View status:`.

A browser cannot send an API key, so the page requires none. It shows statuses and the data plane's reports, no secrets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from sandbox.control_plane.store import Document

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:62rem;padding:0 1rem;color:#222}
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd}
code{font-size:.9em;word-break:break-all}pre{margin:0;white-space:pre-wrap}
.ERROR{color:#b00020}.WARNING{color:#8a5a00}
"""


def deployment_page(document: Document, revisions: Sequence[Document], reports: Sequence[Mapping[str, Any]]) -> str:
    """Return the HTML page of one deployment; `revisions` and `reports` come newest first."""
    config = document["source_config"]
    facts = {
        "Status": document["status"],
        "Deployment": document["id"],
        "Listener": config["listener_id"] or "none: nothing runs this deployment",
        "Namespace": (config["listener_config"] or {}).get("k8s_namespace") or "-",
        "URL": config["custom_url"] or "-",
        "Updated": document["updated_at"],
    }
    active = document["active_revision_id"]
    rows = [
        [
            revision["id"] + (" (active)" if revision["id"] == active else ""),
            revision["status"],
            revision["source_revision_config"]["image_uri"],
            revision["created_at"],
        ]
        for revision in revisions
    ]
    return _page(
        document["name"],
        f"<table>{''.join(f'<tr><th>{escape(name)}<td>{escape(str(value))}' for name, value in facts.items())}</table>"
        f"<h2>Revisions</h2>{_table(('Revision', 'Status', 'Image', 'Created'), rows)}"
        f"<h2>Reports</h2><table><tr><th>Time<th>Revision<th>Status<th>Reason{''.join(map(_report, reports))}</table>",
    )


def missing_page(deployment_id: str) -> str:
    """Return the HTML page for a deployment that does not exist."""
    return _page(
        "Not found", f"<p>Deployment <code>{escape(deployment_id)}</code> does not exist; it may have been deleted.</p>"
    )


def _page(title: str, body: str) -> str:
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta http-equiv=refresh content=5>"
        f"<title>{escape(title)}</title><style>{STYLE}</style><h1>{escape(title)}</h1>{body}</html>"
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = "".join(f"<tr>{''.join(f'<td><code>{escape(str(cell))}</code>' for cell in row)}" for row in rows)
    return f"<table><tr>{''.join(f'<th>{head}' for head in heads)}{lines}</table>"


def _report(report: Mapping[str, Any]) -> str:
    message = f"<pre>{escape(report['message'])}</pre>" if report["message"] else ""
    cells = (report["at"], (report["revision_id"] or "-")[:8], report["status"])
    plain = "".join(f"<td><code>{escape(cell)}</code>" for cell in cells)
    return f"<tr class={escape(report['level'])}>{plain}<td>{escape(report['reason'] or '')}{message}"
