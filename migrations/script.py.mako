"""${message}

Revises: ${down_revision or "nothing"}
"""

from __future__ import annotations

from alembic import op
${imports if imports else ""}
revision = "${up_revision}"
down_revision = ${'"%s"' % down_revision if down_revision else None}


% if upgrades:
def upgrade() -> None:
    ${upgrades}


def downgrade() -> None:
    ${downgrades}
% else:
def upgrade() -> None:
    """Make the change: `op.execute("…")` with one statement each, or `op.create_table(…)` and its like."""
    raise NotImplementedError("upgrade() is not written yet")


def downgrade() -> None:
    """Take it back, so that the schema is what it was."""
    raise NotImplementedError("downgrade() is not written yet")
% endif
