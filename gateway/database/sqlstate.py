"""PostgreSQL's and the driver's faults as ours: one table by SQLSTATE, one by exception class. The only border between them.

What a constraint refused comes out as `Violation`, for the pipeline to name the fields; everything else as a GatewayError.
Source: appendix A of PostgreSQL's manual.
"""

from __future__ import annotations

from typing import Literal

import asyncpg
import msgspec

from gateway.breaker import described
from gateway.errors import (
    Conflict,
    DatabaseTimeout,
    Forbidden,
    GatewayError,
    InternalError,
    NotSent,
    NotWritten,
    OutcomeUnknown,
    TablesChanged,
    Unavailable,
    ValidationFailed,
)
from gateway.query.compile import REFUSED

ViolationKind = Literal["not_null", "foreign", "unique", "check", "exclusion", "value"]


OUTSIDE = "The row would be outside of what you may write; nothing was written."
"""What a caller is told whose row fails the check of their grant."""


class Refusal(msgspec.Struct, frozen=True):
    """What refused a value, in the database's own names, which no caller may see. "" where PostgreSQL does not tell."""

    kind: ViolationKind
    message: str
    constraint: str = ""
    column: str = ""
    table: str = ""
    domain: str = ""


class Violation(Exception):
    """A write or a filter value that the database refused."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.kind)
        self.refusal = refusal


VIOLATIONS: dict[str, tuple[ViolationKind, str]] = {
    "23502": ("not_null", "takes no null"),
    "23001": ("foreign", "is referred to by other rows"),
    "23503": ("foreign", "refers to a row that does not exist"),
    "23505": ("unique", "is taken: another row has it"),
    "23514": ("check", "is not a value that is allowed here"),
    "23P01": ("exclusion", "overlaps another row's"),
    "44000": ("check", "is not a value that is allowed here"),
    "22001": ("value", "is too long"),
    "22003": ("value", "is out of range"),
    "22007": ("value", "is no date or time"),
    "22008": ("value", "is out of the range of dates and times"),
    "22009": ("value", "has an offset that no time zone has"),
    "22015": ("value", "is out of the range of intervals"),
    "22021": ("value", "has a character that the database cannot hold"),
    "22025": ("value", "has a backslash that escapes nothing"),
    "22026": ("value", "has the wrong length"),
    "22P02": ("value", "is not of the column's type"),
    "22P03": ("value", "is not of the column's type"),
    "22P05": ("value", "has a character that the database cannot hold"),
    "54000": ("value", "is too large for the database to index"),
}
"""SQLSTATE: what was wrong, and what the caller is told of the field."""

SQL_OR_VALUE = frozenset({"42601", "42602", "42704", "42883", "42P01", "3F000"})
"""SQLSTATEs of wrong SQL that the input functions of some types raise too."""

ERRORS: dict[str, tuple[type[GatewayError], str]] = {
    "57014": (DatabaseTimeout, ""),
    "55P03": (NotWritten, "The row is being changed by another request; try again."),
    "40003": (OutcomeUnknown, OutcomeUnknown.default_message),
    "40": (NotWritten, "The request ran into another one; nothing was written, try again."),
    "08": (NotWritten, "The database cannot be reached."),
    "53": (NotWritten, "The database is out of resources."),
    "57P": (NotWritten, "The database is restarting."),
    "58": (NotWritten, "The database has trouble with its storage."),
    "28": (NotWritten, "The database cannot be reached."),
    "3D": (NotWritten, "The database cannot be reached."),
    "42P01": (TablesChanged, TablesChanged.default_message),
    "42703": (TablesChanged, TablesChanged.default_message),
    "3F": (TablesChanged, TablesChanged.default_message),
    "25006": (NotWritten, "The database takes no writes now."),
    "22": (ValidationFailed, "A value is not one that the database takes."),
    "23": (Conflict, "The request conflicts with what is stored."),
    "54": (ValidationFailed, "The request is too large for the database."),
    "0A000": (ValidationFailed, "The database cannot do this with a column of this kind."),
    "P0": (ValidationFailed, "A rule of the database refused the request."),
}
"""SQLSTATE, or the beginning of one: the longest that fits decides. Anything else is a bug of ours.

A server that answers with an error has undone the statement; one that ends the session with it may not have (`translate`)."""


def translate(fault: BaseException, writing: bool) -> Exception:
    """The Violation or GatewayError that `fault` is. `writing` says that something may have been written."""
    match fault:
        case GatewayError():
            return fault
        case _ if _is_our_bug(fault):
            return InternalError()
        case asyncpg.PostgresError() if writing and ends_the_session(fault):
            return OutcomeUnknown()
        case asyncpg.PostgresError() if fault.sqlstate:
            return _from_sqlstate(fault, str(fault.sqlstate))
        case TimeoutError() | asyncpg.InterfaceError() | OSError() | asyncpg.InternalClientError():
            return OutcomeUnknown() if writing else Unavailable("The database cannot be reached.")
        case _:
            return InternalError()


def ends_the_session(fault: asyncpg.PostgresError) -> bool:
    """Whether the session ended with this error, or the driver says that it did. That can be between a COMMIT and its answer."""
    return isinstance(fault, asyncpg.PostgresConnectionError) or (
        getattr(fault, "severity_en", None) or getattr(fault, "severity", None)
    ) in (
        "FATAL",
        "PANIC",
    )


def translate_connecting(fault: BaseException) -> GatewayError:
    """What kept a connection from being made, so that nothing was sent, as ours."""
    ours = translate(fault, writing=False)
    return (
        ours
        if isinstance(ours, NotSent)
        else NotSent(ours.message if isinstance(ours, Unavailable) else "The database cannot be reached.")
    )


def _is_our_bug(fault: BaseException) -> bool:
    """A value that the driver cannot encode was let through by us: it never reached the database, which gives a severity."""
    return isinstance(fault, ValueError) or (isinstance(fault, asyncpg.DataError) and not getattr(fault, "severity", None))


def _is_about_a_value(fault: asyncpg.PostgresError, state: str) -> bool:
    """Whether a fault that tells of SQL was met in reading a value, such as a tsvector's or a regclass's text: then it has
    no place in the statement or in a function."""
    return state in SQL_OR_VALUE and not any(getattr(fault, part, None) for part in ("position", "internal_position", "context"))


SPEAKING = ("08", "25", "26", "40", "42", "53", "55", "57", "58")
"""SQLSTATE classes whose messages name things of the server and quote no row: connections, transactions, names, resources."""


def told_of(fault: BaseException) -> str:
    """A fault of the database in a few words, for the log. A message that may quote a value is left out: the driver's of what it
    cannot encode, and whatever has a `context`, for then a function (a trigger's, say) may have worded it."""
    if isinstance(fault, ValueError):
        return type(fault).__name__
    state = getattr(fault, "sqlstate", None)
    if isinstance(state, str) and (not state.startswith(SPEAKING) or getattr(fault, "context", None)):
        return f"{type(fault).__name__} ({state})"
    return described(fault)


def fault_class(fault: BaseException) -> str:
    """What metrics and traces call a fault of the database: the SQLSTATE's two digits, `timeout` or `connection`."""
    state = getattr(fault, "sqlstate", None)
    if isinstance(state, str) and not state.startswith("08"):
        return state[:2]
    return "timeout" if isinstance(fault, TimeoutError | Unavailable) else "connection"


def _from_sqlstate(fault: asyncpg.PostgresError, state: str) -> Exception:
    if state == "22P02" and REFUSED in str(fault):
        return Forbidden(OUTSIDE)
    if state in VIOLATIONS or _is_about_a_value(fault, state):
        kind, message = VIOLATIONS.get(state, VIOLATIONS["22P02"])
        return Violation(
            Refusal(
                kind,
                message,
                constraint=getattr(fault, "constraint_name", None) or "",
                column=getattr(fault, "column_name", None) or "",
                table=getattr(fault, "table_name", None) or "",
                domain=getattr(fault, "data_type_name", None) or "",
            )
        )
    for length in range(len(state), 1, -1):
        if state[:length] in ERRORS:
            error, message = ERRORS[state[:length]]
            return error(message)
    if isinstance(fault, asyncpg.UnknownPostgresError):  # a code that a trigger's author made up
        error, message = ERRORS["P0"]
        return error(message)
    return InternalError()
