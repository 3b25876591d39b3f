"""How did the schema become what it is? Alembic's environment (`env.py`) and one file per revision in `versions/`."""
