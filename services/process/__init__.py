"""What every service process shares: its life, its work loop, its endpoint, its log, systemd. See `lifecycle.py`."""
