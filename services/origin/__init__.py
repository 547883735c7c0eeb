"""The HLS server side: music files to segments, an HTTP origin for them, and a demo's own music.

It stands apart from the services: nothing here knows MQTT. Start at `package.py` (files -> HLS) and `serve.py`
(HLS -> HTTP).
"""
