"""How is it remembered? PostgreSQL: engine and transactions, queue, locks, tables, migrations, the embedded server.

Spec: design §4 and §5. This package imports nothing by itself, so that commands which need one part load only that.
"""
