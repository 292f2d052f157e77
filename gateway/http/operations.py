"""What is asked of the service itself: health, metrics, and the page of documents. Composed with Starlette; off the data path."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Check = Callable[[], Awaitable[tuple[bool, str]]]
"""Whether a dependency is well, and a reason in words."""

Notice = tuple[str, str]
"""What is not as it should be, in a word (`broken`, `degraded`, `behind`, `ahead`), and a reason in words."""


def _health(well: bool, checks: Mapping[str, Any]) -> Response:
    content = {"status": "ok" if well else "unavailable", "checks": checks}
    return Response(
        msgspec.json.encode(content),
        status_code=200 if well else 503,
        headers={"cache-control": "no-store"},
        media_type="application/json",
    )


Scrape = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Gives the metrics' text and its content type, for an Accept header."""


def metrics_route(scrape: Scrape) -> Route:
    """`/metrics`. It takes no token and asks no database: who may read it is settled in front of the service."""

    async def metrics(request: Request) -> Response:
        body, content_type = await scrape(request.headers.get("accept", ""))
        return Response(body, headers={"cache-control": "no-store", "content-type": content_type})

    return Route("/metrics", metrics, methods=["GET"])


def health_routes(
    checks: Mapping[str, Check], notices: Callable[[], Mapping[str, Notice]], is_draining: Callable[[], bool]
) -> list[Route]:
    """`/health/live` and `/health/ready`. `notices` are things that are wrong but keep nobody else from being served.

    One that drains is not ready, whatever its dependencies say: they are not asked.
    """

    async def live(_request: Request) -> Response:
        return _health(True, {})

    async def ready(_request: Request) -> Response:
        if is_draining():
            return _health(False, {"process": {"status": "unavailable", "reason": "is stopping"}})
        results = {name: await check() for name, check in checks.items()}
        told: dict[str, Any] = {
            name: {"status": "ok" if well else "unavailable", "reason": reason} for name, (well, reason) in results.items()
        }
        told |= {name: {"status": status, "reason": reason} for name, (status, reason) in notices().items()}
        return _health(all(well for well, _ in results.values()), told)

    return [Route("/health/live", live, methods=["GET"]), Route("/health/ready", ready, methods=["GET"])]
