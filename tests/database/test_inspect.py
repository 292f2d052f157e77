"""Why a database could not be read, as an operator is told it."""

from __future__ import annotations

import asyncpg
import pytest
from sqlalchemy.exc import DBAPIError

from gateway.database.inspect import unreadable
from gateway.errors import ConfigurationError, Unreachable


@pytest.mark.parametrize(
    ("cause", "kind"),
    [
        (asyncpg.InsufficientPrivilegeError("permission denied for schema shop"), ConfigurationError),
        (asyncpg.AdminShutdownError("permission denied for schema shop"), Unreachable),
    ],
)
def test_a_fault_in_the_middle_of_reading_is_told_in_the_databases_words(
    cause: Exception, kind: type[ConfigurationError]
) -> None:
    adapted = Exception("<class 'asyncpg.exceptions.Some'>: permission denied")
    adapted.__cause__ = cause
    fault = unreadable(DBAPIError("SELECT secret", None, adapted))
    assert type(fault) is kind
    assert str(fault) == "DATABASE_URL: the database cannot be read: permission denied for schema shop"
