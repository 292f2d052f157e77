"""The gateway's own table of answers by their Idempotency-Key, in a schema of its own.

The gateway writes it in the statement that makes the write, and cleans it up. `gateway migrate own` makes the same in a database
that these migrations do not rule.

Revises: 20261122_0907
"""

from __future__ import annotations

from alembic import op

revision = "20261126_1100"
down_revision = "20261122_0907"


def upgrade() -> None:
    op.execute("CREATE SCHEMA IF NOT EXISTS gateway")
    op.execute(
        """
        CREATE TABLE IF NOT EXISTS gateway.idempotency_keys (
            id bytea PRIMARY KEY,
            fingerprint bytea NOT NULL,
            view bytea NOT NULL,
            answer text,
            state bigint NOT NULL,
            key text,
            kept_at timestamptz NOT NULL DEFAULT now()
        )
        """
    )
    op.execute("CREATE INDEX IF NOT EXISTS idempotency_keys_kept_at ON gateway.idempotency_keys (kept_at)")
    op.execute(
        "COMMENT ON TABLE gateway.idempotency_keys IS "
        "'Answers to writes by their Idempotency-Key, kept by the gateway and cleaned up by it.'"
    )


def downgrade() -> None:
    op.execute("DROP TABLE gateway.idempotency_keys")
    op.execute("DROP SCHEMA gateway")
