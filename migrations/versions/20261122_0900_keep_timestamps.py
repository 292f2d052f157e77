"""The trigger function that keeps `created_at` and `updated_at` of every table.

A new row has both from its columns' defaults. An update cannot change the first and always sets the second: to the time of
the transaction, so that all rows changed together say the same.

Revises: nothing
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0900"
down_revision = None


def upgrade() -> None:
    op.execute(
        """
        CREATE FUNCTION keep_timestamps() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.created_at := OLD.created_at;
            NEW.updated_at := now();
            RETURN NEW;
        END
        $$
        """
    )


def downgrade() -> None:
    op.execute("DROP FUNCTION keep_timestamps()")
