"""Run by alembic: the connection comes from `clockjack.ledger.migrate`, which holds the named lock."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transactional_ddl=False)
with context.begin_transaction():
    context.run_migrations()
