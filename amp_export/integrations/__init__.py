"""Plug-ins for transformers, optimum and pytest."""
