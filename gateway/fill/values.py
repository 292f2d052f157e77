"""A column's type, name and restriction in, the space of its values out. Pure. One row of `SPACES` a type.

Everything is PostgreSQL's text form. A space is a good guess at what the constraints ask: what it gets wrong, `write` sees.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from functools import lru_cache

import msgspec

from gateway.fill import words
from gateway.fill.checks import ANYTHING, NOW, Bound, Restriction, both, cases_of
from gateway.fill.facts import ValueType
from gateway.fill.spaces import BLOCK, Space, Wanted, listed
from gateway.fill.texts import text_space


class UnknownType(Exception):
    """No row of `SPACES` makes values of this type. The message names it."""


def space_of(type_: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    """The values that a column of that type may take, or None where the restriction leaves none. Raises UnknownType."""
    make = SPACES.get(type_.name)
    if make is None:
        raise UnknownType(type_.sql)
    return make(type_, restriction, wanted)


def is_known(type_: ValueType) -> bool:
    """Whether `space_of` makes values of the type, and of what it is made of."""
    parts = (*((type_.element,) if type_.element else ()), *type_.members)
    return type_.name in SPACES and all(map(is_known, parts))


def restriction_of_domain(type_: ValueType) -> Restriction:
    """What the constraints of the type's domains ask, by their first case that fits."""
    asked = ANYTHING
    for check in type_.checks:
        for case in cases_of(check.expression):
            joined = both(asked, case.restrictions.get("value", ANYTHING))
            if joined is not None:
                asked = joined
                break
    return asked


# --- axes: numbers and times -------------------------------------------------------------------------------------------


class Axis(msgspec.Struct, frozen=True):
    """A type whose values are whole numbers of units. `units` reads a literal (None: not one of this axis)."""

    kind: str
    least: int
    greatest: int
    units: Callable[[str], Decimal | None]
    render: Callable[[Sequence[int]], list[str]]


_INTEGERS = {"int2": 2**15, "int4": 2**31, "int8": 2**63, "oid": 2**31}
_DAY_SECONDS = 86_400
_FIRST_DAY = date(1, 1, 1).toordinal()
_LAST_DAY = date(9999, 12, 31).toordinal()
_CLOCK = tuple(f"{hour:02d}:{minute:02d}" for hour in range(24) for minute in range(60))
_INTERVAL_PART = re.compile(r"(-?\d+) (year|mon|day)s?|(-?)(\d+):(\d\d)(?::(\d\d))?")
_PART_SECONDS = {"year": 365 * _DAY_SECONDS, "mon": 30 * _DAY_SECONDS, "day": _DAY_SECONDS}
_FLOAT_PLACES = 3
_NUMERIC_DIGITS = 18
_SPARE_DISTINCT = 16  # a walk starts at the low end, so that room beyond is only met by rows that were refused before


@lru_cache(maxsize=100_000)
def _day(ordinal: int) -> str:
    return date.fromordinal(ordinal).isoformat()


def _decimal(text: str) -> Decimal | None:
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def _integer_axis(type_: ValueType) -> Axis:
    end = _INTEGERS[type_.name]
    return Axis("numeric:0", 0 if type_.name == "oid" else -end, end - 1, _decimal, lambda units: list(map(str, units)))


def _decimal_axis(places: int, end: int) -> Axis:
    power = 10**places

    def units(text: str) -> Decimal | None:
        value = _decimal(text)
        return None if value is None else value.scaleb(places)

    def render(numbers: Sequence[int]) -> list[str]:
        if places == 0:
            return list(map(str, numbers))
        if all(number >= 0 for number in numbers):
            return [f"{number // power}.{number % power:0{places}d}" for number in numbers]
        return [f"{'-' if number < 0 else ''}{abs(number) // power}.{abs(number) % power:0{places}d}" for number in numbers]

    return Axis(f"numeric:{places}", -end, end, units, render)


def _numeric_axis(type_: ValueType) -> Axis:
    if not type_.arguments:
        return _decimal_axis(2, 10**_NUMERIC_DIGITS)
    precision, scale = (*type_.arguments, 0)[:2]
    places = max(scale, 0)
    return _decimal_axis(places, 10 ** (precision - scale + places) - 10 ** (places - scale) if scale < 0 else 10**precision - 1)


def _date_axis(_type: ValueType) -> Axis:
    def units(text: str) -> Decimal | None:
        try:
            return Decimal(date.fromisoformat(text[:10]).toordinal())
        except ValueError:
            return None

    return Axis("days", _FIRST_DAY, _LAST_DAY, units, lambda days: [_day(day) for day in days])


def _timestamp_axis(type_: ValueType) -> Axis:
    offset = "+00" if type_.name == "timestamptz" else ""

    def units(text: str) -> Decimal | None:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return None
        moment = moment.astimezone(UTC) if moment.tzinfo else moment
        seconds = moment.hour * 3600 + moment.minute * 60 + moment.second
        return Decimal(moment.toordinal() * _DAY_SECONDS + seconds) + Decimal(moment.microsecond) / 1_000_000

    def render(seconds: Sequence[int]) -> list[str]:
        return [
            f"{_day(second // _DAY_SECONDS)} {_CLOCK[second % _DAY_SECONDS // 60]}:{second % 60:02d}{offset}"
            for second in seconds
        ]

    return Axis(type_.name, _FIRST_DAY * _DAY_SECONDS, _LAST_DAY * _DAY_SECONDS, units, render)


def _time_axis(type_: ValueType) -> Axis:
    offset = "+00" if type_.name == "timetz" else ""

    def units(text: str) -> Decimal | None:
        seconds = _interval_seconds(text[:8])
        return None if seconds is None else Decimal(seconds)

    def render(seconds: Sequence[int]) -> list[str]:
        return [f"{_CLOCK[second // 60]}:{second % 60:02d}{offset}" for second in seconds]

    return Axis(type_.name, 0, _DAY_SECONDS - 1, units, render)


def _interval_axis(_type: ValueType) -> Axis:
    def units(text: str) -> Decimal | None:
        seconds = _interval_seconds(text)
        return None if seconds is None else Decimal(seconds)

    end = 10_000 * _DAY_SECONDS
    return Axis("interval", -end, end, units, lambda seconds: [f"{second} seconds" for second in seconds])


def _interval_seconds(text: str) -> int | None:
    total, position = 0, 0
    for match in _INTERVAL_PART.finditer(text):
        if text[position : match.start()].strip():
            return None
        position = match.end()
        if match[2]:
            total += int(match[1]) * _PART_SECONDS[match[2]]
        else:
            seconds = int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6] or 0)
            total += -seconds if match[3] else seconds
    return total if position == len(text) and position else None


AXES: dict[str, Callable[[ValueType], Axis]] = {
    **dict.fromkeys(_INTEGERS, _integer_axis),
    "numeric": _numeric_axis,
    "float4": lambda _: _decimal_axis(_FLOAT_PLACES, 10**7),
    "float8": lambda _: _decimal_axis(_FLOAT_PLACES, 10**15),
    "money": lambda _: _decimal_axis(2, 10**15),
    "date": _date_axis,
    "timestamp": _timestamp_axis,
    "timestamptz": _timestamp_axis,
    "time": _time_axis,
    "timetz": _time_axis,
    "interval": _interval_axis,
}


def _preferred(axis: Axis, column: str) -> tuple[int, int, float]:
    """The ends of what looks plausible, in units, and its skew."""
    if axis.kind in ("days", "timestamp", "timestamptz"):
        span = words.date_range_for(column)
        factor = 1 if axis.kind == "days" else _DAY_SECONDS
        return span.first.toordinal() * factor, span.last.toordinal() * factor, 1.0
    if axis.kind in ("time", "timetz"):
        return 0, _DAY_SECONDS - 1, 1.0
    if axis.kind == "interval":
        return 60, 30 * _DAY_SECONDS, 2.0
    span_ = words.number_range_for(column)
    low, high = axis.units(span_.low), axis.units(span_.high)
    return int(low or 0), int(high or 0), span_.skew


def _bound(axis: Axis, bound: Bound, is_lower: bool) -> int | None:
    """The outermost whole unit that the bound allows."""
    text = bound.text
    if text == NOW:
        text = (words.FUTURE if is_lower else words.EPOCH).isoformat()
    units = axis.units(text)
    if units is None:
        return None
    whole = int(units.to_integral_value(ROUND_CEILING if is_lower else ROUND_FLOOR))
    if bound.strict and whole == units:
        whole += 1 if is_lower else -1
    return whole


def _limits(axis: Axis, restriction: Restriction) -> tuple[int, int]:
    lows = [_bound(axis, bound, True) for bound in restriction.lower]
    highs = [_bound(axis, bound, False) for bound in restriction.upper]
    low = max([axis.least, *(end for end in lows if end is not None)])
    return low, min([axis.greatest, *(end for end in highs if end is not None)])


def _window(axis: Axis, restriction: Restriction, wanted: Wanted) -> tuple[int, int, float] | None:
    """Plausible ends within the limits, wide enough for the distinct values that are wanted."""
    least, greatest = _limits(axis, restriction)
    if least > greatest:
        return None
    low, high, skew = _preferred(axis, wanted.column)
    if restriction.lower and restriction.upper and greatest - least <= high - low:
        low, high = least, greatest
    elif high < least:
        low, high = least, min(greatest, least + high - low)
    elif low > greatest:
        low, high = max(least, greatest - (high - low)), greatest
    else:
        low, high = max(low, least), min(high, greatest)
    high = min(greatest, max(high, low + _SPARE_DISTINCT * wanted.distinct))
    low = max(least, low - max(0, wanted.distinct - (high - low + 1)))
    return low, high, skew


def _axis_space(type_: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    axis = AXES[type_.name](type_)
    if restriction.choices is not None:
        return _chosen_units(axis, restriction)
    window = _window(axis, restriction, wanted)
    if window is None:
        return None
    low, high, skew = window
    size = high - low + 1
    excluded = {int(units) for text in restriction.excluded if (units := axis.units(text)) is not None and units == int(units)}
    if excluded and size <= words.TABLE_SIZE:
        kept = [unit for unit in range(low, high + 1) if unit not in excluded]
        return listed(axis.render(kept)) if kept else None

    def at(numbers: Sequence[int]) -> list[str]:
        return axis.render([low + number for number in numbers])

    block = 1 if axis.kind == "numeric:0" else BLOCK  # whole numbers count up, as keys do
    return Space(size, at, size, block=block, skew=skew, kind=axis.kind, start=low)


def _chosen_units(axis: Axis, restriction: Restriction) -> Space | None:
    least, greatest = _limits(axis, restriction)
    kept = [text for text in restriction.choices or () if (units := axis.units(text)) is None or least <= units <= greatest]
    return listed(kept) if kept else None


# --- names of things, bits, addresses ----------------------------------------------------------------------------------


def _enum_space(type_: ValueType, restriction: Restriction, _wanted: Wanted) -> Space | None:
    allowed = type_.labels if restriction.choices is None else restriction.choices
    kept = [label for label in type_.labels if label in allowed and label not in restriction.excluded]
    return listed(kept) if kept else None


def _boolean_space(_type: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    allowed = {"t", "f"} if restriction.choices is None else {choice[:1] for choice in restriction.choices}
    allowed -= {choice[:1] for choice in restriction.excluded}
    kept = [value for value in words.truth_share(wanted.column) if value in allowed]
    return listed(kept) if kept else None


def _computed(size: int, value: Callable[[int], str]) -> Callable[..., Space | None]:
    """A row for a type whose values are computed from their numbers, or are the choices."""

    def make(_type: ValueType, restriction: Restriction, _wanted: Wanted) -> Space | None:
        if restriction.choices is not None:
            return listed(restriction.choices)
        return Space(size, lambda numbers: [value(number) for number in numbers], size, block=size)

    return make


_MIX = 0x9E3779B97F4A7C15F39CC0605CEDC835
_MASK = 2**128 - 1


def _mixed(number: int) -> int:
    """A number below 2**122 as one of 128 bits that looks drawn; different ones stay different."""
    mixed = number * _MIX & _MASK
    return (mixed ^ mixed >> 67) * _MIX & _MASK


def _uuid(number: int) -> str:
    digits = f"{_mixed(number):032x}"
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def _pairs(number: int, count: int) -> str:
    digits = f"{number:0{2 * count}x}"
    return ":".join(digits[start : start + 2] for start in range(0, 2 * count, 2))


def _bytes_space(_type: ValueType, restriction: Restriction, _wanted: Wanted) -> Space | None:
    length = max(restriction.min_length, min(16, restriction.max_length if restriction.max_length is not None else 16))
    size = min(256**length, 2**122)

    def value(number: int) -> str:
        digits = f"{_mixed(number) if length >= 16 else number:032x}"
        return "\\x" + (digits * (length // 16 + 1))[-2 * length :] if length else "\\x"

    return Space(size, lambda numbers: [value(number) for number in numbers], size, block=size, plain=False)


def _bits_space(type_: ValueType, restriction: Restriction, _wanted: Wanted) -> Space | None:
    if restriction.choices is not None:
        return listed([choice.lstrip("Bb") for choice in restriction.choices])
    length = (type_.arguments or (1 if type_.name == "bit" else 8,))[0]
    size = 2 ** min(length, 122)
    return Space(size, lambda numbers: [f"{number:0{length}b}" for number in numbers], size)


def _vector_space(type_: ValueType, _restriction: Restriction, _wanted: Wanted) -> Space | None:
    length = (type_.arguments or (3,))[0]

    def value(number: int) -> str:
        return "[" + ",".join(f"{(_mixed(number + 7919 * place) & 1023) / 512 - 1:.3f}" for place in range(length)) + "]"

    return Space(2**30, lambda numbers: [value(number) for number in numbers], 2**30, block=2**30)


# --- values made of values ---------------------------------------------------------------------------------------------


def _json_space(_type: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    objects = words.objects_for(wanted.column)
    texts = ["{" + ", ".join(f'"{key}": {value}' for key, value in pairs) + "}" for pairs in objects]
    other = {
        "array": ['["red", "blue"]', '["green"]', "[]"],
        "string": ['"red"', '"blue"', '"green"'],
        "number": [str(number) for number in range(100)],
        "boolean": ["true", "false"],
        "null": ["null"],
    }
    if restriction.choices is not None:
        return listed(restriction.choices)
    return listed(other.get(restriction.json_type, texts))


def _document_space(type_: ValueType, _restriction: Restriction, _wanted: Wanted) -> Space | None:
    """Types whose text form is built around a word or two."""
    form = _DOCUMENTS[type_.name]
    return listed([form.format(*pair.split(" ")) for pair in words.any_words()[0]])


_DOCUMENTS = {
    "tsvector": "{} {}",
    "tsquery": "{} & {}",
    "xml": "<item><name>{} {}</name></item>",
    "hstore": "{}=>{}",
    "ltree": "{}.{}",
    "lquery": "{}.{}",
    "ltxtquery": "{} & {}",
    "jsonpath": "$.{}.{}",
}
_ELEMENTS = 3


def _array_space(type_: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    element = type_.element
    if element is None:
        raise UnknownType(type_.sql)
    inner = space_of(element, _element_restriction(element, restriction), msgspec.structs.replace(wanted, distinct=0))
    if inner is None:
        return None if restriction.min_length else listed(["{}"])
    least = max(restriction.min_length, 1 if wanted.distinct else 0)
    most = max(least, min(_ELEMENTS, restriction.max_length if restriction.max_length is not None else _ELEMENTS))
    lengths = most - least + 1
    natural = inner.natural

    def at(numbers: Sequence[int]) -> list[str]:
        sizes = [least + number % lengths for number in numbers]
        places = [
            (number // lengths + place * 7919) % natural
            for number, size in zip(numbers, sizes, strict=True)
            for place in range(size)
        ]
        values = iter(map(_array_element, inner.at(places)))
        return ["{" + ",".join([next(values) for _ in range(size)]) + "}" for size in sizes]

    size = natural * lengths
    return Space(size, at, size, plain=False)


def _element_restriction(element: ValueType, restriction: Restriction) -> Restriction:
    asked = restriction_of_domain(element)
    return asked if restriction.elements is None else both(asked, Restriction(choices=restriction.elements)) or asked


_BARE = re.compile(r"[A-Za-z0-9_.:+-]+")


def _array_element(text: str) -> str:
    if _BARE.fullmatch(text) and text.upper() != "NULL":
        return text
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


def _composite_space(type_: ValueType, _restriction: Restriction, wanted: Wanted) -> Space | None:
    inner = [
        space_of(member, restriction_of_domain(member), msgspec.structs.replace(wanted, distinct=0)) for member in type_.members
    ]
    members = [space for space in inner if space is not None]
    if len(members) != len(inner):
        return None
    size = 1
    for space in members:
        size *= space.natural

    def at(numbers: Sequence[int]) -> list[str]:
        columns = []
        rest = list(numbers)
        for space in members:
            columns.append(space.at([number % space.natural for number in rest]))
            rest = [number // space.natural for number in rest]
        return ["(" + ",".join(map(_row_member, row)) + ")" for row in zip(*columns, strict=True)]

    return Space(size, at, size, block=size, plain=False)


def _row_member(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '""') + '"'


_RANGE_LENGTHS = 30


def _range_space(type_: ValueType, _restriction: Restriction, wanted: Wanted) -> Space | None:
    bound = type_.element
    if bound is not None and bound.name == "range":
        bound = bound.element
    if bound is None or bound.name not in AXES:
        raise UnknownType(type_.sql)
    axis = AXES[bound.name](bound)
    low, high, _ = _window(axis, ANYTHING, msgspec.structs.replace(wanted, distinct=wanted.distinct * 2)) or (0, 0, 1.0)
    step = max(1, (high - low) // 10_000)
    form = "{{[{},{})}}" if type_.name == "multirange" else "[{},{})"

    def at(numbers: Sequence[int]) -> list[str]:
        starts = [low + number // _RANGE_LENGTHS for number in numbers]
        ends = [start + (1 + number % _RANGE_LENGTHS) * step for start, number in zip(starts, numbers, strict=True)]
        pairs = zip(_range_ends(axis, starts), _range_ends(axis, ends), strict=True)
        return [form.format(first, last) for first, last in pairs]

    last = min(high, axis.greatest - _RANGE_LENGTHS * step)
    size = max(1, last - low + 1) * _RANGE_LENGTHS
    return Space(size, at, size)


def _range_ends(axis: Axis, units: Sequence[int]) -> list[str]:
    return [f'"{text}"' if " " in text else text for text in axis.render(units)]


# --- the table ---------------------------------------------------------------------------------------------------------


SPACES: dict[str, Callable[[ValueType, Restriction, Wanted], Space | None]] = {
    **dict.fromkeys(AXES, _axis_space),
    **dict.fromkeys(("text", "varchar", "bpchar", "citext", "name"), text_space),
    **dict.fromkeys(("json", "jsonb"), _json_space),
    **dict.fromkeys(("bit", "varbit"), _bits_space),
    **dict.fromkeys(("range", "multirange"), _range_space),
    **dict.fromkeys(_DOCUMENTS, _document_space),
    "array": _array_space,
    "composite": _composite_space,
    "enum": _enum_space,
    "bool": _boolean_space,
    "uuid": _computed(2**122, _uuid),
    "bytea": _bytes_space,
    "inet": _computed(2**24, _address),
    "cidr": _computed(2**24, lambda number: f"{_address(number)}/32"),
    "macaddr": _computed(2**40, lambda number: f"02:{_pairs(number, 5)}"),
    "macaddr8": _computed(2**56, lambda number: f"02:{_pairs(number, 7)}"),
    "char": _computed(26, lambda number: chr(97 + number)),
    "point": _computed(10**6, lambda number: f"({number // 1000},{number % 1000})"),
    "line": _computed(10**6, lambda number: f"{{1,{number // 1000},{number % 1000}}}"),
    "lseg": _computed(10**6, lambda number: f"[(0,0),({number // 1000},{1 + number % 1000})]"),
    "box": _computed(10**6, lambda number: f"(({1 + number // 1000},{1 + number % 1000}),(0,0))"),
    "path": _computed(10**6, lambda number: f"[(0,0),(1,1),({number // 1000},{number % 1000})]"),
    "polygon": _computed(10**6, lambda number: f"((0,0),(1,1),({number // 1000},{number % 1000}))"),
    "circle": _computed(10**6, lambda number: f"<({number // 1000},{number % 1000}),1>"),
    "pg_lsn": _computed(2**30, lambda number: f"0/{number:X}"),
    "vector": _vector_space,
}
"""A row for each type by its name in `pg_type`; `array`, `composite`, `enum`, `range`, `multirange` stand for their kinds."""
