"""A space: the values that a column may take, numbered. Pure.

Drawing a column is drawing numbers and looking their values up. Distinct numbers give distinct values, so that a unique
column is a walk over the numbers instead of a memory of what was drawn, and a batch costs the same however many rows exist.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from random import Random

import msgspec

EXACT = 2**53
"""Up to here a float tells all numbers apart, and drawing by multiplication reaches each."""
BLOCK = 4096
"""Unique values come shuffled within blocks of this size, block after block."""
NULL = r"\N"
"""NULL in COPY's text form."""


class Space(msgspec.Struct, frozen=True, eq=False):
    """`size` values of PostgreSQL's text form; `at` gives those of some numbers, which are from 0 to `size - 1`.

    A random draw uses the first `natural` numbers alone (the rest differ by a suffix), bent towards the low ones by the
    exponent `skew`. `block` is how far a walk may shuffle. `plain` means that no value needs escaping for COPY. `kind` and
    `start` are for numbers and times: the value numbered i lies at `start + i` on the axis `kind`, so two columns compare.
    """

    size: int
    at: Callable[[Sequence[int]], list[str]]
    natural: int
    block: int = BLOCK
    skew: float = 1.0
    plain: bool = True
    kind: str = ""
    start: int = 0


class Wanted(msgspec.Struct, frozen=True):
    """For which column of which table, and how many different values at least (0: it is no matter)."""

    column: str
    table: str
    distinct: int = 0


_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def escape(text: str) -> str:
    """The text as a field of COPY's text form."""
    return text.translate(_ESCAPES)


def is_plain(text: str) -> bool:
    """Whether the text is its own field."""
    return not any(character in text for character in "\\\t\n\r")


def listed(values: Sequence[str]) -> Space:
    """Exactly these values, each as likely; a value given twice is twice as likely, but counts once in a walk."""
    distinct = list(dict.fromkeys(values))
    repeated = [value for value in values if values.count(value) > 1] if len(values) < 100 else []
    table = distinct + [value for value in dict.fromkeys(repeated) for _ in range(values.count(value) - 1)]
    return Space(len(distinct), lambda numbers: [table[i] for i in numbers], len(table), plain=all(map(is_plain, table)))


def random_numbers(random: Random, natural: int, skew: float, count: int) -> list[int]:
    """`count` numbers below `natural`."""
    if natural > EXACT:
        return [random.randrange(natural) for _ in range(count)]
    draw = random.random
    if skew == 1.0:
        return [int(draw() * natural) for _ in range(count)]
    return [int(draw() ** skew * natural) for _ in range(count)]


def walk(random: Random, size: int, block: int) -> Callable[[int, int], list[int]]:
    """A walk over all of 0 … size - 1 without repetition: a function from (start, count) to numbers. After `size` it repeats.

    Within a block the order is an affine permutation, drawn from `random` once.
    """
    whole = min(block, size)
    factor, shift = _coprime(random, whole), random.randrange(whole)
    full = size - size % whole

    def numbers(start: int, count: int) -> list[int]:
        positions = (position % size for position in range(start, start + count))
        return [
            position - position % whole + (position % whole * factor + shift) % whole if position < full else position
            for position in positions
        ]

    return numbers


def _coprime(random: Random, modulus: int) -> int:
    if modulus < 3:
        return 1
    while True:
        candidate = random.randrange(1, modulus)
        if math.gcd(candidate, modulus) == 1:
            return candidate
