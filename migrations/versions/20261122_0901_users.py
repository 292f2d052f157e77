"""Users: whom orders, transactions and budgets belong to.

The id is the subject (`sub`) of the tokens that the auth service gives out, so that service may choose it. There is no
password here. Addresses are stored in lower case alone, so that one person cannot register twice by writing it differently.

Revises: 20261122_0900
"""

from __future__ import annotations

from alembic import op

revision = "20261122_0901"
down_revision = "20261122_0900"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE users (
            id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
            email varchar(254) NOT NULL UNIQUE,
            email_verified boolean NOT NULL DEFAULT false,
            name varchar(200) NOT NULL,
            phone varchar(16),
            status text NOT NULL DEFAULT 'active',
            last_login_at timestamptz,
            created_at timestamptz NOT NULL DEFAULT now(),
            updated_at timestamptz NOT NULL DEFAULT now(),
            CONSTRAINT users_email_form CHECK (email ~ '^[a-z0-9._%+-]+@[a-z0-9.-]+$'),
            CONSTRAINT users_name_length CHECK (char_length(name) >= 1),
            CONSTRAINT users_phone_form CHECK (phone ~ '^[+][1-9][0-9]{6,14}$'),
            CONSTRAINT users_status_known CHECK (status IN ('active', 'suspended', 'closed'))
        )
        """
    )
    op.execute("CREATE INDEX users_newest ON users (created_at, id)")
    op.execute("CREATE TRIGGER keep_timestamps BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION keep_timestamps()")


def downgrade() -> None:
    op.execute("DROP TABLE users")
