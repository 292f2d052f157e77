"""The border between the database's faults and ours: every row, by the exception that the driver makes of it."""

from __future__ import annotations

import asyncpg
import pytest

from gateway.database.sqlstate import ERRORS, VIOLATIONS, Violation, told_of, translate
from gateway.errors import Conflict, GatewayError, InternalError, Unavailable


def fault_of(state: str) -> asyncpg.PostgresError:
    fields = {"S": "ERROR", "V": "ERROR", "C": state, "M": "internal text", "P": "1"}
    fault: asyncpg.PostgresError = asyncpg.PostgresError.new(fields)
    return fault


@pytest.mark.parametrize("state", VIOLATIONS)
def test_every_violation_tells_its_kind_and_nothing_of_the_database(state: str) -> None:
    ours = translate(fault_of(state), writing=True)
    assert isinstance(ours, Violation)
    assert (ours.refusal.kind, ours.refusal.message) == VIOLATIONS[state]
    assert "internal" not in str(ours)


@pytest.mark.parametrize("state", ERRORS)
def test_every_error_is_told_in_our_words(state: str) -> None:
    error, message = ERRORS[state]
    ours = translate(fault_of(state.ljust(5, "9")), writing=False)
    assert type(ours) is error
    assert str(ours) == message or not message
    assert "internal" not in str(ours)


def test_the_longest_row_decides() -> None:
    assert isinstance(translate(fault_of("57014"), writing=False), GatewayError)
    assert isinstance(translate(fault_of("23000"), writing=True), Conflict)
    assert isinstance(translate(fault_of("57P01"), writing=True), Unavailable)


@pytest.mark.parametrize("state", ["XX000", "42601", "25P02", "26000"])
def test_a_state_without_a_row_is_a_bug_of_ours(state: str) -> None:
    assert type(translate(fault_of(state), writing=False)) is InternalError


@pytest.mark.parametrize(
    "fault",
    [
        TimeoutError(),
        ConnectionRefusedError(111, "internal"),
        ConnectionResetError(),
        FileNotFoundError("/internal/socket"),
        asyncpg.InterfaceError("internal"),
        asyncpg.ConnectionDoesNotExistError("internal"),
        asyncpg.CannotConnectNowError("internal"),
        asyncpg.TooManyConnectionsError("internal"),
        asyncpg.InternalClientError("internal"),
        asyncpg.exceptions.OutdatedSchemaCacheError("internal"),
        asyncpg.exceptions.ProtocolError("internal"),
    ],
)
def test_a_database_that_cannot_be_reached_is_unavailable(fault: Exception) -> None:
    for writing in (False, True):
        ours = translate(fault, writing)
        assert isinstance(ours, Unavailable)
        assert "internal" not in str(ours)


def test_a_lost_write_is_not_said_to_have_failed() -> None:
    assert "not known" in str(translate(TimeoutError(), writing=True))
    assert "not known" not in str(translate(TimeoutError(), writing=False))


def test_our_own_errors_pass() -> None:
    error = Unavailable("busy")
    assert translate(error, writing=True) is error


@pytest.mark.parametrize(
    "fault", [RuntimeError("internal"), KeyError("internal"), ValueError("internal"), asyncpg.DataError("x")]
)
def test_anything_else_is_a_bug_of_ours(fault: Exception) -> None:
    assert type(translate(fault, writing=True)) is InternalError


def test_what_a_function_or_the_driver_says_of_a_value_is_not_told() -> None:
    assert told_of(asyncpg.DataError("invalid input for query argument $1: 's3cr3t'")) == "DataError (22000)"
    assert told_of(ValueError("s3cr3t")) == "ValueError"
    plain = asyncpg.UndefinedTableError('relation "nowhere" does not exist')
    assert told_of(plain) == 'UndefinedTableError: relation "nowhere" does not exist'
    raised = asyncpg.UndefinedTableError("s3cr3t")
    raised.context = "PL/pgSQL function tell() line 1 at RAISE"
    assert told_of(raised) == "UndefinedTableError (42P01)"
