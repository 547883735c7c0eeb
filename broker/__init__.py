"""Mosquitto: configurations, roles, users, certificates, and the broker upstream of a fleet. Start at `command.py`."""
