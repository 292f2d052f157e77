"""Order items: how many of which product an order holds, at the price of that day.

They go with their order; a product that was ever sold stays, archived.

Revises: 20261122_0904
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0905"
down_revision = "20261122_0904"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE order_items (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            order_id uuid NOT NULL REFERENCES orders ON DELETE CASCADE,
            product_id bigint NOT NULL REFERENCES products ON DELETE RESTRICT,
            quantity integer NOT NULL DEFAULT 1,
            unit_price numeric(12, 2) NOT NULL,
            amount numeric(16, 2) GENERATED ALWAYS AS (quantity * unit_price) STORED,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            UNIQUE (order_id, product_id),
            CONSTRAINT order_items_quantity_range CHECK (quantity BETWEEN 1 AND 10000),
            CONSTRAINT order_items_unit_price_range CHECK (unit_price BETWEEN 0 AND 9999999999.99)
        )
        """
    )
    op.execute("CREATE INDEX order_items_newest ON order_items (created_at, id)")
    op.execute("CREATE INDEX order_items_product_id ON order_items (product_id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON order_items FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE order_items")
