"""What runs in the child process that parses weights? Walks, types and reads content; nothing here ever unpickles.

Standard library, picklescan and zstandard only: the child starts quickly and holds no settings, keys or connections.
"""
