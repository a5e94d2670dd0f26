"""Lists: selection, pages of one consistent state, and the forms of an answer (objects, table, metadata only)."""

from __future__ import annotations

import base64
import binascii
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import orjson

from sandbox.kubernetes import status, tables
from sandbox.kubernetes.kinds import Kind
from sandbox.kubernetes.negotiation import EXACT
from sandbox.kubernetes.registry import Registry, matcher
from sandbox.kubernetes.status import ApiError
from sandbox.kubernetes.store import Object, Stored

_OPEN_PAGES = 256
"""How many lists are kept for their next page. The oldest is dropped first; its continue token then gets 410."""


class Listing:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._open: OrderedDict[str, tuple[int, list[Stored]]] = OrderedDict()

    def page(self, kind: Kind, namespace: str, query: Mapping[str, str], table: bool, metadata_only: bool) -> bytes:
        """Return a list, or one page of it. Raises ApiError 400 (selector, token), 410 (old token), 504 (version)."""
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        limit = _number(query.get("limit", ""), "limit")
        if token := query.get("continue", ""):
            version, found = self._continued(token)
        elif query.get("resourceVersionMatch") == EXACT:
            version, found = self._exactly(kind, namespace, labels, fields, query.get("resourceVersion", ""))
        else:
            check_version(query.get("resourceVersion", ""), self._registry.store.version)
            version, found = self._registry.store.version, self._registry.select(kind, namespace, labels, fields)
        metadata: Object = {"resourceVersion": str(version)}
        if limit and len(found) > limit:
            found, rest = found[:limit], found[limit:]
            metadata["continue"] = self._remember(version, rest)
            if not labels and not fields:
                metadata["remainingItemCount"] = len(rest)
        return self._encode(kind, found, metadata, query.get("includeObject", "Metadata"), table, metadata_only)

    def _exactly(self, kind: Kind, namespace: str, labels: str, fields: str, text: str) -> tuple[int, list[Stored]]:
        store = self._registry.store
        check_version(text, store.version)
        matches = matcher(kind.resource, labels, fields)
        try:
            found = store.list_at(int(text), kind.resource, namespace)
        except ApiError as error:
            raise status.expired("The resourceVersion for the provided list is too old.") from error
        return int(text), [stored for stored in found if matches(stored.object)]

    def _remember(self, version: int, rest: list[Stored]) -> str:
        key = uuid.uuid4().hex
        self._open[key] = (version, rest)
        while len(self._open) > _OPEN_PAGES:
            self._open.popitem(last=False)
        return base64.urlsafe_b64encode(orjson.dumps({"v": "meta.k8s.io/v1", "rv": version, "key": key})).decode()

    def _continued(self, token: str) -> tuple[int, list[Stored]]:
        try:
            key = orjson.loads(base64.urlsafe_b64decode(token))["key"]
        except (ValueError, binascii.Error, KeyError, TypeError) as error:
            raise status.bad_request(
                "continue key is not valid: the token does not come from a list of this server"
            ) from error
        if key not in self._open:
            words = "The provided continue parameter is too old to display a consistent list result. You must start a new list without the continue parameter."  # noqa: E501
            raise status.expired(words)
        return self._open[key]

    def _encode(
        self, kind: Kind, found: list[Stored], metadata: Object, include: str, table: bool, metadata_only: bool
    ) -> bytes:
        if table:
            return orjson.dumps(tables.table(kind, (served(kind, at) for at in found), metadata, include))
        if metadata_only:
            items = [tables.partial(at.object) for at in found]
            head = {"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}
            return orjson.dumps({**head, "items": items})
        name = kind.list_kind or f"{kind.kind}List"
        head = {"kind": name, "apiVersion": kind.api_version, "metadata": metadata, "items": []}
        raws = [at.raw if as_stored(kind, at) else orjson.dumps(served(kind, at)) for at in found]
        return orjson.dumps(head)[:-2] + b",".join(raws) + b"]}"

    def one(self, kind: Kind, obj: Object, query: Mapping[str, str], table: bool, metadata_only: bool) -> bytes:
        """Return one object in the requested form."""
        obj["apiVersion"] = kind.api_version
        if table:
            metadata = {"resourceVersion": obj["metadata"].get("resourceVersion", "")}
            return orjson.dumps(tables.table(kind, [obj], metadata, query.get("includeObject", "Metadata")))
        return orjson.dumps(tables.partial(obj) if metadata_only else obj)


def as_stored(kind: Kind, stored: Stored) -> bool:
    """Whether an object is stored in the requested version, so that its stored bytes can be sent."""
    return bool(stored.object["apiVersion"] == kind.api_version)


def served(kind: Kind, stored: Stored) -> Object:
    """Return an object in the requested version. The object is shared and must not be changed."""
    if as_stored(kind, stored):
        return stored.object
    return {**stored.object, "apiVersion": kind.api_version}


def _number(text: str, name: str) -> int:
    if text and not text.isdigit():
        raise status.bad_request(f"{name}: invalid value {text!r}: must be a non-negative integer")
    return int(text or 0)


def check_version(text: str, current: int) -> None:
    """Check the resourceVersion of a list or watch. Raises ApiError 400 (malformed), 504 (in the future)."""
    if not text:
        return
    if not text.isdigit():
        cause: Any = {"reason": "FieldValueInvalid", "message": f'Invalid value: "{text}"', "field": "resourceVersion"}
        raise ApiError(400, "BadRequest", f'resourceVersion: Invalid value: "{text}"', {"causes": [cause]})
    if int(text) > current:
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        words = f"Timeout: Too large resource version: {text}, current: {current}"
        raise ApiError(504, "Timeout", words, {"causes": [cause]}, retry_after=1)
