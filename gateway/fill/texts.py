"""A text column's name and restriction in, the space of its strings out. Pure.

First what the column's name suggests, then any words, then running text; whichever has enough strings that fit. A unique column
gets numbers or letters at the end of its words. Where no words fit, strings are spelled from the pattern that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from gateway.fill import patterns, words
from gateway.fill.checks import Restriction
from gateway.fill.facts import ValueType
from gateway.fill.spaces import Space, Wanted, is_plain, listed

_STYLES: tuple[Callable[[int], str], ...] = (
    lambda number: f" {number}",
    lambda number: f"-{number}",
    str,
    lambda number: f"-{_letters(number)}",
    lambda number: _letters(number),
)
_SPARES = (6, 12, 3, 1, 0, 30, 120)
_ENOUGH = 4
_SAMPLES = 48


def _letters(number: int) -> str:
    out = ""
    while number:
        number, digit = divmod(number, 26)
        out += "abcdefghijklmnopqrstuvwxyz"[digit]
    return out


class _Fit:
    """Whether a string is within a restriction, as far as Python can tell, after its letters are folded."""

    def __init__(self, restriction: Restriction, longest: int) -> None:
        self.restriction = restriction
        self.longest = longest
        found = (patterns.python_pattern(rule.pattern, rule.ignore_case) for rule in restriction.patterns)
        self._patterns = [pattern for pattern in found if pattern is not None]
        self._excluded = frozenset(restriction.excluded)

    def fold(self, text: str) -> str:
        match self.restriction.fold:
            case "lower":
                return text.lower()
            case "upper":
                return text.upper()
            case _:
                return text

    def __call__(self, text: str) -> bool:
        return (
            self.restriction.min_length <= len(text) <= self.longest
            and text not in self._excluded
            and all(pattern.search(text) for pattern in self._patterns)
        )


def text_space(type_: ValueType, restriction: Restriction, wanted: Wanted) -> Space | None:
    """The strings that a column may take, or None where the restriction leaves none."""
    lengths = [*type_.arguments[:1], *(() if restriction.max_length is None else (restriction.max_length,))]
    longest = min(lengths, default=10_000_000)
    if longest < restriction.min_length:
        return None
    fits = _Fit(restriction, longest)
    if restriction.choices is not None:
        kept = [choice for choice in restriction.choices if fits(choice)]
        return listed(kept) if kept else None
    for table in _text_tables(restriction, longest, wanted):
        space = _table_space(table, fits, wanted)
        if space is not None:
            return space
    return _pattern_space(restriction, fits, wanted)


def _text_tables(restriction: Restriction, longest: int, wanted: Wanted) -> tuple[tuple[str, ...], ...]:
    named = words.words_for(wanted.column, wanted.table)
    tables = (*((named,) if named else ()), *words.any_words())
    if 60 < restriction.min_length <= 100_000:
        tables += (words.sentences(restriction.min_length, min(longest, restriction.min_length + 200)),)
    return tables


def _table_space(table: tuple[str, ...], fits: _Fit, wanted: Wanted) -> Space | None:
    """The strings of a table that fit, then the same with numbers; None where that is too few."""
    folded = dict.fromkeys(fits.fold(text) for text in table) if wanted.distinct else list(map(fits.fold, table))
    kept = [text for text in folded if fits(text.replace(words.SUFFIX, ""))]
    if len(kept) < min(_ENOUGH, len(table)):
        return None
    if wanted.distinct:
        for style in _STYLES:
            suffixes = _suffix_room(kept, fits, style)
            if suffixes and len(kept) * (suffixes + 1) >= wanted.distinct:
                return _suffixed_space(kept, style, suffixes)
    if wanted.distinct > len(kept):
        return None
    return listed([text.replace(words.SUFFIX, "") for text in kept])


def _suffix_room(table: Sequence[str], fits: _Fit, style: Callable[[int], str]) -> int:
    """Up to which number every string of the table may be numbered."""
    sample = [*table[:: max(1, len(table) // _SAMPLES)], max(table, key=len)]
    room = 0
    for digits in range(1, 13):
        number = 10**digits - 1
        if not all(fits(_with_suffix(text, fits.fold(style(number)))) for text in sample):
            break
        room = number
    return room


def _with_suffix(text: str, suffix: str) -> str:
    return text.replace(words.SUFFIX, suffix.lstrip(" -")) if words.SUFFIX in text else text + suffix


def _suffixed_space(table: Sequence[str], style: Callable[[int], str], suffixes: int) -> Space:
    count = len(table)
    bare = [text.replace(words.SUFFIX, "") for text in table]
    heads = [text.partition(words.SUFFIX)[0] for text in table]
    tails = [text.partition(words.SUFFIX)[2] for text in table]
    marked = any(words.SUFFIX in text for text in table)

    def at(numbers: Sequence[int]) -> list[str]:
        if not numbers:
            return []
        if max(numbers) < count:
            return [bare[number] for number in numbers]
        made: list[str] = []
        cached = -1
        suffix = ""
        for number in numbers:
            round_, position = divmod(number, count)
            if round_ != cached:
                cached, suffix = round_, style(round_) if round_ else ""
                suffix = suffix.lstrip(" -") if marked else suffix
            made.append(f"{heads[position]}{suffix}{tails[position]}")
        return made

    return Space(count * (suffixes + 1), at, count, block=count, plain=all(map(is_plain, table)))


def _pattern_space(restriction: Restriction, fits: _Fit, wanted: Wanted) -> Space:
    """Strings made from the first pattern that can be read, or else letters and digits of a length that fits."""
    for rule in restriction.patterns:
        try:
            return _spelled(patterns.parse_pattern(rule.pattern), fits, wanted)
        except patterns.UnreadablePattern:
            continue
    least = max(restriction.min_length, 1 if fits.longest else 0)
    return _spelled(patterns.parse_pattern(f"[a-z0-9]{{{least},{max(least, min(fits.longest, 12))}}}"), fits, wanted)


def _spelled(part: patterns.Part, fits: _Fit, wanted: Wanted) -> Space:
    """Strings of a pattern, with as many repetitions as fit best and give enough different ones."""
    random = Random(0)  # noqa: S311 - it only chooses samples
    best, most = _SPARES[0], -1.0
    for spare in _SPARES:
        size = patterns.count(part, spare)
        if size == 0 or size.bit_length() > 10_000:
            continue
        drawn = [fits.fold(patterns.nth(part, random.randrange(size), spare)) for _ in range(_SAMPLES)]
        score = sum(map(fits, drawn)) / _SAMPLES - (1.5 if size < wanted.distinct else 0)
        if score > most:
            best, most = spare, score
    size = patterns.count(part, best)

    def at(numbers: Sequence[int]) -> list[str]:
        return [fits.fold(patterns.nth(part, number, best)) for number in numbers]

    return Space(size, at, size, block=size, plain=False)
