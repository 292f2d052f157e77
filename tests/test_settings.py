"""Settings: what each variable takes, what stops the start, and what is never shown."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import ConfigurationError
from gateway.settings import (
    VARIABLES,
    Settings,
    check_startable,
    database_url,
    describe_variables,
    load_settings,
    markdown_table,
    masked,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "settings.md"


def faults_of(environ: dict[str, str], dotenv: Path | None = None) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load_settings(environ, dotenv)
    return str(caught.value).split("\n")


def test_defaults_are_the_contracts() -> None:
    settings = load_settings({}, None)
    assert settings == Settings(
        database_url=None,
        database_pooler="none",
        database_replica_urls=(),
        database_replica_max_lag_seconds=5.0,
        database_pool_min=5,
        database_pool_max=20,
        database_idle_seconds=30.0,
        database_statement_timeout_seconds=5.0,
        database_acquire_timeout_seconds=1.0,
        redis_url=None,
        cache_ttl_seconds=60.0,
        rate_limit="100/minute",
        auth="on",
        auth_jwks_url=None,
        auth_issuer=None,
        auth_audience=None,
        auth_jwks_max_age_seconds=86400.0,
        auth_algorithms=("RS256", "ES256", "EdDSA"),
        auth_roles_claim="roles",
        explain_roles=(),
        resources_dir=Path("resources"),
        host="127.0.0.1",
        port=8000,
        workers=1,
        log_level="info",
        log_slow_seconds=1.0,
        trace_sql_comments=False,
        server_timing="asked",
        service_name="db-service",
        cors_origins=(),
        trusted_proxies=(),
        max_body_bytes=1048576,
        idempotency_keep_seconds=86400,
        shutdown_drain_seconds=2.0,
        shutdown_timeout_seconds=10,
    )


GOOD = [
    ("SHUTDOWN_DRAIN_SECONDS", "0", 0.0),
    ("SHUTDOWN_TIMEOUT_SECONDS", "30", 30),
    ("DATABASE_URL", "postgresql://u:p@h:5432/d", "postgresql://u:p@h:5432/d"),
    ("DATABASE_URL", "postgresql://postgres@/postgres?host=/some/dir", "postgresql://postgres@/postgres?host=/some/dir"),
    ("DATABASE_URL", "", None),
    ("DATABASE_POOLER", "transaction", "transaction"),
    ("DATABASE_URL", "postgresql://u:p@one:5432,two:5433/d", "postgresql://u:p@one:5432,two:5433/d"),
    (
        "DATABASE_REPLICA_URLS",
        "postgresql://u:p@one/d, postgresql://u:p@two/d",
        ("postgresql://u:p@one/d", "postgresql://u:p@two/d"),
    ),
    ("DATABASE_REPLICA_MAX_LAG_SECONDS", "0.5", 0.5),
    ("DATABASE_POOL_MIN", "0", 0),
    ("DATABASE_POOL_MAX", "1000", 1000),
    ("DATABASE_IDLE_SECONDS", "1.5", 1.5),
    ("DATABASE_STATEMENT_TIMEOUT_SECONDS", "0.25", 0.25),
    ("DATABASE_ACQUIRE_TIMEOUT_SECONDS", "3600", 3600.0),
    ("REDIS_URL", "", None),
    ("REDIS_URL", "rediss://:p@h:6379/0", "rediss://:p@h:6379/0"),
    ("REDIS_URL", "unix:///run/valkey.sock", "unix:///run/valkey.sock"),
    ("REDIS_URL", "redis://h/", "redis://h/"),
    ("CACHE_TTL_SECONDS", "0", 0.0),
    ("RATE_LIMIT", "off", None),
    ("RATE_LIMIT", "5/second", "5/second"),
    ("AUTH", "off", "off"),
    ("AUTH_JWKS_URL", "https://issuer.example/jwks.json", "https://issuer.example/jwks.json"),
    ("AUTH_ISSUER", "https://issuer.example/", "https://issuer.example/"),
    ("AUTH_AUDIENCE", "", None),
    ("AUTH_JWKS_MAX_AGE_SECONDS", "60", 60.0),
    ("AUTH_ALGORITHMS", "PS512, ES384", ("PS512", "ES384")),
    ("AUTH_ROLES_CLAIM", "realm_access.roles", "realm_access.roles"),
    ("RESOURCES_DIR", "/srv/resources", Path("/srv/resources")),
    ("HOST", "::", "::"),
    ("PORT", "0", 0),
    ("WORKERS", "8", 8),
    ("LOG_LEVEL", "warning", "warning"),
    ("LOG_SLOW_SECONDS", "0", 0.0),
    ("TRACE_SQL_COMMENTS", "on", True),
    ("SERVER_TIMING", "on", "on"),
    ("EXPLAIN_ROLES", "admin, dba", ("admin", "dba")),
    ("SERVICE_NAME", "shop", "shop"),
    ("CORS_ORIGINS", "https://a.example, http://localhost:3000", ("https://a.example", "http://localhost:3000")),
    ("CORS_ORIGINS", "*", ("*",)),
    ("TRUSTED_PROXIES", "10.0.0.0/8,::1", ("10.0.0.0/8", "::1")),
    ("MAX_BODY_BYTES", "1", 1),
    ("IDEMPOTENCY_KEEP_SECONDS", "60", 60),
]


@pytest.mark.parametrize(("name", "text", "value"), GOOD)
def test_setting_takes(name: str, text: str, value: object) -> None:
    assert getattr(load_settings({"DATABASE_POOL_MIN": "0", name: text}, None), name.lower()) == value


BAD = [
    ("DATABASE_URL", "postgres://u:p@h/d"),
    ("DATABASE_URL", "postgresql+asyncpg://h/d"),
    ("DATABASE_URL", "postgresql://h:port/d"),
    ("DATABASE_URL", "postgresql:h"),
    ("DATABASE_POOLER", "session"),
    ("DATABASE_URL", "postgresql://one,two/d?target_session_attrs=writer"),
    ("DATABASE_REPLICA_URLS", "postgresql://u:p@one,two/d"),
    ("DATABASE_REPLICA_URLS", "postgresql://u@/d?host=/one,/two"),
    ("DATABASE_REPLICA_URLS", "one"),
    ("DATABASE_REPLICA_MAX_LAG_SECONDS", "0"),
    ("DATABASE_POOL_MIN", "-1"),
    ("DATABASE_POOL_MIN", "1001"),
    ("DATABASE_POOL_MAX", "0"),
    ("DATABASE_POOL_MAX", "٣"),
    ("DATABASE_IDLE_SECONDS", "0"),
    ("DATABASE_STATEMENT_TIMEOUT_SECONDS", "nan"),
    ("DATABASE_STATEMENT_TIMEOUT_SECONDS", "0"),
    ("DATABASE_ACQUIRE_TIMEOUT_SECONDS", "inf"),
    ("REDIS_URL", "http://h"),
    ("REDIS_URL", "redis://h/abc"),
    ("REDIS_URL", "rediss://h:6379/0/1"),
    ("CACHE_TTL_SECONDS", "1e9999"),
    ("CACHE_TTL_SECONDS", "-1"),
    ("RATE_LIMIT", "0/minute"),
    ("RATE_LIMIT", "5/week"),
    ("RATE_LIMIT", ""),
    ("AUTH", "yes"),
    ("AUTH", "OFF"),
    ("AUTH_JWKS_URL", "issuer.example/jwks"),
    ("AUTH_JWKS_MAX_AGE_SECONDS", "0"),
    ("AUTH_JWKS_MAX_AGE_SECONDS", "1d"),
    ("AUTH_ALGORITHMS", "RS256,HS256"),
    ("AUTH_ALGORITHMS", "none"),
    ("AUTH_ALGORITHMS", ""),
    ("AUTH_ROLES_CLAIM", ""),
    ("RESOURCES_DIR", ""),
    ("HOST", "local host"),
    ("PORT", "65536"),
    ("PORT", " 80"),
    ("PORT", "1_000"),
    ("PORT", ""),
    ("WORKERS", "0"),
    ("WORKERS", "9" * 5000),
    ("LOG_LEVEL", "loud"),
    ("LOG_SLOW_SECONDS", "-1"),
    ("TRACE_SQL_COMMENTS", "yes"),
    ("SERVER_TIMING", "always"),
    ("EXPLAIN_ROLES", "admin,,dba"),
    ("SERVICE_NAME", ""),
    ("CORS_ORIGINS", "https://a.example/path"),
    ("CORS_ORIGINS", "a.example"),
    ("SHUTDOWN_DRAIN_SECONDS", "601"),
    ("SHUTDOWN_TIMEOUT_SECONDS", "1.5"),
    ("TRUSTED_PROXIES", "*"),
    ("TRUSTED_PROXIES", "10.0.0.1/8"),
    ("TRUSTED_PROXIES", "10.0.0.1,,"),
    ("MAX_BODY_BYTES", "1048577.5"),
    ("MAX_BODY_BYTES", "99999999999"),
    ("IDEMPOTENCY_KEEP_SECONDS", "59"),
]


@pytest.mark.parametrize(("name", "text"), BAD)
def test_bad_value_stops_the_start_with_its_name_what_it_held_and_what_it_takes(name: str, text: str) -> None:
    [fault] = faults_of({name: text})
    takes = next(variable.kind.takes for variable in VARIABLES if variable.name == name)
    assert fault.startswith(f'{name}: held "')
    assert fault.endswith(f'"; takes {takes}')


def test_every_setting_is_exercised_well_and_badly() -> None:
    names = {variable.name for variable in VARIABLES}
    assert {name for name, _, _ in GOOD} == names
    assert {name for name, _ in BAD} == names - {"AUTH_ISSUER", "AUTH_AUDIENCE"}, "any text is an issuer"


def test_every_setting_has_an_attribute_and_the_other_way_round() -> None:
    assert tuple(variable.attribute for variable in VARIABLES) == Settings.__struct_fields__


def test_every_fault_is_told_at_once() -> None:
    assert faults_of({"RATE_LIMT": "1/second", "WORKERS": "0", "AUTH": "maybe", "DATABASE_POOL_MAX": "3"}) == [
        'RATE_LIMT: there is no such setting. Did you mean "RATE_LIMIT"?',
        'AUTH: held "maybe"; takes on or off',
        'WORKERS: held "0"; takes a whole number from 1 to 256',
        "DATABASE_POOL_MIN: is 5 unless set; takes no more than DATABASE_POOL_MAX, which is 3",
    ]


def test_pool_minimum_above_the_maximum_is_refused() -> None:
    [fault] = faults_of({"DATABASE_POOL_MIN": "30", "DATABASE_POOL_MAX": "20"})
    assert fault == 'DATABASE_POOL_MIN: held "30"; takes no more than DATABASE_POOL_MAX, which is 20'


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("DATABSE_URL", "DATABASE_URL"),
        ("DATABASE_POOL_MAXX", "DATABASE_POOL_MAX"),
        ("REDIS_URI", "REDIS_URL"),
        ("LOGLEVEL", "LOG_LEVEL"),
        ("log_level", "LOG_LEVEL"),
        ("RESOURCE_DIR", "RESOURCES_DIR"),
        ("TRUSTED_PROXY", "TRUSTED_PROXIES"),
    ],
)
def test_misspelt_setting_is_named_with_what_was_meant(name: str, meant: str) -> None:
    assert faults_of({name: "x"}) == [f'{name}: there is no such setting. Did you mean "{meant}"?']


def test_unknown_setting_of_our_family_is_named_with_the_family() -> None:
    assert faults_of({"CACHE_SIZE": "9"}) == ["CACHE_SIZE: there is no such setting. Ours are CACHE_TTL_SECONDS."]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PATH", "/bin"),
        ("HOSTNAME", "h"),
        ("HOME", "/"),
        ("OTEL_SERVICE_NAME", "x"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://h"),
        ("PYTHONPATH", ""),
        ("REDIS_PORT", "tcp://10.0.0.1:6379"),
        ("AUTH_SERVICE_HOST", "10.0.0.1"),
        ("AUTH_SERVICE_PORT_HTTP", "80"),
        ("AUTH_PORT", "tcp://10.0.0.1:80"),
        ("DATABASE_PORT_5432_TCP", "tcp://10.0.0.1:5432"),
        ("DATABASE_PORT_5432_TCP_ADDR", "10.0.0.1"),
    ],
)
def test_names_of_others_are_left_alone(name: str, value: str) -> None:
    assert load_settings({name: value}, None) == load_settings({}, None)


def test_environment_wins_over_the_dotenv_file(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=1\nWORKERS=2\n")
    settings = load_settings({"PORT": "9"}, dotenv)
    assert (settings.port, settings.workers) == (9, 2)


def test_missing_dotenv_file_is_an_empty_one(tmp_path: Path) -> None:
    assert load_settings({}, tmp_path / ".env") == load_settings({}, None)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("SERVICE_NAME=shop", "shop"),
        ("export SERVICE_NAME=shop", "shop"),
        ("  SERVICE_NAME = shop  ", "shop"),
        ("SERVICE_NAME=shop # ours", "shop"),
        ("SERVICE_NAME=shop#1", "shop#1"),
        ("SERVICE_NAME='sh\\op' # ours", "sh\\op"),
        ('SERVICE_NAME="sh\\"o\\\\p"', 'sh"o\\p'),
        ("SERVICE_NAME=$HOME", "$HOME"),
        ("SERVICE_NAME=shop\r", "shop"),
        ("\ufeffSERVICE_NAME=shop", "shop"),
        ("# a comment\n\nSERVICE_NAME=shop", "shop"),
    ],
)
def test_dotenv_line_is_read(tmp_path: Path, line: str, value: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(f"{line}\n".encode())
    assert load_settings({}, dotenv).service_name == value


@pytest.mark.parametrize(
    "line", ["secret", "=secret", "1A=secret", "A='secret", 'A="secret', "A='secret' more", "A B=secret", "A-B=secret"]
)
def test_bad_dotenv_line_is_reported_with_its_number_and_without_its_content(tmp_path: Path, line: str) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(f"PORT=1\n{line}\n")
    [fault] = faults_of({}, dotenv)
    assert fault.startswith(f"{dotenv}:2: not a setting")
    assert "secret" not in fault


def test_name_set_twice_in_the_dotenv_file_is_refused(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("PORT=1\n\nPORT=2\n")
    assert faults_of({}, dotenv) == [f"{dotenv}:3: PORT is set further up already"]


def test_fault_of_a_dotenv_value_tells_the_line(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text("\nPORT=x\nCACHE_X=1\n")
    assert faults_of({}, dotenv) == [
        f"CACHE_X: there is no such setting. Ours are CACHE_TTL_SECONDS. ({dotenv}, line 3)",
        f'PORT: held "x"; takes a whole number from 0 to 65535 ({dotenv}, line 2)',
    ]


def test_unreadable_dotenv_file_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"PORT=\xff\n")
    assert faults_of({}, tmp_path / "latin") == [f"{tmp_path / 'latin'}: not UTF-8"]
    assert faults_of({}, tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/d", "postgresql://u:***@h/d"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:***@h/d"),
        ("postgresql://postgres@/postgres?host=/x", "postgresql://***@/postgres?host=/x"),
        ("postgresql://user:secret", "postgresql://user:***"),
        ("postgresql://user:sec/ret", "postgresql://user:***"),
        ("postgresql://h:5432/d?password=a@b&x=1", "postgresql://h:5432/d?password=***&x=1"),
        ("redis://:p@h", "redis://:***@h"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("host=h password=p", "***"),
        ("", ""),
    ],
)
def test_password_is_masked(url: str, shown: str) -> None:
    assert masked(url) == shown


@given(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1))
@example("a@b")
@example("a/b?c=d&password=e")
def test_no_message_shows_a_password(password: str) -> None:
    marked = f"Kq{password}Kq"
    for name in ("DATABASE_URL", "REDIS_URL"):
        with pytest.raises(ConfigurationError) as caught:
            load_settings({name: f"mysql://user:{marked}@host:1/d", "WORKERS": "0"}, None)
        assert "Kq" not in str(caught.value)


def test_representation_shows_no_password() -> None:
    settings = load_settings({"DATABASE_URL": "postgresql://u:secret@h/d", "REDIS_URL": "redis://:secret@h"}, None)
    assert "secret" not in repr(settings)
    assert "postgresql://u:***@h/d" in repr(settings)


@given(st.dictionaries(st.sampled_from([variable.name for variable in VARIABLES]), st.text(max_size=40), max_size=6))
@example({"DATABASE_URL": "postgresql://["})
@example({"AUTH_JWKS_URL": "https://\u2100.example"})
def test_any_environment_gives_settings_or_one_line_a_fault(environ: dict[str, str]) -> None:
    outcome = outcome_of(environ, None)
    if isinstance(outcome, Settings):
        values = [getattr(outcome, name) for name in outcome.__struct_fields__]
        assert all(math.isfinite(value) for value in values if isinstance(value, float))
    else:
        assert {line.split(":")[0] for line in outcome.split("\n")} <= {*environ, "DATABASE_POOL_MIN"}


@given(st.binary(max_size=200))
@example(b"PORT=1\r\nexport WORKERS='2'")
def test_any_dotenv_file_gives_settings_or_faults(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    dotenv = tmp_path_factory.getbasetemp() / "any.env"
    dotenv.write_bytes(content)
    assert outcome_of({}, dotenv)


def outcome_of(environ: dict[str, str], dotenv: Path | None) -> Settings | str:
    """The settings, or the message of the refusal."""
    try:
        return load_settings(environ, dotenv)
    except ConfigurationError as error:
        return str(error)


def test_serve_starts_with_auth_off_and_a_database() -> None:
    check_startable(load_settings({"AUTH": "off", "DATABASE_URL": "postgresql://h/d"}, None))


def test_serve_refuses_to_start_with_auth_on_and_says_what_is_not_set() -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_startable(load_settings({"AUTH_ISSUER": "me"}, None))
    assert str(caught.value).split("\n") == [
        "DATABASE_URL: not set; takes postgresql://user:password@host:port/database",
        "AUTH_JWKS_URL, AUTH_AUDIENCE: not set; needed to verify tokens, unless AUTH=off lets every caller do everything",
    ]


def test_serve_starts_with_auth_on_when_all_is_set() -> None:
    environ = {"AUTH_JWKS_URL": "https://i.example", "AUTH_ISSUER": "i", "AUTH_AUDIENCE": "a", "DATABASE_URL": "postgresql://h/d"}
    check_startable(load_settings(environ, None))


def test_database_url_is_given_or_asked_for() -> None:
    assert database_url(load_settings({"DATABASE_URL": "postgresql://h/d"}, None)) == "postgresql://h/d"
    with pytest.raises(ConfigurationError, match="DATABASE_URL: not set"):
        database_url(load_settings({}, None))


def test_help_names_every_setting_with_its_default() -> None:
    lines = describe_variables().split("\n")
    assert [line.split()[0] for line in lines] == [*(variable.name for variable in VARIABLES), "OTEL_*"]
    assert all(variable.help in line for variable, line in zip(VARIABLES, lines, strict=False))


def test_document_holds_the_current_table() -> None:
    assert markdown_table() in DOCUMENT.read_text(encoding="utf-8"), "docs/settings.md says how to print the table anew"
