"""Settings: one row per environment variable, read once at the start.

Takes the environment and a `.env` file, gives a frozen `Settings`, or one ConfigurationError with every fault in it. What is
kept secret is never told: a password in a URL is masked, and of an unknown name only the name is shown.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from gateway.dsn import hosts, session_attributes
from gateway.errors import ConfigurationError


class Settings(msgspec.Struct, frozen=True):
    """What `VARIABLES` say, parsed. None is "not set", or "off" for `rate_limit`."""

    database_url: str | None
    database_pooler: Literal["none", "transaction"]
    database_replica_urls: tuple[str, ...]
    database_replica_max_lag_seconds: float
    database_pool_min: int
    database_pool_max: int
    database_idle_seconds: float
    database_statement_timeout_seconds: float
    database_acquire_timeout_seconds: float
    redis_url: str | None
    cache_ttl_seconds: float
    rate_limit: str | None
    auth: Literal["on", "off"]
    auth_jwks_url: str | None
    auth_issuer: str | None
    auth_audience: str | None
    auth_jwks_max_age_seconds: float
    auth_algorithms: tuple[str, ...]
    auth_roles_claim: str
    explain_roles: tuple[str, ...]
    resources_dir: Path
    host: str
    port: int
    workers: int
    log_level: str
    log_slow_seconds: float
    trace_sql_comments: bool
    server_timing: Literal["asked", "on", "off"]
    service_name: str
    cors_origins: tuple[str, ...]
    trusted_proxies: tuple[str, ...]
    max_body_bytes: int
    idempotency_keep_seconds: float
    shutdown_drain_seconds: float
    shutdown_timeout_seconds: int

    def __repr__(self) -> str:
        """Every setting, with the passwords in URLs masked: a log line or a traceback may show it."""
        shown = {name: getattr(self, name) for name in self.__struct_fields__}
        shown |= {name: masked(shown[name]) for name in ("database_url", "redis_url") if shown[name]}
        shown["database_replica_urls"] = tuple(masked(url) for url in self.database_replica_urls)
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


class Kind(msgspec.Struct, frozen=True):
    """How a text becomes a value. `parse` raises ValueError for what it does not take; `takes` says in words what it does.

    A URL may hold a password, so it is shown masked.
    """

    parse: Callable[[str], Any]
    takes: str
    is_url: bool = False


class Variable(msgspec.Struct, frozen=True):
    """One setting. `default` is text, as it would stand in the environment; None leaves the setting unset."""

    name: str
    kind: Kind
    default: str | None
    unit: str
    help: str

    @property
    def attribute(self) -> str:
        """The name of the setting in `Settings`."""
        return self.name.lower()


ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""RFC 7518, 3.1 and RFC 8037: the asymmetric ones. A shared secret would let every verifier sign."""

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def _matching(pattern: str, value: str) -> str:
    if not re.fullmatch(pattern, value):
        raise ValueError(value)
    return value


def _whole(low: int, high: int) -> Kind:
    def parse(value: str) -> int:
        number = int(_matching(r"[0-9]{1,15}", value))
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return Kind(parse, f"a whole number from {low} to {high}")


def _number(low: float, high: float) -> Kind:
    def parse(value: str) -> float:
        number = float(_matching(r"[0-9]{1,15}(\.[0-9]{1,15})?", value))
        if not low <= number <= high:
            raise ValueError(value)
        return number

    return Kind(parse, f"a number from {low:g} to {high:.15g}")


def _one_of(*choices: str) -> Kind:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(value)
        return value

    return Kind(parse, f"{', '.join(choices[:-1])} or {choices[-1]}")


def _url(schemes: tuple[str, ...], takes: str) -> Kind:
    def parse(value: str) -> str | None:
        if not value:
            return None
        parts = urlsplit(_matching(r"[^\s\x00-\x1f\x7f]+", value))
        if parts.scheme not in schemes or not value.startswith(f"{parts.scheme}://") or parts.port == 0:
            raise ValueError(value)
        if parts.scheme in ("http", "https") and not parts.hostname:
            raise ValueError(value)
        return value

    return Kind(parse, takes, is_url=True)


def _postgres(value: str) -> str | None:
    """A PostgreSQL's URL, which may name several hosts."""
    if not value:
        return None
    if not _matching(r"[^\s\x00-\x1f\x7f]+", value).startswith("postgresql://"):
        raise ValueError(value)
    hosts(value)
    session_attributes(value)
    return value


def _redis(value: str) -> str | None:
    """A Redis's URL: what follows the host is a database's number, which the client would else take to be 0."""
    found: str | None = _ANY_REDIS(value)
    if found and not found.startswith("unix:"):
        _matching(r"(/[0-9]*)?", urlsplit(found).path)
    return found


def _replica(value: str) -> str:
    """A URL of one server: what is known of a replica is known of that server."""
    if not _postgres(value) or len(hosts(value)) > 1:
        raise ValueError(value)
    return value


def _list(item: Callable[[str], str], takes: str, *, least: int = 0, is_url: bool = False) -> Kind:
    def parse(value: str) -> tuple[str, ...]:
        items = tuple(item(part.strip()) for part in value.split(",")) if value.strip() else ()
        if len(items) < least:
            raise ValueError(value)
        return items

    return Kind(parse, takes, is_url=is_url)


def _algorithm(value: str) -> str:
    if value not in ALGORITHMS:
        raise ValueError(value)
    return value


def _network(value: str) -> str:
    ipaddress.ip_network(value)
    return value


def _origin(value: str) -> str:
    """An origin as browsers send it (RFC 6454, 6.2): scheme, host and port, and nothing after them."""
    if value != "*":
        parts = urlsplit(_matching(r"https?://[^\s/?#@]+", value))
        if not parts.hostname or parts.port == 0:
            raise ValueError(value)
    return value


def _role(value: str) -> str:
    return _matching(r"[^\s\x00-\x1f\x7f,]{1,200}", value)


def _rate(value: str) -> str | None:
    return None if value == "off" else _matching(r"[1-9][0-9]{0,8}/(second|minute|hour|day)", value)


_SWITCH = Kind(lambda value: _one_of("on", "off").parse(value) == "on", "on or off")
_TEXT = Kind(lambda value: value or None, "a text")
_NAME = Kind(lambda value: _matching(r"[^\x00-\x20\x7f]{1,200}", value), "a name without spaces")
_DATABASE_URL = Kind(_postgres, "postgresql://user:password@host:port/database", is_url=True)
_ANY_REDIS = _url(("redis", "rediss", "unix"), "").parse
_REDIS_URL = Kind(_redis, "redis://host:port/0, rediss://… or unix:///path", is_url=True)
_WEB_URL = _url(("https", "http"), "https://…")
_DIRECTORY = Kind(lambda value: Path(_matching(r"[^\x00]+", value)), "a directory")
_POSITIVE_SECONDS = _number(0.001, 3600)

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "DATABASE_URL",
        _DATABASE_URL,
        None,
        "",
        "the PostgreSQL to serve; of several host:port,host:port the one that takes writes; `gateway dev` makes one",
    ),
    Variable("DATABASE_POOLER", _one_of("none", "transaction"), "none", "", "what stands before the database, such as PgBouncer"),
    Variable(
        "DATABASE_REPLICA_URLS",
        _list(_replica, "a list of postgresql://user:password@host:port/database, each of one server", is_url=True),
        "",
        "",
        "streaming replicas that answer GETs; empty: the primary answers all",
    ),
    Variable(
        "DATABASE_REPLICA_MAX_LAG_SECONDS",
        _number(0.5, 3600),
        "5",
        "seconds",
        "how old a replica's answer may be",
    ),
    Variable("DATABASE_POOL_MIN", _whole(0, 1000), "5", "connections", "kept open by each process"),
    Variable("DATABASE_POOL_MAX", _whole(1, 1000), "20", "connections", "at most, of each process"),
    Variable("DATABASE_IDLE_SECONDS", _number(1, 86400), "30", "seconds", "then an idle connection above the minimum is closed"),
    Variable("DATABASE_STATEMENT_TIMEOUT_SECONDS", _POSITIVE_SECONDS, "5", "seconds", "a statement may take; also per resource"),
    Variable("DATABASE_ACQUIRE_TIMEOUT_SECONDS", _POSITIVE_SECONDS, "1", "seconds", "to wait for a pool slot, then 503"),
    Variable("REDIS_URL", _REDIS_URL, "", "", "cache and rate limits; empty: the memory of the process"),
    Variable(
        "CACHE_TTL_SECONDS", _number(0, 366 * 86400), "60", "seconds", "an answer is kept; 0 turns it off; also per resource"
    ),
    Variable(
        "RATE_LIMIT", Kind(_rate, "N/second, N/minute, N/hour, N/day or off"), "100/minute", "", "per client; also per resource"
    ),
    Variable("AUTH", _one_of("on", "off"), "on", "", "off: every caller may do everything"),
    Variable("AUTH_JWKS_URL", _WEB_URL, None, "", "the issuer's keys; needed unless AUTH=off"),
    Variable("AUTH_ISSUER", _TEXT, None, "", "the `iss` of a token; needed unless AUTH=off"),
    Variable("AUTH_AUDIENCE", _TEXT, None, "", "the `aud` of a token; needed unless AUTH=off"),
    Variable("AUTH_JWKS_MAX_AGE_SECONDS", _number(60, 30 * 86400), "86400", "seconds", "old keys go on while the issuer is down"),
    Variable(
        "AUTH_ALGORITHMS",
        _list(_algorithm, f"a list of {', '.join(ALGORITHMS)}", least=1),
        "RS256,ES256,EdDSA",
        "",
        "asymmetric only",
    ),
    Variable("AUTH_ROLES_CLAIM", _NAME, "roles", "", "the claim with the caller's roles, a string or a list"),
    Variable("EXPLAIN_ROLES", _list(_role, "a list of roles"), "", "", "who may see the plans of what they read"),
    Variable("RESOURCES_DIR", _DIRECTORY, "resources", "", "where the resource files lie"),
    Variable("HOST", _NAME, "127.0.0.1", "", "address to listen on"),
    Variable("PORT", _whole(0, 65535), "8000", "", "port to listen on; 0: any free one"),
    Variable("WORKERS", _whole(1, 256), "1", "processes", "how many serve; more than one need REDIS_URL to cache"),
    Variable("LOG_LEVEL", _one_of(*LOG_LEVELS), "info", "", "least severe message that is logged"),
    Variable("LOG_SLOW_SECONDS", _number(0, 3600), "1", "seconds", "a statement takes, and then has a line in the log"),
    Variable("TRACE_SQL_COMMENTS", _SWITCH, "off", "", "on: statements of sampled requests end with their traceparent"),
    Variable(
        "SERVER_TIMING", _one_of("asked", "on", "off"), "asked", "", "who is told where a request's time went: all, with on"
    ),
    Variable("SERVICE_NAME", _NAME, "db-service", "", "name in logs, metrics and traces"),
    Variable(
        "CORS_ORIGINS",
        _list(_origin, "a list of origins such as https://app.example.com, or *"),
        "",
        "",
        "browser origins that may call",
    ),
    Variable(
        "TRUSTED_PROXIES",
        _list(_network, "a list of addresses and networks such as 10.0.0.0/8; no *"),
        "",
        "",
        "whose X-Forwarded-For counts",
    ),
    Variable("MAX_BODY_BYTES", _whole(1, 2**30), "1048576", "bytes", "of a request's body"),
    Variable(
        "IDEMPOTENCY_KEEP_SECONDS",
        _number(60, 30 * 86400),
        "86400",
        "seconds",
        "an answer is kept under its Idempotency-Key, at the least",
    ),
    Variable(
        "SHUTDOWN_DRAIN_SECONDS", _number(0, 600), "2", "seconds", "served on after SIGTERM, not ready, for balancers to notice"
    ),
    Variable("SHUTDOWN_TIMEOUT_SECONDS", _whole(1, 600), "10", "seconds", "then, for what is in flight to finish"),
)
"""Every setting, in the order that people read them."""

_BY_NAME = {variable.name: variable for variable in VARIABLES}
_OUR_PREFIXES = ("DATABASE_", "AUTH_", "CACHE_", "RATE_LIMIT", "CORS_", "TRUSTED_", "SHUTDOWN_")
# What Kubernetes and Docker set for a neighbour that happens to be called "auth" or "database", as NAME=VALUE.
_SERVICE_LINK = re.compile(
    r"\w+_(SERVICE_HOST=.*|SERVICE_PORT(_\w+)?=.*|PORT(_\d+_[A-Z]+)?=[a-z]+://.*|PORT_\d+_[A-Z]+_(PROTO|PORT|ADDR)=.*)"
)


class _Given(msgspec.Struct, frozen=True):
    """One variable's text, and where it stands: "" for the environment, " (.env, line 3)" for the file."""

    value: str
    where: str = ""


def load_settings(
    environ: Mapping[str, str], dotenv: Path | None = Path(".env"), defaults: Mapping[str, str] | None = None
) -> Settings:
    """The settings of `environ`, and of the file `dotenv` for what it lacks; a missing file is an empty one.

    `defaults` stand before those of `VARIABLES`, for a command that has others.

    Raises ConfigurationError with a line for every fault: a bad value, a misspelt name, a line of the file that is none.
    Variables that are neither ours nor close to ours are left alone, as are OTEL_*.
    """
    faults: list[str] = []
    given = {name: _Given(value) for name, value in (defaults or {}).items()}
    given |= _read_dotenv(dotenv, faults) if dotenv is not None else {}
    given |= {name: _Given(value) for name, value in environ.items()}
    faults += _misspelt(given)
    values = {variable.attribute: _value(variable, given, faults) for variable in VARIABLES}
    faults += _contradictions(values, given)
    if faults:
        raise ConfigurationError("\n".join(faults))
    return Settings(**values)


def check_startable(settings: Settings) -> None:
    """Raises ConfigurationError where `serve` cannot start with these settings: no database, or no way to verify tokens."""
    faults = [] if settings.database_url else [_missing_database()]
    if settings.auth == "on":
        needed = ("AUTH_JWKS_URL", "AUTH_ISSUER", "AUTH_AUDIENCE")
        unset = [name for name in needed if getattr(settings, name.lower()) is None]
        if unset:
            faults.append(
                f"{', '.join(unset)}: not set; needed to verify tokens, unless AUTH=off lets every caller do everything"
            )
    if faults:
        raise ConfigurationError("\n".join(faults))


def database_url(settings: Settings) -> str:
    """`DATABASE_URL`, for the commands that cannot do without. Raises ConfigurationError where it is not set."""
    if settings.database_url is None:
        raise ConfigurationError(_missing_database())
    return settings.database_url


def masked(url: str) -> str:
    """A URL without what may be a password, to be shown; what is no URL is not shown at all."""
    scheme, separator, rest = url.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        return "***" if url else ""
    rest = re.sub(r"([?&][^=&]*(?:pass|secret|token)[^=&]*=)[^&]*", r"\1***", rest, flags=re.IGNORECASE)
    user_info, at, address = rest.rpartition("@")
    user, colon, _ = user_info.partition(":")
    # "user:password" where "host:port" belongs: an @ was forgotten.
    address = address if at else re.sub(r"^([^:/?#]*):(?![0-9]*([/?#]|$)).*", r"\1:***", address)
    return f"{scheme}://{f'{user}:***' if colon else '***' if user else ''}{at}{address}"


def describe_variables() -> str:
    """The table of settings for `--help`: aligned columns of name, default and meaning."""
    rows = [(variable.name, _default(variable), _meaning(variable)) for variable in VARIABLES]
    rows.append(("OTEL_*", "the standard ones", "tracing; off until an exporter is set"))
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return "\n".join(f"{name:<{widths[0]}}  {default:<{widths[1]}}  {meaning}" for name, default, meaning in rows)


def markdown_table() -> str:
    """The table of settings for the documents."""
    rows = [
        f"| `{variable.name}` | {_code(_default(variable))} | {_meaning(variable)} | {variable.kind.takes} |"
        for variable in VARIABLES
    ]
    rows.append("| `OTEL_*` | the standard ones | tracing; off until an exporter is set | |")
    return "\n".join(["| variable | default | meaning | takes |", "| --- | --- | --- | --- |", *rows])


def _missing_database() -> str:
    return f"DATABASE_URL: not set; takes {_DATABASE_URL.takes}"


def _default(variable: Variable) -> str:
    return {None: "none", "": "empty"}.get(variable.default, variable.default or "")


def _code(default: str) -> str:
    return default if default in ("none", "empty") else f"`{default}`"


def _meaning(variable: Variable) -> str:
    return f"{variable.unit}: {variable.help}" if variable.unit else variable.help


def _value(variable: Variable, given: Mapping[str, _Given], faults: list[str]) -> Any:
    """A variable's parsed value; a fault and None where it does not parse."""
    stands = given.get(variable.name, _Given(variable.default) if variable.default is not None else None)
    if stands is None:
        return None
    try:
        return variable.kind.parse(stands.value)
    except ValueError:
        faults.append(f"{variable.name}: held {_shown(variable, stands.value)}; takes {variable.kind.takes}{stands.where}")
        return None


def _shown(variable: Variable, value: str) -> str:
    value = masked(value) if variable.kind.is_url else value
    return json.dumps(value if len(value) <= 200 else value[:197] + "...", ensure_ascii=not value.isprintable())


def _contradictions(values: Mapping[str, Any], given: Mapping[str, _Given]) -> Iterator[str]:
    least, most = values["database_pool_min"], values["database_pool_max"]
    if least is not None and most is not None and least > most:
        held = f'held "{least}"' if "DATABASE_POOL_MIN" in given else f"is {least} unless set"
        yield f"DATABASE_POOL_MIN: {held}; takes no more than DATABASE_POOL_MAX, which is {most}"


def _misspelt(given: Mapping[str, _Given]) -> Iterator[str]:
    for name, stands in given.items():
        if name in _BY_NAME or name.startswith("OTEL_") or _SERVICE_LINK.fullmatch(f"{name}={stands.value}"):
            continue
        close = _closest(name.upper())
        if close or name.upper().startswith(_OUR_PREFIXES):
            hint = f'Did you mean "{close}"?' if close else f"Ours are {', '.join(_family(name.upper()))}."
            yield f"{name}: there is no such setting. {hint}{stands.where}"


def _closest(name: str) -> str:
    """The variable that a name is most likely a slip of, or "": short names are close to too much."""
    if len(name) < 5:
        return ""
    close = get_close_matches(name, _BY_NAME, n=1, cutoff=0.85)
    return close[0] if close else ""


def _family(name: str) -> Iterator[str]:
    prefix = next(prefix for prefix in _OUR_PREFIXES if name.startswith(prefix))
    return (known for known in _BY_NAME if known.startswith(prefix))


# A line of a .env file: export NAME='as it is', or "with \" \\ \n \r \t", or plain, each with a # comment after a space.
_DOTENV_LINE = re.compile(r"\s*(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)", re.DOTALL)
_DOTENV_QUOTED = re.compile(r"""\s*(?:'(?P<single>[^']*)'|"(?P<double>(?:[^"\\]|\\.)*)")\s*(?:(?<=\s)#.*)?""", re.DOTALL)
_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


def _read_dotenv(path: Path, faults: list[str]) -> dict[str, _Given]:
    """The variables of a .env file; nothing is interpolated. A fault tells the line and never what stands there."""
    given: dict[str, _Given] = {}
    for number, line in enumerate(_dotenv_text(path, faults).split("\n"), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        found = _DOTENV_LINE.fullmatch(line)
        value = _dotenv_value(found[2]) if found else None
        if found is None or value is None:
            faults.append(f'{path}:{number}: not a setting; a line is NAME=VALUE, NAME="VALUE" or # a comment')
        elif found[1] in given:
            faults.append(f"{path}:{number}: {found[1]} is set further up already")
        else:
            given[found[1]] = _Given(value, f" ({path}, line {number})")
    return given


def _dotenv_text(path: Path, faults: list[str]) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except OSError as error:
        faults.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{path}: not UTF-8")
    return ""


def _dotenv_value(written: str) -> str | None:
    """The value of what stands after the `=`; None for a quote that is not closed, or text after one that is."""
    if not written.lstrip().startswith(("'", '"')):
        return re.sub(r"(^|\s)#.*", "", written, flags=re.DOTALL).strip()
    found = _DOTENV_QUOTED.fullmatch(written)
    if found is None or found["single"] is not None:
        return found and found["single"]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[1]), found["double"])
