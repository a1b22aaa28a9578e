"""Predicts what pruning would do to a model, from its config alone."""
