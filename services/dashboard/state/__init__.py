"""What the dashboard knows now: streams, genre segments, alarms; filled from MQTT. Start at `live_state.py`."""
