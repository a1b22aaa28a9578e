"""Trained models that packages carry, prepared as checkpoints with text of their own kind."""
