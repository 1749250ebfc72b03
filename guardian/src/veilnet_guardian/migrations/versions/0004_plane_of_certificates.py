"""The plane of each certificate: revocations are told to its nodes.

Certificates that were replaced by one of the same keys were marked as revoked, though nothing came
of that. Now it would make peers drop nodes that have just renewed theirs: the marks of all that are
not known to be dead are taken off, which a login or removal sets again.
"""

from uuid import UUID

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PLANE_ID = slice(25, 41)
"""Of an encoded certificate: docs/protocol/encoding.md §3."""


def upgrade() -> None:
    op.add_column("certificates", sa.Column("plane_id", sa.Uuid(), nullable=True))
    table = sa.table(
        "certificates",
        sa.column("serial", sa.BigInteger()),
        sa.column("conflux_id", sa.Uuid()),
        sa.column("plane_id", sa.Uuid()),
        sa.column("encoded", sa.LargeBinary()),
        sa.column("revoked_at", sa.BigInteger()),
    )
    conflux = sa.table("conflux", sa.column("id", sa.Uuid()))
    connection = op.get_bind()
    rows = connection.execute(sa.select(table.c.serial, table.c.encoded)).all()
    for serial, encoded in rows:
        plane_id = UUID(bytes=bytes(encoded[PLANE_ID]))
        connection.execute(
            sa.update(table).where(table.c.serial == serial).values(plane_id=plane_id)
        )
    still_there = table.c.conflux_id.in_(sa.select(conflux.c.id))
    connection.execute(sa.update(table).where(still_there).values(revoked_at=None))
    with op.batch_alter_table("certificates") as certificates:
        certificates.alter_column("plane_id", existing_type=sa.Uuid(), nullable=False)


def downgrade() -> None:
    op.drop_column("certificates", "plane_id")
