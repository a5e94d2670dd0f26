"""Kubernetes quantities in the form that the API server stores.

An apply of `2048Mi` over a stored `2Gi` is a write although nothing changes. So manifests spell quantities as the API
server does (k8s.io/apimachinery/pkg/api/resource). Text that is no quantity stays as it is: the API server's own
message about it is better than ours would be.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from fractions import Fraction

_QUANTITY = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)(?:([KMGTPE]i)|([numkMGTPE]?)|[eE]([+-]?\d+))")
_BINARY = ("", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei")
_DECIMAL = {-3: "n", -2: "u", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}
_SMALLEST = Fraction(1, 10**9)
_DIGITS = 30
"""Most characters of a quantity, and largest exponent. Longer text stays as it is: a large exponent could fill the
memory."""


def parse(text: str) -> Fraction | None:
    """Return the amount, None when `text` is no quantity."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _DIGITS else None
    if match is None:
        return None
    sign, digits, binary, decimal, exponent = match.groups()
    amount = Fraction(digits.rstrip(".") if digits.endswith(".") else digits)
    if binary:
        amount *= 1024 ** _BINARY.index(binary)
    elif exponent:
        if abs(int(exponent)) > _DIGITS:
            return None
        amount *= Fraction(10) ** int(exponent)
    else:
        amount *= Fraction(1000) ** _decimal_power(decimal or "")
    return -amount if sign == "-" else amount


def canonical(text: str) -> str:
    """Return `text` as the API server stores it: `1000m` is `1`, `2048Mi` is `2Gi`, `0.5` is `500m`."""
    amount = parse(text)
    if amount is None:
        return text
    if amount == 0:
        return "0"
    if text.endswith("i") and abs(amount) >= 1024 and amount.denominator == 1:
        return _in_steps(amount.numerator, 1024, dict(enumerate(_BINARY)))
    nano = math.ceil(abs(amount) / _SMALLEST) * (1 if amount > 0 else -1)
    if re.search(r"[eE][+-]?\d+$", text):
        return _in_steps(nano, 1000, {power + 3: f"e{3 * power}" if power else "" for power in range(-3, 20)})
    return _in_steps(nano, 1000, {power + 3: suffix for power, suffix in _DECIMAL.items()})


def mebibytes(text: str) -> int | None:
    """Return the amount in MiB, rounded up; None when `text` is no quantity."""
    amount = parse(text)
    return None if amount is None else math.ceil(amount / 2**20)


def doubled(text: str) -> str | None:
    """Return twice the amount with the same suffix, in canonical form; None when `text` is no quantity."""
    match = _QUANTITY.fullmatch(text) if parse(text) is not None else None
    if match is None:
        return None
    return canonical(f"{match[1]}{2 * Decimal(match[2]):f}{text[match.end(2) :]}")


def _decimal_power(suffix: str) -> int:
    return next(power for power, known in _DECIMAL.items() if known == suffix)


def _in_steps(number: int, step: int, suffixes: dict[int, str]) -> str:
    """Return `number` with the largest suffix that keeps it whole; `suffixes[n]` stands for `step` to the power n."""
    power = 0
    while number % step == 0 and power + 1 in suffixes:
        number //= step
        power += 1
    return f"{number}{suffixes[power]}"
