"""The paper's network: its layers, its training under two protocols, its ONNX form. Start at `reproduce.py`."""
