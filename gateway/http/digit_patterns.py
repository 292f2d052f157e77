"""Regular expressions for numbers that are written as strings: digits in, and within bounds. Pure.

A JSON Schema can bound a number but not a string of digits, and the gateway takes both. The patterns here say the same of
the string as `minimum` and `maximum` say of the number. They use nothing beyond what ECMA 262 and Python share.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal

UNSCALED_PLACES = 20
"""Digits after the point that a pattern allows where the column sets no scale."""


def integer_pattern(least: int, greatest: int) -> str:
    """A pattern for the integers from `least` to `greatest`, without leading zeros."""
    return f"^(?:{_integers(least, greatest)})$"


def decimal_pattern(least: Decimal, greatest: Decimal, scale: int | None) -> str:
    """A pattern for decimal numbers from `least` to `greatest` with at most `scale` digits after the point.

    A bound between two integers is widened to no more than it allows: where it is not exact, it is the narrower.
    """
    places = UNSCALED_PLACES if scale is None else scale
    alternatives = []
    if greatest >= 0:
        alternatives += _magnitudes(max(least, Decimal(0)), greatest, places)
    if least < 0:
        alternatives += [f"-(?:{each})" for each in _magnitudes(max(-greatest, Decimal(0)), -least, places)]
    return f"^(?:{'|'.join(alternatives)})$"


def _integers(least: int, greatest: int) -> str:
    alternatives = []
    if greatest >= 0:
        alternatives += _whole(max(least, 0), greatest)
    if least < 0:
        alternatives.append(f"-(?:{'|'.join(_whole(max(1, -greatest), -least))})")
    return "|".join(alternatives)


def _whole(least: int, greatest: int) -> list[str]:
    """Alternatives for `least` to `greatest`, neither negative: one for each run of lengths that is full, and the ends."""
    alternatives: list[str] = []
    full: list[int] = []
    for length in range(len(str(least)), len(str(greatest)) + 1):
        first, last = (0 if length == 1 else 10 ** (length - 1)), 10**length - 1
        low, high = max(least, first), min(greatest, last)
        if (low, high) == (first, last) and length > 1:
            full.append(length)
        else:
            alternatives.append(_same_length(str(low), str(high)))
    if full:
        alternatives.append(f"[1-9]{_digits(full[0] - 1, full[-1] - 1)}")
    return alternatives


def _same_length(low: str, high: str) -> str:
    """The digit strings between two of one length."""
    if low == high:
        return low
    if low[0] == high[0]:
        return low[0] + _group(_same_length(low[1:], high[1:]))
    rest = len(low) - 1
    first, last = int(low[0]), int(high[0])
    alternatives = []
    if low[1:] != "0" * rest:
        alternatives.append(low[0] + _group(_same_length(low[1:], "9" * rest)))
        first += 1
    end = None
    if high[1:] != "9" * rest:
        end = high[0] + _group(_same_length("0" * rest, high[1:]))
        last -= 1
    if first <= last:
        alternatives.append((f"[{first}-{last}]" if first < last else str(first)) + _digits(rest, rest))
    if end is not None:
        alternatives.append(end)
    return "|".join(alternatives)


def _group(pattern: str) -> str:
    return f"(?:{pattern})" if "|" in pattern else pattern


def _digits(least: int, greatest: int) -> str:
    if (least, greatest) == (0, 0):
        return ""
    if least == greatest:
        return "[0-9]" if least == 1 else f"[0-9]{{{least}}}"
    return f"[0-9]{{{least},{greatest}}}"


def _magnitudes(least: Decimal, greatest: Decimal, places: int) -> list[str]:
    """Alternatives for `least` to `greatest`, neither negative: whole steps with any fraction, then what is left at the ends."""
    fraction = f"(?:\\.[0-9]{{1,{places}}})?" if places else ""
    low, high = _floor(least), _floor(greatest)
    alternatives: list[str] = []
    if least != low:
        if least - low == Decimal(1).scaleb(-places) and low < high:
            alternatives.append(f"{low}\\.(?:{_nonzero(places)})")
        low += 1
    if greatest - high < 1 - Decimal(1).scaleb(-places):
        if greatest == high and low <= high:
            alternatives.append(f"{high}" + (f"(?:\\.0{{1,{places}}})?" if places else ""))
        high -= 1
    if low <= high:
        alternatives.insert(0, f"(?:{'|'.join(_whole(low, high))}){fraction}")
    return alternatives


def _floor(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_FLOOR))


def _nonzero(places: int) -> str:
    """Fractions of at most `places` digits that are not zero: a digit from 1 to 9 after each number of zeros."""
    return "|".join(f"{'0' * zeros}[1-9]{_digits(0, places - 1 - zeros)}" for zeros in range(places))
