"""What `ci/bench/gpu.py` does in processes of their own: models, times, checks, and the page made from their rows."""
