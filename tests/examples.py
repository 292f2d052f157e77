"""How many examples a property tries.

In a run of the whole suite there is time for so many; EXAMPLES=10, which `make test-long` sets, tries ten times as many.
"""

from __future__ import annotations

import os

TIMES = int(os.environ.get("EXAMPLES", "1"))


def examples(number: int) -> int:
    return number * TIMES
