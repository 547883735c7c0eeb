"""The dashboard: a web page of what plays where, its history, and alarms. Reads the bus; start at `service.py`."""
