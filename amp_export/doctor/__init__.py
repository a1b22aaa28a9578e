"""Predicts the effects of pruning on a model, from its config alone."""
