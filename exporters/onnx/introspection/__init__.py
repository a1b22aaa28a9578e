"""Look inside ONNX graphs: module scopes and intermediate values."""
