"""Categories: what products are sorted into, and what money was earned with or spent on.

They form a tree. A category with children stays until they are moved or deleted.

Revises: 20261122_0901
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0902"
down_revision = "20261122_0901"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE categories (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            parent_id bigint REFERENCES categories ON DELETE RESTRICT,
            slug varchar(100) NOT NULL UNIQUE,
            name varchar(100) NOT NULL,
            kind text NOT NULL DEFAULT 'product',
            sort_order smallint NOT NULL DEFAULT 0,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT categories_slug_form CHECK (slug ~ '^[a-z0-9-]+$'),
            CONSTRAINT categories_name_length CHECK (char_length(name) >= 1),
            CONSTRAINT categories_kind_known CHECK (kind IN ('product', 'income', 'expense')),
            CONSTRAINT categories_sort_order_range CHECK (sort_order BETWEEN 0 AND 10000)
        )
        """
    )
    op.execute("CREATE INDEX categories_parent_id ON categories (parent_id)")
    op.execute("CREATE INDEX categories_in_order ON categories (sort_order, name, id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON categories FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE categories")
