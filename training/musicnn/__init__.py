"""MSD-musicnn: its layers in ONNX, and leaving out what never moves. Start at `network.py`."""
