"""Write decoders directly as ONNX graphs."""
