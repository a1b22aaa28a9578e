"""Parity: exports compared with PyTorch."""
