"""Plugins for transformers, optimum and pytest."""
