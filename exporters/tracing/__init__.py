"""Traces models through transformers' exporters, for ONNX and ExecuTorch."""
