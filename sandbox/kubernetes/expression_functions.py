"""The functions that Kubernetes adds to CEL, as declarations for the environment in `expressions`.

A row of the table has a name, whether it is a member function, parameter types, result type and implementation. A
ValueError of the implementation becomes an error of the expression. Quantities, addresses and URLs are strings here; in
a real server, they have types of their own. A real server therefore refuses a definition with `"1".isGreaterThan("2")`,
this server does not.

Missing, because the library cannot express them: `indexOf` of lists, comprehensions with two variables, `semver`,
`format` by name, `authorizer`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import urlsplit

from cel_expr_python import cel

B, D, F, I, L, S = (cel.Type.BOOL, cel.Type.DYN, cel.Type.DOUBLE, cel.Type.INT, cel.Type.LIST, cel.Type.STRING)  # noqa: E741
TEXTS = cel.Type.List(S)

_SUFFIXES = {"": 0, "n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: dict[str, int] = {f"{letter}i": 1024**power for power, letter in enumerate("KMGTPE", start=1)}
_QUANTITY = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))((?:[eE][+-]?[0-9]+)|[KMGTPE]i|[numkMGTPE]?)$")


def amount(text: str) -> Decimal:
    """Return the number of a quantity such as `1500m` or `2Gi`. Raises ValueError."""
    match = _QUANTITY.match(text)
    if match is None:
        raise ValueError("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")
    number, suffix = Decimal(match[1]), match[2]
    if suffix in _BINARY:
        return number * _BINARY[suffix]
    return number.scaleb(_SUFFIXES[suffix]) if suffix in _SUFFIXES else number * Decimal(f"1{suffix}")


def _quantity(text: str | Decimal) -> str:
    """Return the canonical text of a quantity, so that equal quantities are equal strings."""
    return f"{(amount(text) if isinstance(text, str) else text).normalize():f}"


def _whole(text: str) -> int:
    value = amount(text)
    if value != value.to_integral_value():
        raise ValueError("cannot convert value to integer")
    return int(value)


def _url(text: str) -> str:
    parts = urlsplit(text)
    if not (parts.scheme or text.startswith("/")) or any(ord(letter) <= 32 for letter in text):
        raise ValueError(f'URL parse error during conversion from string: parse "{text}": invalid URI for request')
    return text


def _port(text: str) -> str:
    port = urlsplit(text).port
    return "" if port is None else str(port)


def _ip(text: str) -> str:
    if "%" in text:
        raise ValueError(f'IP Address "{text}" parse error: zones are not allowed')
    return str(ipaddress.ip_address(text))


def _cidr(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if "/" not in text:
        raise ValueError(f'network address parse error: no prefix in "{text}"')
    return ipaddress.ip_interface(text).network


def _parses(function: Callable[[str], Any]) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            function(text)
        except (ValueError, InvalidOperation):
            return False
        return True

    return check


def _contains(outer: str, inner: str) -> bool:
    network, other = _cidr(outer), _cidr(inner)
    return network.version == other.version and other.subnet_of(network)  # type: ignore[arg-type]


def _find_all(text: str, pattern: str, limit: int = -1) -> list[str]:
    found = [match[0] for match in re.finditer(pattern, text)]
    return found if limit < 0 else found[:limit]


def _find(text: str, pattern: str) -> str:
    match = re.search(pattern, text)
    return match[0] if match else ""


def _total(values: list[Any]) -> Any:
    return sum(values) if values else 0


def _best(choose: Callable[[list[Any]], Any], name: str) -> Callable[[list[Any]], Any]:
    def best(values: list[Any]) -> Any:
        if not values:
            raise ValueError(f"{name} called on empty list")
        return choose(values)

    return best


def _distinct(values: list[Any]) -> list[Any]:
    return [value for index, value in enumerate(values) if value not in values[:index]]


def _flat(values: list[Any]) -> list[Any]:
    return [item for value in values for item in (value if isinstance(value, list) else [value])]


Row = tuple[str, bool, list[Any], Any, Callable[..., Any]]

TABLE: list[Row] = [
    # lists
    ("isSorted", True, [L], B, lambda values: values == sorted(values)),
    ("sum", True, [L], D, _total),
    ("min", True, [L], D, _best(min, "min")),
    ("max", True, [L], D, _best(max, "max")),
    ("sort", True, [L], L, sorted),
    ("distinct", True, [L], L, _distinct),
    ("flatten", True, [L], L, _flat),
    ("slice", True, [L, I, I], L, lambda values, start, end: values[start:end]),
    ("sets.contains", False, [L, L], B, lambda outer, inner: all(value in outer for value in inner)),
    ("sets.intersects", False, [L, L], B, lambda one, other: any(value in one for value in other)),
    ("sets.equivalent", False, [L, L], B,
     lambda one, other: all(value in one for value in other) and all(value in other for value in one)),
    # regular expressions
    ("find", True, [S, S], S, _find),
    ("findAll", True, [S, S], TEXTS, _find_all),
    ("findAll", True, [S, S, I], TEXTS, _find_all),
    # URLs
    ("isURL", False, [S], B, _parses(_url)),
    ("url", False, [S], S, _url),
    ("getScheme", True, [S], S, lambda url: urlsplit(url).scheme),
    ("getHost", True, [S], S, lambda url: urlsplit(url).netloc.rpartition("@")[2]),
    ("getHostname", True, [S], S, lambda url: urlsplit(url).hostname or ""),
    ("getPort", True, [S], S, _port),
    ("getEscapedPath", True, [S], S, lambda url: urlsplit(url).path),
    # quantities
    ("isQuantity", False, [S], B, _parses(amount)),
    ("quantity", False, [S], S, _quantity),
    ("sign", True, [S], I, lambda text: (amount(text) > 0) - (amount(text) < 0)),
    ("isGreaterThan", True, [S, S], B, lambda one, other: amount(one) > amount(other)),
    ("isLessThan", True, [S, S], B, lambda one, other: amount(one) < amount(other)),
    ("compareTo", True, [S, S], I, lambda one, other: (amount(one) > amount(other)) - (amount(one) < amount(other))),
    ("asApproximateFloat", True, [S], F, lambda text: float(amount(text))),
    ("asInteger", True, [S], I, _whole),
    ("isInteger", True, [S], B, _parses(_whole)),
    ("add", True, [S, S], S, lambda one, other: _quantity(amount(one) + amount(other))),
    ("add", True, [S, I], S, lambda one, other: _quantity(amount(one) + other)),
    ("sub", True, [S, S], S, lambda one, other: _quantity(amount(one) - amount(other))),
    ("sub", True, [S, I], S, lambda one, other: _quantity(amount(one) - other)),
    # addresses
    ("isIP", False, [S], B, _parses(_ip)),
    ("ip", False, [S], S, _ip),
    ("ip.isCanonical", False, [S], B, lambda text: _ip(text) == text),
    ("family", True, [S], I, lambda text: ipaddress.ip_address(text).version),
    ("isLoopback", True, [S], B, lambda text: ipaddress.ip_address(text).is_loopback),
    ("isUnspecified", True, [S], B, lambda text: ipaddress.ip_address(text).is_unspecified),
    ("isCIDR", False, [S], B, _parses(_cidr)),
    ("cidr", False, [S], S, lambda text: str(ipaddress.ip_interface(text)) if _cidr(text) else ""),
    ("containsIP", True, [S, S], B, lambda network, address: ipaddress.ip_address(address) in _cidr(network)),
    ("containsCIDR", True, [S, S], B, _contains),
    ("prefixLength", True, [S], I, lambda text: _cidr(text).prefixlen),
]  # fmt: skip


def declarations() -> Iterator[cel.FunctionDecl]:
    """Yield one declaration per name, with one overload per row of the table."""
    names = dict.fromkeys(row[0] for row in TABLE)
    for name in names:
        overloads = [
            cel.Overload(f"{name}_{index}", return_type=result, parameters=parameters, is_member=member, impl=function)
            for index, (named, member, parameters, result, function) in enumerate(TABLE)
            if named == name
        ]
        yield cel.FunctionDecl(name, overloads)
