"""The services of genre-edge, one folder each, and the small rooms they share. Start at services/contract/."""

import os

# ONNX Runtime 1.32 collects and sends usage data unless this is set before it is loaded. Only results leave the box.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
