"""`agentplane claims`: which data plane each watched namespace belongs to; taking one over, giving them back."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.text import Text

from cli.log import settings as log_settings
from cli.output import FAILED, age, console, json_line, table
from engine import bootstrap
from engine.claims import SHARED, Claim, ClaimRefused, Claims

HEADINGS = ("NAMESPACE", "HOLDER", "RENEWED", "")


def show(*, json: bool) -> int:
    """Print the claims on the watched namespaces; return 1 where one is another data plane's."""
    claims = _claims()
    now = datetime.now(UTC)
    found = [claims.read(namespace) for namespace in claims.namespaces]
    if json:
        for claim in found:
            renewed = claim.renewed.isoformat() if claim.renewed else None
            ours = claim.holder == claims.holder
            json_line({"namespace": claim.namespace, "holder": claim.holder, "renewed": renewed, "ours": ours})
    else:
        table(
            HEADINGS,
            [(claim.namespace, claim.holder or "-", _age(claim), _told(claim, claims, now)) for claim in found],
        )
    return FAILED if any(claim.holder not in ("", claims.holder) for claim in found) else 0


def _age(claim: Claim) -> str:
    return f"{age(claim.renewed)} ago" if claim.renewed else "-"


def _told(claim: Claim, claims: Claims, now: datetime) -> Text:
    if not claim.holder:
        return Text("nobody's: the first data plane that writes there claims it")
    if claim.holder == claims.holder:
        return Text("ours" if not claim.expired(now) else "ours, not renewed: is a worker alive?")
    taking = f"; its term has passed: `agentplane claims take {claim.namespace}`" if claim.expired(now) else ""
    return Text(f"another data plane's{taking}", style="red")


def take(namespace: str) -> None:
    """Take a namespace over from a data plane that is dead. Raises ClaimRefused, SettingsError, ClusterError."""
    claims = _claims()
    _watched(claims, namespace)
    before = claims.take(namespace)
    if before.holder in ("", claims.holder):
        console.print(f"namespace {namespace} is ours")
    else:
        console.print(f"namespace {namespace} is ours now; it was held by {before.holder!r}")


def release(namespace: str | None) -> None:
    """Give the claim on one namespace back, or on all that are watched, where it is ours."""
    claims = _claims()
    if namespace is not None:
        _watched(claims, namespace)
    kept = "is shared: its claim ends when nobody renews it" if claims.holder == SHARED else "was not ours"
    for each in claims.namespaces if namespace is None else (namespace,):
        told = "is nobody's now" if claims.release(each) else kept
        console.print(f"namespace {each} {told}")


def _claims() -> Claims:
    settings = log_settings()
    return bootstrap.claims_of(settings, bootstrap.open_cluster(settings))


def _watched(claims: Claims, namespace: str) -> None:
    if namespace not in claims.namespaces:
        watched = ", ".join(claims.namespaces)
        raise ClaimRefused(f"namespace {namespace!r} is not among the watched ones ({watched})")
