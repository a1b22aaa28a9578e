"""Prune, rewrite, export, prove and measure transformers."""

__version__ = "0.1.0"
