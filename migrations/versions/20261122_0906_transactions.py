"""Transactions: what a user earned, spent or moved.

They are the user's own notes and go with the user. They outlive what they point to: without its category or order a
transaction is still money that moved. The amount is always positive; `kind` tells the direction.

Revises: 20261122_0905
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0906"
down_revision = "20261122_0905"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE transactions (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
            category_id bigint REFERENCES categories ON DELETE SET NULL,
            order_id uuid REFERENCES orders ON DELETE SET NULL,
            kind text NOT NULL,
            amount numeric(12, 2) NOT NULL,
            currency varchar(3) NOT NULL,
            occurred_on date NOT NULL DEFAULT CURRENT_DATE,
            description varchar(500) NOT NULL DEFAULT '',
            cleared boolean NOT NULL DEFAULT false,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT transactions_kind_known CHECK (kind IN ('income', 'expense', 'transfer')),
            CONSTRAINT transactions_amount_range CHECK (amount BETWEEN 0.01 AND 9999999999.99),
            CONSTRAINT transactions_currency_form CHECK (currency ~ '^[A-Z]{3}$')
        )
        """
    )
    op.execute("CREATE INDEX transactions_latest ON transactions (occurred_on, id)")
    op.execute("CREATE INDEX transactions_user_id ON transactions (user_id, occurred_on, id)")
    op.execute("CREATE INDEX transactions_category_id ON transactions (category_id)")
    op.execute("CREATE INDEX transactions_order_id ON transactions (order_id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON transactions FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE transactions")
