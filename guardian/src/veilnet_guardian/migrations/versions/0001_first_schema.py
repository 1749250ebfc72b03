"""Guardian's first schema."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "certificates",
        sa.Column("serial", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("conflux_id", sa.Uuid(), nullable=False),
        sa.Column("encoded", sa.LargeBinary(), nullable=False),
        sa.Column("not_before", sa.BigInteger(), nullable=False),
        sa.Column("not_after", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("serial", name=op.f("pk_certificates")),
    )
    op.create_index(
        op.f("ix_certificates_conflux_id"), "certificates", ["conflux_id"], unique=False
    )
    op.create_index(op.f("ix_certificates_not_after"), "certificates", ["not_after"], unique=False)
    op.create_table(
        "guardian_state",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_guardian_state")),
    )
    op.create_table(
        "login_nonces",
        sa.Column("nonce", sa.LargeBinary(length=32), nullable=False),
        sa.Column("seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("nonce", name=op.f("pk_login_nonces")),
    )
    op.create_index(op.f("ix_login_nonces_seen_at"), "login_nonces", ["seen_at"], unique=False)
    op.create_table(
        "users",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=200), nullable=False),
        sa.Column("password_hash", sa.String(length=255), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("email", name=op.f("uq_users_email")),
    )
    op.create_table(
        "planes",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("cidr", sa.String(length=43), nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_planes_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_planes")),
        sa.UniqueConstraint("name", name=op.f("uq_planes_name")),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("conflux_id", sa.Uuid(), nullable=False),
        sa.Column("serial", sa.BigInteger(), nullable=False),
        sa.Column("master_url", sa.String(length=300), nullable=False),
        sa.Column("grant_digest", sa.LargeBinary(length=32), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("cut_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["serial"],
            ["certificates.serial"],
            name=op.f("fk_sessions_serial_certificates"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sessions")),
        sa.UniqueConstraint("serial", name=op.f("uq_sessions_serial")),
    )
    op.create_index(op.f("ix_sessions_conflux_id"), "sessions", ["conflux_id"], unique=False)
    op.create_index(op.f("ix_sessions_cut_at"), "sessions", ["cut_at"], unique=False)
    op.create_table(
        "teams",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=210), nullable=False),
        sa.Column("owner_id", sa.Uuid(), nullable=False),
        sa.Column("identity", sa.Boolean(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("key", sa.LargeBinary(length=32), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["owner_id"], ["users.id"], name=op.f("fk_teams_owner_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_teams")),
        sa.UniqueConstraint("name", name=op.f("uq_teams_name")),
    )
    op.create_index("ix_teams_owner_id", "teams", ["owner_id", "identity"], unique=False)
    op.create_table(
        "conflux",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("tag", sa.String(length=63), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("plane_id", sa.Uuid(), nullable=False),
        sa.Column("address", sa.String(length=39), nullable=False),
        sa.Column("token_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plane_id"], ["planes.id"], name=op.f("fk_conflux_plane_id_planes")
        ),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_conflux_user_id_users")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_conflux")),
        sa.UniqueConstraint("plane_id", "address", name=op.f("uq_conflux_plane_id")),
    )
    op.create_index(op.f("ix_conflux_tag"), "conflux", ["tag"], unique=False)
    op.create_index(op.f("ix_conflux_user_id"), "conflux", ["user_id"], unique=False)
    op.create_table(
        "invitations",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("email", sa.String(length=200), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_invitations_team_id_teams"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_invitations")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_invitations_token_hash")),
    )
    op.create_index(op.f("ix_invitations_team_id"), "invitations", ["team_id"], unique=False)
    op.create_table(
        "registration_tokens",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(length=32), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.Column("plane_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("revoked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["plane_id"],
            ["planes.id"],
            name=op.f("fk_registration_tokens_plane_id_planes"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_registration_tokens_user_id_users")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_registration_tokens")),
        sa.UniqueConstraint("token_hash", name=op.f("uq_registration_tokens_token_hash")),
    )
    op.create_index(
        op.f("ix_registration_tokens_user_id"), "registration_tokens", ["user_id"], unique=False
    )
    op.create_table(
        "team_members",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"],
            ["teams.id"],
            name=op.f("fk_team_members_team_id_teams"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["user_id"],
            ["users.id"],
            name=op.f("fk_team_members_user_id_users"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("pk_team_members")),
    )
    op.create_index(op.f("ix_team_members_user_id"), "team_members", ["user_id"], unique=False)
    op.create_table(
        "team_planes",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("plane_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plane_id"],
            ["planes.id"],
            name=op.f("fk_team_planes_plane_id_planes"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_team_planes_team_id_teams"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("team_id", "plane_id", name=op.f("pk_team_planes")),
    )
    op.create_index(op.f("ix_team_planes_plane_id"), "team_planes", ["plane_id"], unique=False)
    op.create_table(
        "team_users",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("user_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["team_id"], ["teams.id"], name=op.f("fk_team_users_team_id_teams"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["user_id"], ["users.id"], name=op.f("fk_team_users_user_id_users"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("team_id", "user_id", name=op.f("pk_team_users")),
    )
    op.create_index(op.f("ix_team_users_user_id"), "team_users", ["user_id"], unique=False)
    op.create_table(
        "team_conflux",
        sa.Column("team_id", sa.Uuid(), nullable=False),
        sa.Column("conflux_id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conflux_id"],
            ["conflux.id"],
            name=op.f("fk_team_conflux_conflux_id_conflux"),
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["team_id"],
            ["teams.id"],
            name=op.f("fk_team_conflux_team_id_teams"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("team_id", "conflux_id", name=op.f("pk_team_conflux")),
    )
    op.create_index(
        op.f("ix_team_conflux_conflux_id"), "team_conflux", ["conflux_id"], unique=False
    )
    op.execute("INSERT INTO guardian_state (id, revision, serial) VALUES (1, 1, 0)")


def downgrade() -> None:
    op.drop_table("team_conflux")
    op.drop_table("team_users")
    op.drop_table("team_planes")
    op.drop_table("team_members")
    op.drop_table("registration_tokens")
    op.drop_table("invitations")
    op.drop_table("conflux")
    op.drop_table("teams")
    op.drop_table("sessions")
    op.drop_table("planes")
    op.drop_table("users")
    op.drop_table("login_nonces")
    op.drop_table("guardian_state")
    op.drop_table("certificates")
