"""Inspection of ONNX graphs: module scopes and intermediate values."""
