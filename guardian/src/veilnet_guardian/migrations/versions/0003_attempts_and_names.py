"""Registrations can be repeated; names of planes and teams belong to their owners."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("conflux") as conflux:
        conflux.add_column(sa.Column("attempt", sa.LargeBinary(length=32), nullable=True))
        conflux.add_column(sa.Column("asked", sa.LargeBinary(length=32), nullable=True))
        conflux.create_unique_constraint(op.f("uq_conflux_user_id"), ["user_id", "attempt"])
    for table in ("planes", "teams"):
        with op.batch_alter_table(table) as named:
            named.drop_constraint(f"uq_{table}_name", type_="unique")
            named.create_unique_constraint(op.f(f"uq_{table}_owner_id"), ["owner_id", "name"])
    op.create_index(
        "ix_planes_common_name",
        "planes",
        ["name"],
        unique=True,
        sqlite_where=sa.text("owner_id IS NULL"),
        postgresql_where=sa.text("owner_id IS NULL"),
    )


def downgrade() -> None:
    """Fails where a name is used twice."""
    op.drop_index("ix_planes_common_name", "planes")
    for table in ("planes", "teams"):
        with op.batch_alter_table(table) as named:
            named.drop_constraint(f"uq_{table}_owner_id", type_="unique")
            named.create_unique_constraint(op.f(f"uq_{table}_name"), ["name"])
    with op.batch_alter_table("conflux") as conflux:
        conflux.drop_constraint("uq_conflux_user_id", type_="unique")
        conflux.drop_column("asked")
        conflux.drop_column("attempt")
