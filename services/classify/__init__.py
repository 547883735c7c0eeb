"""`genre classify`: audio files in, genres out; no broker. Start at `pipeline.py`."""
