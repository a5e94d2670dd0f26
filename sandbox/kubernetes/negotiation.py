"""The form of an answer (header `Accept`), and the options by which a list or watch chooses its resourceVersion.

Answers are always JSON: objects and lists, a Table for people, or PartialObjectMetadata.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.kubernetes.status import ApiError, Causes, disallowed, invalid, unsupported

PLAIN, TABLE, PARTIAL, PARTIAL_LIST = "", "Table", "PartialObjectMetadata", "PartialObjectMetadataList"
_MEDIA = ("application/json", "application/*", "*/*")
_ACCEPTED = "only the following media types are accepted: application/json"


def answer_form(accept: str) -> str:
    """Return the first form of an Accept header that this server supports: PLAIN, TABLE, PARTIAL or PARTIAL_LIST.

    Raises ApiError 406 when it supports none.
    """
    if not accept:
        return PLAIN
    for clause in accept.split(","):
        media, *parameters = (part.strip() for part in clause.split(";"))
        options = dict(parameter.partition("=")[::2] for parameter in parameters)
        form = options.get("as", PLAIN)
        known = form in (TABLE, PARTIAL, PARTIAL_LIST) and options.get("g") == "meta.k8s.io"
        if media in _MEDIA and (form == PLAIN or (known and options.get("v") in ("v1", "v1beta1"))):
            return form
    raise not_acceptable(_ACCEPTED)


def not_acceptable(words: str) -> ApiError:
    return ApiError(406, "NotAcceptable", words)


def check_form(form: str, kind: str, of_list: bool) -> None:
    """Check that PARTIAL is the form of one object and PARTIAL_LIST that of a list. Raises ApiError 406."""
    if form == PARTIAL and of_list:
        raise not_acceptable(f"you requested {form}, but the requested object is a list ({kind}List)")
    if form == PARTIAL_LIST and not of_list:
        raise not_acceptable(f"you requested {form}, but the requested object is not a list ({kind})")


EXACT, NOT_OLDER = "Exact", "NotOlderThan"
_MATCH = "resourceVersionMatch"


def check_list_options(query: Mapping[str, str]) -> None:
    """Check the options of a list or watch. Raises ApiError 422 for invalid values and combinations."""
    watching = query.get("watch") in ("true", "1")
    causes = _watch_causes(query) if watching else _list_causes(query)
    if causes:
        raise invalid("meta.k8s.io", "ListOptions", "", causes)


def _list_causes(query: Mapping[str, str]) -> Causes:
    causes: Causes = []
    if match := query.get(_MATCH, ""):
        if not query.get("resourceVersion"):
            causes.append(disallowed(_MATCH, f"{_MATCH} is forbidden unless resourceVersion is provided"))
        if query.get("continue"):
            causes.append(disallowed(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
        if match not in (EXACT, NOT_OLDER):
            causes.append(unsupported(_MATCH, match, (EXACT, NOT_OLDER, "")))
        if match == EXACT and query.get("resourceVersion") == "0":
            causes.append(disallowed(_MATCH, f'{_MATCH} "exact" is forbidden for resourceVersion "0"'))
    if "sendInitialEvents" in query:
        causes.append(disallowed("sendInitialEvents", "sendInitialEvents is forbidden for list"))
    return causes


def _watch_causes(query: Mapping[str, str]) -> Causes:
    causes: Causes = []
    match, initial = query.get(_MATCH, ""), "sendInitialEvents" in query
    if initial and match != NOT_OLDER:
        causes.append(disallowed(_MATCH, f"sendInitialEvents requires setting {_MATCH} to {NOT_OLDER}"))
    if match:
        if not initial:
            causes.append(disallowed(_MATCH, f"{_MATCH} is forbidden for watch unless sendInitialEvents is provided"))
        if match != NOT_OLDER:
            causes.append(unsupported(_MATCH, match, (NOT_OLDER,)))
        if query.get("continue"):
            causes.append(disallowed(_MATCH, f"{_MATCH} is forbidden when continue is provided"))
    return causes
