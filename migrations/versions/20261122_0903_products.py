"""Products: what can be bought.

A category that still has products cannot be deleted: nothing on sale may fall out of the catalogue unnoticed.
The upper bound of a price keeps `NaN` out, which is greater than every number to PostgreSQL.

Revises: 20261122_0902
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0903"
down_revision = "20261122_0902"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE products (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            category_id bigint NOT NULL REFERENCES categories ON DELETE RESTRICT,
            sku varchar(32) NOT NULL UNIQUE,
            name varchar(200) NOT NULL,
            description text NOT NULL DEFAULT '',
            status text NOT NULL DEFAULT 'draft',
            price numeric(12, 2) NOT NULL,
            currency varchar(3) NOT NULL,
            stock integer NOT NULL DEFAULT 0,
            rating double precision,
            tags text[] NOT NULL DEFAULT '{}',
            attributes jsonb NOT NULL DEFAULT '{}',
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT products_sku_length CHECK (char_length(sku) >= 3),
            CONSTRAINT products_sku_form CHECK (sku ~ '^[A-Z0-9-]+$'),
            CONSTRAINT products_name_length CHECK (char_length(name) >= 1),
            CONSTRAINT products_description_length CHECK (char_length(description) <= 10000),
            CONSTRAINT products_status_known CHECK (status IN ('draft', 'active', 'archived')),
            CONSTRAINT products_price_range CHECK (price BETWEEN 0 AND 9999999999.99),
            CONSTRAINT products_currency_form CHECK (currency ~ '^[A-Z]{3}$'),
            CONSTRAINT products_stock_range CHECK (stock >= 0),
            CONSTRAINT products_rating_range CHECK (rating BETWEEN 0 AND 5)
        )
        """
    )
    op.execute("CREATE INDEX products_newest ON products (created_at, id)")
    op.execute("CREATE INDEX products_status ON products (status, created_at, id)")
    op.execute("CREATE INDEX products_category_id ON products (category_id, created_at, id)")
    op.execute("CREATE INDEX products_tags ON products USING gin (tags)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE products")
