"""Builds decoders directly as ONNX graphs."""
