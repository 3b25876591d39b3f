"""What stories and units share: a PostgreSQL server, Berth's processes, programs of others."""
