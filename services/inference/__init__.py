"""The inference service: tensors in, genres out, on Triton or ONNX Runtime. Start at `service.py`."""
