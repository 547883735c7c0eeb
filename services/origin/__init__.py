"""The HLS server side: music files to segments, and an HTTP origin for them.

It stands apart from the services: nothing here knows MQTT. Start at `packager.py` (files -> HLS) and `server.py`
(HLS -> HTTP).
"""
