"""The page's HTTP side: who may ask, what each path gives, the stream of changes. Start at `routes.py`."""
