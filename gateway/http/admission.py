"""Who may go on: limits by address, the token, limits by subject, in that order. A request's head in, its `Visitor` out.

With `AUTH=off` there is no token to look at, and with `RATE_LIMIT=off` only a resource's own limit counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.types import Scope

from gateway.errors import GatewayError
from gateway.guards.ratelimit import Decision, Limit, RateLimiter, address_key, refusal, subject_key, tighter
from gateway.guards.ratelimit import headers as limit_headers
from gateway.guards.tokens import Caller, TokenVerifier, bearer_token, refuse_query_token
from gateway.http.edge import Network, client_address
from gateway.http.responses import Header


class Visitor(msgspec.Struct):
    """What is known of a request's sender so far. Filled as admission goes on, for a refusal tells of its limits too."""

    caller: Caller | None = None
    decision: Decision | None = None

    @property
    def headers(self) -> tuple[Header, ...]:
        """`RateLimit` and `RateLimit-Policy`, where a limit was counted."""
        return () if self.decision is None else limit_headers(self.decision)


class Admission:
    """The guards before the data path. `verifier` is None with `AUTH=off`; `issuer` parts equal subjects of two issuers."""

    def __init__(self, limiter: RateLimiter, verifier: TokenVerifier | None, issuer: str, trusted: tuple[Network, ...]) -> None:
        self._limiter = limiter
        self._verifier = verifier
        self._issuer = issuer
        self._trusted = trusted

    async def admit(self, scope: Scope, limit: Limit | None, visitor: Visitor) -> None:
        """Fills `visitor`. Raises RateLimited, Unauthorized or Unavailable. `limit` is the resource's own, if it has one."""
        limit = limit or self._limiter.default
        if limit is not None:
            decision = await self._limiter.check((address_key(client_address(scope, self._trusted)), limit))
            visitor.decision = decision
            if not decision.allowed:
                raise _refused(decision, visitor)
        verifier = self._verifier
        if verifier is None:
            return
        refuse_query_token(scope["query_string"])
        token = bearer_token(scope["headers"])
        if token is None:
            return
        visitor.caller = caller = verifier.known(token) or await verifier.verify(token)
        if limit is not None:
            decision = await self._limiter.check((subject_key(f"{self._issuer} {caller.subject}"), limit))
            if not decision.allowed:
                raise _refused(decision, visitor)
            visitor.decision = tighter(visitor.decision, decision)


def _refused(decision: Decision, visitor: Visitor) -> GatewayError:
    """The refusal carries the headers itself."""
    visitor.decision = None
    return refusal(decision)


Limits = Mapping[tuple[str, str], Limit]
"""The limits that resources have of their own, by (version, name)."""
