"""Planes and conflux have a range and an address of each family, or of one."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("planes", sa.Column("cidr4", sa.String(length=18), nullable=True))
    op.add_column("planes", sa.Column("cidr6", sa.String(length=43), nullable=True))
    op.add_column("conflux", sa.Column("address4", sa.String(length=15), nullable=True))
    op.add_column("conflux", sa.Column("address6", sa.String(length=39), nullable=True))
    op.execute("UPDATE planes SET cidr6 = cidr WHERE cidr LIKE '%:%'")
    op.execute("UPDATE planes SET cidr4 = cidr WHERE cidr6 IS NULL")
    op.execute("UPDATE conflux SET address6 = address WHERE address LIKE '%:%'")
    op.execute("UPDATE conflux SET address4 = address WHERE address6 IS NULL")
    with op.batch_alter_table("planes") as planes:
        planes.drop_column("cidr")
    with op.batch_alter_table("conflux") as conflux:
        conflux.drop_constraint("uq_conflux_plane_id", type_="unique")
        conflux.drop_column("address")
        for column in ("address4", "address6"):
            conflux.create_unique_constraint(op.f(f"uq_conflux_{column}"), [column, "plane_id"])


def downgrade() -> None:
    """Of two ranges and two addresses the IPv4 one is kept."""
    op.add_column("planes", sa.Column("cidr", sa.String(length=43), nullable=True))
    op.add_column("conflux", sa.Column("address", sa.String(length=39), nullable=True))
    op.execute("UPDATE planes SET cidr = COALESCE(cidr4, cidr6)")
    op.execute("UPDATE conflux SET address = COALESCE(address4, address6)")
    with op.batch_alter_table("planes") as planes:
        planes.alter_column("cidr", existing_type=sa.String(length=43), nullable=False)
        planes.drop_column("cidr4")
        planes.drop_column("cidr6")
    with op.batch_alter_table("conflux") as conflux:
        conflux.drop_constraint("uq_conflux_address4", type_="unique")
        conflux.drop_constraint("uq_conflux_address6", type_="unique")
        conflux.alter_column("address", existing_type=sa.String(length=39), nullable=False)
        conflux.drop_column("address4")
        conflux.drop_column("address6")
        conflux.create_unique_constraint(op.f("uq_conflux_plane_id"), ["plane_id", "address"])
