"""MQTT 5 on top of paho: one client for every service, its limits and its traps. Start at `client.py`."""
