"""What happened, as frozen structs: metrics, logs and whoever else wants to know are made of these and nothing else.

An observer is anything that takes an event. It must not raise and must not wait: it is called where the event happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

Event: TypeAlias = msgspec.Struct
"""One of the structs of this module."""

Observer = Callable[[Event], None]


def nobody(_event: Event) -> None:
    """An observer that takes no note."""
