"""Compare exports with PyTorch."""
