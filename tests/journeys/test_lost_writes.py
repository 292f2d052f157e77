"""Writes whose connection is lost: what their callers are told, and that nothing is written twice."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import execute
from tests.journeys.answers import check_answer
from tests.serving import running, settings_for, write_resources

SCHEMA = """
CREATE TABLE notes (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text);
CREATE FUNCTION cut() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN IF new.body = 'cut' THEN PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5); END IF; RETURN new; END $$;
CREATE TRIGGER cut BEFORE INSERT OR UPDATE ON notes FOR EACH ROW EXECUTE FUNCTION cut();
"""


def test_a_write_whose_answer_is_lost_is_said_to_be_unknown_and_not_sent_again(database_url: str, tmp_path: Path) -> None:
    execute(database_url, SCHEMA)
    resources = write_resources(tmp_path / "resources", {"notes": "{}\n", "slow_notes": "table: notes\ntimeout: 3\n"})
    with running(settings_for(database_url, resources)) as client:
        kept = client.post("/api/v1/notes", json={"body": "kept"})
        assert kept.status_code == 201
        for answer in (
            client.post("/api/v1/notes", json={"body": "cut"}),
            client.patch(kept.headers["location"], json={"body": "cut"}),
        ):
            check_answer(answer)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.json()["error"]["message"] == "The database did not answer; whether the write took place is not known."
        answer = client.post("/api/v1/slow_notes", json={"body": "cut"})  # in a transaction, whose COMMIT was not sent
        assert answer.status_code == 503
        assert "not known" not in answer.text
        assert [row["body"] for row in client.get("/api/v1/notes").json()["data"]] == ["kept"]
        metrics = client.get("/metrics").text
        assert 'db_retries_total{reason="lost"} 2.0' in metrics, "of the transaction alone"
        assert 'circuit_breaker_state{name="database"} 0.0' in metrics
