"""The configuration: what there is to set, how it is read, checked and edited. Start at `schema.py`."""
