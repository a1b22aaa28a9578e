"""Texts that a model generates: streamed piece by piece, on exported graphs and in PyTorch."""
