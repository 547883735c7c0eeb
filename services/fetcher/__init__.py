"""The fetcher service: HLS in, PCM chunks out; it alone answers for every sample. Start at `service.py`."""
