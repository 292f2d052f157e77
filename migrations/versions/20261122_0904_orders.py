"""Orders: what a user bought.

A user with orders cannot be deleted, for the books must show who bought; the account is closed by its status instead.
The id goes into links and mails, so it is one that nobody can count up from.

Revises: 20261122_0903
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0904"
down_revision = "20261122_0903"


def upgrade() -> None:
    op.execute("CREATE TYPE order_status AS ENUM ('pending', 'paid', 'shipped', 'cancelled')")
    op.execute(
        """
        CREATE TABLE orders (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            user_id uuid NOT NULL REFERENCES users ON DELETE RESTRICT,
            status order_status NOT NULL DEFAULT 'pending',
            total numeric(12, 2) NOT NULL DEFAULT 0,
            currency varchar(3) NOT NULL,
            shipping_address jsonb,
            internal_note varchar(2000),
            shipped_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT orders_total_range CHECK (total BETWEEN 0 AND 9999999999.99),
            CONSTRAINT orders_currency_form CHECK (currency ~ '^[A-Z]{3}$')
        )
        """
    )
    op.execute("CREATE INDEX orders_newest ON orders (created_at, id)")
    op.execute("CREATE INDEX orders_user_id ON orders (user_id, created_at, id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE orders")
    op.execute("DROP TYPE order_status")
