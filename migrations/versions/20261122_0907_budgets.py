"""Budgets: how much a user means to spend on a category in a week, month, quarter or year.

One for each user, category and period. A budget without its user or its category means nothing, and goes with either.

Revises: 20261122_0906
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0907"
down_revision = "20261122_0906"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE budgets (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
            category_id bigint NOT NULL REFERENCES categories ON DELETE CASCADE,
            period text NOT NULL DEFAULT 'month',
            starts_on date NOT NULL,
            amount numeric(12, 2) NOT NULL,
            currency varchar(3) NOT NULL,
            rollover boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (user_id, category_id, period, starts_on),
            CONSTRAINT budgets_period_known CHECK (period IN ('week', 'month', 'quarter', 'year')),
            CONSTRAINT budgets_amount_range CHECK (amount BETWEEN 0 AND 9999999999.99),
            CONSTRAINT budgets_currency_form CHECK (currency ~ '^[A-Z]{3}$')
        )
        """
    )
    op.execute("CREATE INDEX budgets_latest ON budgets (starts_on, id)")
    op.execute("CREATE INDEX budgets_category_id ON budgets (category_id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON budgets FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE budgets")
