"""Search for the first intermediate value that differs between an export and PyTorch."""
