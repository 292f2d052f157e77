"""A hundred resources over a hundred tables, by `gateway serve` as a process of its own."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import execute
from tests.journeys.answers import check_answer
from tests.journeys.processes import run, serving
from tests.serving import write_resources

COUNT = 100
YAML = """
description: Thing {n}.
fields:
  created_at: {{readonly: true}}
  code: {{min_length: 1, max_length: 20}}
relations:
  before: {{to: things_{before:03}}}
list: {{sort: [-created_at], limit: {{default: 10, max: 50}}}}
access:
  admin: {{read: {{}}, create: {{}}, patch: {{}}, delete: {{}}}}
"""
TABLE = """
    CREATE TABLE things_{n:03} (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        code varchar(20) NOT NULL UNIQUE,
        name text NOT NULL DEFAULT '',
        amount numeric(12, 2) CHECK (amount >= 0),
        tags text[] NOT NULL DEFAULT '{{}}',
        document jsonb,
        before_id bigint REFERENCES things_{before:03},
        created_at timestamptz NOT NULL DEFAULT now()
    );
    CREATE INDEX ON things_{n:03} (created_at, id);
    CREATE INDEX ON things_{n:03} (before_id);
"""


def make_resources(directory: Path) -> Path:
    files = {f"things_{n:03}": YAML.format(n=n, before=max(n - 1, 0)) for n in range(COUNT)}
    return write_resources(directory, files)


def test_a_hundred_resources_are_served(database_url: str, tmp_path: Path) -> None:
    execute(database_url, "".join(TABLE.format(n=n, before=max(n - 1, 0)) for n in range(COUNT)))
    make_resources(tmp_path / "resources")
    checked = run(tmp_path, database_url, "check")
    assert (checked.returncode, checked.stdout) == (0, "")
    log = tmp_path / "serve.log"
    with serving(tmp_path, database_url, log) as client:
        client.event_hooks = {"response": [check_answer]}
        for n in range(COUNT):
            path = f"/api/v1/things_{n:03}"
            created = client.post(path, json={"code": f"c{n}", "amount": n})
            assert created.status_code == 201
            assert client.get(path).json()["data"] == [created.json()["data"]]
        paths = client.get("/api/v1/openapi.json").json()["paths"]
        assert all(f"/api/v1/things_{n:03}" in paths for n in range(COUNT))
    assert "Traceback" not in log.read_text()
    assert "ERROR" not in log.read_text()
