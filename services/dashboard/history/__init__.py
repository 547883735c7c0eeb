"""The history in SQLite: `store.py` writes, `reader.py` answers, `command.py` exports. Start at `store.py`."""
