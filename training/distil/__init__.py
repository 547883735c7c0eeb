"""Teaching a small network what a large one answers. Start at `command.py`."""
