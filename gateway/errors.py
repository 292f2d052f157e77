"""The error tree: what a caller is told, as a code, a status and a message.

    GatewayError
    ├── ValidationFailed       400 VALIDATION_ERROR
    ├── Unauthorized           401 UNAUTHORIZED
    ├── Forbidden              403 FORBIDDEN
    ├── NotFound               404 NOT_FOUND
    ├── MethodNotAllowed       405 METHOD_NOT_ALLOWED
    ├── DatabaseTimeout        408 DB_TIMEOUT
    ├── Conflict               409 CONFLICT
    ├── PreconditionFailed     412 PRECONDITION_FAILED
    ├── PayloadTooLarge        413 PAYLOAD_TOO_LARGE
    ├── UnsupportedMediaType   415 UNSUPPORTED_MEDIA_TYPE
    ├── IdempotencyMismatch    422 IDEMPOTENCY_MISMATCH
    ├── PreconditionRequired   428 PRECONDITION_REQUIRED
    ├── RateLimited            429 RATE_LIMITED
    ├── InternalError          500 INTERNAL_ERROR
    └── Unavailable            503 UNAVAILABLE
        ├── NotWritten         … and nothing was written
        │   └── NotSent        … for it never reached the database
        │       └── Refused    … for it was not even tried
        └── OutcomeUnknown     … and nobody knows whether the write took place

    ConfigurationError         a mistake of the operator or the schema author; stops a command, never reaches HTTP
    └── Unreachable            the database does not answer; `serve` starts without it and waits
        └── NoRoom             … for it has as many connections as it, or its role, may have

It knows no HTTP library and no driver. A message is for the caller: it names no table, constraint, SQL or exception.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One fault of a request: the `field` (or parameter) that has it, and what is wrong, for a person to read."""

    field: str
    message: str


class GatewayError(Exception):
    """The root. `code` and `status` are the class's; `message`, `problems` and `headers` the occurrence's.

    `headers` are (name, value) pairs that the answer carries, such as `Allow` or `Retry-After`.
    """

    code = "INTERNAL_ERROR"
    status = 500
    default_message = "Something went wrong."

    def __init__(
        self,
        message: str = "",
        problems: Iterable[Problem] = (),
        headers: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.message = message or self.default_message
        self.problems = tuple(problems)
        self.headers = tuple(headers)
        super().__init__(self.message)


class ValidationFailed(GatewayError):
    code, status, default_message = "VALIDATION_ERROR", 400, "The request is not valid."


class Unauthorized(GatewayError):
    code, status, default_message = "UNAUTHORIZED", 401, "A valid token is needed."


class Forbidden(GatewayError):
    code, status, default_message = "FORBIDDEN", 403, "This is not allowed."


class NotFound(GatewayError):
    code, status, default_message = "NOT_FOUND", 404, "There is nothing here."


class MethodNotAllowed(GatewayError):
    """Carries `Allow` with the methods that the path does take."""

    code, status, default_message = "METHOD_NOT_ALLOWED", 405, "The method is not allowed here."

    def __init__(self, allowed: Sequence[str]) -> None:
        allow = ", ".join(allowed)
        super().__init__(f"The method is not allowed here. Allowed: {allow}.", headers=[("Allow", allow)])


class DatabaseTimeout(GatewayError):
    code, status = "DB_TIMEOUT", 408
    default_message = "The database took too long; nothing was written."


class Conflict(GatewayError):
    code, status, default_message = "CONFLICT", 409, "The request conflicts with what is stored."


class PreconditionFailed(GatewayError):
    code, status, default_message = "PRECONDITION_FAILED", 412, "The row has changed since it was read."


class PayloadTooLarge(GatewayError):
    code, status, default_message = "PAYLOAD_TOO_LARGE", 413, "The body is too large."


class UnsupportedMediaType(GatewayError):
    code, status, default_message = "UNSUPPORTED_MEDIA_TYPE", 415, "The body's content type is not supported."


class IdempotencyMismatch(GatewayError):
    code, status = "IDEMPOTENCY_MISMATCH", 422
    default_message = "This Idempotency-Key was used with another request."


class PreconditionRequired(GatewayError):
    code, status, default_message = "PRECONDITION_REQUIRED", 428, "If-Match is required here."


class RateLimited(GatewayError):
    code, status, default_message = "RATE_LIMITED", 429, "Too many requests."


class InternalError(GatewayError):
    code, status, default_message = "INTERNAL_ERROR", 500, "Something went wrong."


class Unavailable(GatewayError):
    """Carries `Retry-After`, in whole seconds."""

    code, status, default_message = "UNAVAILABLE", 503, "The service cannot answer now; try again."

    def __init__(self, message: str = "", retry_after_seconds: int = 1) -> None:
        super().__init__(message, headers=[("Retry-After", str(retry_after_seconds))])


class NotWritten(Unavailable):
    """A 503 of which it is certain that nothing was written, such as one that never got as far as the database."""


class NotSent(NotWritten):
    """A 503 of which nothing reached the database: no connection was free, or none could be made, or none was tried for."""


class Refused(NotSent):
    """A 503 for which nothing was tried: there is too much to do, or what it takes is known to be away. Why is told elsewhere,
    once, and not with each request."""


class TablesChanged(NotWritten):
    """A statement named a table or a column that is not there any more. Another one may do, once the tables are read anew."""

    default_message = "The database has changed; try again."


class OutcomeUnknown(Unavailable):
    """A 503 for a write that may have been made: the answer to it was lost. It is never repeated blindly."""

    default_message = "The database did not answer; whether the write took place is not known."


ERRORS: tuple[type[GatewayError], ...] = (
    ValidationFailed,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    DatabaseTimeout,
    Conflict,
    PreconditionFailed,
    PayloadTooLarge,
    UnsupportedMediaType,
    IdempotencyMismatch,
    PreconditionRequired,
    RateLimited,
    InternalError,
    Unavailable,
)
"""Every error that HTTP can carry, by rising status: documents and tests read this table."""


class ConfigurationError(Exception):
    """A mistake in settings, resource files or migrations. `str()` is one clear line (or one a fault) for stderr."""


class Unreachable(ConfigurationError):
    """The database does not answer now. It may be a mistake in its address, but time alone may mend it."""


class NoRoom(Unreachable):
    """The database answers, and lets nobody else in. The message says what a gateway needs."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """' Did you mean "x"?' for the closest of `choices`, or nothing where none is close."""
    close = get_close_matches(name, list(choices), n=1, cutoff=0.6)
    return f' Did you mean "{close[0]}"?' if close else ""
