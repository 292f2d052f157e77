"""A regular expression in, the strings that match it out: counted, and each by its number. Pure.

Only what schema authors write for codes and names is read: characters, classes, groups, alternatives, repetition and anchors.
`*`, `+` and `{n,}` are cut off after `spare` repetitions beyond the least, so that the number of strings is finite.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from functools import lru_cache

import msgspec

_PRINTABLE = string.ascii_letters + string.digits + " -_.,"
_CLASSES = {
    "d": string.digits,
    "w": string.ascii_lowercase + string.digits + "_",
    "s": " ",
    "D": string.ascii_letters + "-",
    "W": "-.",
    "S": string.ascii_letters + string.digits,
}
_POSIX = {
    "alpha": string.ascii_letters,
    "digit": string.digits,
    "alnum": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "space": " ",
    "blank": " ",
    "punct": "-.,!",
    "xdigit": "0123456789abcdef",
    "print": _PRINTABLE,
    "graph": _PRINTABLE.replace(" ", ""),
    "word": string.ascii_letters + string.digits + "_",
}
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r"}
_ANCHORS = frozenset("AZmMyB")
_QUANTIFIERS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
_POSIX_CLASS = re.compile(r"\[:(\w+):\]")
_BOUNDS = re.compile(r"\{(\d+)(,(\d*))?\}")


class UnreadablePattern(ValueError):
    """A construct that this module does not know: look-around, back references, an unknown class."""


class Characters(msgspec.Struct, frozen=True):
    """One of these characters."""

    choices: str


class Concatenation(msgspec.Struct, frozen=True):
    """All parts, one after the other."""

    parts: tuple[Part, ...]


class Alternatives(msgspec.Struct, frozen=True):
    """One of the parts."""

    parts: tuple[Part, ...]


class Repeated(msgspec.Struct, frozen=True):
    """`part`, `least` to `most` times; None is without end."""

    part: Part
    least: int
    most: int | None


Part = Characters | Concatenation | Alternatives | Repeated


def parse_pattern(pattern: str) -> Part:
    """The tree of a regular expression. Raises UnreadablePattern."""
    reader = _Reader(pattern.removeprefix("***:").removeprefix("(?i)"))
    part = reader.alternatives()
    if not reader.at_end:
        raise UnreadablePattern(pattern)
    return part


def is_readable(pattern: str) -> bool:
    """Whether `parse_pattern` knows all of it; what it knows means the same to Python and to PostgreSQL."""
    try:
        parse_pattern(pattern)
    except UnreadablePattern:
        return False
    return True


def pattern_of_like(pattern: str) -> str:
    """The regular expression that matches what `LIKE pattern` does."""
    out: list[str] = []
    characters = iter(pattern)
    for character in characters:
        match character:
            case "%":
                out.append(".*")
            case "_":
                out.append(".")
            case "\\":
                out.append(re.escape(next(characters, "\\")))
            case _:
                out.append(re.escape(character))
    return f"^{''.join(out)}$"


def python_pattern(pattern: str, ignore_case: bool = False) -> re.Pattern[str] | None:
    """Python's reading of a PostgreSQL pattern, to test candidates by before the database does; None where it has none."""
    source = _POSIX_CLASS.sub(lambda match: re.escape(_POSIX.get(match[1], "")).replace(" ", r"\ "), pattern)
    try:
        return re.compile(source, re.IGNORECASE if ignore_case else 0)
    except re.error:
        return None


@lru_cache(maxsize=4096)
def count(part: Part, spare: int) -> int:
    """How many strings `nth` tells apart (the same string may come of several alternatives)."""
    match part:
        case Characters(choices):
            return len(choices)
        case Concatenation(parts):
            total = 1
            for one in parts:
                total *= count(one, spare)
            return total
        case Alternatives(parts):
            return sum(count(one, spare) for one in parts)
        case Repeated(inner, least, most):
            return sum(count(inner, spare) ** times for times in _times(least, most, spare))


def nth(part: Part, number: int, spare: int) -> str:
    """The string of that number, 0 up to `count - 1`."""
    match part:
        case Characters(choices):
            return choices[number]
        case Concatenation(parts):
            return _in_sequence(parts, number, spare)
        case Alternatives(parts):
            for one in parts:
                size = count(one, spare)
                if number < size:
                    return nth(one, number, spare)
                number -= size
        case Repeated(inner, least, most):
            for times in _times(least, most, spare):
                size = count(inner, spare) ** times
                if number < size:
                    return _in_sequence((inner,) * times, number, spare)
                number -= size
    raise IndexError(number)


def _times(least: int, most: int | None, spare: int) -> range:
    return range(least, (least + spare if most is None else min(most, least + spare)) + 1)


def _in_sequence(parts: Sequence[Part], number: int, spare: int) -> str:
    out: list[str] = []
    for one in parts:
        number, digit = divmod(number, count(one, spare))
        out.append(nth(one, digit, spare))
    return "".join(out)


class _Reader:
    """Recursive descent over the pattern's characters."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    @property
    def at_end(self) -> bool:
        return self._at >= len(self._pattern)

    def alternatives(self) -> Part:
        branches = [self._sequence()]
        while self._accept("|"):
            branches.append(self._sequence())
        return branches[0] if len(branches) == 1 else Alternatives(tuple(branches))

    def _sequence(self) -> Part:
        parts: list[Part] = []
        while not self.at_end and self._pattern[self._at] not in "|)":
            part = self._atom()
            if part is not None:
                parts.append(self._quantified(part))
        return Concatenation(tuple(parts))

    def _atom(self) -> Part | None:
        character = self._take()
        match character:
            case "^" | "$":
                return None
            case ".":
                return Characters(string.ascii_lowercase)
            case "(":
                return self._group()
            case "[":
                return Characters(self._bracket())
            case "\\":
                return self._escape()
            case "*" | "+" | "?" | ")":
                raise UnreadablePattern(self._pattern)
            case _:
                return Characters(character)

    def _group(self) -> Part:
        if self._accept("?") and not self._accept(":"):
            raise UnreadablePattern(self._pattern)
        part = self.alternatives()
        self._expect(")")
        return part

    def _escape(self) -> Part | None:
        character = self._take()
        if character in _CLASSES:
            return Characters(_CLASSES[character])
        if character in _ANCHORS:
            return None
        if character.isalnum() and character not in _CONTROLS:
            raise UnreadablePattern(self._pattern)
        return Characters(_CONTROLS.get(character, character))

    def _bracket(self) -> str:
        negated = self._accept("^")
        found: list[str] = [self._take()] if self._pattern[self._at : self._at + 1] == "]" else []
        while not self._accept("]"):
            found.append(self._bracket_item())
        chosen = "".join(dict.fromkeys("".join(found)))
        kept = "".join(character for character in _PRINTABLE if character not in chosen) if negated else chosen
        if not kept:
            raise UnreadablePattern(self._pattern)
        return kept

    def _bracket_item(self) -> str:
        posix = _POSIX_CLASS.match(self._pattern, self._at)
        if posix:
            self._at = posix.end()
            if posix[1] not in _POSIX:
                raise UnreadablePattern(self._pattern)
            return _POSIX[posix[1]]
        first = self._bracket_character()
        following = self._pattern[self._at : self._at + 2]
        if len(first) == 1 and following.startswith("-") and following != "-]":
            self._at += 1
            last = self._bracket_character()
            if len(last) != 1 or last < first:
                raise UnreadablePattern(self._pattern)
            return "".join(map(chr, range(ord(first), min(ord(last), ord(first) + 255) + 1)))
        return first

    def _bracket_character(self) -> str:
        character = self._take()
        if character != "\\":
            return character
        escaped = self._take()
        return _CLASSES.get(escaped, _CONTROLS.get(escaped, escaped))

    def _quantified(self, part: Part) -> Part:
        character = self._pattern[self._at : self._at + 1]
        bounds = _BOUNDS.match(self._pattern, self._at)
        if character and character in _QUANTIFIERS:
            self._at += 1
            least, most = _QUANTIFIERS[character]
        elif bounds:
            self._at = bounds.end()
            least = int(bounds[1])
            most = least if bounds[2] is None else int(bounds[3]) if bounds[3] else None
        else:
            return part
        self._accept("?")
        return Repeated(part, least, most)

    def _take(self) -> str:
        if self.at_end:
            raise UnreadablePattern(self._pattern)
        self._at += 1
        return self._pattern[self._at - 1]

    def _accept(self, character: str) -> bool:
        found = self._pattern[self._at : self._at + 1] == character
        self._at += found
        return found

    def _expect(self, character: str) -> None:
        if not self._accept(character):
            raise UnreadablePattern(self._pattern)
