"""The composition root: the only room that knows all the others. Settings in, a running service out.

`serve` runs it, `check` and `openapi` build the same catalog and stop there.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import tempfile
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response as PageResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from gateway.breaker import Breaker
from gateway.cache.cache import Cache, choose, make_cache
from gateway.cache.dependencies import Dependencies, read_dependencies
from gateway.catalog.build import build, table_name
from gateway.catalog.model import Catalog
from gateway.database.execute import Database
from gateway.database.inspect import FAULTS, read_tables, unreadable
from gateway.database.pool import Pool, PoolOptions
from gateway.database.replicas import ReplicaOptions, Replicas
from gateway.database.sqlstate import Violation
from gateway.definitions.load import load_directory
from gateway.definitions.model import Fault, Loaded
from gateway.errors import ConfigurationError, GatewayError, NoRoom, NotWritten, Refused, Unreachable
from gateway.events import Observer, together
from gateway.guards.gate import Gate
from gateway.guards.grants import Policy, Unrestricted
from gateway.guards.jwks import Jwks, JwksOptions
from gateway.guards.policy import STANDARD_CLAIMS, AccessRow, access_table, access_warnings, check_access
from gateway.guards.ratelimit import RateLimiter, resource_limit
from gateway.guards.tokens import Caller, TokenRules, TokenVerifier
from gateway.http.admission import Admission
from gateway.http.arrivals import Arrivals
from gateway.http.deprecation import deprecations, sunset_warnings
from gateway.http.docs import docs_asset
from gateway.http.edge import PRIVATE, SECURITY, cors, trusted_networks
from gateway.http.fast_path import FastPath
from gateway.http.middleware import RequestIds, on_exception, on_http_exception
from gateway.http.openapi import Access, document
from gateway.http.operations import Check, Notice, health_routes, metrics_route
from gateway.http.protocol import HttpProtocol, line_of
from gateway.http.responses import Response, json_response
from gateway.http.routes import DataRoutes, Edge, Serving
from gateway.http.server import Server
from gateway.http.workers import Supervisor
from gateway.idempotency import HEADER, KeptAnswers
from gateway.migration_watch import MigrationWatch
from gateway.observability.logs import Log, configure
from gateway.observability.metrics import BREAKER_STATES, Metrics, Reading
from gateway.observability.shared import DIRECTORY_VARIABLE, SharedDirectory
from gateway.observability.traces import Traces, wanted_sampling
from gateway.pipeline import Pipeline
from gateway.redis_wire import ping
from gateway.reload import Draft, Reloader, content_of
from gateway.settings import Settings, check_startable, database_url, load_settings

logger = logging.getLogger("gateway")

GC_THRESHOLDS = (10_000, 20, 50)
DOTENV = Path(".env")
HEALTH_TIMEOUT_SECONDS = 2.0
REDIS_PING_SECONDS = 0.1
REDIS_MINIMUM_CALLS = 5
REDIS_AWAY = ("degraded", "does not answer: reads go to the database, and each process counts rate limits alone")
COMING_UP_SECONDS = 0.25
"""Between two looks for a database that has not been seen since the start."""
POOL_CLOSE_SECONDS = 8.0
"""What the pool and the rest take to close, at the most, once no request is in flight."""
DOCS_POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
LEAVE_METRICS_SECONDS = 1.0


# --- the catalog -------------------------------------------------------------------------------------------------------


async def assemble(settings: Settings) -> tuple[Catalog, tuple[Fault, ...]]:
    """The catalog that the files and the database make together, and every fault. Raises ConfigurationError."""
    return await _assemble(settings, load_directory(settings.resources_dir))


async def _assemble(settings: Settings, loaded: Loaded) -> tuple[Catalog, tuple[Fault, ...]]:
    reflection = await read_tables(database_url(settings), {table_name(source) for source in loaded.sources})
    catalog, faults = build(loaded, reflection)
    return _without_faulty_access(catalog, loaded, faults)


def _without_faulty_access(catalog: Catalog, loaded: Loaded, faults: tuple[Fault, ...]) -> tuple[Catalog, tuple[Fault, ...]]:
    """A resource whose access rules are wrong is not served: nobody can tell what its author meant to forbid."""
    resources, broken, found = dict(catalog.resources), dict(catalog.broken), list(faults)
    for source in loaded.sources:
        place = source.place
        if place not in resources:
            continue
        wrong = list(check_access(source, resources[place]))
        if wrong:
            found += wrong
            del resources[place]
            broken[place] = "its access rules have faults; see `gateway check`"
    return Catalog(resources, broken), tuple(sorted(found))


class Checked(msgspec.Struct, frozen=True):
    """What `gateway check` tells: every fault of every file, warnings that are none, and what every role may do where."""

    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    access: tuple[AccessRow, ...]


def check(settings: Settings, claims: Collection[str] = (), now: datetime | None = None) -> Checked:
    """The resource files held against the database. Raises ConfigurationError.

    `claims` are the names of those that tokens carry beyond the standard ones and `AUTH_ROLES_CLAIM`. `now`, which
    is the moment of the call unless given, is what days of the files are held against.
    """
    now = now or datetime.now(UTC)
    loaded = load_directory(settings.resources_dir)
    catalog, faults = asyncio.run(_assemble(settings, loaded))
    known = {*STANDARD_CLAIMS, settings.auth_roles_claim, *claims}
    sound = [(source, resource) for source in loaded.sources if (resource := catalog.resources.get(source.place))]
    warnings = [
        *(told for source, resource in sound for told in access_warnings(source, resource, known)),
        *(told for source, resource in sound for told in sunset_warnings(source, resource, now)),
    ]
    return Checked(
        faults,
        tuple(sorted(warnings)),
        tuple(row for _, resource in sound for row in access_table(resource)),
    )


def openapi(settings: Settings, version: str) -> dict[str, Any]:
    """The OpenAPI document of one API version. Raises ConfigurationError for a version that no resource has."""
    catalog, _ = asyncio.run(assemble(settings))
    if version not in catalog.versions:
        raise ConfigurationError(f'there is no version "{version}"; versions: {", ".join(catalog.versions)}')
    return _document(settings, catalog, version)


def _document(
    settings: Settings, catalog: Catalog, version: str, access: Access | None = None, explains: bool = False
) -> dict[str, Any]:
    return document(
        catalog,
        version,
        max_body_bytes=settings.max_body_bytes,
        service_name=settings.service_name,
        secured=settings.auth != "off",
        access=access,
        explains=explains,
    )


def _tokens(settings: Settings) -> tuple[Jwks | None, TokenVerifier | None]:
    """What verifies tokens; nothing with AUTH=off. Raises ConfigurationError."""
    if settings.auth == "off":
        return None, None
    if not (settings.auth_jwks_url and settings.auth_issuer and settings.auth_audience):
        raise ConfigurationError("AUTH_JWKS_URL, AUTH_ISSUER and AUTH_AUDIENCE are needed unless AUTH=off")
    options = JwksOptions(settings.auth_jwks_url, settings.auth_algorithms, settings.auth_jwks_max_age_seconds)
    rules = TokenRules(settings.auth_issuer, settings.auth_audience, settings.auth_algorithms, settings.auth_roles_claim)
    jwks = Jwks(options)
    return jwks, TokenVerifier(jwks, rules)


def _replicas(settings: Settings, database: Database, observe: Observer) -> Replicas | None:
    """Who else answers reads; nobody where no replica is set."""
    if not settings.database_replica_urls:
        return None
    options = ReplicaOptions(settings.database_replica_urls, settings.database_replica_max_lag_seconds, database.pool.options)
    return Replicas(database, options, observe)


# --- the service -------------------------------------------------------------------------------------------------------


class Gateway:
    """The ASGI application. `start` before the first request, `stop` after the last; a server's lifespan does both.

    `own_process` says that nothing else runs in this process, so that its memory may be settled when it has started.
    """

    def __init__(self, settings: Settings, log: Log | None = None, *, own_process: bool = False) -> None:
        self.settings = settings
        self._own_process = own_process
        self.log = log or make_log(settings)
        self.metrics = Metrics()
        self.traces = Traces(os.environ, settings.service_name)
        self.observe = together(self.metrics.handlers, self.log.handlers, self.traces.handlers)
        directory = os.environ.get(DIRECTORY_VARIABLE)
        self._shared = SharedDirectory(Path(directory)) if directory else None
        self._leaving: asyncio.Task[None] | None = None
        self.pool = Pool(
            PoolOptions(
                url=database_url(settings),
                name=settings.service_name,
                minimum=settings.database_pool_min,
                maximum=settings.database_pool_max,
                idle_seconds=settings.database_idle_seconds,
                acquire_timeout_seconds=settings.database_acquire_timeout_seconds,
                statement_timeout_seconds=settings.database_statement_timeout_seconds,
                is_pooled=settings.database_pooler == "transaction",
            ),
            self.observe,
        )
        self._database = Database(self.pool, observe=self.observe, comments=settings.trace_sql_comments)
        self.arrivals = Arrivals(self.observe)
        servers = 1 + len(settings.database_replica_urls)
        self.gate = Gate(2 * settings.database_pool_max * servers, settings.database_acquire_timeout_seconds / 10, self.observe)
        self._migrations = MigrationWatch(self._database, self.observe)
        self.replicas = _replicas(settings, self._database, self.observe)
        self.kept = KeptAnswers(self._database, settings.idempotency_keep_seconds, self.observe)
        self.cache: Cache | None = None
        self._cache_choice = choose(settings.workers, settings.redis_url)
        self._draining = False
        self._redis_breaker = _redis_breaker(settings.redis_url, self.observe)
        self.limiter = RateLimiter(settings.rate_limit, settings.redis_url, observe=self.observe, breaker=self._redis_breaker)
        self.jwks, self._verifier = _tokens(settings)
        self._coming_up: asyncio.Task[None] | None = None
        self._lacks_room = ""
        self._loaded: Loaded | None = None
        self._content = b""
        self.reloader = Reloader(lambda: self.catalog, lambda: self._content, self._draft, self._swap, self.observe)
        self._serving = self._serve_from(Catalog({}, {}, is_built=False))
        trusted = trusted_networks(settings.trusted_proxies)
        admission = Admission(self.limiter, self._verifier, settings.auth_issuer or "", trusted)
        always = SECURITY if self._verifier is None else (*SECURITY, *PRIVATE)
        edge = Edge(
            max_body_bytes=settings.max_body_bytes,
            always=always,
            cors=cors(settings.cors_origins),
            observe=self.observe,
            is_traced=self.traces.is_on,
            begin=self.traces.begin,
            timing=settings.server_timing,
        )
        self._data = DataRoutes(lambda: self._serving, admission, edge, self.reloader.catch_up)
        self.fast_path = FastPath(self._data, line_of)
        self._other = RequestIds(self._starlette(), self.observe, settings.server_timing)
        self.metrics.read(self._readings())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["raw_path"].startswith(b"/api/"):
            await self._data(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self._other(scope, receive, send)

    async def start(self) -> None:
        """Builds the catalog and opens the pool, or, where the database does not answer, goes on trying in the background: then
        nothing is ready, and every resource is 503. Raises ConfigurationError for what time will not mend."""
        self.traces.start()
        if self._shared is not None:
            self._leaving = asyncio.get_running_loop().create_task(self._leave_metrics(self._shared))
        if self.replicas is not None:
            self.replicas.start()
        await self.limiter.start()
        if self.jwks is not None:
            await self.jwks.start()
        try:
            await self.rebuild()
        except Unreachable as fault:
            logger.warning("not ready, for the database does not answer; it is looked for until it does: %s", fault)
            self._coming_up = asyncio.get_running_loop().create_task(self._come_up(fault))
        await self._migrations.start()

    async def rebuild(self) -> None:
        """Builds a catalog from the files and the database, beside the one that is served, and puts it in that one's place.

        Raises ConfigurationError, and then nothing has changed; Unreachable where the database does not answer.
        """
        draft = await self._draft(with_files=True)
        await self._swap(draft)
        for told in draft.faults:
            logger.error("resource file: %s", told)
        for (version, name), reason in draft.catalog.broken.items():
            logger.error("not served: %s/%s: %s", version, name, reason)

    async def _draft(self, with_files: bool) -> Draft:
        """The catalog of files and tables as they are now, or of the files as they were and the tables of now.

        Made in a thread, with a loop of its own, for it takes long enough to be felt by requests. Raises ConfigurationError.
        """

        async def read(loaded: Loaded) -> Draft:
            catalog, faults = await _assemble(self.settings, loaded)
            dependencies = await self._dependencies()
            return Draft(loaded, catalog, faults, dependencies, content_of(catalog, dependencies))

        def make() -> Draft:
            loaded = self._loaded if self._loaded is not None and not with_files else load_directory(self.settings.resources_dir)
            return asyncio.run(read(loaded))

        return await asyncio.to_thread(make)

    async def _dependencies(self) -> Dependencies:
        """Which tables hang on which, as the database has it now; nothing where no answers are kept. Raises Unreachable."""
        if self._cache_choice.kind == "off":
            return Dependencies()
        try:
            return await read_dependencies(database_url(self.settings))
        except FAULTS as fault:
            raise unreadable(fault) from fault

    async def _swap(self, draft: Draft) -> None:
        """Serves another catalog, for requests that come from now on. Raises Unreachable, and then nothing has changed."""
        try:
            await self.pool.open()
            await self._open_cache(draft.dependencies)
        except FAULTS as fault:
            raise unreadable(fault) from fault
        with contextlib.suppress(GatewayError):  # then the first who asks looks again
            await self.kept.is_ready()
        self.kept.start()
        self._loaded, self._content = draft.loaded, draft.content
        if self.cache is not None:  # at once with the pipeline, which keeps what it has found in them
            self.cache.dependencies = draft.dependencies
        self._serving = self._serve_from(draft.catalog)

    async def _come_up(self, waits_for: ConfigurationError) -> None:
        """Builds the first catalog as soon as the database lets us. What is told once is not told again."""
        told = str(waits_for)
        while not self.catalog.is_built:
            self._lacks_room = str(waits_for) if isinstance(waits_for, NoRoom) else ""
            await asyncio.sleep(COMING_UP_SECONDS)
            try:
                await self.rebuild()
            except ConfigurationError as fault:
                waits_for = fault
                if str(fault) != told:
                    told = str(fault)
                    logger.warning("not ready: %s", told)
            except Exception:
                logger.exception("not ready: the catalog could not be built")
        logger.warning("ready: the database has been reached")

    def drain(self) -> None:
        """Not ready from now on, for whoever asks `/health/ready`; everything else goes on."""
        self._draining = True

    async def reload(self) -> None:
        """Serves by the files and tables of now, or goes on as before. While the first catalog is awaited, that will do."""
        if self.catalog.is_built:
            await self.reloader.reload()

    async def stop(self) -> None:
        """Closes the pool, waiting a bounded time for statements that run, and what else is open."""
        if self._coming_up is not None:
            self._coming_up.cancel()
            await asyncio.wait([self._coming_up])
        await self.kept.stop()
        if self.replicas is not None:
            await self.replicas.stop()
        await self._migrations.stop()
        await self.reloader.stop()
        await self._database.stop()
        await self.pool.close()
        if self.cache is not None:
            await self.cache.stop()
        await self.limiter.stop()
        if self._redis_breaker is not None:
            await self._redis_breaker.stop()
        if self.jwks is not None:
            await self.jwks.stop()
        if self._leaving is not None and self._shared is not None:
            self._leaving.cancel()
            self._shared.leave(self.metrics.snapshot())
        await self.traces.stop()
        await asyncio.to_thread(self.log.close)

    async def _open_cache(self, dependencies: Dependencies) -> None:
        """The cache that the settings allow. It need not be trusted yet when requests come: then the database answers."""
        if self.cache is not None:
            return
        choice = self._cache_choice
        logger.info(choice.sentence)
        if choice.kind == "off":
            return
        self.cache = make_cache(
            choice,
            database_url=database_url(self.settings),
            redis_url=self.settings.redis_url,
            name=f"{self.settings.service_name} cache",
            is_pooled=self.settings.database_pooler == "transaction",
            dependencies=dependencies,
            harmless=(Violation, NotWritten),
            observe=self.observe,
            breaker=self._redis_breaker,
        )
        await self.cache.start()

    @property
    def catalog(self) -> Catalog:
        """The catalog that is served now."""
        return self._serving.pipeline.catalog

    def _serve_from(self, catalog: Catalog) -> Serving:
        policy = Unrestricted() if self.jwks is None else Policy(catalog, self.settings.explain_roles)
        documents: dict[str, Response] = {}

        def document_of(version: str, caller: Caller | None) -> Response | None:
            """What this caller may use; None for a version that does not exist. That of callers without a token is kept."""
            if not catalog.is_built:
                raise Refused("The database has not been reached yet.")
            if version not in catalog.versions:
                return None
            if caller is None and version in documents:
                return documents[version]
            content = _document(
                self.settings,
                catalog,
                version,
                lambda resource: policy.allowed(resource, caller),
                explains=policy.may_explain(caller),
            )
            response = json_response(200, content)
            if caller is None:
                documents[version] = response
            return response

        return Serving(
            pipeline=Pipeline(
                catalog,
                self._database,
                self.cache,
                self.settings.cache_ttl_seconds,
                self.observe,
                self.gate,
                self.replicas,
                self.kept,
            ),
            policy=policy,
            limits={
                place: resource_limit(resource.definition.rate_limit, *place)
                for place, resource in catalog.resources.items()
                if self.settings.rate_limit is not None and resource.definition.rate_limit is not None
            },
            document=document_of,
            deprecations=deprecations(catalog),
        )

    def _starlette(self) -> Starlette:
        return Starlette(
            routes=[
                *health_routes(self._checks(), self._notices, lambda: self._draining),
                metrics_route(self._scrape),
                Route("/docs", _docs, methods=["GET"]),
                Route("/docs/{name}", _docs, methods=["GET"]),
            ],
            exception_handlers={HTTPException: on_http_exception, Exception: on_exception},
        )

    # --- metrics -------------------------------------------------------------------------------------------------------

    def _readings(self) -> dict[str, Reading]:
        """What the parts count or hold themselves, by the metric that tells of it."""
        pool, jwks, verifier = self.pool, self.jwks, self._verifier

        def counted(name: str) -> Reading:
            return lambda: getattr(self.cache, name, 0)  # 0 where there is no cache

        readings: dict[str, Reading] = {
            "http_requests_in_flight": lambda: self._data.in_flight,
            "db_pool_size": lambda: pool.size,
            "db_pool_active_connections": lambda: pool.active,
            "db_pool_idle_connections": lambda: pool.idle,
            "db_pool_waiting": lambda: pool.waiting,
            "db_pool_max_connections": lambda: pool.options.maximum,
            "circuit_breaker_state": lambda: {breaker.name: BREAKER_STATES[breaker.state] for breaker in self._breakers()},
            "cache_hits_total": counted("hits"),
            "cache_misses_total": counted("misses"),
            "cache_bypasses_total": counted("bypasses"),
            "cache_invalidations_total": counted("invalidations"),
            "cache_store_errors_total": counted("errors"),
            "cache_trusted": lambda: None if self.cache is None else self.cache.is_trusted,
            "rate_limit_refusals_total": lambda: self.limiter.refused,
            "rate_limit_store_errors_total": lambda: self.limiter.failures,
            "admission_limit": lambda: self.gate.limit,
            "admission_in_use": lambda: self.gate.in_use,
            "admission_queue": lambda: self.gate.waiting,
            "catalog_resources": lambda: len(self.catalog.resources),
            "catalog_broken_resources": lambda: len(self.catalog.broken),
            "catalog_version": lambda: self.reloader.version,
            "log_lines_dropped_total": lambda: self.log.dropped,
        }
        if jwks is not None and verifier is not None:
            readings |= {
                "token_cache_size": lambda: verifier.tokens_kept,
                "jwks_age_seconds": lambda: jwks.age_seconds,
                "jwks_fetches_total": lambda: {"ok": jwks.fetches - jwks.failures, "failed": jwks.failures},
            }
        if (replicas := self.replicas) is not None:
            readings["replica_lag_bytes"] = lambda: {
                health.name: health.lag_bytes for health in replicas.health() if health.lag_seconds is not None
            }
        return readings

    def _breakers(self) -> tuple[Breaker, ...]:
        return (self._database.breaker, *([self._redis_breaker] if self._redis_breaker is not None else []))

    async def _scrape(self, accept: str) -> tuple[bytes, str]:
        """The metrics of all workers. Other workers' files are read by a thread."""
        own = self.metrics.snapshot()
        if self._shared is not None:
            own = await asyncio.to_thread(self._shared.gather, own)
        return self.metrics.render(accept, own)

    async def _leave_metrics(self, shared: SharedDirectory) -> None:
        """Leaves this worker's numbers for the others, again and again."""
        while True:
            try:
                shared.leave(self.metrics.snapshot())
            except OSError as fault:
                logger.warning("metrics: this worker's numbers cannot be left for the others: %s", fault.strerror)
            await asyncio.sleep(LEAVE_METRICS_SECONDS)

    async def _live(self, receive: Receive, send: Send) -> None:
        """The lifespan protocol. Starlette's own would log an operator's mistake with its traceback."""
        await receive()
        try:
            await self.start()
        except ConfigurationError as fault:
            await send({"type": "lifespan.startup.failed", "message": str(fault)})
            return
        if self._own_process:
            settle_memory()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    def _checks(self) -> dict[str, Check]:
        checks: dict[str, Check] = {"database": self._database_is_well}
        if self.jwks is not None:
            checks["tokens"] = self.jwks.is_well
        return checks

    def _notices(self) -> Mapping[str, Notice]:
        migrations, reload, redis = self._migrations.notice, self.reloader.notice, self._redis_breaker
        broken = {f"{version}/{name}": ("broken", reason) for (version, name), reason in self.catalog.broken.items()}
        replicas = [] if self.replicas is None else self.replicas.health()
        keys = self.kept.notice if self.catalog.is_built else ""
        return {
            **broken,
            **{health.name: ("ok" if health.answers else "unavailable", str(health)) for health in replicas},
            **({HEADER: ("broken", keys)} if keys else {}),
            **({"migrations": migrations} if migrations is not None else {}),
            **({"reload": ("broken", reload)} if reload else {}),
            **({"redis": REDIS_AWAY} if redis is not None and not redis.is_closed else {}),
        }

    async def _database_is_well(self) -> tuple[bool, str]:
        try:
            async with asyncio.timeout(HEALTH_TIMEOUT_SECONDS):
                well = await self._database.is_well()
        except TimeoutError:
            return False, f"no answer within {HEALTH_TIMEOUT_SECONDS:g} s"
        if not self.catalog.is_built and self._lacks_room:
            return False, self._lacks_room
        if not well:
            circuit = "" if self._database.breaker.is_closed else " The circuit is open until a probe reaches it."
            return False, f"The database cannot be reached.{circuit}"
        if not self.catalog.is_built:
            return False, "answers, but the resources could not be read from it yet; the log says why"
        return True, "answers"


async def _docs(request: Request) -> PageResponse:
    asset = docs_asset(request.path_params.get("name", ""))
    if asset is None:
        raise HTTPException(404)
    body, content_type = asset
    return PageResponse(body, headers={"content-security-policy": DOCS_POLICY}, media_type=content_type)


def settle_memory() -> None:
    """What is there when the service has started stays for good: the collector need not look at it again.

    Going through all of it takes some 50 ms, in which nobody is answered. What requests leave behind is little, and mostly freed
    as it is let go, so that the collector may look more rarely too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _redis_breaker(url: str | None, observe: Observer) -> Breaker | None:
    """One for all that this process asks of Redis. Few calls open it, for each carries all that is in flight."""
    if not url:
        return None
    return Breaker("redis", lambda: ping(url, REDIS_PING_SECONDS), minimum_calls=REDIS_MINIMUM_CALLS, observe=observe)


def create() -> Gateway:
    """The application by the environment's settings: what each worker process calls."""
    settings = load_settings(os.environ, DOTENV)
    return Gateway(settings, _configured_log(settings), own_process=True)


def serve(settings: Settings) -> None:
    """Runs the service until SIGTERM. Raises ConfigurationError where it cannot start, KeyboardInterrupt when Ctrl-C ended it.

    Raises SystemExit where that shows only in a process that serves, which then has logged why.
    """
    check_startable(settings)
    wanted_sampling(os.environ)  # what OTEL_* hold that is nonsense stops the start, once
    log = _configured_log(settings)
    with contextlib.suppress(Unreachable):  # which each process waits for to end
        asyncio.run(assemble(settings))  # what would stop every process stops the start, once
    if settings.auth == "off":
        logger.warning("AUTH=off: every caller may read and change everything")
    stopped_by = _serve_in_workers(settings) if settings.workers > 1 else _serve_here(settings, log)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


def _serve_in_workers(settings: Settings) -> signal.Signals | None:
    os.environ["WORKERS"] = str(settings.workers)  # whether answers may be kept in memory hangs on it
    config = _server_config(settings, "gateway.app:create", factory=True, workers=settings.workers)
    supervisor = Supervisor(
        config, [config.bind_socket()], settings.shutdown_drain_seconds, settings.shutdown_timeout_seconds + POOL_CLOSE_SECONDS
    )
    with _metrics_directory():
        supervisor.run()
    if supervisor.failed:
        raise SystemExit(1)
    return supervisor.stopped_by


def _serve_here(settings: Settings, log: Log) -> signal.Signals | None:
    server = Server(_server_config(settings, Gateway(settings, log, own_process=True)), settings.shutdown_drain_seconds)
    try:
        server.run()
    except SystemExit:  # uvicorn's own status for this is 3
        raise SystemExit(1) from None
    return server.stopped_by


def _server_config(settings: Settings, application: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # uvicorn would believe X-Forwarded-For of every local peer; `edge` believes TRUSTED_PROXIES alone
        lifespan="on",
        timeout_graceful_shutdown=settings.shutdown_timeout_seconds,
        **options,
    )


@contextlib.contextmanager
def _metrics_directory() -> Iterator[None]:
    """Where the workers leave their numbers for each other."""
    with tempfile.TemporaryDirectory(prefix="gateway-metrics-") as directory:
        os.environ[DIRECTORY_VARIABLE] = directory
        try:
            yield
        finally:
            del os.environ[DIRECTORY_VARIABLE]


def make_log(settings: Settings) -> Log:
    """The log, by the settings, on standard error."""
    return Log(settings.service_name, settings.log_level, settings.log_slow_seconds)


def _configured_log(settings: Settings) -> Log:
    log = make_log(settings)
    configure(log, settings.log_level)
    return log
