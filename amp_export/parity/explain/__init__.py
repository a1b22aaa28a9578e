"""Find the first value at which an export and PyTorch differ."""
