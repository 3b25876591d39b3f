"""Who else do we talk to? One folder per kind: `contract.py`, one file per product, the index in `__init__.py`."""
