"""YAMNet, the network that knows 521 classes of sound (AudioSet's), read from a wheel and written down as ONNX."""
