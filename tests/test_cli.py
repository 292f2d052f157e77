"""The command line: help, exit statuses, and mistakes told in one line each."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt

from gateway.app import check
from gateway.cli import main
from gateway.dev_issuer import DevIssuer
from gateway.migrate import upgrade
from tests.serving import settings_for, write_resources

ROOT = Path(__file__).parents[1]
COMMANDS = [
    "",
    "dev",
    "serve",
    "check",
    "migrate",
    "migrate up",
    "migrate down",
    "migrate status",
    "migrate new",
    "fill",
    "openapi",
    "token",
]


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "AUTH", "AUTH_ROLES_CLAIM", "PORT", "HOST", "WORKERS", "RESOURCES_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(ROOT)


def mistakes(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--help"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: gateway {command}".rstrip())


def test_help_of_serve_lists_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    from gateway.settings import VARIABLES

    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    text = capsys.readouterr().out
    assert [variable.name for variable in VARIABLES if variable.name not in text] == []


def test_help_loads_neither_the_database_nor_the_web_libraries() -> None:
    script = """
import sys
from gateway.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print("loaded:", *sorted({"sqlalchemy", "alembic", "asyncpg", "starlette", "uvicorn", "rich", "joserfc"} & set(sys.modules)))
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("start", [["gateway"], [sys.executable, "-m", "gateway"]])
def test_the_console_script_and_the_module_exit_with_the_status(start: list[str]) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    answer = subprocess.run([*start, "migrate", "status"], capture_output=True, text=True, check=False, env=environment)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("gateway migrate: DATABASE_URL: not set")


@pytest.mark.parametrize(
    "command", ["serve", "check", "openapi", "migrate up", "migrate down base", "migrate status", "fill x --rows 1"]
)
def test_a_command_that_needs_a_database_says_so(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.split()) == 1
    assert mistakes(capsys)[0].startswith(f"gateway {command.split()[0]}: DATABASE_URL: not set")


@pytest.mark.parametrize("command", ["migrate up", "migrate status", "check", "openapi"])
def test_a_database_that_is_not_there_is_told_in_one_line(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert main(command.split()) == 1
    assert len(mistakes(capsys)) == 1


def test_serve_with_a_database_that_will_never_let_it_in_ends_with_one_line(postgres_url: str) -> None:
    command = [sys.executable, "-m", "gateway", "serve", "--port", "0"]
    environment = {**os.environ, "AUTH": "off", "DATABASE_URL": postgres_url.replace("@/postgres?", "@/nothing?")}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)
    assert answer.returncode == 1
    (told,) = answer.stderr.splitlines()
    assert told.startswith("gateway serve: DATABASE_URL: the database cannot be read: ")


def test_every_bad_setting_is_told_in_a_line_of_its_own(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", "http")
    monkeypatch.setenv("WORKERS", "none")
    assert main(["serve"]) == 1
    assert [line.split(":")[1].strip() for line in mistakes(capsys)] == ["PORT", "WORKERS"]


def test_an_argument_stands_for_its_variable(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "8000")
    assert main(["serve", "--port", "99999"]) == 1
    assert mistakes(capsys) == ['gateway serve: PORT: held "99999"; takes a whole number from 0 to 65535']


@pytest.mark.parametrize("arguments", [["fill", "products", "--rows", "-1"], ["dev", "--rows", "many"]])
def test_a_bad_number_of_rows_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert mistakes(capsys)[-1].endswith(f"argument --rows: a whole number from 0, not '{arguments[-1]}'")


def test_migrations_go_up_and_down_and_status_tells(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["migrate", "status"]) == 1
    behind = capsys.readouterr()
    assert behind.out.startswith("current: none\nhead: ")
    assert "\npending: " in behind.out
    assert behind.err.endswith("run: gateway migrate up\n")
    assert main(["migrate", "up"]) == 0
    assert main(["migrate", "status"]) == 0
    assert "pending" not in capsys.readouterr().out
    assert main(["migrate", "down", "-1"]) == 0
    assert main(["migrate", "status"]) == 1
    assert main(["migrate", "down", "base"]) == 0


def test_an_unknown_revision_is_told_in_one_line(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["migrate", "up", "nowhere"]) == 1
    assert len(mistakes(capsys)) == 1


def test_a_new_migration_is_written_and_its_path_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    assert main(["migrate", "new", "invoices"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed.startswith("migrations/versions/")
    assert printed.endswith("_invoices.py")
    assert (tmp_path / printed).exists()


def test_check_is_content_with_the_repository(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    main(["migrate", "up"])
    assert main(["check"]) == 0
    assert capsys.readouterr().out == ""


def test_check_prints_every_problem_with_file_and_line(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("RESOURCES_DIR", str(tmp_path))
    (tmp_path / "ghosts.yaml").write_text("description: none\n")
    (tmp_path / "slips.yaml").write_text("description: a slip\ntabel: slips\n")
    assert main(["check"]) == 1
    printed = capsys.readouterr()
    files = [line.split(":")[0] for line in printed.out.splitlines()]
    assert {Path(file).name for file in files} == {"ghosts.yaml", "slips.yaml"}
    assert any(":2: " in line for line in printed.out.splitlines())
    assert printed.err == f"gateway check: {len(files)} problems\n"

    assert main(["check", "--json"]) == 1
    faults = json.loads(capsys.readouterr().out)
    assert [f"{fault['file']}:{fault['line']}: {fault['message']}" for fault in faults] == printed.out.splitlines()


OPEN_AND_UNINDEXED = """
table: products
access:
  staff:     {read: {rows: {name: $claims.desk}}}
  anonymous: {create: {}}
"""


def test_check_warns_on_stderr_and_exits_with_0(
    database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(database_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("RESOURCES_DIR", "resources")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "goods.yaml").write_text(OPEN_AND_UNINDEXED)
    assert main(["check", "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == []
    assert [line.partition(": ")[0] for line in printed.err.splitlines()] == ["warning", "warning", "warning", "gateway check"]
    assert printed.err.splitlines()[-1] == "gateway check: no problems, 3 warnings"
    assert 'no token is known to carry the claim "desk"' in printed.err

    (tmp_path / "pyproject.toml").write_text('[tool.gateway]\nclaims = ["desk"]\n')
    assert main(["check"]) == 0
    assert "claim" not in capsys.readouterr().err

    (tmp_path / "pyproject.toml").write_text('[tool.gateway]\nclaims = "desk"\n')
    assert main(["check"]) == 1
    assert mistakes(capsys) == [
        'gateway check: pyproject.toml: claims of [tool.gateway] takes a list of names, such as ["org_id"]'
    ]


def test_check_warns_of_a_sunset_that_has_passed(database_url: str, tmp_path: Path) -> None:
    upgrade(database_url)
    resources = write_resources(tmp_path, {"products": "deprecated: {since: 2026-12-01, sunset: 2027-06-01}\n"})
    settings = settings_for(database_url, resources)
    before, after = (check(settings, now=datetime(2027, *day, tzinfo=UTC)) for day in ((5, 31), (6, 1)))
    assert (before.warnings, after.faults) == ((), ())
    assert [warning.line for warning in after.warnings] == [1]
    assert "has passed" in after.warnings[0].message


def test_check_access_prints_what_every_role_may_do_in_100_columns(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(database_url)
    monkeypatch.setenv("DATABASE_URL", database_url)
    assert main(["check", "--access"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["resource", "role", "may", "rows", "fields", "set"]
    assert max(map(len, lines)) <= 100
    assert ["orders", "customer", "read", "user_id:", "$sub", "all"] in [line.split() for line in lines]

    assert main(["check", "--access", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {
        "version": "v1",
        "resource": "orders",
        "role": "customer",
        "operation": "create",
        "rows": None,
        "fields": ["currency", "shipping_address"],
        "set": {"user_id": "$sub"},
    } in rows


def claims_of(capsys: pytest.CaptureFixture[str], data: Path, *arguments: str) -> dict[str, Any]:
    """The claims of the token that `gateway token` prints, and nothing else on either output."""
    assert main(["token", "--data", str(data), *arguments]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    return jwt.decode(printed.out.strip(), DevIssuer.load(data).key, algorithms=["ES256"]).claims


def test_token_is_signed_with_the_dev_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    DevIssuer.open(tmp_path)
    given = ["--claim", "org_id=7", "--claim", "team=red=1", "--claim", "tags=[1]", "--claim", "much=1e999", "--lifetime", "60"]
    claims = claims_of(capsys, tmp_path, "--role", "customer", "--role", "staff", "--sub", "42", *given)
    assert (claims["sub"], claims["roles"], claims["exp"] - claims["iat"]) == ("42", ["customer", "staff"], 60)
    assert [claims[name] for name in ("org_id", "team", "tags", "much")] == [7, "red=1", [1], "1e999"]
    monkeypatch.setenv("AUTH_ROLES_CLAIM", "groups")
    claims = claims_of(capsys, tmp_path, "--role", "customer", "--sub", "42")
    assert claims["groups"] == ["customer"]
    assert "roles" not in claims


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--claim", "iss=me"], "the dev issuer sets iss itself"),
        (["--claim", "roles=admin"], "the dev issuer sets roles itself"),
        (["--claim", "a=1", "--claim", "a=2"], "a claim is given twice"),
        (["--data", "nowhere"], "there is no dev key in nowhere; run gateway dev first"),
    ],
)
def test_a_token_that_cannot_be_made_is_told_in_one_line(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    DevIssuer.open(tmp_path / ".data")
    assert main(["token", "--role", "admin", "--sub", "1", *arguments]) == 1
    assert mistakes(capsys) == [f"gateway token: {told}"]


@pytest.mark.parametrize("arguments", [["--lifetime", "0"], ["--lifetime", "-1"], ["--claim", "x"], ["--claim", "=x"]])
def test_a_token_needs_sensible_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["token", "--role", "admin", "--sub", "1", *arguments])
    assert ended.value.code == 2
    assert f"argument {arguments[0]}: " in mistakes(capsys)[-1]


def test_openapi_prints_the_document(
    database_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    main(["migrate", "up"])
    assert main(["openapi"]) == 0
    assert json.loads(capsys.readouterr().out)["openapi"].startswith("3.1")


def test_output_that_nobody_reads_is_no_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    shutil.copytree(ROOT / "migrations", tmp_path / "migrations")
    command = [sys.executable, "-m", "gateway", "migrate", "new", "unread"]
    answer = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path)
    os.close(writer)
    assert answer.returncode == 128 + signal.SIGPIPE
    assert "Error" not in answer.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_its_status_and_no_traceback(number: signal.Signals) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        url = f"postgresql://nobody@127.0.0.1:{silent.getsockname()[1]}/nothing"
        command = [sys.executable, "-m", "gateway", "migrate", "status"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, env={**os.environ, "DATABASE_URL": url}) as process:
            connection, _ = silent.accept()
            with connection:
                process.send_signal(number)
                _, told = process.communicate(timeout=60)
    assert (process.returncode, told) == (128 + number, b"")


def test_a_taken_port_is_told_and_the_way_out_named(
    server_directory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.dev.PORT_PATIENCE_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["dev", "--port", str(port), "--data", str(server_directory)]) == 1
    assert mistakes(capsys)[-1] == f"gateway dev: port {port} is taken; choose another one with --port"
