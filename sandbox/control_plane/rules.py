"""The control plane's rules: placement, names, revisions, deletion and status reports.

Every function runs inside the caller's transaction and raises `Refused` with the answer for the client.

Placement. In a workspace with listeners, every deployment belongs to a listener: a deployment without
`source_config.listener_id` is refused with 400, and its namespace must be one of the listener's namespaces.
`langgraph deploy` looks for a listener only if the host name is that of the hosted control plane. With
`infer_listener`, this control plane therefore fills in the only listener, and the listener's only namespace.

Revisions. Setting the image, the secrets, the secret references or the resource_spec creates a new revision, even when
the value stays the same: `langgraph deploy` then rolls out again. Other changes create no revision.

Deletion. A deployment with a listener waits (AWAITING_DELETE) until its data plane reports DELETED. A deployment
without a listener is deleted at once, because no data plane would report; so is one whose listener was deleted, before
or after the request.

Secrets with reserved variable names are not refused here, because the data plane has to refuse them anyway.
"""

from __future__ import annotations

import re
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sandbox.control_plane import resources as forms
from sandbox.control_plane.lifecycle import DEPLOYMENT_NEXT, REVISION_NEXT, may_follow, severity
from sandbox.control_plane.store import Document, Store, image_version, timestamp

NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
# Kubernetes Services are named after deployments, so a deployment's name must start with a letter.
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
KUBERNETES_SECRET = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LARGEST_INTEGER = 2**31 - 1  # replicas are 32-bit integers in Kubernetes

# Fields that only apply to other sources than external_docker.
FOREIGN = ("integration_id", "repo_url", "build_on_push", "install_command", "build_command")
FOREIGN_REVISION = ("repo_ref", "langgraph_config_path", "source_tarball_path")


class Refused(Exception):
    """A refused request: the answer has the HTTP status `status` and the body `{"detail": detail}`."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def not_found(kind: str, resource_id: str) -> Refused:
    return Refused(404, f"{kind} ID {resource_id} not found.")


# --- deployments


def create_deployment(store: Store, workspace: str, form: forms.DeploymentCreate, *, infer_listener: bool) -> Document:
    """Create a deployment and its first revision, QUEUED; return the deployment."""
    if form.source != "external_docker":
        raise Refused(400, f"source '{form.source}' is not available: use 'external_docker', the only one that runs")
    if not NAME.fullmatch(form.name):
        raise Refused(
            400,
            f"name {form.name[:80]!r} must have 1 to 63 characters of a-z, 0-9 and '-', start with a letter and "
            "not end with '-'",
        )
    _check(form.source_config, form.source_revision_config, form.secrets, form.secret_references)
    if form.source_revision_config.image_uri is None:
        raise Refused(400, "'source_revision_config.image_uri' is required for source 'external_docker'")
    config = form.source_config.model_dump(mode="json", exclude={"resource_spec"})
    config |= _placement(store, workspace, form.source_config, infer=infer_listener)
    config["resource_spec"] = _spec(form.source_config.resource_spec)
    now = timestamp()
    document = {
        "id": str(uuid.uuid4()),
        "tenant_id": workspace,
        "name": form.name,
        "source": form.source,
        "source_config": config,
        "source_revision_config": {},
        "secrets": [secret.model_dump() for secret in form.secrets],
        "secret_references": _dumped(form.secret_references),
        "status": "AWAITING_DATABASE",
        "created_at": now,
        "updated_at": now,
        "latest_revision_id": None,
        "active_revision_id": None,
        "image_version": None,
    }
    try:
        store.save_deployment(document)
    except sqlite3.IntegrityError:
        raise Refused(409, f"A deployment named '{form.name}' already exists in workspace '{workspace}'.") from None
    return _add_revision(store, document, form.source_revision_config.image_uri)


def patch_deployment(store: Store, workspace: str, deployment_id: str, form: forms.DeploymentPatch) -> Document:
    """Change a deployment, and create a revision if the change needs one; return the deployment."""
    document = _not_deleted(store, workspace, deployment_id)
    for field in ("name", "source"):
        if getattr(form, field) not in (None, document[field]):
            raise Refused(400, f"'{field}' cannot be changed; it is '{document[field]}'. Create another deployment.")
    if form.revision_source is not None:
        raise Refused(400, f"revision_source '{form.revision_source}' is not available for source 'external_docker'")
    _check(form.source_config, form.source_revision_config, form.secrets, form.secret_references)
    image = form.source_revision_config.image_uri if form.source_revision_config else None
    spec = form.source_config.resource_spec if form.source_config else None
    changed = form.source_config is not None and _merge(document["source_config"], form.source_config)
    if form.secrets is not None:
        document["secrets"] = [secret.model_dump() for secret in form.secrets]
    if form.secret_references is not None:
        document["secret_references"] = _dumped(form.secret_references)
    if any(part is not None for part in (image, spec, form.secrets, form.secret_references)):
        return _add_revision(store, document, image or document["source_revision_config"]["image_uri"])
    return _save_updated(store, document) if changed else document


def redeploy(store: Store, workspace: str, deployment_id: str, revision_id: str) -> Document:
    """Create a revision with the image of `revision_id` and the deployment's current secrets and resources."""
    document = _not_deleted(store, workspace, deployment_id)
    revision = store.revision(deployment_id, revision_id)
    if revision is None:
        raise not_found("Revision", revision_id)
    return _add_revision(store, document, revision["source_revision_config"]["image_uri"])


def delete_deployment(store: Store, workspace: str, deployment_id: str) -> None:
    """Mark a deployment for deletion by its data plane, or delete it at once if it has none. Idempotent."""
    document = deployment(store, workspace, deployment_id)
    listener_id = document["source_config"]["listener_id"]
    if listener_id is None or store.listener(workspace, listener_id) is None:
        store.delete("deployments", deployment_id)
    elif document["status"] != "AWAITING_DELETE":
        document["status"] = "AWAITING_DELETE"
        _save_updated(store, document)
        store.record(deployment_id, None, level="INFO", status="AWAITING_DELETE", reason=None, message=None)


def deployment(store: Store, workspace: str, deployment_id: str) -> Document:
    document = store.deployment(workspace, deployment_id)
    if document is None:
        raise not_found("Deployment", deployment_id)
    return document


# --- reports of the data plane


def report_revision(
    store: Store, workspace: str, deployment_id: str, revision_id: str, form: forms.RevisionReport
) -> Document:
    """Set a revision's status and return the revision.

    DEPLOYED makes the revision the active one, unless a newer revision is active. Raises Refused 404, 409.
    """
    document = deployment(store, workspace, deployment_id)
    revision = store.revision(deployment_id, revision_id)
    if revision is None:
        raise not_found("Revision", revision_id)
    if not may_follow(REVISION_NEXT, revision["status"], form.status):
        raise Refused(409, f"Revision ID {revision_id} is {revision['status']}; {form.status} cannot follow.")
    if form.status != revision["status"]:
        revision |= {"status": form.status, "updated_at": timestamp(revision["updated_at"])}
        store.save_revision(deployment_id, revision)
        active = document["active_revision_id"]
        if form.status == "DEPLOYED" and (active is None or store.older(active, revision_id)):
            document["active_revision_id"] = revision_id
            _save_updated(store, document)
    _record(store, deployment_id, revision_id, form)
    return revision


def report_deployment(
    store: Store, workspace: str, deployment_id: str, form: forms.DeploymentReport
) -> Document | None:
    """Set a deployment's status and return the deployment; DELETED deletes it and returns None.

    Raises Refused 404, 409.
    """
    document = deployment(store, workspace, deployment_id)
    present = document["status"]
    if not may_follow(DEPLOYMENT_NEXT, present, form.status):
        hint = f"; call DELETE /v2/deployments/{deployment_id} first" if "DELETE" in form.status else ""
        raise Refused(409, f"Deployment ID {deployment_id} is {present}; {form.status} cannot follow{hint}.")
    if form.status == "DELETED":
        store.delete("deployments", deployment_id)
        return None
    if form.status != present:
        document["status"] = form.status
        _save_updated(store, document)
    _record(store, deployment_id, None, form)
    return document


# --- listeners


def create_listener(
    store: Store, workspace: str, form: forms.ListenerCreate, *, listener_id: str | None = None
) -> Document:
    """Create a listener, with a random id unless `listener_id` is given. Raises Refused 409, 422."""
    if not form.compute_id.strip():
        raise _invalid("compute_id", "must not be empty")
    now = timestamp()
    document = {
        "id": listener_id or str(uuid.uuid4()),
        "version": form.version,
        "compute_type": form.compute_type,
        "compute_id": form.compute_id,
        "compute_config": _compute_config(form.compute_config),
        "created_at": now,
        "updated_at": now,
    }
    try:
        store.save_listener(workspace, document)
    except sqlite3.IntegrityError:
        raise Refused(
            409, f"Listener for workspace ID '{workspace}' and compute ID '{form.compute_id}' already exists."
        ) from None
    return document


def patch_listener(store: Store, workspace: str, listener_id: str, form: forms.ListenerPatch) -> Document:
    """Change a listener's version or namespaces; null leaves a field unchanged. Return the listener."""
    document = listener(store, workspace, listener_id)
    for field in ("compute_type", "compute_id"):
        if getattr(form, field) not in (None, document[field]):
            raise _invalid(field, f"cannot be changed; it is '{document[field]}'")
    changes: Document = {} if form.version is None else {"version": form.version}
    if form.compute_config is not None:
        changes["compute_config"] = _compute_config(form.compute_config)
    if changes:
        document |= changes | {"updated_at": timestamp(document["updated_at"])}
        store.save_listener(workspace, document)
    return document


def delete_listener(store: Store, workspace: str, listener_id: str) -> None:
    listener(store, workspace, listener_id)
    store.delete("listeners", listener_id)
    store.delete_abandoned(listener_id)


def seeded_listener_id(workspace: str, compute_id: str) -> str:
    """Return the id that `seed_listener` uses: other processes can be configured before the control plane runs."""
    return str(uuid.uuid5(uuid.UUID(workspace), compute_id))


def seed_listener(store: Store, workspace: str, compute_id: str, namespaces: Sequence[str]) -> Document:
    """Create a listener, or set its namespaces if it exists; return it. See `seeded_listener_id`."""
    config = forms.ComputeConfig(k8s_namespaces=list(namespaces))
    listener_id = seeded_listener_id(workspace, compute_id)
    if store.listener(workspace, listener_id) is not None:
        return patch_listener(store, workspace, listener_id, forms.ListenerPatch(compute_config=config))
    form = forms.ListenerCreate(compute_type="k8s", compute_id=compute_id, compute_config=config)
    return create_listener(store, workspace, form, listener_id=listener_id)


def listener(store: Store, workspace: str, listener_id: str) -> Document:
    document = store.listener(workspace, listener_id)
    if document is None:
        raise not_found("Listener", listener_id)
    return document


# --- shared by the functions above


def _not_deleted(store: Store, workspace: str, deployment_id: str) -> Document:
    document = deployment(store, workspace, deployment_id)
    if document["status"] == "AWAITING_DELETE":
        raise Refused(400, f"Deployment ID {deployment_id} is being deleted.")
    return document


def _save_updated(store: Store, document: Document) -> Document:
    """Set `updated_at` to the current time and save the deployment."""
    document["updated_at"] = timestamp(document["updated_at"])
    store.save_deployment(document)
    return document


def _add_revision(store: Store, document: Document, image_uri: str) -> Document:
    """Create a deployment's next revision, QUEUED; return the deployment."""
    now = timestamp(document["updated_at"])
    config = forms.SourceRevisionConfig(image_uri=image_uri).model_dump() | {"repo_commit_sha": None}
    revision = {
        "id": str(uuid.uuid4()),
        "created_at": now,
        "updated_at": now,
        "status": "QUEUED",
        "source": document["source"],
        "source_revision_config": config,
    }
    document |= {
        "latest_revision_id": revision["id"],
        "source_revision_config": config,
        "image_version": image_version(image_uri),
    }
    store.save_revision(document["id"], revision)
    store.record(
        document["id"], revision["id"], level="INFO", status="QUEUED", reason=None, message=f"image {image_uri}"
    )
    return _save_updated(store, document)


def _placement(store: Store, workspace: str, config: forms.SourceConfig, *, infer: bool) -> Document:
    """Return listener and namespace of a new deployment, as fields of source_config. Raises Refused 400."""
    namespace = config.listener_config.k8s_namespace if config.listener_config else None
    if config.listener_id is None:
        available = store.listeners(workspace)
        if not available:
            if namespace is not None:
                raise Refused(
                    400, f"k8s_namespace '{namespace}' needs a listener; workspace '{workspace}' has none, create one"
                )
            return {"listener_id": None, "listener_config": None}
        if not infer or len(available) > 1:
            ids = ", ".join(found["id"] for found in available)
            raise Refused(400, f"'source_config.listener_id' is required; choose one of the workspace's: {ids}")
        chosen = available[0]
    else:
        found = store.listener(workspace, str(config.listener_id))
        if found is None:
            raise Refused(400, f"'source_config.listener_id' {config.listener_id} is not a listener of this workspace")
        chosen = found
    served = chosen["compute_config"]["k8s_namespaces"]
    if namespace is None and infer and len(served) == 1:
        namespace = served[0]
    field, names = "'source_config.listener_config.k8s_namespace'", ", ".join(served)
    if namespace is None:
        raise Refused(400, f"{field} is required; listener {chosen['id']} serves {names}")
    if namespace not in served:
        raise Refused(400, f"{field} '{namespace}' is not served by listener {chosen['id']}; it serves {names}")
    return {"listener_id": chosen["id"], "listener_config": {"k8s_namespace": namespace}}


def _merge(config: Document, form: forms.SourceConfig) -> bool:
    """Set the given fields in a deployment's source_config; return whether a value changed."""
    before = dict(config)
    placement = config["listener_config"] or {}
    fixed = {
        "listener_id": (config["listener_id"], form.listener_id and str(form.listener_id)),
        "listener_config.k8s_namespace": (
            placement.get("k8s_namespace"),
            (form.listener_config or forms.ListenerConfig()).k8s_namespace,
        ),
        "deployment_type": (config["deployment_type"], form.deployment_type),
    }
    for field, (present, requested) in fixed.items():
        if requested not in (None, present):
            raise Refused(400, f"'source_config.{field}' cannot be changed; it is {present or 'not set'}")
    if form.custom_url is not None:
        config["custom_url"] = form.custom_url
    if form.resource_spec is not None:
        config["resource_spec"] = _spec(form.resource_spec)
    return config != before


def _check(
    config: forms.SourceConfig | None,
    revision: forms.SourceRevisionConfig | None,
    secrets: Sequence[forms.Secret] | None,
    references: Sequence[forms.SecretReference] | None,
) -> None:
    """Check the fields that a create and a patch share. Raises Refused 400."""
    _check_foreign("source_config", config, FOREIGN)
    _check_foreign("source_revision_config", revision, FOREIGN_REVISION)
    image = revision.image_uri if revision else None
    if image is not None and not re.fullmatch(r"[\x21-\x7e]{1,1024}", image):
        raise Refused(400, f"'source_revision_config.image_uri' {image[:80]!r} is not an image reference")
    if config is not None and config.resource_spec is not None:
        _check_spec(config.resource_spec)
    names = [secret.name for secret in secrets or ()] + [reference.name for reference in references or ()]
    for name in names:
        if not VARIABLE.fullmatch(name):
            raise Refused(400, f"secret name {name[:80]!r} is not an environment variable name")
    if repeated := _repeated(names):
        raise Refused(400, f"secret names are repeated: {', '.join(repeated)}")


def _check_foreign(
    part: str, form: forms.SourceConfig | forms.SourceRevisionConfig | None, fields: Iterable[str]
) -> None:
    for field in fields:
        # `build_on_push: false` is accepted: it asks for nothing.
        if form is not None and getattr(form, field) not in (None, False):
            raise Refused(400, f"'{part}.{field}' is not applicable to source 'external_docker'")


def _check_spec(spec: forms.ResourceSpec) -> None:
    for field, value in spec:
        if isinstance(value, int | float) and not 0 <= value <= LARGEST_INTEGER:
            raise Refused(400, f"'resource_spec.{field}' must be from 0 to {LARGEST_INTEGER}")
    for kind in ("", "queue_"):
        least, most = getattr(spec, f"{kind}min_scale"), getattr(spec, f"{kind}max_scale")
        if least is not None and most is not None and least > most:
            raise Refused(400, f"'resource_spec.{kind}min_scale' {least} is greater than '{kind}max_scale' {most}")
    for reference in spec.image_pull_secrets or ():
        if not KUBERNETES_SECRET.fullmatch(reference.name):
            raise Refused(
                400, f"'resource_spec.image_pull_secrets' name {reference.name[:80]!r} is not the name of a Secret"
            )


def _spec(spec: forms.ResourceSpec | None) -> Document | None:
    return None if spec is None else spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)


def _dumped(references: Sequence[forms.SecretReference] | None) -> list[Document] | None:
    return None if references is None else [reference.model_dump() for reference in references]


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _record(
    store: Store, deployment_id: str, revision_id: str | None, form: forms.RevisionReport | forms.DeploymentReport
) -> None:
    store.record(
        deployment_id,
        revision_id,
        level=severity(form.status),
        status=form.status,
        reason=form.reason,
        message=form.message,
    )


def _compute_config(form: forms.ComputeConfig) -> Document:
    namespaces = form.k8s_namespaces or []
    if not namespaces:
        raise _invalid("compute_config", "k8s_namespaces must name at least one namespace", "k8s_namespaces")
    for name in namespaces:
        if not NAMESPACE.fullmatch(name):
            raise _invalid("compute_config", f"{name[:80]!r} is not a valid namespace name", "k8s_namespaces")
    if repeated := _repeated(namespaces):
        raise _invalid("compute_config", f"namespaces are repeated: {', '.join(repeated)}", "k8s_namespaces")
    return {"k8s_namespaces": namespaces}


def _invalid(*path: str) -> Refused:
    """Return a 422, as the OpenAPI document has no 400 for listeners. `path`: field, message, optionally a subfield."""
    field, message, *inside = path
    return Refused(422, [{"type": "value_error", "loc": ["body", field, *inside], "msg": message}])
