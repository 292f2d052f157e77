"""Who may go on: limits by address, the token, limits by subject, in that order. A request's head in, its `Visitor` out.

With `AUTH=off` there is no token to look at, and with `RATE_LIMIT=off` nothing is counted.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

import msgspec
from starlette.types import Scope

from gateway.cache.cache import Looked
from gateway.errors import Unauthorized
from gateway.guards.ratelimit import (
    Charges,
    Checking,
    Decision,
    Limit,
    RateLimiter,
    address_key,
    charges_of,
    refusal,
    subject_key,
    tighter,
)
from gateway.guards.ratelimit import headers as limit_headers
from gateway.guards.tokens import Caller, TokenVerifier, bearer_token, refuse_query_token
from gateway.http.deprecation import Deprecation
from gateway.http.edge import Network, client_address
from gateway.http.responses import Header


class Visitor(msgspec.Struct):
    """What is known of a request so far: who sends it, its limits, what the cache was found to have, whether what it asks for is
    deprecated, and `more` headers of its answer. Filled as it goes on, for a refusal tells of it too, which may be an exception
    that others have got as well."""

    caller: Caller | None = None
    decision: Decision | None = None
    looked: Looked | None = None
    deprecation: Deprecation | None = None
    more: tuple[Header, ...] = ()

    @property
    def headers(self) -> tuple[Header, ...]:
        """`RateLimit` and `RateLimit-Policy`, where a limit was counted."""
        return () if self.decision is None else limit_headers(self.decision)


class Admission:
    """The guards before the data path. `verifier` is None with `AUTH=off`; `issuer` parts equal subjects of two issuers."""

    def __init__(self, limiter: RateLimiter, verifier: TokenVerifier | None, issuer: str, trusted: tuple[Network, ...]) -> None:
        self.limiter = limiter
        self.verifier = verifier
        self._issuer = issuer
        self._trusted = trusted

    async def admit(self, scope: Scope, limit: Limit | None, visitor: Visitor) -> None:
        """Fills `visitor`. Raises RateLimited, Unauthorized or Unavailable. `limit` is the resource's own, if it has one.

        The address is counted before a token costs anything to look at. A token that is kept costs nothing, so its subject is
        counted with the address, in one trip to the store.
        """
        limit = limit or self.limiter.default
        verifier = self.verifier
        if verifier is None:
            if limit is not None:
                await self._count(scope, limit, visitor, None)
            return
        token, fault = _token(scope)
        caller = verifier.known(token) if token is not None else None
        if limit is not None:
            await self._count(scope, limit, visitor, caller)
        if fault is not None:
            raise fault
        if token is not None and caller is None:
            caller = await verifier.verify(token)
            if limit is not None:
                await self._count_subject(caller, limit, visitor)
        visitor.caller = caller

    def client(self, scope: Scope, visitor: Visitor) -> str:
        """Who asks, for fairness among clients: the token's subject, or the address."""
        return client_address(scope, self._trusted) if visitor.caller is None else f"subject {visitor.caller.subject}"

    def charges(self, scope: Scope, limit: Limit | None, caller: Caller | None) -> Charges | None:
        """What `admit` counts for a caller whose token is kept; None where nothing is counted."""
        limit = limit or self.limiter.default
        return None if limit is None else charges_of(*self._charges(scope, limit, caller))

    def begin(self, scope: Scope, limit: Limit | None, visitor: Visitor) -> Awaitable[None] | None:
        """`admit` for a request that only reads: what it still has to wait for, while the request is served already; None where
        `admit` is needed. It must be awaited before anything is answered, and raises RateLimited in place of any answer.
        """
        limit = limit or self.limiter.default
        if limit is None:
            return None
        caller: Caller | None = None
        if self.verifier is not None:
            token, fault = _token(scope)
            if fault is not None:
                return None
            if token is not None:
                caller = self.verifier.known(token)
                if caller is None:
                    return None
        checking = self.limiter.begin(*self._charges(scope, limit, caller))
        if checking is None:
            return None
        visitor.caller = caller
        return self._settle(checking, visitor)

    async def _settle(self, checking: Checking, visitor: Visitor) -> None:
        decision = await self.limiter.settle(checking)
        if not decision.allowed:
            raise refusal(decision)
        visitor.decision = decision

    def _charges(self, scope: Scope, limit: Limit, caller: Caller | None) -> tuple[tuple[str, Limit], ...]:
        address = (address_key(client_address(scope, self._trusted)), limit)
        return (address,) if caller is None else (address, (self._subject(caller), limit))

    async def _count(self, scope: Scope, limit: Limit, visitor: Visitor, caller: Caller | None) -> None:
        decision = await self.limiter.check(*self._charges(scope, limit, caller))
        if not decision.allowed:
            raise refusal(decision)
        visitor.decision = decision

    async def _count_subject(self, caller: Caller, limit: Limit, visitor: Visitor) -> None:
        decision = await self.limiter.check((self._subject(caller), limit))
        if not decision.allowed:
            visitor.decision = None  # the refusal carries the headers itself
            raise refusal(decision)
        visitor.decision = tighter(visitor.decision, decision)

    def _subject(self, caller: Caller) -> str:
        return subject_key(f"{self._issuer} {caller.subject}")


def _token(scope: Scope) -> tuple[bytes | None, Unauthorized | None]:
    """The request's token, or what is wrong with how it carries one, to be raised once the request is counted."""
    try:
        refuse_query_token(scope["query_string"])
        return bearer_token(scope["headers"]), None
    except Unauthorized as fault:
        return None, fault


Limits = Mapping[tuple[str, str], Limit]
"""The limits that resources have of their own, by (version, name)."""
