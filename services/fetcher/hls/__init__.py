"""HTTP Live Streaming (RFC 8216): playlists, reloads, renditions, keys. Start at `reader.py`."""
