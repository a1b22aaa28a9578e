"""Benchmarks: interleaved timing of models in separate processes, and its statistics."""
