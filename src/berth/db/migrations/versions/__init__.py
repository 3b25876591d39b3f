"""The revisions, numbered 0001, 0002, …; the newest one's number is also `HEAD` in db/migrate.py."""
