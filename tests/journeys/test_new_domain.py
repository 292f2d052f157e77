"""A domain added by one YAML file and one migration, and no Python: as its author does it, by the commands."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.journeys.answers import check_answer
from tests.journeys.processes import run, serving

CHECKOUT = Path(__file__).parents[2]

UPGRADE = '''
    op.execute(
        """
        CREATE TABLE suppliers (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            name varchar(80) NOT NULL UNIQUE,
            rating numeric(3, 1) CHECK (rating BETWEEN 0 AND 10),
            product_id bigint REFERENCES products ON DELETE SET NULL,
            created_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
'''
DOWNGRADE = '\n    op.execute("DROP TABLE suppliers")\n'
YAML = """
description: From whom things are bought.
fields:
  created_at: {readonly: true}
relations:
  product: {to: products}
list:
  sort: [name]
access:
  admin: {read: {}, create: {}, patch: {}, delete: {}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of a user's: the configuration, the migrations and the resources, without our Python."""
    shutil.copy(CHECKOUT / "pyproject.toml", tmp_path)
    for directory in ("migrations", "resources"):
        shutil.copytree(CHECKOUT / directory, tmp_path / directory, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_one_yaml_file_and_one_migration_make_an_api(project: Path, database_url: str) -> None:
    assert run(project, database_url, "migrate", "up").returncode == 0

    # The migration: its author fills in the two bodies.
    new = run(project, database_url, "migrate", "new", "Suppliers and what they sell")
    assert new.returncode == 0, new.stderr
    path = project / new.stdout.strip()
    assert path.name.endswith("_suppliers_and_what_they_sell.py")
    text = path.read_text()
    upgrade, downgrade = re.findall(r"(def (?:up|down)grade\(\) -> None:\n)(?:    .*\n|\n)+", text)
    head = text[: text.index(upgrade)]
    path.write_text(f"{head}{upgrade}{UPGRADE}\n\n{downgrade}{DOWNGRADE}".replace("\n\n    op.", "\n    op."))
    assert "from alembic import op" in head

    # The resource file, and what `check` says before the table is there.
    (project / "resources" / "suppliers.yaml").write_text(YAML)
    early = run(project, database_url, "check")
    assert early.returncode == 1
    assert re.search(r"^resources/suppliers\.yaml:\d+: ", early.stdout, re.MULTILINE), early.stdout
    up = run(project, database_url, "migrate", "up")
    assert up.returncode == 0, up.stderr
    checked = run(project, database_url, "check")
    assert (checked.returncode, checked.stdout) == (0, "")

    # The API.
    with serving(project, database_url, project / "serve.log") as client:
        client.event_hooks = {"response": [check_answer]}
        created = client.post("/api/v1/suppliers", json={"name": "Anna & Söhne", "rating": 9.5})
        assert created.status_code == 201
        row = created.json()["data"]
        assert (row["name"], row["rating"], row["product_id"]) == ("Anna & Söhne", "9.5", None)
        assert client.get(created.headers["location"]).json() == {"data": row}
        found = client.get("/api/v1/suppliers", params={"name[starts]": "anna", "rating[gte]": "9"})
        assert found.json()["data"] == []
        found = client.get("/api/v1/suppliers", params={"name[starts]": "Anna", "rating[gte]": "9"})
        assert found.json()["data"] == [row]
        refused = client.post("/api/v1/suppliers", json={"name": "Anna & Söhne", "rating": 11})
        assert refused.json()["error"]["details"]["field"] in ("rating", "name")
        assert client.post("/api/v1/suppliers", json={"name": "B", "product_id": 77}).status_code == 409
        assert client.patch(created.headers["location"], json={"rating": None}).json()["data"]["rating"] is None
        assert "/api/v1/suppliers" in client.get("/api/v1/openapi.json").json()["paths"]
        assert client.delete(created.headers["location"]).status_code == 204
    assert "Traceback" not in (project / "serve.log").read_text()
