"""`genre up`: everything on this machine under one supervisor. Start at `up.py`."""
