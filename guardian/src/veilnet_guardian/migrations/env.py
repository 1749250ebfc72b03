"""Run by alembic, always on a connection that Guardian has opened."""

from alembic import context

from veilnet_guardian.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,
)
context.run_migrations()
