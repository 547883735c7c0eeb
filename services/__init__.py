"""The services of genre-edge, one folder each, and the small rooms they share. Start at `contract.py`."""
